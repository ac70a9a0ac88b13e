"""The stream of a blocking client.

Owns: the channel, the Exchange call of the moment and the threads around it: one reads answers (and reconnects), one keeps the session
alive. Callers' threads encode and send. One lock guards the session core; it is never held while pages are encoded or
decoded.

Measured: decoding in the callers' threads instead, or in a thread of its own, gains nothing: expanding a block is dozens of
calls that give the interpreter lock away for 20 us each, too short for another thread to wake up in.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from tmem.client._core.calls import call_metadata, translate
from tmem.client._core.counters import ClientCounters
from tmem.client._core.operations import Operation
from tmem.client._core.options import Options
from tmem.client._core.parallel import codec_for
from tmem.client._core.session import SessionCore
from tmem.client.credentials import channel_credentials, channel_options
from tmem.wire.answers import (
    Answer,
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
_JOIN_SECONDS = 2.0
_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)


def open_channel(target: str, options: Options) -> grpc.Channel:
    """A channel to a server; nothing is sent before the first call."""
    credentials = channel_credentials(options)
    if credentials is None:
        return grpc.insecure_channel(target, options=channel_options(options))
    return grpc.secure_channel(target, credentials, options=channel_options(options))


class Stream:
    """Carries operations to the server and answers back.

    Args:
        target: the server.
        options, counters: the client's.

    Attributes:
        channel: to the server; another one after a connection was given up.
        core: the session; use it under `lock`.
        lock: also what waiters for credit and free handles wait on.
    """

    def __init__(self, target: str, options: Options, counters: ClientCounters) -> None:
        self.channel = open_channel(target, options)
        self._renew = False
        self._target = target
        self._options = options
        self._metadata = call_metadata(options)
        self._counters = counters
        self._codec = codec_for(options, counters.copies)  # for answers; they are decoded by the reading thread alone
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._methods: tuple[grpc.Channel, dict[str, Any]] = (self.channel, {})
        self._call: Any = None
        self._reader: threading.Thread | None = None
        self._keeper: threading.Thread | None = None
        self._keep = threading.Event()
        self._waiters = 0
        self._last_error: TmemError | None = None
        self.core = SessionCore(options, counters)
        self.lock = threading.Condition(threading.Lock())

    # ---- Operations ----

    def run(self, operation: Operation, timeout: float) -> None:
        """Carries out an operation; raises what it failed with."""
        deadline = time.monotonic() + timeout
        self.submit(operation, deadline)
        self.wait(operation, deadline)

    def submit(self, operation: Operation, deadline: float) -> None:
        """Sends an operation as soon as there is credit for it and its handles are free.

        Raises:
            Unavailable, DeadlineExceeded: neither came before the deadline. TmemError: the pool can't be used.
        """
        operation.latch = threading.Lock()
        operation.latch.acquire()
        with self.lock:
            self._start()
            while not self.core.admit(operation):
                self._wait_for_change(deadline)
        try:
            operation.build()
        except BaseException as error:
            with self.lock:
                self.core.abort(operation)
                self._changed()
            raise error from None
        with self.lock:
            self._send(self.core.launch(operation))

    def wait(self, operation: Operation, deadline: float) -> None:
        """Waits until an operation is done; raises what it failed with."""
        if not operation.latch.acquire(timeout=max(0.0, deadline - time.monotonic())):
            with self.lock:
                given_up = self.core.give_up(operation)
                if given_up and operation.given_up and not self.core.open:
                    operation.error = self._unavailable()
                self._changed()
                if self.core.wants_heartbeat:
                    self._keep.set()
            if not given_up:
                operation.latch.acquire()  # its answer is being taken into the caller's buffer this moment
        if operation.error is not None:
            raise operation.error

    def _wait_for_change(self, deadline: float) -> None:
        """Waits for credit or a free handle; call it with the lock held, and look again what has changed."""
        left = deadline - time.monotonic()
        if left <= 0:
            if not self.core.open:
                raise self._unavailable()
            raise DeadlineExceeded(f"{self._target}: no credit or no free handle in time")
        self._waiters += 1
        try:
            self.lock.wait(left)
        finally:
            self._waiters -= 1

    def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Waits, holding the lock while `ready` is asked, until it says so; raises as `submit` does."""
        deadline = time.monotonic() + timeout
        while not ready():
            self._wait_for_change(deadline)

    def _unavailable(self) -> TmemError:
        return self._last_error or Unavailable(f"{self._target} can't be reached")

    def _changed(self) -> None:
        if self._waiters:
            self.lock.notify_all()

    def _send(self, messages: Iterable[bytes]) -> None:
        for message in messages:
            self._outgoing.put(message)

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends what the core asked for; call it with the lock held."""
        self._start()
        self._send(messages)

    # ---- Calls ----

    def call(self, path: str, data: bytes, timeout: float) -> bytes:
        """Carries out a call of bytes to bytes; raises what its status says."""
        channel, methods = self._methods
        if channel is not self.channel:
            channel, methods = self._methods = (self.channel, {})
        method = methods.get(path)
        if method is None:
            method = channel.unary_unary(path, request_serializer=None, response_deserializer=None)
            methods[path] = method
        try:
            answer: bytes = method(data, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translate(error, path.rpartition("/")[2], self._target) from error  # type: ignore[arg-type]
        return answer

    def call_streaming(self, path: str, data: bytes, timeout: float | None) -> Iterator[bytes]:
        """Carries out a call that answers many messages; raises what its status says."""
        method: Any = self.channel.unary_stream(path, request_serializer=None, response_deserializer=None)
        try:
            yield from method(data, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise translate(error, path.rpartition(".")[2], self._target) from error  # type: ignore[arg-type]

    # ---- The stream's life ----

    def _start(self) -> None:
        if self._reader is None and not self.core.closed:
            self._reader = threading.Thread(target=self._read_for_ever, name="tmem-exchange", daemon=True)
            self._keeper = threading.Thread(target=self._keep_alive, name="tmem-heartbeat", daemon=True)
            self._reader.start()
            self._keeper.start()

    def _read_for_ever(self) -> None:
        backoff, most = _BACKOFF_SECONDS
        while not self.core.closed:
            try:
                opened = self._one_stream()
            except Exception as error:
                # A fault of ours must not leave callers waiting for answers that nobody reads any more.
                log.exception("the stream to %s failed", self._target)
                opened = False
                self._last_error = RemoteError(f"{self._target}: the client failed: {error!r}")
                with self.lock:
                    self.fail(self.core.fail_all(self._last_error))
            if opened:
                backoff = _BACKOFF_SECONDS[0]
            with self.lock:
                if not self.core.closed:
                    self.lock.wait(backoff)
            backoff = min(backoff * 2, most)

    def _one_stream(self) -> bool:
        """Runs one Exchange call to its end; answers whether it was ever open."""
        opened = False
        with self.lock:
            if self.core.closed:
                return False
            if self._renew:
                # Streams would go on sharing the dead connection until gRPC's own keepalive notices it.
                self._renew = False
                self.channel.close()
                self.channel = open_channel(self._target, self._options)
            outgoing = self._outgoing = queue.SimpleQueue()
            outgoing.put(self.core.opening())
            exchange: Any = self.channel.stream_stream(
                "/tmem.v1.ExtentsService/Exchange", request_serializer=None, response_deserializer=None
            )
            call = self._call = exchange(iter(outgoing.get, None), metadata=self._metadata)
        try:
            for data in call:
                self._counters.messages_received += 1
                self._take(data)
                opened = True
        except grpc.RpcError as error:
            if not self._renew:
                self._last_error = translate(error, "the stream", self._target)  # type: ignore[arg-type]
        except ProtocolError as error:
            self._last_error = error
            call.cancel()
        finally:
            outgoing.put(None)
            with self.lock:
                self.core.broken()
                failed = []
                if isinstance(self._last_error, Unauthenticated):
                    failed = self.core.fail_all(self._last_error)
                self.fail(failed)
        return opened

    def _take(self, data: bytes) -> None:
        """Takes one message."""
        response, slow = decode_answer(data)
        self._counters.slow_decodes += slow
        if isinstance(response, _ANSWERS):
            with self.lock:
                operation = self.core.match(response)
                if operation is None:
                    self._changed()
            if operation is not None:
                self._finish(operation, response)
        else:
            self._control(response)

    def _finish(self, operation: Operation, answer: Answer) -> None:
        try:
            try:
                operation.decode(answer, self._codec)
            except ProtocolError as error:
                operation.fail(error)
            with self.lock:
                self._send(self.core.finish(operation))
                self._changed()
                if self.core.draining:
                    self._leave_if_drained()
        except BaseException as error:
            operation.fail(RemoteError(f"the answer could not be taken: {error!r}"))
            raise
        finally:
            operation.latch.release()  # whatever happened: somebody waits

    def _control(self, message: Response) -> None:
        with self.lock:
            messages, failed = self.core.control(message)
            self._send(messages)
            self._last_error = None if self.core.open else self._last_error
            self.fail(failed)
            self._leave_if_drained()

    def _leave_if_drained(self) -> None:
        if self.core.drained:
            self._outgoing.put(None)

    def _keep_alive(self) -> None:
        while not self.core.closed:
            self._keep.wait(self.core.heartbeat_interval)
            self._keep.clear()
            owed = None
            with self.lock:
                if self.core.closed:
                    return
                if self.core.unanswered_heartbeats >= _MAX_UNANSWERED_HEARTBEATS:
                    # The connection stands and nobody answers: try another.
                    self._renew = True
                    self._last_error = Unavailable(f"{self._target} does not answer any more")
                    self._call.cancel()
                elif self.core.open:
                    self._outgoing.put(self.core.heartbeat())
                    owed = self.core.next_owed()
                elif self._call is not None:
                    self.core.note_silence()
            while owed is not None:
                try:
                    self.run(owed, self._options.write_timeout)
                except TmemError:
                    with self.lock:
                        self.core.owe_again(owed)
                    break
                with self.lock:
                    owed = self.core.next_owed()

    def fail(self, operations: Iterable[Operation]) -> None:
        """Wakes whoever waits for operations that the core has failed; call it with the lock held."""
        for operation in operations:
            operation.latch.release()
        self._changed()

    def close(self) -> None:
        """Ends the session; what is in flight fails with Closed. Takes a bounded time."""
        with self.lock:
            if self.core.closed:
                return
            self.core.closed = True
            failed = self.core.fail_all(Closed("the client was closed"))
            self.fail(failed)
            self._outgoing.put(None)  # goodbye: the server ends the session and parks its pools
            self.lock.notify_all()
        self._keep.set()
        for thread in (self._reader, self._keeper):
            if thread is not None and thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)
                if thread.is_alive() and self._call is not None:
                    self._call.cancel()
                    thread.join(_JOIN_SECONDS)
        self.channel.close()
