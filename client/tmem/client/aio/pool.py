"""A pool, for asyncio."""

from typing import Protocol, TypeVar

from google.protobuf.message import Message

from tmem.client._core.calls import Call, PageExplanation, PoolInfo, PoolStat, explain_page, ref
from tmem.client._core.counters import ClientCounters
from tmem.client._core.face import PoolFace, acknowledgement, buffer_extent
from tmem.client._core.options import Options
from tmem.client._core.parallel import codec_for
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import GetResult, PutResult
from tmem.client._core.unary import UnaryGet, UnaryPut
from tmem.v1 import pools_pb2 as pb
from tmem.wire.codec import Codec, Plain
from tmem.wire.errors import Closed, InvalidBuffer
from tmem.wire.handles import Extent

from .batch import Batch
from .carrier import Carrier

__all__ = ["Pool"]

R = TypeVar("R", bound=Message)


class Caller(Protocol):
    """Makes calls that are no batches; the client does."""

    async def call(self, call: Call[R], timeout: float | None = None) -> R:
        """Carries out a call about pools."""
        ...


class Pool(PoolFace):
    """A pool that this client works on; made by the client's create_pool, open_pool and join_pool."""

    def __init__(
        self,
        core: PoolCore,
        stream: Carrier,
        options: Options,
        counters: ClientCounters,
        caller: Caller,
    ) -> None:
        super().__init__(core, codec_for(options, counters.copies))
        self._stream = stream
        self._options = options
        self._counters = counters
        self._caller = caller

    def __repr__(self) -> str:
        return f"<tmem Pool {self.name!r} {self.kind}>"

    # ---- Pages ----

    async def put(self, obj: int, index: int, buffer: Plain, *, timeout: float | None = None) -> PutResult:
        """Stores pages: any contiguous buffer of n * 4096 bytes, n of 1..512, in one 2 MiB block.

        Args:
            obj: the object, 0 .. 2**192-1.
            index: the first page, 0 .. 2**32-1.
            buffer: the plain pages; they are the caller's again when this returns.
            timeout: seconds; the client's write_timeout when None.

        Raises:
            Refused: it was refused; what the handles held before is gone, unless the error's reason says otherwise.
            DeadlineExceeded: no answer in time: the pages are uncertain.
            InvalidBuffer, InvalidHandle: nothing was sent.
        """
        operation, result = self._put_operation(obj, index, buffer)
        await self._stream.run(operation, timeout or self._options.write_timeout)
        if result.error is not None:
            raise result.error
        return result

    async def get_into(
        self, obj: int, index: int, buffer: Plain, take: bool | None = None, *, timeout: float | None = None
    ) -> GetResult:
        """Reads pages into a writable buffer of n * 4096 bytes; parts that are not hit stay untouched.

        Args:
            obj: the object.
            index: the first page.
            buffer: where the pages go.
            take: True: hit pages are removed from the pool once they are verified; False: they stay; None: the pool's
                default, which is to take from ephemeral pools and to keep otherwise.
            timeout: seconds; the client's read_timeout when None.

        Raises:
            Refused: the server refused to answer.
            DeadlineExceeded, Unavailable: no answer in time; the buffer is not written to afterwards.
        """
        operation, result = self._get_operation(obj, index, buffer, take=take)
        result.acker = self._ack
        if not operation.pages:
            operation.finish_locally()
            self._counters.local_gets += result.extent.pages
            return result
        self._counters.local_gets += result.extent.pages - operation.pages
        await self._stream.run(operation, timeout or self._options.read_timeout)
        if result.error is not None:
            raise result.error
        if result.take:
            await self._ack(result)
        return result

    async def flush(self, obj: int, index: int, count: int = 1, *, timeout: float | None = None) -> int:
        """Removes pages; answers how many were held. Raises as `put` does."""
        found = 0
        for operation in self._flush_operations(obj, index, count):
            await self._stream.run(operation, timeout or self._options.write_timeout)
            for result in operation.results:
                if result.error is not None:
                    raise result.error
                found += result.found
        return found

    async def flush_object(self, obj: int, *, timeout: float | None = None) -> int:
        """Removes every page of an object; answers how many were held. Raises as `put` does."""
        operation = self._flush_object_operation(obj)
        if operation is None:
            return 0
        await self._stream.run(operation, timeout or self._options.write_timeout)
        result = operation.results[0]
        if result.error is not None:
            raise result.error
        return result.found

    def batch(self) -> Batch:
        """Many operations in flight: use it in an `async with` statement."""
        return Batch(self._core, self._stream, self._options, self._codec)

    async def _ack(self, result: GetResult) -> None:
        operation = acknowledgement(self._core, [result])
        if operation is not None:
            await self._stream.run(operation, self._options.write_timeout)
        result.taken = True

    # ---- The classical calls ----

    async def put_page_sync(self, obj: int, index: int, page: Plain, *, timeout: float | None = None) -> PutResult:
        """Stores one page by the unary call; raises as `put` does."""
        extent, view = _one_page(obj, index, page, writable=False)
        put = UnaryPut(self._core, extent, view, self._codec)
        timeout = timeout or self._options.write_timeout
        with self._stream.lock:
            self._check()
            await self._stream.until(put.start, timeout)
        try:
            self._counters.unary_calls += 1
            put.take(await self._stream.call(put.path, put.request(), timeout))
        finally:
            with self._stream.lock:
                put.settle()
        if put.result.error is not None:
            raise put.result.error
        return put.result

    async def get_page_sync(
        self, obj: int, index: int, page: Plain, take: bool | None = None, *, timeout: float | None = None
    ) -> GetResult:
        """Reads one page by the unary call; raises as `get_into` does."""
        extent, view = _one_page(obj, index, page, writable=True)
        get = UnaryGet(self._core, extent, view, take=self._core.takes(take))
        get.result.acker = self._ack
        with self._stream.lock:
            self._check()
            if not get.start():
                self._counters.local_gets += 1
                return get.result
        self._counters.unary_calls += 1
        data = await self._stream.call(get.path, get.request(), timeout or self._options.read_timeout)
        get.take(data, Codec(self._counters.copies))
        with self._stream.lock:
            get.settle()
        if get.result.error is not None:
            raise get.result.error
        if get.result.take:
            await self._ack(get.result)
        return get.result

    def _check(self) -> None:
        if self._stream.core.closed:
            raise Closed("the client is closed")
        if self._core.error is not None:
            raise self._core.error

    # ---- The pool itself ----

    async def stat(self) -> PoolStat:
        """Counts of the pool, from the server."""
        request = pb.StatPoolRequest(pool=ref(self._core))
        return PoolStat.of((await self._caller.call(Call("PoolsService/StatPool", request, pb.StatPoolResponse))).stat)

    async def explain(self, obj: int, index: int) -> PageExplanation:
        """Where a page is, and what became of it lately: refused or evicted, when, and why."""
        return PageExplanation.of(await self._caller.call(explain_page(ref(self._core), obj, index)))

    async def info(self) -> PoolInfo:
        """The pool as the server describes it."""
        request = pb.StatPoolRequest(pool=ref(self._core))
        return PoolInfo.of((await self._caller.call(Call("PoolsService/StatPool", request, pb.StatPoolResponse))).pool)

    async def freeze(self) -> None:
        """Refuses puts from now on; gets and flushes go on."""
        await self._caller.call(
            Call("PoolsService/FreezePool", pb.FreezePoolRequest(pool=ref(self._core)), pb.FreezePoolResponse)
        )

    async def thaw(self) -> None:
        """Accepts puts again."""
        await self._caller.call(
            Call("PoolsService/ThawPool", pb.ThawPoolRequest(pool=ref(self._core)), pb.ThawPoolResponse)
        )

    async def resize(
        self, quota_bytes: int | None = None, weight: int | None = None, reserved_bytes: int | None = None
    ) -> None:
        """Changes quota, weight or reservation; a persistent pool never loses a page by it.

        Raises:
            OutOfCapacity, QuotaExceeded: the reservation can't be promised, and nothing has changed.
        """
        request = pb.ResizePoolRequest(
            pool=ref(self._core), quota_bytes=quota_bytes, weight=weight, reserved_bytes=reserved_bytes
        )
        resized = await self._caller.call(Call("PoolsService/ResizePool", request, pb.ResizePoolResponse))
        self._core.resized(resized.pool)

    async def authorize(self, tenant: str) -> None:
        """Lets a tenant join this shared pool; for its owner."""
        request = pb.AuthorizeTenantRequest(pool=ref(self._core), tenant=tenant)
        await self._caller.call(Call("PoolsService/AuthorizeTenant", request, pb.AuthorizeTenantResponse))

    async def deauthorize(self, tenant: str) -> None:
        """Takes away a tenant's right to join later; for the owner."""
        request = pb.DeauthorizeTenantRequest(pool=ref(self._core), tenant=tenant)
        await self._caller.call(Call("PoolsService/DeauthorizeTenant", request, pb.DeauthorizeTenantResponse))

    async def leave(self) -> int:
        """Leaves this shared pool; answers how many pages went because this client used them last."""
        request = pb.LeavePoolRequest(pool=ref(self._core))
        left = await self._caller.call(Call("PoolsService/LeavePool", request, pb.LeavePoolResponse))
        self._gone(f"this client left pool {self.name!r}")
        return left.dropped_pages

    async def destroy(self) -> int:
        """Ends the pool; answers how many pages went with it."""
        request = pb.DestroyPoolRequest(pool=ref(self._core))
        destroyed = await self._caller.call(Call("PoolsService/DestroyPool", request, pb.DestroyPoolResponse))
        self._gone(f"pool {self.name!r} was destroyed")
        return destroyed.dropped_pages

    def _gone(self, why: str) -> None:
        with self._stream.lock:
            self._stream.fail(self._stream.core.remove_pool(self._core, Closed(why)))


def _one_page(obj: int, index: int, page: Plain, *, writable: bool) -> tuple[Extent, memoryview]:
    extent, view = buffer_extent(obj, index, page, writable=writable)
    if extent.pages != 1:
        raise InvalidBuffer(f"the unary calls carry one page, not {extent.pages}")
    return extent, view
