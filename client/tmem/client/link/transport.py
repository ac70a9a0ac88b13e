"""Calls to a server over one connection at a time, in the caller's thread.

Owns: the connection of the moment, and when it is given up for another; the calls on it, from their first byte to their status; how
to wait for the socket.

Must not know: sessions, operations. Whoever uses it says by `wanted` whether there shall be a connection, and is told by each
call's functions what becomes of it. Units: seconds, by time.monotonic.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tmem.client._core.calls import call_metadata, status_error
from tmem.client._core.options import Options
from tmem.wire.errors import ProtocolError, TmemError, Unavailable
from tmem.wire.splice import BytesLike

from .connection import Connection, Endpoint
from .dialing import Dialer
from .frames import Event, Goaway, Headers, Message, Reset
from .headers import Status, response_status, trailer_status

__all__ = ["Call", "Transport"]

log = logging.getLogger(__name__)

# So many receives at once, so that whoever keeps the time has a turn.
_RECEIVES = 8


class Call:
    """One call.

    Attributes:
        what: it is called in messages.
        on_message: takes each message; its data are valid only for as long. None: they are kept in `messages`.
        on_end: is told that the call has ended, and with what error.
        ended, error: likewise.
    """

    __slots__ = ("ended", "error", "messages", "on_end", "on_message", "stream_id", "what", "wrong")

    def __init__(
        self,
        stream_id: int,
        what: str,
        on_message: Callable[[BytesLike], None] | None,
        on_end: Callable[[TmemError | None], None] | None,
    ) -> None:
        self.stream_id = stream_id
        self.what = what
        self.on_message = on_message
        self.on_end = on_end
        self.messages: deque[bytes] = deque()
        self.wrong: Status | None = None  # what is wrong with the head of the response
        self.ended = False
        self.error: TmemError | None = None


class Transport:
    """A connection, again and again.

    Args:
        target: the server.
        options: the client's; the token in them is carried by every call.
        on_closing: is told when the server takes no new calls on the connection, while calls go on.
        endpoints: as of Dialer.

    Attributes:
        wanted: whether to connect again when there is no connection.
        generation: how many connections there were; the descriptor is another one for each.
        error: why there is no connection, or why the last important call failed; for whoever has to say so.
    """

    def __init__(
        self,
        target: str,
        options: Options,
        on_closing: Callable[[], Any],
        endpoints: Sequence[Endpoint] | None = None,
    ) -> None:
        self._target = target
        self._authority = options.tls_name or ("localhost" if target.startswith("unix:") else target)
        self._scheme = "http" if options.tls_ca is None else "https"
        self._metadata = call_metadata(options)
        self._on_closing = on_closing
        self._dialer = Dialer(target, options, endpoints)
        self._connection: Connection | None = None
        self._calls: dict[int, Call] = {}
        self._closed = False
        self.wanted = False
        self.generation = 0
        self.error: TmemError | None = None

    # ---- What there is ----

    def fileno(self) -> int:
        """The socket's descriptor; -1 while there is none."""
        return -1 if self._connection is None else self._connection.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether something happens once the socket can be written to."""
        return self._connection is not None and self._connection.wants_write

    @property
    def listening(self) -> bool:
        """Whether there is a connection, and nothing is left to do on it but to wait."""
        connection = self._connection
        return (
            connection is not None
            and connection.established
            and not connection.http2.outbox.outgoing
            and not connection.pending
        )

    @property
    def unsent(self) -> int:
        """Bytes that are to be written, or wait for the server's credit."""
        return 0 if self._connection is None else self._connection.http2.outbox.unsent

    def next_timer(self) -> float | None:
        """When `keep_time` must be called at the latest, for the connection's sake."""
        connection = self._connection
        if connection is None:
            return self._dialer.retry_at if self.wanted and not self._closed else None
        if connection.established:
            return 0.0 if connection.pending else None
        return connection.expires

    @property
    def retry_at(self) -> float:
        """When a call that failed should be tried again."""
        return self._dialer.retry_at

    @property
    def may_begin(self) -> bool:
        """Whether a call can be begun on the connection that there is."""
        connection = self._connection
        return connection is not None and connection.established and not connection.http2.closing

    # ---- Calls ----

    def begin(
        self,
        path: str,
        what: str,
        timeout: float | None = None,
        *,
        on_message: Callable[[BytesLike], None] | None = None,
        on_end: Callable[[TmemError | None], None] | None = None,
    ) -> Call:
        """Begins a call; there must be a connection that takes it.

        Messages that are kept are bounded by the call's credit: what is `taken` is given back.
        """
        connection = self._connection
        assert connection is not None
        block = connection.headers.request(path, self._authority, self._metadata, timeout, scheme=self._scheme)
        stream_id = connection.http2.open_stream(block, self_crediting=on_message is not None)
        call = self._calls[stream_id] = Call(stream_id, what, on_message, on_end)
        return call

    def send(self, call: Call, message: BytesLike, *, end: bool = False) -> None:
        """Sends a message; `flush` writes it."""
        if self._connection is not None and not call.ended:
            self._connection.http2.send(call.stream_id, message, end=end)

    def half_close(self, call: Call) -> None:
        """Says nothing more on a call."""
        if self._connection is not None and not call.ended:
            self._connection.http2.half_close(call.stream_id)

    def taken(self, call: Call, count: int) -> None:
        """A kept message of so many bytes was taken."""
        if self._connection is not None and not call.ended:
            self._connection.http2.consumed(call.stream_id, count)

    def abandon(self, call: Call, error: TmemError) -> None:
        """Ends a call at once, if it has not ended."""
        if self._connection is not None and not call.ended:
            self._connection.http2.reset(call.stream_id)
            self._end(call, error)

    def _end(self, call: Call, error: TmemError | None) -> None:
        if self._calls.get(call.stream_id) is call:
            del self._calls[call.stream_id]
        call.ended = True
        call.error = error
        if call.on_end is not None:
            call.on_end(error)

    def _end_by_status(self, call: Call, status: Status) -> None:
        self._end(call, None if status.ok else status_error(*status, call.what, self._target))

    # ---- The socket ----

    def wait(self, seconds: float) -> None:
        """Waits until the socket can be read from, or written to if that is wanted; at most so long."""
        if self._connection is None:
            time.sleep(seconds)
        else:
            self._connection.wait(seconds)

    def flush(self) -> None:
        """Writes what is to be written, as far as the socket takes it."""
        connection = self._connection
        if connection is None or not connection.established or not connection.wants_write:
            return
        try:
            connection.flush()
        except OSError as error:
            self.lose(self._dialer.translate(error))
        except BaseException:
            self._lose_track()
            raise

    def receive(self, *, wait: bool) -> bool:
        """Takes what has arrived; answers whether anything has.

        Args:
            wait: for up to a tick (connection.py), if nothing is there and nothing is to be written.
        """
        connection = self._connection
        if connection is None:
            return False
        arrived = False
        try:
            if not connection.established:
                if not connection.advance():
                    return False
                self._dialer.succeeded()
            for _ in range(_RECEIVES):
                if not connection.receive(wait=wait):
                    break
                wait = False
                arrived = True
                while (event := connection.http2.next_event()) is not None:
                    self._take(event)
                    if self._connection is not connection:
                        return True
                if not connection.filled:
                    break
        except OSError as error:
            self.lose(self._dialer.translate(error))
        except ProtocolError as error:
            log.warning("the connection to %s is of no use: %s", self._target, error)
            self.lose(error)
        except BaseException:
            self._lose_track()
            raise
        return arrived

    def _lose_track(self) -> None:
        """Something (an interrupt, most likely) came between what the socket did and the note of it: nobody knows where the stream is."""
        self.lose(Unavailable(f"{self._target} can't be reached: the connection was interrupted"))

    def _take(self, event: Event) -> None:
        if isinstance(event, Message):
            call = self._calls.get(event.stream_id)
            if call is None:
                return
            if call.on_message is None:
                call.messages.append(bytes(event.data))
                return
            try:
                call.on_message(event.data)
            except ProtocolError as error:
                self.abandon(call, error)
        elif isinstance(event, Goaway):
            self._take_goaway(event)
        elif (call := self._calls.get(event.stream_id)) is not None:
            self._take_rest(call, event)

    def _take_rest(self, call: Call, event: Headers | Reset) -> None:
        if isinstance(event, Reset):
            self._end_by_status(call, Status.of_reset(event.code))
        elif event.ended:
            self._end_by_status(call, call.wrong or trailer_status(event.fields))
        else:
            call.wrong = response_status(event.fields)

    def _take_goaway(self, event: Goaway) -> None:
        error = Unavailable(f"{self._target} is going away: {event.details or 'it does not say why'}")
        for call in list(self._calls.values()):
            if call.stream_id > event.last_stream_id:
                self._end(call, error)
        if self._calls:
            self._on_closing()
        else:
            self.lose(error)

    # ---- Connections ----

    def connect(self, turn: Callable[[], bool]) -> None:
        """Makes sure that there is a connection on which a call can be begun. Waits, by `turn`, until that says no.

        Raises:
            Unavailable: nobody answers.
        """
        dialer = self._dialer
        failures = dialer.failures
        while not self.may_begin:
            if dialer.failures != failures:
                raise dialer.error or Unavailable(f"{self._target} can't be reached")
            if self._connection is None:
                dialer.resolve()  # whoever may wait may wait for the resolver too
                self._take_connection(dialer.attempt())
            elif not turn():
                raise Unavailable(f"{self._target} can't be reached: no connection in time")

    def keep_time(self, now: float) -> None:
        """Connects, or gives up connecting, when it is time to; leaves a server that is going away."""
        connection = self._connection
        if connection is None:
            if self.wanted and not self._closed and now >= self._dialer.retry_at:
                self._take_connection(self._dialer.attempt())
        elif not connection.established:
            if now >= connection.expires:
                self.lose(Unavailable(f"{self._target} can't be reached: no connection in time"))
        elif connection.http2.closing and not self._calls:
            self.lose(Unavailable(f"{self._target} is going away"))

    def lose(self, error: TmemError) -> None:
        """Gives the connection up, and with it every call on it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        connection.close()
        self.error = error
        if not connection.established and not self._closed:
            self._take_connection(self._dialer.failed(error))
            return
        for call in list(self._calls.values()):
            self._end(call, error)

    def close(self, error: TmemError) -> None:
        """Gives the connection up for good."""
        self._closed = True
        self.lose(error)

    def _take_connection(self, connection: Connection | None) -> None:
        self._connection = connection
        if connection is not None:
            self.generation += 1
        else:
            self.error = self._dialer.error

    def back_off(self, *, answered: bool) -> None:
        """The important call ended: it is to be tried again after a while, a short one if the server had answered."""
        if answered:
            self._dialer.reset()
        self._dialer.back_off()
