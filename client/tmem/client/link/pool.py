"""A pool, over a link.

Owns: the forms that do not wait. Those that do are the blocking face's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

from tmem.client._core.counters import ClientCounters
from tmem.client._core.face import acknowledgement, buffer_extent, flush_extents
from tmem.client._core.gets import GetOperation
from tmem.client._core.operations import FlushOperation, Operation, PutOperation
from tmem.client._core.options import Options
from tmem.client._core.parallel import codec_for
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import FlushResult, GetResult, PutResult
from tmem.client.sync.pool import Caller
from tmem.client.sync.pool import Pool as BlockingPool
from tmem.wire.codec import Codec, Plain
from tmem.wire.errors import InvalidBuffer, InvalidHandle, TmemError

from .stream import Stream

__all__ = ["Pool", "Puts"]

PutDone = Callable[[PutResult], Any]
GetDone = Callable[[GetResult], Any]
PutsDone = Callable[[list[PutResult]], Any]
GetsDone = Callable[[list[GetResult]], Any]
FlushDone = Callable[[list[FlushResult]], Any]


class Pool(BlockingPool):
    """A pool that this link works on; made by the link's create_pool, open_pool and join_pool.

    The blocking forms are those of `tmem.client.Pool`; functions of submitted work whose turn comes meanwhile are called too.

    The `submit` forms never wait. What can't be sent yet (no credit, a handle with an unsettled write) is sent later, by `pump`:
    gets before writes. Their `done` is called exactly once, with the result or results, from inside `pump`, a blocking
    form, `close`, or the submit itself when nobody had to be asked. A get that is submitted while a write of the same page is unanswered may see
    either state. What befell an operation is in its results (`error`, `reason`, `pages`); nothing is raised but for what could not be submitted.
    """

    def __init__(
        self, core: PoolCore, stream: Stream, options: Options, counters: ClientCounters, caller: Caller
    ) -> None:
        super().__init__(core, stream, options, counters, caller)
        # An agent's process has one thread unless it asks for more; and pages that are put only: what is got is expanded where it arrives.
        self._codec = codec_for(options, counters.copies) if options.codec_threads else Codec(counters.copies)
        self._link = stream

    # ---- One extent ----

    def submit_put(self, obj: int, index: int, buffer: Plain, done: PutDone, timeout: float | None = None) -> PutResult:
        """As `put`, without waiting; the buffer is the caller's again when this returns."""
        operation, result = self._put_operation(obj, index, buffer)
        self._enqueue(operation, timeout, lambda _: done(result))
        return result

    def submit_get_into(
        self,
        obj: int,
        index: int,
        buffer: Plain,
        done: GetDone,
        timeout: float | None = None,
        take: bool | None = None,
    ) -> GetResult:
        """As `get_into`, without waiting; the buffer is the link's until `done` is called.

        A get that takes is done once what it took is removed; if that fails, the result has the pages and the error.
        """
        operation, result = self._get_operation(obj, index, buffer, take=take)
        self._submit_get(operation, lambda results: done(results[0]), timeout)
        return result

    def submit_flush(
        self, obj: int, index: int, count: int, done: FlushDone, timeout: float | None = None
    ) -> list[FlushResult]:
        """As `flush`, without waiting; one result for each block of which anything may be stored."""
        operations = self._flush_operations(obj, index, count)
        results = [result for operation in operations for result in operation.results]
        left = len(operations)

        def settled(_: Operation) -> None:
            nonlocal left
            left -= 1
            if not left:
                done(results)

        for operation in operations:
            self._enqueue(operation, timeout, settled)
        if not operations:
            done(results)
        return results

    def submit_flushes(
        self, items: Sequence[tuple[int, int, int]], done: FlushDone, timeout: float | None = None
    ) -> list[FlushResult]:
        """Removes (object, index, count) ranges, up to 512 of one block each, together by one message.

        There is one result for each range of which anything may be stored.
        """
        operation = FlushOperation(self._core)
        for obj, index, count in items:
            for extent in flush_extents(obj, index, count):
                if not self._core.known_absent(extent):
                    if not operation.has_room(extent.pages):
                        raise InvalidHandle(
                            "that is more than one message may carry: 512 ranges; submit them in pieces"
                        )
                    operation.add(extent)
        results = list(operation.results)
        if results:
            self._enqueue(operation, timeout, lambda _: done(results))
        else:
            done(results)
        return results

    def submit_flush_object(self, obj: int, done: FlushDone, timeout: float | None = None) -> list[FlushResult]:
        """As `flush_object`, without waiting; one result, or none if nothing of the object is stored."""
        operation = self._flush_object_operation(obj)
        results = [] if operation is None else list(operation.results)
        if operation is not None:
            self._enqueue(operation, timeout, lambda _: done(results))
        else:
            done(results)
        return results

    # ---- Many extents: one message, one answer ----

    def submit_puts(
        self, items: Sequence[tuple[int, int, Plain]], done: PutsDone, timeout: float | None = None
    ) -> list[PutResult]:
        """Stores (object, index, buffer) extents of up to 512 pages together by one message."""
        operation = PutOperation(self._core)
        results = []
        for obj, index, buffer in items:
            extent, view = buffer_extent(obj, index, buffer, writable=False)
            self._check_room(operation, extent.pages)
            results.append(operation.add(self._codec, extent, view))
        if results:
            self._enqueue(operation, timeout, lambda _: done(results))
        else:
            done(results)
        return results

    def gather_puts(self) -> "Puts":
        """For extents that are to go together by one message, and are encoded one by one, with other work in between."""
        return Puts(self, PutOperation(self._core))

    def submit_gets(
        self,
        items: Sequence[tuple[int, int, Plain]],
        done: GetsDone,
        timeout: float | None = None,
        take: bool | None = None,
    ) -> list[GetResult]:
        """Reads (object, index, buffer) extents of up to 512 pages together by one message."""
        operation = GetOperation(self._core)
        takes = self._core.takes(take)
        for obj, index, buffer in items:
            extent, view = buffer_extent(obj, index, buffer, writable=True)
            self._check_room(operation, extent.pages)
            operation.add(extent, view, take=takes)
        self._submit_get(operation, done, timeout)
        return list(operation.results)

    @staticmethod
    def _check_room(operation: PutOperation | GetOperation, pages: int) -> None:
        if not operation.has_room(pages):
            raise InvalidBuffer("that is more than one message may carry: 512 pages; submit it in pieces")

    # ---- How they go out ----

    def _enqueue(self, operation: Operation, timeout: float | None, settled: Callable[[Operation], Any]) -> None:
        if timeout is None:
            timeout = self._options.write_timeout if operation.writes else self._options.read_timeout
        self._link.enqueue(operation, timeout, settled)

    def _submit_get(self, operation: GetOperation, done: GetsDone, timeout: float | None) -> None:
        results = list(operation.results)
        for result in results:
            result.acker = self._ack
        self._counters.local_gets += sum(result.extent.pages for result in results) - operation.pages
        if not operation.pages:
            operation.finish_locally()
            done(results)
            return

        def settled(_: Operation) -> None:
            self._take_hits(results, done)

        self._enqueue(operation, timeout, settled)

    def _take_hits(self, results: list[GetResult], done: GetsDone) -> None:
        """The pages are there; removes those that were to be taken, and then tells."""
        taking = [result for result in results if result.take and result.error is None]
        removal = acknowledgement(self._core, taking)

        def removed(error: TmemError | None) -> None:
            for result in taking:
                result.error = error
                result.taken = error is None
            done(results)

        if removal is None:
            removed(None)
        else:
            self._enqueue(removal, None, lambda operation: removed(operation.error))


class Puts:
    """Extents that go by one message; made by Pool.gather_puts.

    Encoding a block of 512 pages takes milliseconds. Here it is done extent by extent, and what is more urgent comes between.
    """

    def __init__(self, pool: Pool, operation: PutOperation) -> None:
        self._pool = pool
        self._operation = operation

    def has_room(self, pages: int) -> bool:
        """Whether another extent of so many pages fits."""
        return self._operation.has_room(pages)

    def add(self, obj: int, index: int, buffer: Plain) -> PutResult:
        """Encodes one more extent. The buffer must stay as it is until this was submitted, or detached."""
        extent, view = buffer_extent(obj, index, buffer, writable=False)
        self._pool._check_room(self._operation, extent.pages)  # noqa: SLF001
        return self._operation.add(self._pool._codec, extent, view)  # noqa: SLF001

    def detach(self) -> None:
        """Gives the caller the buffers back that were added so far."""
        self._operation.detach(self._pool._codec)  # noqa: SLF001

    def submit(self, done: PutsDone, timeout: float | None = None) -> None:
        """Sends them; `done` gets one result for each extent. Not to be used afterwards."""
        results = list(self._operation.results)
        if results:
            self._pool._enqueue(self._operation, timeout, lambda _: done(results))  # noqa: SLF001
        else:
            done(results)
