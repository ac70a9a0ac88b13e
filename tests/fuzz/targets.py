"""What bytes from outside meet, one function each: whatever they are, an error of the contract is the worst that comes out.

Owns: `TARGETS`, by name. A target takes any bytes; an exception that is none of the contract's own is a fault of ours. State that inputs leave behind is
thrown away now and then, so that memory that grows is a leak.
"""

import random
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

from tests.sim import PureClient, PureServer, PureStream
from tests.unit.agents.swap import doubles

from tmem.agents.swap import protocol as fuse_protocol
from tmem.agents.swap.core import Core
from tmem.agents.swap.shared import CONTROL_BYTES
from tmem.client._core.session import SessionCore
from tmem.client.link.frames import Headers
from tmem.client.link.headers import HeaderCodec, response_status, trailer_status
from tmem.client.link.http2 import Http2
from tmem.server.rpc.capabilities import CapabilitiesHandlers
from tmem.server.rpc.conversation import Conversation, WindowExceeded
from tmem.server.rpc.pages import PagesHandlers
from tmem.server.rpc.pools import PoolsHandlers
from tmem.server.store.journal.entries import (
    JournalError,
    Kind,
    Torn,
    encode_entry,
    read_entries,
    read_header,
    read_range,
)
from tmem.server.store.journal.recovery import Recovery
from tmem.server.store.lifecycle import Graces, Lifecycle
from tmem.server.store.log import LogStore
from tmem.server.store.pools import PoolTable
from tmem.v1 import extents_pb2 as pb
from tmem.wire.answers import EchoAnswer, FlushAnswer, FlushObjectAnswer, GetAnswer, Malformed, PutAnswer, decode_answer
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import LocalError, ProtocolError, TmemError
from tmem.wire.limits import PAGE_BYTES
from tmem.wire.requests import encode_control
from tmem.wire.results import Durability, PoolKind
from tmem.wire.splice import parse

__all__ = ["METHODS", "TARGETS", "new_server"]

_INPUTS_PER_STATE = 2000
_MAX_OUTGOING = 1 << 20

METHODS = (
    *("Put", "Get", "Flush", "FlushObject"),
    *(
        "CreatePool",
        "OpenPool",
        "JoinPool",
        "AuthorizeTenant",
        "DeauthorizeTenant",
        "LeavePool",
        "ListPools",
        "ListPages",
    ),
    *("FreezePool", "ThawPool", "ResizePool", "DestroyPool", "ExportPool", "ExplainPage", "StatPool", "ReclaimMemory"),
    *("GetCapabilities", "Echo"),
)


def new_server() -> tuple[PureServer, PureClient]:
    """A server with a pool of each kind, whose numbers and tokens are the same each time, and their client."""
    server = PureServer(random.Random(1), memory_limit=1 << 20, max_pools_per_tenant=64)
    client = PureClient(server, name="fuzz")
    for kind in (PoolKind.PERSISTENT, PoolKind.EPHEMERAL, PoolKind.SHARED):
        client.create_pool(kind.name.lower(), kind)
    return server, client


def drive(answer: Any) -> object:
    """What a handler answers, however it does; nothing here waits for anything but its turn."""
    if isinstance(answer, AsyncIterator):
        parts = []
        while True:
            try:
                parts.append(_await(answer.__anext__()))
            except StopAsyncIteration:
                return parts
    return answer if isinstance(answer, bytes) else _await(answer)


def _await(answer: Awaitable[object]) -> object:
    steps = answer.__await__()
    try:
        while True:
            next(steps)
    except StopIteration as done:
        return done.value


class _Unary:
    """Every unary handler; the first byte says which."""

    def __init__(self) -> None:
        self._left = 0

    def __call__(self, data: bytes) -> None:
        if not self._left:
            self._server, _ = new_server()
            service = self._server.service
            self._pages, self._pools = PagesHandlers(service), PoolsHandlers(service)
            self._capabilities = CapabilitiesHandlers(service)
            self._left = _INPUTS_PER_STATE
        self._left -= 1
        if not data:
            return
        name = METHODS[data[0] % len(METHODS)]
        function = self._function(name)
        try:
            answer = drive(function(self._server.tenant, data[1:]))
        except TmemError:
            return
        assert isinstance(answer, bytes | list)

    def _function(self, name: str) -> Callable[..., Any]:
        snake = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
        for owner in (self._pages, self._pools, self._capabilities):
            for candidate in (
                snake,
                snake.removesuffix("_pool"),
                snake.removesuffix("_pools"),
                snake.partition("_")[0],
            ):
                if name == "ListPages" and candidate != "list_pages":
                    continue
                if hasattr(owner, candidate):
                    function: Callable[..., Any] = getattr(owner, candidate)
                    return function
        raise AssertionError(name)


class _Exchange:
    """Messages on a stream that was opened well: each behind two bytes of its length."""

    def __init__(self) -> None:
        self._left = 0

    def __call__(self, data: bytes) -> None:
        if not self._left:
            self._server, client = new_server()
            pools = [pb.PoolAttachment(pool=attachment) for attachment in _refs(client.core)]
            self._opening = encode_control(pb.Open(session_id=b"s" * 16, protocol_version=1, pools=pools))
            self._left = _INPUTS_PER_STATE
        self._left -= 1
        sent = 0

        def send(message: bytes, cost: int | None) -> None:
            nonlocal sent
            sent += len(message)
            if cost is not None and conversation.session is not None:
                conversation.session.release(cost)
            decode_answer(message)  # what the server says is always something that a client can read

        conversation = Conversation(self._server.service, send)
        stream: Any = PureStream.__new__(PureStream)
        stream.conversation = conversation
        try:
            # The bytes themselves as an opening, or behind a good one.
            if data[:1] == b"\xff":
                conversation.open(self._server.tenant, data[1:])
                conversation.grant(stream)
                return
            conversation.open(self._server.tenant, self._opening)
            conversation.grant(stream)
            at = 0
            while at + 2 <= len(data) and sent < _MAX_OUTGOING:
                length = int.from_bytes(data[at : at + 2], "little")
                conversation.handle(data[at + 2 : at + 2 + length])
                at += 2 + length
        except (TmemError, WindowExceeded):
            pass
        finally:
            conversation.end(stream, goodbye=True)


def _refs(core: SessionCore) -> list[Any]:
    opening = pb.ExchangeRequest()
    opening.ParseFromString(core.opening())
    return [attachment.pool for attachment in opening.open.pools]


def answer(data: bytes) -> None:
    """An answer from a server that may be anything, to a client with work in flight."""
    client = _client_with_work()
    core = client.core
    try:
        response, _ = decode_answer(data)
        if isinstance(response, _ANSWERS):
            operation = core.match(response)
            if operation is not None:
                try:
                    operation.decode(response, client.codec)
                except ProtocolError as error:
                    operation.fail(error)
                core.finish(operation)
        else:
            core.control(response)
    except ProtocolError:
        return


_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)
_SERVER = PureServer(random.Random(1))
_PAGE = bytes(range(256)) * (PAGE_BYTES // 256)


def _client_with_work() -> PureClient:
    """In flight: batch 1, a put; 2, a get; 3, a flush; 4, a flush of an object."""
    _SERVER.restart()
    client = PureClient(_SERVER, name="fuzz")
    pool = client.create_pool("a", PoolKind.PERSISTENT)
    client.settle()
    assert pool.presence is not None
    for index in range(4):
        pool.presence.listed(7, 0, 0b1111 << index, None)
    client.put(pool, 7, 0, _PAGE * 2)
    client.get(pool, 7, 2, 2)
    client.flush(pool, 8, 0)
    pool.presence.listed(9, 0, 1, None)
    client.flush_object(pool, 9)
    return client


def journal(data: bytes) -> None:
    """A journal file, a range file, and what their entries say."""
    for read in (read_header, read_range):
        try:
            read(memoryview(data), "journal")
        except JournalError:
            continue
    recovery = _recovery()
    for last in (True, False):
        try:
            for entry in read_entries(memoryview(data), "journal", last=last):
                if isinstance(entry, Torn):
                    break
                recovery.replay(entry[0], entry[1], "journal")
        except JournalError:
            continue


def journal_entries(data: bytes) -> None:
    """Entries whose checksums are right, whatever they say: kind, two bytes of length, payload, and again."""
    recovery = _recovery()
    at = 0
    try:
        while at + 3 <= len(data):
            kind = Kind(data[at] % len(Kind) + 1)
            length = int.from_bytes(data[at + 1 : at + 3], "little")
            payload = data[at + 3 : at + 3 + length]
            whole = bytes(40) + b"".join(map(bytes, encode_entry(kind, payload)))
            for entry in read_entries(memoryview(whole), "journal", last=False):
                assert not isinstance(entry, Torn)
                recovery.replay(entry[0], entry[1], "journal")
            at += 3 + length
        recovery.finish(survived=True, epoch=1, now=0.0)
    except JournalError:
        return


def _recovery() -> Recovery:
    store = LogStore(1 << 20, CopyCounter())
    durabilities = (Durability.MEMORY, Durability.DISK)
    table = PoolTable(random_bytes=bytes, durabilities=durabilities, max_pools=64)
    Lifecycle(table, store, graces=Graces(), epoch=lambda: 1)
    return Recovery(store, store, table)


def splice(data: bytes) -> None:
    """The splice reads a message as the generated class does, or both refuse it."""
    for kind in (pb.ExchangeRequest, pb.ExchangeResponse):
        whole = kind()
        try:
            whole.ParseFromString(data)
        except Exception:  # noqa: BLE001  protobuf's own, of whatever kind
            whole = None  # type: ignore[assignment]
        try:
            message, body, _ = parse(data, kind(), "body")
        except ProtocolError:
            assert whole is None, "the splice refuses what the generated class reads"
            continue
        assert whole is not None, "the splice reads what the generated class refuses"
        message.body = bytes(body)  # type: ignore[attr-defined]
        assert message == whole


def chunk(data: bytes) -> None:
    """A chunk that may be anything, expanded into a buffer of its own: never beyond it, and never without its checksum."""
    if len(data) < 4:
        return
    encoding, pages, offset, wanted = data[0] % 5, data[1] % 16 + 1, data[2] % 16, data[3] % 16 + 1
    offset, wanted = offset % pages, min(wanted, pages)
    wanted = min(wanted, pages - offset)
    guarded = bytearray(b"\xaa" * (wanted + 2) * PAGE_BYTES)
    place = memoryview(guarded)[PAGE_BYTES:-PAGE_BYTES]
    bad = Codec(CopyCounter()).decode(encoding, data[4:], pages, offset, place, array("I", [1] * wanted))
    assert bad == list(range(wanted))
    assert guarded[:PAGE_BYTES] == guarded[-PAGE_BYTES:] == b"\xaa" * PAGE_BYTES
    assert not any(place)


def fuse(data: bytes) -> None:
    """What /dev/fuse gives, in one message or behind two bytes of its length each, to a swap device: each request is answered once at most."""
    for message in (data, *_pieces(data)):
        for read in (fuse_protocol.parse, fuse_protocol.parse_init):
            try:
                request = read(memoryview(message))
            except (ProtocolError, LocalError):
                continue
            if read is fuse_protocol.parse:
                _swap_device(request)


def _swap_device(request: Any) -> None:
    kernel, pool = doubles.Kernel(buffers=2), doubles.Pool({3: _PAGE, 4: _PAGE})
    words = memoryview(bytearray(CONTROL_BYTES)).cast("Q")
    clock = doubles.Clock()
    core = Core(memoryview(bytearray(64)), words, pool, kernel, read_limit=10**9, write_limit=10**9, clock=clock)
    core.handle(request, clock.now, lambda: None)
    for _ in range(40):
        core.step()
        pool.finish_all()
        core.tick()
        if not core.busy and not pool.calls:
            break
    clock.pass_seconds(2)
    core.tick()
    assert set(kernel.answers) <= {request.unique}


def _pieces(data: bytes) -> Iterator[bytes]:
    at = 0
    while at + 2 <= len(data):
        length = int.from_bytes(data[at : at + 2], "little")
        yield data[at + 2 : at + 2 + length]
        at += 2 + length


def http2(data: bytes) -> None:
    """What a server sends a link, in pieces as large as the first byte says: events, or the connection's end."""
    if not data:
        return
    headers = HeaderCodec()
    connection = Http2(headers)
    block = headers.request("/tmem.v1.ExtentsService/Exchange", "somewhere", (), None)
    streams = [connection.open_stream(block), connection.open_stream(block)]
    connection.send(streams[0], b"hello")
    size, at = data[0] + 1, 1
    try:
        while at < len(data):
            rest = min(size, len(data) - at)
            for buffer in connection.buffers():
                count = min(len(buffer), rest)
                buffer[:count] = data[at : at + count]
                connection.received(count)
                at += count
                rest -= count
                if rest or count < len(buffer):
                    break
            while (event := connection.next_event()) is not None:
                if isinstance(event, Headers):
                    (trailer_status if event.ended else response_status)(event.fields)
    except ProtocolError:
        return


TARGETS: dict[str, Callable[[bytes], None]] = {
    "unary": _Unary(),
    "exchange": _Exchange(),
    "answer": answer,
    "journal": journal,
    "journal_entries": journal_entries,
    "splice": splice,
    "chunk": chunk,
    "fuse": fuse,
    "http2": http2,
}
