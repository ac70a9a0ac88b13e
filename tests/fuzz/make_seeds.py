"""Writes the seeds that fuzzing begins with: real messages, of every kind. Run as `python -m tests.fuzz.make_seeds` after the contract has grown."""

from pathlib import Path

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
