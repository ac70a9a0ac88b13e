"""The stream of a link: one thread, one socket, nobody's loop.

Owns: the session's Exchange call, and when to begin it anew; what is sent on it when, deadlines, heartbeats, and whom to tell that an operation
is done. The connection is transport.py's.

Everything happens inside `pump` or inside a blocking call, in the caller's thread; `pump` never waits. Those who gave a
function to call are called last of all, when the state is whole: they may submit, or block, as they like.

Measured: a lone get spends no system call but its send and its receive, and wakes no other thread.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tmem.client._core.counters import ClientCounters
from tmem.client._core.operations import FlushOperation, Operation, PutOperation
from tmem.client._core.options import Options
from tmem.client._core.session import SessionCore
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
from tmem.wire.codec import Codec
from tmem.wire.errors import (
    Closed,
    DeadlineExceeded,
    ProtocolError,
    RemoteError,
    TmemError,
    Unauthenticated,
    Unavailable,
)
from tmem.wire.splice import BytesLike

from .connection import TICK_SECONDS, Endpoint
from .transport import Call, Transport
from .waiting import Deadlines, Waiting

__all__ = ["Stream"]

log = logging.getLogger(__name__)

_EXCHANGE = "/tmem.v1.ExtentsService/Exchange"
_MAX_UNANSWERED_HEARTBEATS = 3
_END_SECONDS = 2.0
# Writes wait while so much of earlier ones is not on its way yet: a get that comes then waits for this much, not for a window.
_MAX_UNSENT_BYTES = 512 << 10
_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)

Settled = Callable[[Operation], None]


class _Ticket:
    """What is kept of an operation that was submitted: whom to tell, and among which deadlines it is."""

    __slots__ = ("deadlines", "settled")

    def __init__(self, settled: Settled, deadlines: "OrderedDict[Operation, float]") -> None:
        self.settled = settled
        self.deadlines = deadlines


class Stream:
    """Carries operations and calls to the server and answers back.

    Args:
        target: the server.
        options, counters: the client's.
        endpoints: as of Dialer.
        meanwhile: called each time that something is waited for, a tick apart at most. It may submit; what it raises ends the wait.

    Attributes:
        core: the session.
        transport: the connection.
        lock: guards nothing, because everything is one thread's; here so that all faces read the same.
    """

    def __init__(
        self,
        target: str,
        options: Options,
        counters: ClientCounters,
        endpoints: Sequence[Endpoint] | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> None:
        self._target = target
        self._meanwhile = meanwhile
        self._options = options
        self._counters = counters
        self._codec = Codec(counters.copies)
        self._exchange: Call | None = None
        self._said_goodbye = False
        self._exchange_answered = False
        self._waiting = Waiting()
        self._deadlines = Deadlines()
        self._settled: deque[Operation] = deque()
        self._kept = 0.0  # when the time was looked at last
        self._beat_at = 0.0
        self._owed: FlushOperation | None = None
        self.core = SessionCore(options, counters)
        self.transport = Transport(target, options, self._leave, endpoints)
        self.lock: AbstractContextManager[Any] = nullcontext()

    # ---- What a loop needs to know ----

    def next_timer(self) -> float | None:
        """When `pump` must be called at the latest, by time.monotonic; None if only the socket matters."""
        if self._settled:
            return 0.0
        transport = self.transport
        times = [self._deadlines.first(), transport.next_timer()]
        if self._exchange is not None:
            times.append(self._beat_at)
        elif transport.wanted and transport.may_begin:
            times.append(transport.retry_at)
        return min((at for at in times if at is not None), default=None)

    def pump(self) -> None:
        """Takes what has arrived, sends what can be sent, keeps the time, tells who waits. Never waits itself."""
        arrived = self._receive(wait=False)
        now = time.monotonic()
        if not arrived or now - self._kept > TICK_SECONDS:
            self._keep_time(now)
        self._flush()
        if self._settled:
            self._tell()

    # ---- Operations ----

    def enqueue(self, operation: Operation, timeout: float, settled: Settled) -> None:
        """Sends an operation as soon as it may be sent; `settled` is called with it once it is done, one way or the other."""
        operation.latch = _Ticket(settled, self._deadlines.add(operation, timeout, time.monotonic()))
        if not self._start(operation):
            if isinstance(operation, PutOperation):
                operation.detach(self._codec)
            self._waiting.add(operation)
        self.transport.flush()

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
        if not self._start(operation):
            self._waiting.add(operation)
            while operation in self._waiting:
                self._turn_or_give_up(operation, deadline)
        if operation.error is not None:
            raise operation.error
        self.transport.flush()

    def wait(self, operation: Operation, deadline: float) -> None:
        """Waits until an operation is done; raises what it failed with."""
        while not operation.done:
            self._turn_or_give_up(operation, deadline)
        if operation.error is not None:
            raise operation.error

    def _turn_or_give_up(self, operation: Operation, deadline: float) -> None:
        try:
            if self._turn(deadline):
                return
        except BaseException:
            # Whoever is interrupted does not expect its buffer to be written to later.
            self._give_up(operation)
            raise
        self._give_up(operation)

    def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Waits until `ready` says so; raises as `submit` does."""
        deadline = time.monotonic() + timeout
        while not ready():
            if not self._turn(deadline):
                raise self._late()

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends what the core asked for."""
        self.transport.wanted = True
        self._say(messages)
        self.transport.flush()

    def fail(self, operations: Iterable[Operation]) -> None:
        """Notes that the core has failed operations."""
        self._settled.extend(operation for operation in operations if operation.latch is not None)

    def _start(self, operation: Operation) -> bool:
        """Sends an operation if it may be sent now; True if it need not wait: it is on its way, or failed."""
        self.transport.wanted = True
        if self._waiting.is_behind(operation) or (operation.writes and self._is_congested()):
            return False
        return self._admit(operation)

    @property
    def waiting(self) -> int:
        """How many operations wait for credit or a free handle."""
        return len(self._waiting)

    def _is_congested(self) -> bool:
        return self.transport.unsent > _MAX_UNSENT_BYTES

    def _admit(self, operation: Operation) -> bool:
        core = self.core
        try:
            if not core.admit(operation):
                return False
        except TmemError as error:
            self._end(operation, error)
            return True
        try:
            operation.build()
        except BaseException:
            core.abort(operation)
            self.fail([operation])
            raise
        self._say(core.launch(operation))
        return True

    def _admit_waiting(self) -> None:
        """Sends what waited, as far as it may be sent by now."""
        self._waiting.admit_reads(self._admit)
        self._waiting.admit_writes(self._admit, self.core.window, self._is_congested)

    def _end(self, operation: Operation, error: TmemError) -> None:
        """Ends an operation that was never admitted."""
        operation.fail(error)
        operation.done = True
        self.fail([operation])

    def _give_up(self, operation: Operation) -> None:
        """Its deadline has passed, or its caller went away."""
        if operation.done:
            return
        if self._waiting.remove(operation):
            self._end(operation, self._late())
            return
        self.core.give_up(operation)
        if not self.core.open:
            operation.error = self._unavailable()
            for result in operation.results:
                result.error = operation.error
        self.fail([operation])
        self._beat_if_wanted()
        self.transport.flush()

    def _late(self) -> TmemError:
        if not self.core.open:
            return self._unavailable()
        return DeadlineExceeded(f"{self._target}: no credit or no free handle in time")

    def _unavailable(self) -> TmemError:
        return self.transport.error or Unavailable(f"{self._target} can't be reached")

    def _tell(self) -> None:
        """Calls whoever waits for operations that are done by now.

        What those cause is told the next time: else one who tries again what fails at once would be called for ever.
        """
        settled = self._settled
        for _ in range(len(settled)):
            if not settled:
                return  # one of them waited, and those that came behind were told meanwhile
            operation = settled.popleft()
            ticket: _Ticket | None = operation.latch
            if ticket is not None:
                operation.latch = None
                ticket.deadlines.pop(operation, None)
                ticket.settled(operation)

    # ---- Calls that are no batches ----

    def call(self, path: str, data: bytes, timeout: float) -> bytes:
        """Carries out a call of bytes to bytes; raises what its status says."""
        messages = list(self._call(path, data, timeout, path.rpartition("/")[2]))
        if len(messages) != 1:
            raise ProtocolError(f"{path} was answered with {len(messages)} messages")
        return messages[0]

    def call_streaming(self, path: str, data: bytes, timeout: float | None) -> Iterator[bytes]:
        """Carries out a call that answers many messages; raises what its status says."""
        return self._call(path, data, timeout, path.rpartition(".")[2])

    def _call(self, path: str, data: bytes, timeout: float | None, what: str) -> Iterator[bytes]:
        if self.core.closed:
            raise Closed("the client is closed")
        deadline = float("inf") if timeout is None else time.monotonic() + timeout
        transport = self.transport
        transport.connect(lambda: self._turn(deadline))
        call = transport.begin(path, what, timeout)
        transport.send(call, data, end=True)
        late = DeadlineExceeded(f"{self._target} did not answer {what} in time")
        try:
            while call.messages or not call.ended:
                if call.messages:
                    message = call.messages.popleft()
                    transport.taken(call, len(message))
                    yield message
                    continue
                transport.flush()
                if not self._turn(deadline):
                    raise late
        finally:
            transport.abandon(call, late)  # if it is not over
            transport.flush()
        if call.error is not None:
            raise call.error

    # ---- One turn ----

    def _turn(self, deadline: float) -> bool:
        """Waits for something to happen, for a bounded time, and takes it; False once the deadline has passed."""
        now = time.monotonic()
        left = deadline - now
        if left <= 0:
            return False
        transport = self.transport
        if left >= TICK_SECONDS and not self._settled and transport.listening:
            # The way of a lone get: the receive waits by itself, up to a tick, by which timers may be late.
            arrived = self._receive(wait=True)
            if not arrived or now - self._kept > TICK_SECONDS:
                self._keep_time(time.monotonic())
        else:
            timer = self.next_timer()
            transport.wait(max(0.0, min(left, TICK_SECONDS, TICK_SECONDS if timer is None else timer - now)))
            self._receive(wait=False)
            self._keep_time(time.monotonic())
        self._flush()
        if self._settled:
            self._tell()
        if self._meanwhile is not None:
            self._meanwhile()
        return True

    def _flush(self) -> None:
        """Writes what can be written; where that makes room for writes that waited, those too."""
        self.transport.flush()
        if self._waiting and not self._is_congested():
            self._admit_waiting()
            self.transport.flush()

    def _receive(self, *, wait: bool) -> bool:
        arrived = self.transport.receive(wait=wait)
        if self._waiting:
            self._admit_waiting()
        return arrived

    def _keep_time(self, now: float) -> None:
        """Gives up, connects, opens the stream, and says that it is alive, when it is time to."""
        self._kept = now
        for operation in self._deadlines.late(now):
            self._give_up(operation)
        transport = self.transport
        transport.keep_time(now)
        if self._exchange is not None:
            if now >= self._beat_at:
                self._beat(now)
        elif transport.wanted and transport.may_begin and now >= transport.retry_at:
            self._open(now)

    # ---- The Exchange call ----

    def _open(self, now: float) -> None:
        self._exchange_answered = False
        self._exchange = self.transport.begin(
            _EXCHANGE, "the stream", on_message=self._take_message, on_end=self._ended
        )
        self._said_goodbye = False
        self.transport.send(self._exchange, self.core.opening())
        self._beat_at = now + self.core.heartbeat_interval

    def _ended(self, error: TmemError | None) -> None:
        """The call is over; another begins after a while."""
        self._exchange = None
        self.core.broken()
        if error is not None:
            self.transport.error = error
        if isinstance(error, Unauthenticated):
            self.fail(self.core.fail_all(error))
        self.transport.back_off(answered=self._exchange_answered)

    def _say(self, messages: Iterable[bytes]) -> None:
        """Sends messages on the Exchange call; the core has none while there is none. After goodbye nothing more is said on it."""
        if self._said_goodbye:
            return
        for message in messages:
            assert self._exchange is not None
            self.transport.send(self._exchange, message)

    def _beat(self, now: float) -> None:
        """A heartbeat interval has passed."""
        core = self.core
        self._beat_at = now + core.heartbeat_interval
        if core.unanswered_heartbeats >= _MAX_UNANSWERED_HEARTBEATS:
            # The connection stands and nobody answers: try another.
            self.transport.lose(Unavailable(f"{self._target} does not answer any more"))
        elif core.open:
            self._say([core.heartbeat()])
            self._pay()
        else:
            core.note_silence()

    def _beat_if_wanted(self) -> None:
        """A floor waits to be confirmed; one question about it at a time."""
        core = self.core
        if core.wants_heartbeat and core.open and not core.unanswered_heartbeats:
            self._say([core.heartbeat()])

    def _pay(self) -> None:
        """Sends the next flush that is owed."""
        if self._owed is None and (owed := self.core.next_owed()) is not None:
            self._owed = owed
            self.enqueue(owed, self._options.write_timeout, self._paid)

    def _paid(self, operation: Operation) -> None:
        owed, self._owed = self._owed, None
        assert owed is operation
        if operation.error is not None:
            self.core.owe_again(owed)  # tried again at the next heartbeat
        else:
            self._pay()

    # ---- What arrives ----

    def _take_message(self, data: BytesLike) -> None:
        """Takes one message of the Exchange call."""
        self._counters.messages_received += 1
        self._exchange_answered = True
        response, slow = decode_answer(data)
        self._counters.slow_decodes += slow
        core = self.core
        if not isinstance(response, _ANSWERS):
            self._control(response)
        elif (operation := core.match(response)) is not None:
            self._finish(operation, response)
        if core.draining:
            self._leave_if_drained()

    def _finish(self, operation: Operation, answer: Answer) -> None:
        try:
            operation.decode(answer, self._codec)
        except ProtocolError as error:
            operation.fail(error)
        except BaseException as error:
            # A fault of ours: whoever waits must not wait for ever.
            operation.fail(RemoteError(f"the answer could not be taken: {error!r}"))
            if not isinstance(error, Exception):
                raise
            log.exception("an answer of %s could not be taken", self._target)
        finally:
            self._say(self.core.finish(operation))
            if operation.latch is not None:
                self._settled.append(operation)

    def _control(self, message: Response) -> None:
        core = self.core
        was_open = core.open
        messages, failed = core.control(message)
        self._say(messages)
        self.fail(failed)
        if core.open:
            self.transport.error = None
            if not was_open:
                self._beat_at = time.monotonic() + core.heartbeat_interval
            self._beat_if_wanted()

    def _leave(self) -> None:
        """The server asks to be left, by whatever means."""
        self.core.draining = True
        self._leave_if_drained()

    def _leave_if_drained(self) -> None:
        if self.core.drained and self._exchange is not None:
            self._said_goodbye = True
            self.transport.half_close(self._exchange)

    # ---- The end ----

    def close(self) -> None:
        """Ends the session; what is in flight fails with Closed. Takes a bounded time."""
        core = self.core
        if core.closed:
            return
        core.closed = True
        error = Closed("the client was closed")
        self.fail(core.fail_all(error))
        for operation in self._waiting.clear():
            self._end(operation, error)
        try:
            self._say_goodbye()
        finally:
            self.transport.close(error)
            self._tell()

    def _say_goodbye(self) -> None:
        """Half-closes: the server ends the session and parks its pools. Waits until it has, for a bounded time."""
        exchange = self._exchange
        if exchange is None:
            return
        self._said_goodbye = True
        self.transport.half_close(exchange)
        deadline = time.monotonic() + _END_SECONDS
        while not exchange.ended and time.monotonic() < deadline:
            self.transport.flush()
            if not exchange.ended:
                self.transport.wait(TICK_SECONDS)
                self.transport.receive(wait=False)
