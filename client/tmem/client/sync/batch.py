# Made from ../aio/batch.py by client/generate_sync.py; change it there.
"""Many operations in flight from one thread.

Owns: `Batch`: items become batches of up to a block of pages, which are sent as they fill up; leaving the `with` block sends
the rest and waits for all.
"""

import time
from types import TracebackType
from typing import Self

from tmem.client._core.face import BatchCore, acknowledgement, buffer_extent, flush_extents
from tmem.client._core.gets import GetOperation
from tmem.client._core.operations import FlushOperation, Operation, PutOperation
from tmem.client._core.options import Options
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import FlushResult, GetResult, PutResult
from tmem.wire.codec import Codec, Plain
from tmem.wire.errors import Closed, RemoteError, TmemError

from .carrier import Carrier

__all__ = ["Batch"]


class Batch:
    """Puts, gets and flushes whose results come later; made by `Pool.batch`.

    Buffers must stay as they are until the `with` block is left, or `wait` has returned. Refusals and misses are results;
    a server that can't be reached or does not answer in time raises at the end of the block.
    """

    def __init__(self, pool: PoolCore, stream: Carrier, options: Options, codec: Codec) -> None:
        self._pool = pool
        self._stream = stream
        self._options = options
        self._core = BatchCore(pool, codec)
        self._in_flight: list[tuple[Operation, float]] = []
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        if error is None:
            self._submit(self._core.take_open())
            self._wait()
            return
        # The block failed: nothing more is sent, but what is in flight must not touch the caller's buffers later.
        for operation, _ in self._in_flight:
            try:
                self._stream.wait(operation, 0)
            except TmemError:
                continue

    def put(self, obj: int, index: int, buffer: Plain) -> PutResult:
        """As Pool.put, without waiting."""
        extent, view = buffer_extent(obj, index, buffer, writable=False)
        self._make_room(PutOperation, extent.pages)
        return self._core.put(extent, view)

    def get_into(self, obj: int, index: int, buffer: Plain, take: bool | None = None) -> GetResult:
        """As Pool.get_into, without waiting; a take is acknowledged by the result's `ack`."""
        extent, view = buffer_extent(obj, index, buffer, writable=True)
        self._make_room(GetOperation, extent.pages)
        result = self._core.get_into(extent, view, take=take)
        result.acker = self._ack
        return result

    def flush(self, obj: int, index: int, count: int = 1) -> list[FlushResult]:
        """As Pool.flush, without waiting; one result for each block that the pages lie in."""
        results = []
        for extent in flush_extents(obj, index, count):
            self._make_room(FlushOperation, extent.pages)
            results.append(self._core.flush(extent))
        return results

    def submit(self) -> None:
        """Sends what was added so far, full or not."""
        self._check_open()
        self._submit(self._core.take_open())

    def wait(self) -> None:
        """Sends what was added so far and waits for everything."""
        self.submit()
        self._wait()

    @property
    def in_flight(self) -> int:
        """How many batches were sent and not answered yet."""
        return sum(1 for operation, _ in self._in_flight if not operation.done)

    def _make_room(self, kind: type[PutOperation | GetOperation | FlushOperation], pages: int) -> None:
        self._check_open()
        self._submit(self._core.make_room(kind, pages))

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the batch is over")

    def _submit(self, operation: Operation | None) -> None:
        if operation is None:
            return
        if isinstance(operation, GetOperation) and not operation.pages:
            operation.finish_locally()
            return
        if not operation.results:
            return
        timeout = self._options.write_timeout if operation.writes else self._options.read_timeout
        deadline = time.monotonic() + timeout
        self._stream.submit(operation, deadline)
        self._in_flight.append((operation, deadline))

    def _wait(self) -> None:
        worst: RemoteError | None = None
        in_flight, self._in_flight = self._in_flight, []
        for operation, deadline in in_flight:
            try:
                self._stream.wait(operation, deadline)
            except RemoteError as error:
                worst = worst or error
        if worst is not None:
            raise worst

    def _ack(self, result: GetResult) -> None:
        operation = acknowledgement(self._pool, [result])
        if operation is not None:
            self._stream.run(operation, self._options.write_timeout)
        result.taken = True
