"""Writes the seeds that fuzzing begins with: real messages, of every kind. Run as `python -m tests.fuzz.make_seeds` after the contract has grown."""

import struct
from pathlib import Path

import hpack
from tests.fuzz.targets import METHODS, _refs, new_server
from tests.pages import random_page, same_filled_page, text_page
from tests.sim import PureClient

from tmem.client._core.face import buffer_extent
from tmem.client._core.gets import GetOperation
from tmem.client._core.operations import EchoOperation, FlushObjectOperation, FlushOperation, Operation, PutOperation
from tmem.server.store.journal.entries import FileHeader, Kind, encode_entry, encode_header, encode_range
from tmem.server.store.journal.recovery import describe_pool, drop_payload
from tmem.v1 import capabilities_pb2, extents_pb2, pages_pb2, pools_pb2
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire.checksum import page_checksum
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import PROTOCOL_VERSION
from tmem.wire.results import Encoding, enum_field

SEEDS = Path(__file__).parent / "seeds"
A, B = text_page(1), random_page(2)


def unary(ref: PoolRef) -> dict[str, bytes]:
    """A request of every unary call, behind the byte that names it."""
    obj = ObjectId(low=7)
    short = same_filled_page()[:8]
    requests = {
        "Put": pages_pb2.PutRequest(
            pool=ref,
            object=obj,
            sequence=1,
            encoding=enum_field(Encoding.SAME_FILLED),
            page_crc32c=page_checksum(same_filled_page()),
            page=short,
        ),
        "Get": pages_pb2.GetRequest(pool=ref, object=obj),
        "Flush": pages_pb2.FlushRequest(pool=ref, object=obj, sequence=2, if_generation=1, if_sequence=1),
        "FlushObject": pages_pb2.FlushObjectRequest(pool=ref, object=obj, sequence=3),
        "CreatePool": pools_pb2.CreatePoolRequest(
            name="p", kind=enum_field(2), abi_version=PROTOCOL_VERSION, quota_bytes=9
        ),
        "OpenPool": pools_pb2.OpenPoolRequest(name="persistent", token=ref.token),
        "JoinPool": pools_pb2.JoinPoolRequest(uuid=b"u" * 16),
        "AuthorizeTenant": pools_pb2.AuthorizeTenantRequest(pool=ref, tenant="bob"),
        "DeauthorizeTenant": pools_pb2.DeauthorizeTenantRequest(pool=ref, tenant="bob"),
        "LeavePool": pools_pb2.LeavePoolRequest(pool=ref),
        "ListPools": pools_pb2.ListPoolsRequest(),
        "ListPages": pools_pb2.ListPagesRequest(pool=ref, with_crc32c=True),
        "FreezePool": pools_pb2.FreezePoolRequest(pool=ref),
        "ThawPool": pools_pb2.ThawPoolRequest(pool=ref),
        "ResizePool": pools_pb2.ResizePoolRequest(pool=ref, quota_bytes=100, weight=3),
        "DestroyPool": pools_pb2.DestroyPoolRequest(pool=ref),
        "ExportPool": pools_pb2.ExportPoolRequest(pool=ref),
        "ExplainPage": pools_pb2.ExplainPageRequest(pool=ref, object=obj),
        "StatPool": pools_pb2.StatPoolRequest(pool=ref),
        "ReclaimMemory": pools_pb2.ReclaimMemoryRequest(bytes=4096),
        "GetCapabilities": capabilities_pb2.GetCapabilitiesRequest(),
        "Echo": capabilities_pb2.EchoRequest(payload=b"hello"),
    }
    return {name: bytes([METHODS.index(name)]) + request.SerializeToString() for name, request in requests.items()}


def batches(client: PureClient) -> dict[str, bytes]:
    """A batch of every kind, as the client's core makes it."""
    pool = client.core._pools[0]
    put, get = PutOperation(pool), GetOperation(pool)
    for index, plain in ((0, A), (5, B), (16, same_filled_page() * 3)):
        extent, view = buffer_extent(7, index, plain, writable=False)
        put.add(client.codec, extent, view)
    assert pool.presence is not None
    pool.presence.listed(7, 0, 0b11111, None)
    get.add(Extent(7, 0, 5), memoryview(bytearray(5 * 4096)), take=False)
    flush = FlushOperation(pool)
    flush.add(Extent(7, 1, 3))
    flush.add(Extent(8, 0, 1), Version(1, 2))
    operations: dict[str, Operation] = {
        "put": put,
        "get": get,
        "flush": flush,
        "flush_object": FlushObjectOperation(pool, 7),
        "echo": EchoOperation(b"hello", 0),
    }
    messages = {}
    for number, (name, operation) in enumerate(operations.items(), 1):
        operation.batch_id, operation.sequence, operation.floor = number, number if operation.writes else 0, 1
        operation.build()
        assert operation.message is not None
        messages[name] = operation.message
    return messages


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "little") + message for message in messages)


def answers() -> dict[str, bytes]:
    """What a server answers to the client of the target `answer`."""
    from tests.fuzz import targets

    client = targets._client_with_work()
    assert client.stream is not None
    while client.stream.to_server:
        client.stream.deliver_to_server()
    return {f"answer-{number}": message for number, message in enumerate(client.stream.to_client)}


def fuse() -> dict[str, bytes]:
    """Requests of the kernel."""
    header = struct.Struct("<IIQQIIIHH")

    def request(opcode: int, arguments: bytes = b"", node: int = 2) -> bytes:
        return header.pack(header.size + len(arguments), opcode, 7, node, 0, 0, 1, 0, 0) + arguments

    io = struct.Struct("<QQIIQII")
    requests = {
        "read": request(15, io.pack(1, 3 * 4096, 4096, 0, 0, 0, 0)),
        "write": request(16, io.pack(1, 5 * 4096, 4096, 0, 0, 0, 0) + A),
        "small-write": request(16, io.pack(1, 3 * 4096 + 512, 512, 0, 0, 0, 0) + A[:512]),
        "punch": request(43, struct.pack("<QQQII", 1, 3 * 4096, 8192, 3, 0)),
        "lookup": request(1, b"swap\0", node=1),
        "readdir": request(28, io.pack(1, 0, 4096, 0, 0, 0, 0), node=1),
        "getattr": request(3, bytes(16)),
        "interrupt": request(36, (7).to_bytes(8, "little")),
        "fsync": request(20, bytes(16)),
        "init": request(26, struct.pack("<IIIII", 7, 40, 131072, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(44), node=0),
    }
    return {**requests, "all": framed(*requests.values())}


def http2() -> dict[str, bytes]:
    """What a server sends: settings, headers, messages, trailers, and an end."""
    encoder = hpack.Encoder()

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload

    message = b"\0" + (5).to_bytes(4, "big") + b"hello"
    settings = frame(4, 0, 0, b"\0\3\0\0\0\x64") + frame(4, 1, 0, b"")
    begin = frame(1, 4, 1, encoder.encode([(":status", "200"), ("content-type", "application/grpc")]))
    data = frame(0, 0, 1, message) + frame(0, 0, 1, message[:3]) + frame(0, 0, 1, message[3:])
    end = frame(
        1, 5, 1, encoder.encode([("grpc-status", "3"), ("grpc-message", "no%20way"), ("tmem-reason", "INVALID")])
    )
    endless = frame(1, 5, 1, encoder.encode([("grpc-status", "1" * 5000)]))
    others = frame(6, 0, 0, bytes(8)) + frame(8, 0, 0, b"\0\1\0\0") + frame(3, 0, 3, b"\0\0\0\1")
    away = frame(7, 0, 0, bytes(8) + b"bye")
    whole = settings + begin + data + others + end + away
    return {
        "whole": b"\xff" + whole,
        "byte-by-byte": b"\0" + whole,
        "trailers-only": b"\x40" + settings + end,
        "endless-status": b"\xff" + settings + endless,
    }


def main() -> None:
    """Writes all of them."""
    server, client = new_server()
    ref, *_ = _refs(client.core)
    messages = batches(client)
    opening = client.core.opening()
    client.core.open = True
    heartbeat = client.core.heartbeat()
    attach = extents_pb2.ExchangeRequest(
        attach=extents_pb2.Attach(attach_id=1, pools=[extents_pb2.PoolAttachment(pool=ref)])
    )
    pool = next(iter(server.service.lifecycle.table))
    entries = {
        "pool": (Kind.POOL, describe_pool(pool)),
        "put": (Kind.BATCH, messages["put"]),
        "flush": (Kind.BATCH, messages["flush"]),
        "flush_object": (Kind.BATCH, messages["flush_object"]),
        "drop": (Kind.DROP, drop_payload(pool.key)),
        "end": (Kind.END, b""),
    }
    header = encode_header(FileHeader(1, bytes(16), synced=False))
    whole = header + b"".join(b"".join(map(bytes, encode_entry(*entry))) for entry in entries.values())
    pieces = {
        name: bytes([kind - 1]) + len(data).to_bytes(2, "little") + data for name, (kind, data) in entries.items()
    }
    seeds: dict[str, dict[str, bytes]] = {
        "unary": unary(ref),
        "exchange": {
            "opening": b"\xff" + opening,
            "batches": framed(*messages.values()),
            "control": framed(heartbeat, attach.SerializeToString()),
            **{name: framed(message) for name, message in messages.items()},
        },
        "answer": answers(),
        "journal": {"whole": whole, "torn": whole[:-9], "header": header, "range": encode_range(1, 3)},
        "journal_entries": {
            "all": b"".join(pieces.values()),
            **{name: pieces["pool"] + piece for name, piece in pieces.items()},
        },
        "splice": {**messages, "opening": opening, **answers()},
        "chunk": {
            "lz4": bytes([1, 0, 0, 0]) + _compressed(A),
            "lz4-16": bytes([1, 15, 3, 4]) + _compressed(A * 16),
            "raw": bytes([2, 0, 0, 0]) + B,
            "same-filled": bytes([3, 7, 0, 7]) + b"8 bytes.",
        },
    }
    seeds |= {"fuse": fuse(), "http2": http2()}
    for target, files in seeds.items():
        directory = SEEDS / target
        directory.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            (directory / name).write_bytes(data)


def _compressed(plain: bytes) -> bytes:
    import lz4.block

    return bytes(lz4.block.compress(plain, store_size=False))


if __name__ == "__main__":
    main()
