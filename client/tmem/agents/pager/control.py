"""The words between a program and the agent of its region.

Owns: the messages: one JSON object a datagram over a pair of sockets of which the program keeps one end, and the holder and every agent
the other. A message that no agent has read waits for the next one; one that an agent read and did not answer is asked
again by the program, so every request can be carried out twice.

    program -> agent   {"id": 7, "do": "limit", "units": 100}
                       {"id": 8, "do": "bring", "runs": [[first, count], ...]}
                       {"id": 9, "do": "record"}; {"id": 9, "do": "recorded"}
                       {"id": 10, "do": "close"}
    agent -> program   {"id": 7}: done
                       {"event": "ready"} or {"event": "failed", "error": "Unavailable", "message": "..."}: once, at the start
"""

import json
import select
import socket
import threading
import time
from typing import Any

from tmem.wire import errors
from tmem.wire.errors import Closed, DeadlineExceeded, RemoteError, TmemError

__all__ = ["MAX_RUNS", "Caller", "pair", "read", "send"]

_MAX_BYTES = 1 << 16
MAX_RUNS = 2000  # of one message: each is less than 30 bytes
_ASK_AGAIN_SECONDS = 1.0


def pair() -> tuple[socket.socket, socket.socket]:
    """The program's end, and the agents'."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(end: socket.socket, message: dict[str, Any]) -> None:
    """Sends a message; one that does not fit because the other side reads nothing is dropped: it will be asked again."""
    try:
        end.send(json.dumps(message).encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except (BlockingIOError, BrokenPipeError, ConnectionResetError):
        return


def read(end: socket.socket) -> dict[str, Any] | None:
    """The next message, without waiting; None if there is none.

    Raises:
        EOFError: nobody is at the other end any more.
    """
    try:
        data = end.recv(_MAX_BYTES, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except ConnectionResetError:
        data = b""
    if not data:
        raise EOFError
    message: dict[str, Any] = json.loads(data)
    return message


class Caller:
    """The program's side; any number of threads may call at once.

    One of those that wait reads, and lays what is another's where that one looks.

    Args:
        end: the program's end.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._last = 0
        self._changed = threading.Condition()
        self._reading = False
        self._waited_for: set[int] = set()
        self._answers: dict[int, dict[str, Any]] = {}

    def await_ready(self, timeout: float) -> None:
        """Waits for the first agent.

        Raises:
            TmemError: why it can't serve, in its words. DeadlineExceeded: it said nothing.
        """
        message = self._next(time.monotonic() + timeout)
        if message is None:
            raise DeadlineExceeded(f"the pager's agent said nothing within {timeout:g} s")
        if message.get("event") != "ready":
            kind = getattr(errors, str(message.get("error")), RemoteError)
            raise (kind if isinstance(kind, type) and issubclass(kind, TmemError) else RemoteError)(
                message.get("message")
            )

    def call(self, timeout: float, **request: Any) -> dict[str, Any]:
        """Has a request carried out, by whichever agent there is.

        Raises:
            DeadlineExceeded: no agent did it in time. Closed: there is none any more.
        """
        with self._changed:
            self._last += 1
            mine = request["id"] = self._last
            self._waited_for.add(mine)
        try:
            deadline = time.monotonic() + timeout
            while (now := time.monotonic()) < deadline:
                send(self._end, request)
                answer = self._await(mine, min(deadline, now + _ASK_AGAIN_SECONDS))
                if answer is not None:
                    return answer
        finally:
            with self._changed:
                self._waited_for.discard(mine)
                self._answers.pop(mine, None)
        raise DeadlineExceeded(f"no agent of the pager did {request['do']!r} within {timeout:g} s")

    def _await(self, mine: int, deadline: float) -> dict[str, Any] | None:
        """The answer to a request; None if it has not come by then."""
        while (left := deadline - time.monotonic()) > 0:
            with self._changed:
                if mine in self._answers:
                    return self._answers.pop(mine)
                if self._reading:
                    self._changed.wait(left)
                    continue
                self._reading = True
            message = None
            try:
                message = self._next(deadline)
            finally:
                with self._changed:
                    self._reading = False
                    if message is not None and message.get("id") in self._waited_for:
                        self._answers[message["id"]] = message
                    self._changed.notify_all()
        with self._changed:
            return self._answers.pop(mine, None)

    def _next(self, deadline: float) -> dict[str, Any] | None:
        poll = select.poll()
        poll.register(self._end, select.POLLIN)
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return None
        try:
            return read(self._end)
        except EOFError:
            raise Closed("the pager's holder and agent have ended") from None
