"""The stream of a link: one thread, one socket, nobody's loop.

Owns: the connection and the Exchange call of the moment, and when to begin them anew; the queues of operations that wait for
credit or a free handle; deadlines, heartbeats, and whom to tell that an operation is done.

Everything happens inside `pump` or inside a blocking call, in the caller's thread; `pump` never waits. Those who gave a
function to call are called last of all, when the state is whole: they may submit, or block, as they like.

Order: gets before writes. Writes in the order in which they came, but for one whose handle is taken: what does not touch that
handle goes past it.
"""

import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from tmem.client._core.calls import call_metadata, status_error
from tmem.client._core.counters import ClientCounters
from tmem.client._core.operations import FlushOperation, Operation, PutOperation
from tmem.client._core.options import Options
from tmem.client._core.pool import PoolCore
from tmem.client._core.session import SessionCore
from tmem.client._core.writer import Writer
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

from .connection import TICK_SECONDS, Connection, Endpoint, resolve
from .headers import Status, response_status, trailer_status
from .http2 import Goaway, Headers, Message, Reset

__all__ = ["Stream"]

log = logging.getLogger(__name__)

_EXCHANGE = "/tmem.v1.ExtentsService/Exchange"
_BACKOFF_SECONDS = (0.02, 0.5)
_MAX_UNANSWERED_HEARTBEATS = 3
_CONNECT_SECONDS = 2.0
_END_SECONDS = 2.0
# Writes wait while so much of earlier ones is not on its way yet: a get that comes then waits for this much, not for a window.
_MAX_UNSENT_BYTES = 512 << 10
# So many receives by one pump, so that heartbeats and deadlines have their turn.
_RECEIVES = 32
# So many waiting writes are looked at when the handle of the first is taken.
_LOOK_AHEAD = 32
_ANSWERS = (PutAnswer, GetAnswer, FlushAnswer, FlushObjectAnswer, EchoAnswer, Malformed)

Settled = Callable[[Operation], None]


class _Ticket:
    """What is kept of an operation that was submitted: whom to tell, and among which deadlines it is."""

    __slots__ = ("deadlines", "settled")

    def __init__(self, settled: Settled, deadlines: "OrderedDict[Operation, float]") -> None:
        self.settled = settled
        self.deadlines = deadlines


class _Call:
    """A call that is no batch."""

    __slots__ = ("messages", "status", "stream_id", "wrong")

    def __init__(self) -> None:
        self.stream_id = 0
        self.messages: deque[bytes] = deque()
        self.wrong: Status | None = None
        self.status: Status | None = None


class Stream:
    """Carries operations and calls to the server and answers back.

    Args:
        target: the server.
        options, counters: the client's.

    Attributes:
        core: the session.
        generation: how many connections there were; the descriptor is another one for each.
        lock: guards nothing, because everything is one thread's; here so that all faces read the same.
    """

    def __init__(self, target: str, options: Options, counters: ClientCounters) -> None:
        self._target = target
        self._options = options
        self._metadata = call_metadata(options)
        self._counters = counters
        self._codec = Codec(counters.copies)
        self._endpoints: list[Endpoint] = []
        self._untried = 0  # how many of them, in this attempt
        self._connection: Connection | None = None
        self._failed_attempts = 0
        self._retry_at = 0.0
        self._backoff = _BACKOFF_SECONDS[0]
        self._wanted = False  # an Exchange call is, from the first operation or pool on
        self._exchange = 0
        self._exchange_answered = False
        self._exchange_wrong: Status | None = None
        self._calls: dict[int, _Call] = {}
        self._reads: OrderedDict[Operation, None] = OrderedDict()
        self._writes: OrderedDict[Operation, None] = OrderedDict()
        self._deadlines: dict[float, OrderedDict[Operation, float]] = {}
        self._settled: deque[Operation] = deque()
        self._beat_at = 0.0
        self._owed: FlushOperation | None = None
        self._last_error: TmemError | None = None
        self.generation = 0
        self.core = SessionCore(options, counters)
        self.lock: AbstractContextManager[Any] = nullcontext()

    # ---- What a loop needs to know ----

    def fileno(self) -> int:
        """The socket's descriptor; -1 while there is none."""
        return -1 if self._connection is None else self._connection.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something happens once the socket can be written to."""
        return self._connection is not None and self._connection.wants_write

    def next_timer(self) -> float | None:
        """When `pump` must be called at the latest, by time.monotonic; None if only the socket matters."""
        if self._settled:
            return 0.0
        times = [next(iter(group.values())) for group in self._deadlines.values() if group]
        connection = self._connection
        if connection is None:
            if self._wanted and not self.core.closed:
                times.append(self._retry_at)
        elif not connection.established:
            times.append(connection.began + _CONNECT_SECONDS)
        elif self._exchange:
            times.append(self._beat_at)
        elif self._wanted and not self.core.closed and not (connection.http2.closing and self._calls):
            times.append(self._retry_at)
        return min(times, default=None)

    def pump(self) -> None:
        """Takes what has arrived, sends what can be sent, keeps the time, tells who waits. Never waits itself."""
        self._receive()
        self._keep_time()
        self._flush()
        if self._settled:
            self._tell()

    # ---- Operations ----

    def enqueue(self, operation: Operation, timeout: float, settled: Settled) -> None:
        """Sends an operation as soon as it may be sent; `settled` is called with it once it is done, one way or the other."""
        deadlines = self._deadlines.get(timeout)
        if deadlines is None:
            self._deadlines = {key: group for key, group in self._deadlines.items() if group}
            deadlines = self._deadlines[timeout] = OrderedDict()
        deadlines[operation] = time.monotonic() + timeout
        operation.latch = _Ticket(settled, deadlines)
        self._wanted = True
        if not self._start(operation):
            if isinstance(operation, PutOperation):
                operation.detach(self._codec)
            self._line_up(operation)
        self._flush()

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
        self._wanted = True
        if not self._start(operation):
            self._line_up(operation)
            queue = self._queue(operation)
            while operation in queue:
                self._turn_or_give_up(operation, deadline)
        if operation.error is not None:
            raise operation.error
        self._flush()

    def wait(self, operation: Operation, deadline: float) -> None:
        """Waits until an operation is done; raises what it failed with."""
        while not operation.done:
            self._turn_or_give_up(operation, deadline)
        if operation.error is not None:
            raise operation.error

    def _turn_or_give_up(self, operation: Operation, deadline: float) -> None:
        if time.monotonic() >= deadline:
            self._give_up(operation)
            return
        try:
            self._turn(deadline)
        except BaseException:
            # Whoever is interrupted does not expect its buffer to be written to later.
            if not operation.done:
                self._give_up(operation)
            raise

    def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Waits until `ready` says so; raises as `submit` does."""
        deadline = time.monotonic() + timeout
        while not ready():
            if time.monotonic() >= deadline:
                raise self._late()
            self._turn(deadline)

    def send(self, messages: Iterable[bytes]) -> None:
        """Sends what the core asked for."""
        self._wanted = True
        self._say(messages)
        self._flush()

    def fail(self, operations: Iterable[Operation]) -> None:
        """Notes that the core has failed operations."""
        for operation in operations:
            if operation.latch is not None:
                self._settled.append(operation)

    def _start(self, operation: Operation) -> bool:
        """Sends an operation if it may be sent now; True if it need not wait: it is on its way, or failed."""
        if operation.writes:
            if self._writes or self._congested():
                return False
        elif self._reads:
            return False
        return self._admit(operation)

    def _congested(self) -> bool:
        connection = self._connection
        return connection is not None and connection.http2.unsent > _MAX_UNSENT_BYTES

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

    def _queue(self, operation: Operation) -> "OrderedDict[Operation, None]":
        return self._writes if operation.writes else self._reads

    def _line_up(self, operation: Operation) -> None:
        self._queue(operation)[operation] = None

    def _admit_waiting(self) -> None:
        """Sends what waited, as far as it may be sent by now."""
        reads = self._reads
        while reads:
            operation = next(iter(reads))
            if not self._admit(operation):
                break
            del reads[operation]
        if not self._writes:
            return
        # Handles that are taken by writes which wait: a later write of one of them must not go past the earlier.
        passed: dict[PoolCore, Writer] = {}
        for number, operation in enumerate(list(self._writes)[:_LOOK_AHEAD]):
            pool = operation.pool
            assert pool is not None
            if pool.error is None:
                if self._congested() or not self.core.window.has_room(operation.estimate(), write=True):
                    return
                footprints = operation.footprints()
                earlier = passed.get(pool)
                if (earlier is not None and earlier.conflicts(footprints)) or not self._admit(operation):
                    if number + 1 < len(self._writes):
                        passed.setdefault(pool, Writer()).begin(footprints)
                    continue
            else:
                self._end(operation, pool.error)
            del self._writes[operation]

    def _end(self, operation: Operation, error: TmemError) -> None:
        """Ends an operation that was never admitted."""
        operation.fail(error)
        operation.done = True
        self.fail([operation])

    def _give_up(self, operation: Operation) -> None:
        """Its deadline has passed, or its caller went away."""
        queue = self._queue(operation)
        if operation in queue:
            del queue[operation]
            self._end(operation, self._late())
            return
        if operation.done or not self.core.give_up(operation):
            return
        if not self.core.open:
            operation.error = self._unavailable()
            for result in operation.results:
                result.error = operation.error
        self.fail([operation])
        self._beat_if_wanted()
        self._flush()

    def _late(self) -> TmemError:
        if not self.core.open:
            return self._unavailable()
        return DeadlineExceeded(f"{self._target}: no credit or no free handle in time")

    def _unavailable(self) -> TmemError:
        return self._last_error or Unavailable(f"{self._target} can't be reached")

    def _tell(self) -> None:
        """Calls whoever waits for operations that are done."""
        settled = self._settled
        while settled:
            operation = settled.popleft()
            ticket: _Ticket | None = operation.latch
            if ticket is None:
                continue
            operation.latch = None
            ticket.deadlines.pop(operation, None)
            ticket.settled(operation)

    # ---- Calls ----

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
        deadline = time.monotonic() + timeout if timeout is not None else float("inf")
        connection = self._connect_now(deadline)
        http2 = connection.http2
        call = _Call()
        # What the user has not taken yet is bounded by the stream's credit.
        call.stream_id = http2.open_stream(self._begin(path, timeout, connection), self_crediting=False)
        self._calls[call.stream_id] = call
        http2.send(call.stream_id, data, end=True)
        try:
            while call.messages or call.status is None:
                if call.messages:
                    message = call.messages.popleft()
                    http2.consumed(call.stream_id, len(message))
                    yield message
                elif time.monotonic() >= deadline:
                    raise DeadlineExceeded(f"{self._target} did not answer {what} in time")
                else:
                    self._flush()
                    self._turn(deadline)
        finally:
            if self._calls.pop(call.stream_id, None) is not None:
                http2.reset(call.stream_id)
                self._flush()
        if not call.status.ok:
            raise status_error(*call.status, what, self._target)

    def _begin(self, path: str, timeout: float | None, connection: Connection) -> bytes:
        return connection.headers.request(path, self._authority(), self._metadata, timeout)

    def _authority(self) -> str:
        return "localhost" if self._target.startswith("unix:") else self._target

    def _connect_now(self, deadline: float) -> Connection:
        """The connection that there is, or one that is made now; raises Unavailable."""
        failed = self._failed_attempts
        while True:
            connection = self._connection
            if connection is not None and connection.established and not connection.http2.closing:
                return connection
            if self._failed_attempts != failed:
                raise self._unavailable()
            if time.monotonic() >= deadline:
                raise Unavailable(f"{self._target} can't be reached: no connection in time")
            if connection is None:
                if not self._endpoints or not self._wanted:
                    self._endpoints = resolve(self._target)
                self._attempt()
            self._turn(deadline)

    # ---- One turn ----

    def _turn(self, until: float) -> None:
        """Waits for something to happen, at most until then and for a bounded time, and takes it."""
        timer = self.next_timer()
        now = time.monotonic()
        seconds = min(until, until if timer is None else timer) - now
        connection = self._connection
        if seconds <= 0:
            self._receive()
        elif connection is None:
            time.sleep(min(seconds, TICK_SECONDS))
        elif not connection.established or connection.http2.outgoing or seconds < TICK_SECONDS:
            connection.wait(min(seconds, TICK_SECONDS))
            self._receive()
        else:
            self._receive(wait=True)
        self._keep_time()
        self._flush()
        if self._settled:
            self._tell()

    def _receive(self, *, wait: bool = False) -> None:
        """Takes what has arrived."""
        connection = self._connection
        if connection is None:
            return
        try:
            if not connection.advance():
                return
            for _ in range(_RECEIVES):
                if not connection.receive(wait=wait):
                    break
                wait = False
                while (event := connection.http2.next_event()) is not None:
                    self._take(event)
                    if self._connection is not connection:
                        return
                if not connection.filled:
                    break
        except OSError as error:
            self._lose(self._translate(error))
        except ProtocolError as error:
            log.warning("the connection to %s is of no use: %s", self._target, error)
            self._lose(error)
        if self._reads or self._writes:
            self._admit_waiting()

    def _flush(self) -> None:
        connection = self._connection
        if connection is None or not connection.established or not connection.http2.outgoing:
            return
        try:
            connection.flush()
        except OSError as error:
            self._lose(self._translate(error))

    def _translate(self, error: OSError) -> TmemError:
        return Unavailable(f"{self._target} can't be reached: {error.strerror or error}")

    def _keep_time(self) -> None:
        """Connects, opens the stream, gives up, and says that it is alive, when it is time to."""
        now = time.monotonic()
        for group in self._deadlines.values():
            while group:
                operation, deadline = next(iter(group.items()))
                if deadline > now:
                    break
                del group[operation]
                self._give_up(operation)
        if self.core.closed:
            return
        connection = self._connection
        if connection is None:
            if self._wanted and now >= self._retry_at:
                self._attempt()
        elif not connection.established:
            if now >= connection.began + _CONNECT_SECONDS:
                self._lose(Unavailable(f"{self._target} can't be reached: no connection in time"))
        elif self._exchange:
            if now >= self._beat_at:
                self._beat(now)
        elif self._wanted and now >= self._retry_at:
            if connection.http2.closing:
                if not self._calls:
                    self._lose(None)
            else:
                self._open(connection, now)

    # ---- The connection ----

    def _attempt(self) -> None:
        """Begins to connect to the next endpoint."""
        if not self._untried:
            self._untried = len(self._endpoints)
        while self._untried:
            endpoint = self._endpoints[-self._untried]
            self._untried -= 1
            try:
                self._connection = Connection(endpoint)
            except OSError as error:
                self._last_error = self._translate(error)
                continue
            self.generation += 1
            return
        self._fail_attempt()

    def _fail_attempt(self) -> None:
        self._failed_attempts += 1
        self._back_off()

    def _back_off(self) -> None:
        self._retry_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, _BACKOFF_SECONDS[1])

    def _lose(self, error: TmemError | None) -> None:
        """Gives the connection up."""
        connection = self._connection
        if connection is None:
            return
        self._connection = None
        connection.close()
        if error is not None:
            self._last_error = error
        if not connection.established:
            if self._untried:
                self._attempt()
            else:
                self._fail_attempt()
            return
        self._untried = 0
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.status = Status("UNAVAILABLE", "the connection was lost")
        if self._exchange:
            self._end_exchange()
        else:
            self._retry_at = time.monotonic()

    # ---- The Exchange call ----

    def _open(self, connection: Connection, now: float) -> None:
        block = self._begin(_EXCHANGE, None, connection)
        self._exchange = connection.http2.open_stream(block)
        self._exchange_answered = False
        self._exchange_wrong = None
        connection.http2.send(self._exchange, self.core.opening())
        self._beat_at = now + self.core.heartbeat_interval

    def _end_exchange(self) -> None:
        """The call is over; another begins after a while."""
        self._exchange = 0
        self.core.broken()
        if isinstance(self._last_error, Unauthenticated):
            self.fail(self.core.fail_all(self._last_error))
        if self._exchange_answered:
            self._backoff = _BACKOFF_SECONDS[0]
        self._back_off()

    def _say(self, messages: Iterable[bytes]) -> None:
        """Sends messages on the Exchange call."""
        connection = self._connection
        for message in messages:
            assert connection is not None
            connection.http2.send(self._exchange, message)

    def _beat(self, now: float) -> None:
        """A heartbeat interval has passed."""
        core = self.core
        self._beat_at = now + core.heartbeat_interval
        if core.unanswered_heartbeats >= _MAX_UNANSWERED_HEARTBEATS:
            # The connection stands and nobody answers: try another.
            self._lose(Unavailable(f"{self._target} does not answer any more"))
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

    def _take(self, event: Message | Headers | Reset | Goaway) -> None:
        if isinstance(event, Goaway):
            self._take_goaway(event)
        elif event.stream_id == self._exchange:
            if isinstance(event, Message):
                self._counters.messages_received += 1
                self._exchange_answered = True
                try:
                    self._take_message(event.data)
                except ProtocolError as error:
                    self._abandon_exchange(error)
            elif isinstance(event, Reset):
                self._note_end(Status.of_reset(event.code))
            elif event.ended:
                self._note_end(self._exchange_wrong or trailer_status(event.fields))
            else:
                self._exchange_wrong = response_status(event.fields)
        elif (call := self._calls.get(event.stream_id)) is not None:
            if isinstance(event, Message):
                call.messages.append(bytes(event.data))
            elif isinstance(event, Reset):
                self._end_call(call, Status.of_reset(event.code))
            elif event.ended:
                self._end_call(call, call.wrong or trailer_status(event.fields))
            else:
                call.wrong = response_status(event.fields)

    def _end_call(self, call: _Call, status: Status) -> None:
        del self._calls[call.stream_id]
        call.status = status

    def _note_end(self, status: Status) -> None:
        """The server ended the Exchange call."""
        if not status.ok:
            self._last_error = status_error(*status, "the stream", self._target)
        self._end_exchange()

    def _abandon_exchange(self, error: TmemError) -> None:
        """The Exchange call is of no use any more, and the connection may be."""
        assert self._connection is not None
        self._connection.http2.reset(self._exchange)
        self._last_error = error
        self._end_exchange()

    def _take_goaway(self, event: Goaway) -> None:
        for call in list(self._calls.values()):
            if call.stream_id > event.last_stream_id:
                self._end_call(call, Status("UNAVAILABLE", f"the server is going away: {event.details}"))
        if self._exchange > event.last_stream_id:
            self._abandon_exchange(Unavailable(f"{self._target} is going away: {event.details}"))
        elif self._exchange:
            self.core.draining = True
            self._leave_if_drained()
        elif not self._calls:
            self._lose(Unavailable(f"{self._target} is going away: {event.details}"))

    def _take_message(self, data: BytesLike) -> None:
        """Takes one message of the Exchange call."""
        response, slow = decode_answer(data)
        self._counters.slow_decodes += slow
        if not isinstance(response, _ANSWERS):
            self._control(response)
            return
        operation = self.core.match(response)
        if operation is not None:
            self._finish(operation, response)
        if self.core.draining:
            self._leave_if_drained()

    def _finish(self, operation: Operation, answer: Answer) -> None:
        try:
            operation.decode(answer, self._codec)
        except ProtocolError as error:
            operation.fail(error)
        except BaseException as error:
            # A fault of ours: whoever waits must not wait for ever.
            log.exception("an answer of %s could not be taken", self._target)
            operation.fail(RemoteError(f"the answer could not be taken: {error!r}"))
            if not isinstance(error, Exception):
                raise
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
            self._last_error = None
            if not was_open:
                self._beat_at = time.monotonic() + core.heartbeat_interval
            self._beat_if_wanted()
        self._leave_if_drained()

    def _leave_if_drained(self) -> None:
        if self.core.drained and self._exchange and self._connection is not None:
            self._connection.http2.half_close(self._exchange)

    # ---- The end ----

    def close(self) -> None:
        """Ends the session; what is in flight fails with Closed. Takes a bounded time."""
        core = self.core
        if core.closed:
            return
        core.closed = True
        self.fail(core.fail_all(Closed("the client was closed")))
        for operation in [*self._reads, *self._writes]:
            self._end(operation, Closed("the client was closed"))
        self._reads.clear()
        self._writes.clear()
        try:
            self._say_goodbye()
        finally:
            self._lose(Closed("the client is closed"))
            self._tell()

    def _say_goodbye(self) -> None:
        """Half-closes: the server ends the session and parks its pools. Waits until it has, for a bounded time."""
        connection = self._connection
        if connection is None or not self._exchange:
            return
        connection.http2.half_close(self._exchange)
        deadline = time.monotonic() + _END_SECONDS
        while self._exchange and self._connection is connection and time.monotonic() < deadline:
            self._flush()
            if self._connection is connection and connection.wait(TICK_SECONDS):
                self._receive()
