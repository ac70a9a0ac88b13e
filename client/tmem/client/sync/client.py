# Made from ../aio/client.py by client/generate_sync.py; change it there.
"""A client, blocking."""

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from google.protobuf.message import Message

from tmem.client._core.calls import (
    Call,
    PageExplanation,
    PoolInfo,
    PoolStat,
    create_pool,
    explain_page,
    export_pool,
    get_capabilities,
    list_pages,
    recreation,
    take_listing,
)
from tmem.client._core.counters import ClientCounters
from tmem.client._core.operations import EchoOperation
from tmem.client._core.options import Options
from tmem.client._core.pool import PoolCore
from tmem.client._core.presence import Presence
from tmem.v1 import capabilities_pb2, pools_pb2
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.errors import Closed, Refused
from tmem.wire.pages import splice_page

from .carrier import Carrier
from .pool import Pool

__all__ = ["Client", "open_client"]

R = TypeVar("R", bound=Message)


def open_client(target: str, **options: Any) -> "Client":
    """Connects to a tmem server.

    Args:
        target: "HOST:PORT" or "unix:PATH".
        options: fields of Options, such as token="..." or read_timeout=5.

    Raises:
        Unavailable: nobody answers there. Unauthenticated: the server wants another token.
        InvalidOption: an option that can't be.
    """
    from .shards import spread  # a Client of several
    from .stream import Stream  # gRPC is loaded here, so that whoever has another transport need not have it in memory

    settings = Options(**options)
    counters = ClientCounters()

    def greeted(where: str) -> Client:
        client = Client(where, settings, counters, Stream(where, settings, counters))
        try:
            client._greet()  # noqa: SLF001
        except BaseException:
            client.close()
            raise
        return client

    first = greeted(target)
    try:
        return spread(first, greeted)
    except BaseException:
        first.close()
        raise


class Client:
    """A connection to a server, and the session on it. Use it in a `with` statement, or close it.

    Attributes:
        target: the server.
        options: what it was made with.
        counters: what it has done.
        capabilities: what the server can do, as of the connection.
    """

    def __init__(self, target: str, options: Options, counters: ClientCounters, stream: Carrier) -> None:
        self.target = target
        self.options = options
        self.counters = counters
        self._stream = stream
        self.capabilities = capabilities_pb2.GetCapabilitiesResponse()

    def _greet(self) -> None:
        """Asks what the server can do; whoever makes a client calls it first."""
        self.capabilities = self.call(get_capabilities(), self.options.connect_timeout)
        # A server that is started anew before the first stream is open has lost the pools that were made until then.
        self._stream.core.instance_id = self.capabilities.instance_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<tmem Client {self.target}>"

    def close(self) -> None:
        """Says goodbye: the session ends, its persistent pools are parked. Takes a bounded time."""
        self._stream.close()

    @property
    def in_flight(self) -> int:
        """How many batches are unanswered."""
        return self._stream.core.in_flight

    @property
    def peak_in_flight(self) -> tuple[int, int]:
        """The most bytes and batches of credit that were ever in use at once."""
        window = self._stream.core.window
        return window.peak_bytes, window.peak_batches

    # ---- Pools ----

    def create_pool(
        self,
        name: str,
        kind: str = "persistent",
        *,
        quota_bytes: int = 0,
        reserved_bytes: int = 0,
        weight: int = 0,
        durability: str = "memory",
        chunk_pages: int = 0,
        take: bool | None = None,
        encrypted: bool = False,
        uuid: bytes = b"",
        token: bytes = b"",
        presence: Presence | None = None,
    ) -> Pool:
        """Makes a pool.

        Args:
            name: unique within the tenant.
            kind: "persistent", "ephemeral" or "shared".
            quota_bytes: of compressed pages and their index; 0 = no quota.
            reserved_bytes: likewise, for which the server keeps room whatever others put (persistent pools). n pages that
                may all be incompressible want n * (4096 + capabilities.limits.page_overhead_bytes).
            weight: share of memory for ephemeral pages among the tenant's pools.
            durability: "memory", "disk" or "replicated", as far as the server offers it.
            chunk_pages: pages compressed together, 1..16; 0 = the server's default.
            take: whether gets take by default; None = as the kind does.
            encrypted: pages are encrypted before they are put, so the server can't expand chunks.
            uuid: 16 bytes by which others join a shared pool; empty = the server makes them.
            token: the secret that will open it, 16..64 random bytes; empty = made here.
            presence: a SharedPresence that nothing was noted in yet, for the next process to find; None: the client keeps to
                itself what it stored.

        Raises:
            PoolExists: the name is taken. PoolLimit: the tenant has as many pools as it may. InvalidRequest: no such
                pool can be. OutOfCapacity, QuotaExceeded: what it reserves can't be promised.
        """
        call = create_pool(
            name,
            kind,
            quota_bytes=quota_bytes,
            reserved_bytes=reserved_bytes,
            weight=weight,
            durability=durability,
            chunk_pages=chunk_pages,
            take=take,
            encrypted=encrypted,
            uuid=uuid,
            token=token,
        )
        made = self.call(call)
        if presence is not None:
            presence.created(made.token, epoch=made.pool.epoch, generation=made.generation)
        core = PoolCore(made.pool, made.token, made.generation, recreation(made.pool, made.token), presence)
        return self._adopt(core)

    def open_pool(
        self,
        name: str,
        token: bytes,
        epoch: int | Sequence[int] | None = None,
        presence: Presence | None = None,
        listing_timeout: float | None = None,
    ) -> Pool:
        """Takes over a pool of this tenant, after a crash or from another process; the writer before is fenced.

        Args:
            name: its name.
            token: the secret that its maker got.
            epoch: the pool's `epoch` (or `epochs`) that was last known. If it has another one by now, the server lost it in
                between, and what is absent may have been stored: it is LOST rather than a miss.
            presence: the SharedPresence that the pool's writer before kept; what it says need not be asked of the server.
            listing_timeout: seconds until asking what the pool holds gives up, if it must be asked; None = as other calls do.

        Raises:
            NoSuchPool: no pool of this name that the token opens. InvalidOption: `presence` is another pool's.
        """
        if epoch is not None and not isinstance(epoch, int):
            (epoch,) = epoch
        request = pools_pb2.OpenPoolRequest(name=name, token=token)
        if presence is not None:
            presence.opening()
        try:
            opened = self.call(Call("PoolsService/OpenPool", request, pools_pb2.OpenPoolResponse))
        except Refused:
            if presence is not None:
                presence.not_opened()
            raise
        core = PoolCore(opened.pool, token, opened.generation, recreation(opened.pool, token), presence)
        known = core.presence
        assert known is not None
        generation, incomplete = core.generation, core.incomplete
        if known.opened(token, epoch=core.epoch, generation=generation, known_epoch=epoch, incomplete=incomplete):
            for listing in self._call_streaming(list_pages(core), listing_timeout or self.options.call_timeout):
                take_listing(known, listing)
            known.filled()
        return self._adopt(core)

    def _call_streaming(self, call: Call[R], timeout: float | None) -> Iterator[R]:
        """Carries out a call that answers many messages."""
        self._check_open()
        for data in self._stream.call_streaming(call.path, call.request.SerializeToString(), timeout):
            yield call.parse(data)

    def export_pool(self, pool_id: int) -> Iterator[tuple[bytes, int, int]]:
        """All that a persistent pool of this tenant holds, as entries of a journal file; `tmem snapshot` writes them.

        Each block is as it is when its turn comes: freeze the pool for one point in time.

        Yields:
            Whole entries, how many pages were in those so far, how many there are.
        """
        for part in self._call_streaming(export_pool(pool_id), None):
            yield part.entries, part.pages_sent, part.pages_total

    def join_pool(self, uuid: bytes) -> Pool:
        """Enters a shared pool; raises NoSuchPool without the right to."""
        joined = self.call(
            Call("PoolsService/JoinPool", pools_pb2.JoinPoolRequest(uuid=uuid), pools_pb2.JoinPoolResponse)
        )
        return self._adopt(PoolCore(joined.pool, joined.token, joined.generation, None))

    def pools(self) -> list[PoolInfo]:
        """The pools of this tenant."""
        listed = self.call(Call("PoolsService/ListPools", pools_pb2.ListPoolsRequest(), pools_pb2.ListPoolsResponse))
        return [PoolInfo.of(pool) for pool in listed.pools]

    def explain_page(self, pool_id: int, obj: int, index: int) -> PageExplanation:
        """Where a page of one of the tenant's own pools is; see Pool.explain."""
        return PageExplanation.of(self.call(explain_page(PoolRef(pool_id=pool_id), obj, index)))

    def stat_pool(self, pool_id: int) -> PoolStat:
        """Counts of a pool of this tenant, whoever works on it."""
        request = pools_pb2.StatPoolRequest(pool=PoolRef(pool_id=pool_id))
        return PoolStat.of((self.call(Call("PoolsService/StatPool", request, pools_pb2.StatPoolResponse))).stat)

    def freeable_bytes(self) -> int:
        """Payload and index of the tenant's ephemeral and shared pools: what `reclaim` could free."""
        return (self._reclaim(0)).freeable_bytes

    def reclaim(self, size: int) -> int:
        """Asks the server for memory back; answers how many bytes it has freed.

        The oldest pages of the tenant's ephemeral and shared pools go, by the rules of eviction: at least `size` bytes of payload and
        index, or all of them. Persistent pages stay.
        """
        return (self._reclaim(size)).freed_bytes

    def _reclaim(self, size: int) -> pools_pb2.ReclaimMemoryResponse:
        request = pools_pb2.ReclaimMemoryRequest(bytes=size)
        return self.call(Call("PoolsService/ReclaimMemory", request, pools_pb2.ReclaimMemoryResponse))

    def destroy_parked(self, pool_id: int) -> int:
        """Ends a pool that a dead client of this tenant left; answers how many pages went with it.

        Raises:
            Forbidden: a client works on it. NoSuchPool: there is none.
        """
        request = pools_pb2.DestroyPoolRequest(pool=PoolRef(pool_id=pool_id))
        call = Call("PoolsService/DestroyPool", request, pools_pb2.DestroyPoolResponse)
        return (self.call(call)).dropped_pages

    def _adopt(self, core: PoolCore) -> Pool:
        with self._stream.lock:
            self._stream.send(self._stream.core.add_pool(core))
        return Pool(core, self._stream, self.options, self.counters, self)

    # ---- Measuring ----

    def echo(self, payload: bytes = b"", zero_bytes: int = 0, *, timeout: float | None = None) -> bytes:
        """Sends bytes over the stream and back; with zero_bytes, that many zeros come back instead."""
        operation = EchoOperation(payload, zero_bytes)
        self._stream.run(operation, timeout or self.options.read_timeout)
        return bytes(operation.body)

    def echo_page_sync(self, payload: bytes = b"", zero_bytes: int = 0) -> int:
        """The same by the unary call: the floor under get_page_sync; answers the size of the response."""
        message = splice_page(capabilities_pb2.EchoRequest(zero_bytes=zero_bytes), payload)
        path = "/tmem.v1.CapabilitiesService/Echo"
        return len(self._stream.call(path, message, self.options.read_timeout))

    # ---- Calls ----

    def call(self, call: Call[R], timeout: float | None = None) -> R:
        """Carries out a call about pools or the server."""
        self._check_open()
        path, data = call.path, call.request.SerializeToString()
        return call.parse(self._stream.call(path, data, timeout or self.options.call_timeout))

    def _check_open(self) -> None:
        if self._stream.core.closed:
            raise Closed(f"the client of {self.target} is closed")
