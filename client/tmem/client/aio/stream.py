"""The stream of an asyncio client.

Owns: the channel, the Exchange call of the moment and the tasks around it: one reads answers (and reconnects), one writes, one keeps the
session alive. Everything runs on one loop, so nothing needs a lock; pages are encoded and decoded on the loop.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import grpc
import grpc.aio

from tmem.client._core.calls import call_metadata, translate
from tmem.client._core.counters import ClientCounters
from tmem.client._core.operations import Operation
from tmem.client._core.options import Options
from tmem.client._core.parallel import codec_for
from tmem.client._core.session import SessionCore
from tmem.client.credentials import channel_credentials, channel_options
from tmem.wire.answers import (
    EchoAnswer,
    FlushAnswer,
    FlushObjectAnswer,
    GetAnswer,
    Malformed,
    PutAnswer,
    Response,
    decode_answer,
)
from tmem.wire.errors import (
    Closed,
    DeadlineExceeded,
    ProtocolError,
    RemoteError,
    TmemError,
    Unauthenticated,
    Unavailable,
)

__all__ = ["Stream", "open_channel"]

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.02, 0.5)
_MAX_UNANSWERED_HEARTBEATS = 3
_END_SECONDS = 2.0
_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)


def open_channel(target: str, options: Options) -> grpc.aio.Channel:
    """A channel to a server; nothing is sent before the first call."""
    credentials = channel_credentials(options)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=channel_options(options))
    return grpc.aio.secure_channel(target, credentials, options=channel_options(options))


class Stream:
    """Carries operations to the server and answers back.

    Args:
        target: the server.
        options, counters: the client's.

    Attributes:
        channel: to the server; another one after a connection was given up.
        core: the session.
        lock: guards nothing, because one loop needs none; here so that both faces read the same.
    """

    def __init__(self, target: str, options: Options, counters: ClientCounters) -> None:
        self.channel = open_channel(target, options)
        self._renew = False
        self._target = target
        self._options = options
        self._metadata = call_metadata(options)
        self._counters = counters
        self._codec = codec_for(options, counters.copies)
        self._outgoing: deque[bytes | None] = deque()
        self._wake_writer = asyncio.Event()
        self._methods: dict[str, Any] = {}  # of the channel of the moment
        self._call: Any = None
        self._tasks: list[asyncio.Task[None]] = []
        self._keep = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._last_error: TmemError | None = None
        self.core = SessionCore(options, counters)
        self.lock = contextlib.nullcontext()

    # ---- Operations ----

    async def run(self, operation: Operation, timeout: float) -> None:
        """Carries out an operation; raises what it failed with."""
        deadline = time.monotonic() + timeout
        await self.submit(operation, deadline)
        await self.wait(operation, deadline)

    async def submit(self, operation: Operation, deadline: float) -> None:
        """Sends an operation as soon as there is credit for it and its handles are free.

        Raises:
            Unavailable, DeadlineExceeded: neither came before the deadline. TmemError: the pool can't be used.
        """
        operation.latch = asyncio.get_running_loop().create_future()
        self._start()
        while not self.core.admit(operation):
            await self._wait_for_change(deadline)
        try:
            operation.build()
        except BaseException as error:
            self.core.abort(operation)
            self._changed()
            raise error from None
        self._send(self.core.launch(operation))

    async def wait(self, operation: Operation, deadline: float) -> None:
        """Waits until an operation is done; raises what it failed with.

        When the caller is cancelled the operation is given up: its buffers are not written to afterwards.
        """
        try:
            if not operation.latch.done():
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    await asyncio.shield(operation.latch)
        except TimeoutError:
            self._give_up(operation)
            if operation.given_up and not self.core.open:
                operation.error = self._unavailable()
        except asyncio.CancelledError:
            self._give_up(operation)
            raise
        if operation.error is not None:
            raise operation.error

    def _give_up(self, operation: Operation) -> None:
        self.core.give_up(operation)
        self._changed()
        if self.core.wants_heartbeat:
            self._keep.set()

    async def _wait_for_change(self, deadline: float) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await waiter
        except TimeoutError:
            if not self.core.open:
                raise self._unavailable() from None
            raise DeadlineExceeded(f"{self._target}: no credit or no free handle in time") from None

    async def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Waits until `ready` says so; raises as `submit` does."""
        deadline = time.monotonic() + timeout
        while not ready():
            await self._wait_for_change(deadline)

    def _unavailable(self) -> TmemError:
        return self._last_error or Unavailable(f"{self._target} can't be reached")

    def _changed(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _send(self, messages: Iterable[bytes | None]) -> None:
        self._outgoing.extend(messages)
        self._wake_writer.set()

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends what the core asked for."""
        self._start()
        self._send(messages)

    # ---- Calls ----

    async def call(self, path: str, data: bytes, timeout: float) -> bytes:
        """Carries out a call of bytes to bytes; raises what its status says."""
        method = self._methods.get(path)
        if method is None:
            method = self.channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            self._methods[path] = method
        try:
            answer: bytes = await method(data, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translate(error, path.rpartition("/")[2], self._target) from error  # type: ignore[arg-type]
        return answer

    async def call_streaming(self, path: str, data: bytes, timeout: float | None) -> AsyncIterator[bytes]:
        """Carries out a call that answers many messages; raises what its status says."""
        method: Any = self.channel.unary_stream(path, request_serializer=None, response_deserializer=None)
        try:
            async for message in method(data, timeout=timeout, metadata=self._metadata):
                yield message
        except grpc.RpcError as error:
            raise translate(error, path.rpartition(".")[2], self._target) from error  # type: ignore[arg-type]

    # ---- The stream's life ----

    def _start(self) -> None:
        if not self._tasks and not self.core.closed:
            self._tasks = [
                asyncio.create_task(self._read_for_ever(), name="tmem-exchange"),
                asyncio.create_task(self._keep_alive(), name="tmem-heartbeat"),
            ]

    async def _read_for_ever(self) -> None:
        backoff, most = _BACKOFF_SECONDS
        while not self.core.closed:
            try:
                opened = await self._one_stream()
            except Exception as error:
                # A fault of ours must not leave callers waiting for answers that nobody reads any more.
                log.exception("the stream to %s failed", self._target)
                opened = False
                self._last_error = RemoteError(f"{self._target}: the client failed: {error!r}")
                self.fail(self.core.fail_all(self._last_error))
            if opened:
                backoff = _BACKOFF_SECONDS[0]
            if not self.core.closed:
                await asyncio.sleep(backoff)
            backoff = min(backoff * 2, most)

    async def _one_stream(self) -> bool:
        """Runs one Exchange call to its end; answers whether it was ever open."""
        opened = False
        if self._renew:
            # Streams would go on sharing the dead connection until gRPC's own keepalive notices it.
            self._renew = False
            await self.channel.close()
            self.channel = open_channel(self._target, self._options)
            self._methods = {}
        self._outgoing = deque([self.core.opening()])
        exchange: Any = self.channel.stream_stream(
            "/tmem.v1.ExtentsService/Exchange", request_serializer=None, response_deserializer=None
        )
        call = self._call = exchange(metadata=self._metadata)
        writer = asyncio.create_task(self._write(call), name="tmem-writer")
        self._wake_writer.set()
        try:
            async for data in call:
                self._counters.messages_received += 1
                self._take(data)
                opened = True
        except grpc.RpcError as error:
            if not self._renew:
                self._last_error = translate(error, "the stream", self._target)  # type: ignore[arg-type]
        except ProtocolError as error:
            self._last_error = error
        except asyncio.CancelledError:
            # Either this task is being ended, or grpc says so of the call that it reads.
            if not self.core.closed and not call.cancelled():
                raise
        finally:
            call.cancel()
            writer.cancel()
            await asyncio.wait([writer])
            self.core.broken()
            failed = []
            if isinstance(self._last_error, Unauthenticated):
                failed = self.core.fail_all(self._last_error)
            self._changed()
            _wake(failed)
        return opened

    async def _write(self, call: Any) -> None:
        try:
            while True:
                while self._outgoing:
                    message = self._outgoing.popleft()
                    if message is None:
                        await call.done_writing()
                        return
                    await call.write(message)
                self._wake_writer.clear()
                await self._wake_writer.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the reader learns why

    def _take(self, data: bytes) -> None:
        """Takes one message."""
        response, slow = decode_answer(data)
        self._counters.slow_decodes += slow
        if isinstance(response, _ANSWERS):
            operation = self.core.match(response)
            if operation is not None:
                self._finish(operation, response)
            self._changed()
        else:
            self._control(response)

    def _finish(self, operation: Operation, answer: Any) -> None:
        try:
            try:
                operation.decode(answer, self._codec)
            except ProtocolError as error:
                operation.fail(error)
            self._send(self.core.finish(operation))
            if self.core.draining:
                self._leave_if_drained()
        except BaseException as error:
            operation.fail(RemoteError(f"the answer could not be taken: {error!r}"))
            raise
        finally:
            _wake([operation])  # whatever happened: somebody waits

    def _control(self, message: Response) -> None:
        messages, failed = self.core.control(message)
        self._send(messages)
        self._last_error = None if self.core.open else self._last_error
        self._changed()
        self._leave_if_drained()
        _wake(failed)

    def _leave_if_drained(self) -> None:
        if self.core.drained:
            self._send([None])

    async def _keep_alive(self) -> None:
        while not self.core.closed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.core.heartbeat_interval):
                    await self._keep.wait()
            self._keep.clear()
            if self.core.unanswered_heartbeats >= _MAX_UNANSWERED_HEARTBEATS:
                # The connection stands and nobody answers: try another.
                self._renew = True
                self._last_error = Unavailable(f"{self._target} does not answer any more")
                self._call.cancel()
                continue
            if not self.core.open:
                if self._call is not None:
                    self.core.note_silence()
                continue
            self._send([self.core.heartbeat()])
            while (owed := self.core.next_owed()) is not None:
                try:
                    await self.run(owed, self._options.write_timeout)
                except TmemError:
                    self.core.owe_again(owed)
                    break

    def fail(self, operations: Iterable[Operation]) -> None:
        """Wakes whoever waits for operations that the core has failed."""
        _wake(operations)
        self._changed()

    async def close(self) -> None:
        """Ends the session; what is in flight fails with Closed. Takes a bounded time."""
        if self.core.closed:
            return
        self.core.closed = True
        _wake(self.core.fail_all(Closed("the client was closed")))
        self._changed()
        if self._tasks:
            self._keep.set()
            self._send([None])  # goodbye: the server ends the session and parks its pools
            _, pending = await asyncio.wait(self._tasks, timeout=_END_SECONDS)
            for task in pending:
                task.cancel()
            if pending:
                await asyncio.wait(pending)
        await self.channel.close()


def _wake(operations: Iterable[Operation]) -> None:
    for operation in operations:
        if not operation.latch.done():
            operation.latch.set_result(None)
