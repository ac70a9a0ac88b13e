"""One connection to a server: a socket, and HTTP/2 on it.

Owns: the socket from the attempt to connect to its end, the waiting on it, and which system calls are made. Nothing here
waits, but for the two functions that are there to wait.

Must not know: sessions, streams, when to connect again.

Errors: OSError, whatever befell the connection; it is of no use afterwards.
"""

import errno
import os
import select
import socket
import struct
from itertools import islice
from typing import Any, NamedTuple

from .headers import HeaderCodec
from .http2 import Http2

__all__ = ["Connection", "Endpoint"]

# A blocking receive looks up so often, for whoever has a time to keep.
TICK_SECONDS = 0.05
DONT_WAIT = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_MOST_BUFFERS = 64
_TIMEVAL = struct.Struct("ll")


class Endpoint(NamedTuple):
    """Where to connect to: a socket's family and address."""

    family: int
    address: Any


class Connection:
    """A connection, from the attempt on.

    Args:
        endpoint: where to.
        expires: see below.

    Attributes:
        http2: what is said on it. headers: its header compression.
        established: whether the other end has accepted it.
        expires: when it should be given up if it is not established by then; whoever keeps the time decides.
        filled: whether the last receive got as much as there was room for, so that more may be there.
    """

    def __init__(self, endpoint: Endpoint, expires: float) -> None:
        self.headers = HeaderCodec()
        self.http2 = Http2(self.headers)
        self.established = False
        self.expires = expires
        self.filled = False
        self._family = endpoint.family
        self._socket = socket.socket(endpoint.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        found = self._socket.connect_ex(endpoint.address)
        if found not in {0, errno.EINPROGRESS}:
            self._socket.close()
            raise OSError(found, os.strerror(found))
        if not found:
            self._establish()

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Ends the connection."""
        self._socket.close()

    def _establish(self) -> None:
        """The other end has accepted the socket."""
        self._configure()
        self.established = True

    def _configure(self) -> None:
        if self._family != socket.AF_UNIX:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Blocking, with a limit, so that a lone answer is waited for by the call that receives it: one system call instead of
        # two. Everything else says that it does not want to wait.
        ticks = _TIMEVAL.pack(0, int(TICK_SECONDS * 1_000_000))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, ticks)
        self._socket.setblocking(True)

    @property
    def pending(self) -> bool:
        """Whether something has been received that the socket does not tell of any more."""
        return False

    def advance(self) -> bool:
        """Goes on with connecting; answers whether it is established."""
        if not self.established and self.wait(0.0):
            found = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if found:
                raise OSError(found, os.strerror(found))
            self._establish()
        return self.established

    @property
    def wants_write(self) -> bool:
        """Whether something happens once the socket can be written to."""
        return not self.established or bool(self.http2.outbox.outgoing)

    def flush(self) -> None:
        """Writes what is outgoing, as far as the socket takes it."""
        outbox = self.http2.outbox
        out = outbox.outgoing
        try:
            while out:
                if len(out) == 1:
                    count = self._socket.send(out[0], DONT_WAIT)
                else:
                    count = self._socket.sendmsg(islice(out, _MOST_BUFFERS), [], DONT_WAIT)
                outbox.sent(count)
        except BlockingIOError:
            return

    def receive(self, *, wait: bool) -> bool:
        """Receives once; answers whether anything came.

        Args:
            wait: for up to TICK_SECONDS, if nothing is there.
        """
        buffers = self.http2.buffers()
        flags = 0 if wait else DONT_WAIT
        try:
            if len(buffers) == 1:
                room = len(buffers[0])
                count = self._socket.recv_into(buffers[0], 0, flags)
            else:
                room = sum(map(len, buffers))
                count = self._socket.recvmsg_into(buffers, 0, flags)[0]
        except BlockingIOError:
            return False
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        self.filled = count == room
        self.http2.received(count)
        return True

    def wait(self, seconds: float) -> bool:
        """Waits until the socket can be read from, or written to if that is wanted; False after so many seconds."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN | (select.POLLOUT if self.wants_write else 0))
        return bool(poll.poll(seconds * 1000))
