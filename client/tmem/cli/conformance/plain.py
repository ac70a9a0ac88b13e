"""A client made of the generated stubs alone: what a stranger writes from the contract, for checks where the wire matters.

Owns: unary calls and one stream, message by message, without presence map, replay or window. Whoever uses it chooses sequences.
"""

import queue
import secrets
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from tmem.client import Pool
from tmem.v1 import extents_pb2 as pb
from tmem.v1 import extents_pb2_grpc, pages_pb2, pages_pb2_grpc, pools_pb2, pools_pb2_grpc
from tmem.v1.common_pb2 import ObjectId, PoolRef
from tmem.wire.checksum import page_checksum
from tmem.wire.handles import split_object
from tmem.wire.limits import MAX_MESSAGE_BYTES, PAGE_BYTES, PROTOCOL_VERSION, SESSION_ID_BYTES
from tmem.wire.metadata import AUTHORIZATION, BEARER, REASON
from tmem.wire.results import Code, Encoding, PoolKind, Reason, enum_field

from .expect import Seen, Violation

__all__ = [
    "Plain",
    "PlainStream",
    "flush_message",
    "get_message",
    "pages_of",
    "put_message",
    "ref_of",
    "refusals_of",
]

_SECONDS = 20.0


def ref_of(pool: Pool) -> PoolRef:
    """The right that a client has to its pool."""
    return PoolRef(pool_id=pool.pool_id, generation=pool.generation, token=pool.token, epoch=pool.epoch)


def reason_of(error: grpc.RpcError) -> str:
    """The name of the reason beside a status; "" if there is none."""
    call: Any = error  # grpc's failed call is its own exception
    return next((str(value) for key, value in call.trailing_metadata() or () if key == REASON), "")


class Plain:
    """Stubs on a channel of their own. Use it in a `with` statement.

    Args:
        target: the server.
        token: the tenant's, if the server wants one.
    """

    def __init__(self, target: str, token: str | None) -> None:
        options = [
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_http_proxy", 0),
        ]
        self.channel = grpc.insecure_channel(target, options=options)
        self.metadata = ((AUTHORIZATION, BEARER + token),) if token else ()
        self.pages: Any = pages_pb2_grpc.PagesServiceStub(self.channel)
        self.pools: Any = pools_pb2_grpc.PoolsServiceStub(self.channel)
        self.extents: Any = extents_pb2_grpc.ExtentsServiceStub(self.channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.channel.close()

    def call(self, method: Any, request: Any) -> Any:
        """A unary call; raises grpc.RpcError."""
        return method(request, metadata=self.metadata, timeout=_SECONDS)

    def failing(self, method: Any, request: Any, what: str) -> tuple[str, str]:
        """The status and reason of a call that must fail."""
        try:
            self.call(method, request)
        except grpc.RpcError as error:
            code: Any = error
            return code.code().name, reason_of(error)
        raise Violation(f"{what}: done")

    # ---- Pools ----

    def create_pool(self, name: str, kind: int = PoolKind.PERSISTENT, **fields: Any) -> PoolRef:
        """Makes a pool; whoever calls this destroys it."""
        request = pools_pb2.CreatePoolRequest(
            name=name, kind=enum_field(kind), **({"abi_version": PROTOCOL_VERSION} | fields)
        )
        made = self.call(self.pools.CreatePool, request)
        return PoolRef(pool_id=made.pool.pool_id, generation=made.generation, token=made.token, epoch=made.pool.epoch)

    def names(self) -> set[str]:
        """The names of the tenant's pools."""
        return {pool.name for pool in self.call(self.pools.ListPools, pools_pb2.ListPoolsRequest()).pools}

    def destroy_pool(self, ref: PoolRef) -> int:
        """Ends a pool; answers how many pages went with it."""
        answer = self.call(self.pools.DestroyPool, pools_pb2.DestroyPoolRequest(pool=ref))
        return int(answer.dropped_pages)

    # ---- Single pages ----

    def put(self, ref: PoolRef, obj: int, index: int, page: bytes, sequence: int) -> Any:
        """Stores a raw page by the unary call."""
        request = pages_pb2.PutRequest(
            pool=ref,
            object=_object(obj),
            index=index,
            sequence=sequence,
            encoding=enum_field(Encoding.RAW),
            page_crc32c=page_checksum(page),
            page=page,
        )
        return self.call(self.pages.Put, request)

    def get(self, ref: PoolRef, obj: int, index: int) -> Any:
        """Reads a page by the unary call."""
        return self.call(self.pages.Get, pages_pb2.GetRequest(pool=ref, object=_object(obj), index=index))

    def look(self, ref: PoolRef, obj: int, index: int) -> Seen:
        """What the server itself holds: the page, or why it is not there."""
        answer = self.get(ref, obj, index)
        if answer.code != Code.HIT:
            return Code(answer.code)
        page = _expand(answer.encoding, answer.page, 1)
        if page_checksum(page) != answer.page_crc32c:
            return Code.CORRUPT
        return page

    def flush(self, ref: PoolRef, obj: int, index: int, sequence: int, **condition: int) -> Any:
        """Removes a page by the unary call."""
        request = pages_pb2.FlushRequest(pool=ref, object=_object(obj), index=index, sequence=sequence, **condition)
        return self.call(self.pages.Flush, request)

    def flush_object(self, ref: PoolRef, obj: int, sequence: int) -> Any:
        """Removes an object by the unary call."""
        request = pages_pb2.FlushObjectRequest(pool=ref, object=_object(obj), sequence=sequence)
        return self.call(self.pages.FlushObject, request)

    # ---- The stream ----

    def exchange(self, *pools: PoolRef, session_id: bytes | None = None) -> "PlainStream":
        """Opens a session."""
        return PlainStream(self, pools, session_id or secrets.token_bytes(SESSION_ID_BYTES))


class PlainStream:
    """One Exchange call, message by message.

    Attributes:
        session_id: as given. opened: the server's first answer.
    """

    def __init__(self, client: Plain, pools: Sequence[PoolRef], session_id: bytes) -> None:
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.session_id = session_id
        self._call = client.extents.Exchange(
            iter(self._requests.get, None), metadata=client.metadata, timeout=4 * _SECONDS
        )
        self.send(
            pb.ExchangeRequest(
                open=pb.Open(
                    session_id=session_id,
                    protocol_version=PROTOCOL_VERSION,
                    pools=[pb.PoolAttachment(pool=pool) for pool in pools],
                    client_name="conformance",
                )
            )
        )
        self.opened = self.receive().opened

    def send(self, message: pb.ExchangeRequest) -> None:
        """Sends a message."""
        self._requests.put(message)

    def receive(self) -> pb.ExchangeResponse:
        """The next answer; raises grpc.RpcError or StopIteration at the stream's end."""
        answer: pb.ExchangeResponse = next(self._call)
        return answer

    def ask(self, message: pb.ExchangeRequest) -> pb.ExchangeResponse:
        """Sends a message and waits for the next answer."""
        self.send(message)
        return self.receive()

    def cancel(self) -> None:
        """Breaks the stream: no goodbye, and answers on their way are lost."""
        self._call.cancel()
        self._requests.put(None)

    def close(self) -> None:
        """Says goodbye and waits for the end."""
        self._requests.put(None)
        for _ in self._call:
            pass


def _object(obj: int) -> ObjectId:
    low, mid, high = split_object(obj)
    return ObjectId(low=low, mid=mid, high=high)


def _header(ref: PoolRef, batch_id: int, sequence: int, answer_bytes: int = 0, floor: int = 0) -> pb.BatchHeader:
    return pb.BatchHeader(
        batch_id=batch_id,
        pool_id=ref.pool_id,
        generation=ref.generation,
        epoch=ref.epoch,
        sequence=sequence,
        answer_bytes=answer_bytes,
        floor=floor,
    )


def put_message(
    ref: PoolRef, items: Sequence[tuple[int, int, bytes]], sequence: int, batch_id: int = 1, floor: int = 0
) -> pb.ExchangeRequest:
    """A put of raw pages, each a chunk of its own: (object, first page, plain pages) for each extent."""
    body = b"".join(plain for _, _, plain in items)
    words = [split_object(obj) for obj, _, _ in items]
    pages = len(body) // PAGE_BYTES
    return pb.ExchangeRequest(
        put=pb.PutBatch(
            header=_header(ref, batch_id, sequence, floor=floor),
            extents=pb.Extents(
                object_low=[word[0] for word in words],
                object_mid=[word[1] for word in words],
                object_high=[word[2] for word in words],
                index=[index for _, index, _ in items],
                pages=[len(plain) // PAGE_BYTES for _, _, plain in items],
            ),
            chunks=pb.Chunks(encoded_bytes=[PAGE_BYTES] * pages, encoding=[enum_field(Encoding.RAW)]),
            page_crc32c=[page_checksum(body[at : at + PAGE_BYTES]) for at in range(0, len(body), PAGE_BYTES)],
        ),
        body=body,
    )


def get_message(ref: PoolRef, obj: int, index: int, pages: int = 1, batch_id: int = 1) -> pb.ExchangeRequest:
    """A get of one extent."""
    low, mid, high = split_object(obj)
    return pb.ExchangeRequest(
        get=pb.GetBatch(
            header=_header(ref, batch_id, 0, max(pages, 16) * PAGE_BYTES),
            extents=pb.Extents(object_low=[low], object_mid=[mid], object_high=[high], index=[index], pages=[pages]),
        )
    )


def flush_message(
    ref: PoolRef, obj: int, index: int, sequence: int, pages: int = 1, batch_id: int = 1, floor: int = 0
) -> pb.ExchangeRequest:
    """A flush of one extent."""
    low, mid, high = split_object(obj)
    return pb.ExchangeRequest(
        flush=pb.FlushBatch(
            header=_header(ref, batch_id, sequence, floor=floor),
            extents=pb.Extents(object_low=[low], object_mid=[mid], object_high=[high], index=[index], pages=[pages]),
        )
    )


def pages_of(answer: pb.ExchangeResponse, asked: int) -> list[Seen]:
    """What a get's answer says of each page, read from the columns as the contract has them."""
    if answer.WhichOneof("kind") != "get":
        raise Violation(f"a get was answered with {answer.WhichOneof('kind')}")
    got, body = answer.get, answer.body
    seen: list[Seen] = [Code(code) for code in got.codes] or [Code.HIT] * asked

    def column(values: Sequence[int], count: int, default: int) -> list[int]:
        return list(values) if len(values) == count else [values[0] if values else default] * count

    sizes = list(got.chunks.encoded_bytes)
    chunk_pages = column(got.chunks.pages, len(sizes), 1)
    encodings = column(got.chunks.encoding, len(sizes), Encoding.LZ4)
    plains, at = [], 0
    for size, pages, encoding in zip(sizes, chunk_pages, encodings, strict=True):
        plains.append(_expand(encoding, body[at : at + size], pages))
        at += size
    count = len(got.runs.sequence)
    lies_in = list(got.runs.chunk) or list(range(count))
    run_pages = list(got.runs.pages)
    if len(run_pages) != count:
        run_pages = run_pages * count if run_pages else [chunk_pages[chunk] for chunk in lies_in]
    offsets = column(got.runs.offset, count, 0)
    positions = list(got.runs.position)
    next_position = crc_at = 0
    for number in range(count):
        position = positions[number] if positions else next_position
        for page in range(run_pages[number]):
            begin = (offsets[number] + page) * PAGE_BYTES
            plain = plains[lies_in[number]][begin : begin + PAGE_BYTES]
            good = page_checksum(plain) == got.page_crc32c[crc_at]
            seen[position + page] = plain if good else Code.CORRUPT
            crc_at += 1
        next_position = position + run_pages[number]
    return seen


def refusals_of(answer: Any, count: int) -> list[Reason]:
    """The reason for each extent of a put's or flush's answer; UNSPECIFIED where it was done."""
    reasons = [Reason.UNSPECIFIED] * count
    for detail in answer.details:
        for position in range(detail.first, detail.first + (detail.count or 1)):
            reasons[position] = Reason(detail.reason)
    return reasons


def _expand(encoding: int, data: bytes, pages: int) -> bytes:
    # On demand: it is the one thing here that a stranger takes from a library of its own.
    import lz4.block

    if encoding == Encoding.SAME_FILLED:
        return data * (pages * PAGE_BYTES // len(data))
    if encoding == Encoding.RAW:
        return data
    return bytes(lz4.block.decompress(data, uncompressed_size=pages * PAGE_BYTES))
