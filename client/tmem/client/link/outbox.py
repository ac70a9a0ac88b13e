"""What a connection has to send, as far as the peer's credit goes.

Owns: `Outbox`: the buffers that are to be written, in order; the messages that wait for credit; the credit itself.

A message that fits into the credit becomes one buffer with its heads, so that a lone request is one system call. A longer one is
cut into frames that are views of it: no byte of it is copied. Units: bytes.
"""

from collections import deque

from tmem.wire.errors import ProtocolError
from tmem.wire.splice import BytesLike

from . import frames

__all__ = ["Outbox"]

# A longer frame would keep other streams' waiting too long.
_MAX_FRAME_BYTES = 256 << 10
# Of what a peer makes us send (answers to pings and settings, credit) and does not take.
_MAX_ANSWER_BYTES = 1 << 20


class _Outlet:
    """This end's direction of one stream.

    Attributes:
        credit: what may be sent on it.
        queue, queued: what waits for credit, and how much that is.
        ending: whether the direction ends after that.
    """

    __slots__ = ("credit", "ending", "queue", "queued")

    def __init__(self, credit: int) -> None:
        self.credit = credit
        self.queue: deque[BytesLike] = deque()
        self.queued = 0
        self.ending = False


class Outbox:
    """Everything that is to be sent on one connection.

    Attributes:
        outgoing: what can be written now, in order; how much was is to be told to `sent`.
        unsent: bytes of that, and of what waits for credit.
    """

    def __init__(self) -> None:
        self.outgoing: deque[BytesLike] = deque()
        self.unsent = 0
        self._answer_bytes = 0
        self._credit = frames.DEFAULT_WINDOW
        self._stream_credit = frames.DEFAULT_WINDOW
        self._frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._peer_frame_bytes = frames.DEFAULT_FRAME_BYTES
        self._outlets: dict[int, _Outlet] = {}  # directions that are open

    def sent(self, count: int) -> None:
        """So many bytes of what is outgoing were written."""
        outgoing = self.outgoing
        self.unsent -= count
        if len(outgoing) == 1 and count == len(outgoing[0]):
            outgoing.clear()
            self._answer_bytes = 0
            return
        while count:
            first = outgoing[0]
            size = len(first)
            if count < size:
                outgoing[0] = memoryview(first)[count:]
                return
            outgoing.popleft()
            count -= size
        if not outgoing:
            self._answer_bytes = 0

    def push(self, data: BytesLike) -> None:
        """Sends bytes that need no credit."""
        self.outgoing.append(data)
        self.unsent += len(data)

    def answer(self, data: bytes) -> None:
        """Sends what the peer made us send; raises ProtocolError if it asks for more and more and takes nothing."""
        self._answer_bytes += len(data)
        if self._answer_bytes > _MAX_ANSWER_BYTES:
            raise ProtocolError("the server asks for answers and takes none")
        self.push(data)

    # ---- Streams ----

    def open(self, stream_id: int, block: bytes) -> None:
        """Begins a stream with a header block."""
        self._outlets[stream_id] = _Outlet(self._stream_credit)
        size = self._peer_frame_bytes
        kind = frames.HEADERS
        for at in range(0, len(block), size):
            piece = block[at : at + size]
            flags = frames.END_HEADERS if at + size >= len(block) else 0
            self.push(frames.head(len(piece), kind, flags, stream_id) + piece)
            kind = frames.CONTINUATION

    def is_open(self, stream_id: int) -> bool:
        """Whether this end's direction of a stream is open."""
        return stream_id in self._outlets

    def send(self, stream_id: int, message: BytesLike, *, end: bool) -> None:
        """Sends a message on an open stream, now or when there is credit for it."""
        outlet = self._outlets[stream_id]
        assert not outlet.ending
        length = len(message)
        size = length + frames.PREFIX_BYTES
        if not outlet.queue and size <= outlet.credit and size <= self._credit and size <= self._frame_bytes:
            outlet.credit -= size
            self._credit -= size
            flags = 0
            if end:
                flags = frames.END_STREAM
                del self._outlets[stream_id]
            self.push(frames.DATA_HEAD.pack(size >> 8, size & 0xFF, frames.DATA, flags, stream_id, 0, length) + message)
            return
        outlet.queue.append(frames.PREFIX.pack(0, length))
        if length:
            outlet.queue.append(message)
        outlet.queued += size
        self.unsent += size
        outlet.ending = end
        self._fill(stream_id, outlet)

    def end(self, stream_id: int) -> None:
        """Says nothing more on a stream, once what waits is sent."""
        outlet = self._outlets.get(stream_id)
        if outlet is None:
            return
        if outlet.queue:
            outlet.ending = True
            return
        del self._outlets[stream_id]
        self.push(frames.head(0, frames.DATA, frames.END_STREAM, stream_id))

    def forget(self, stream_id: int) -> bool:
        """Throws away what waits on a stream, and the stream; answers whether it was open."""
        outlet = self._outlets.pop(stream_id, None)
        if outlet is None:
            return False
        self.unsent -= outlet.queued
        return True

    # ---- What the peer says ----

    def credit(self, stream_id: int, increment: int) -> None:
        """The peer takes so much more, on a stream or (0) on the connection; raises ProtocolError."""
        if not increment:
            raise ProtocolError("the server gives credit of nothing")
        if not stream_id:
            self._credit += increment
            if self._credit > frames.MAX_WINDOW:
                raise ProtocolError("the server gives more credit than there can be")
            self._fill_all()
            return
        outlet = self._outlets.get(stream_id)
        if outlet is not None:
            outlet.credit += increment
            if outlet.credit > frames.MAX_WINDOW:
                raise ProtocolError("the server gives a stream more credit than there can be")
            if outlet.queue:
                self._fill(stream_id, outlet)

    def limit_streams(self, credit: int) -> None:
        """Every stream begins with so much credit, those that are open too; raises ProtocolError."""
        if credit > frames.MAX_WINDOW:
            raise ProtocolError("the server gives streams more credit than there can be")
        for outlet in self._outlets.values():
            outlet.credit += credit - self._stream_credit
            if outlet.credit > frames.MAX_WINDOW:
                raise ProtocolError("the server gives a stream more credit than there can be")
        self._stream_credit = credit
        self._fill_all()

    def limit_frames(self, size: int) -> None:
        """The peer takes frames of so many bytes; raises ProtocolError."""
        if not frames.DEFAULT_FRAME_BYTES <= size < 1 << 24:
            raise ProtocolError(f"the server takes frames of {size} bytes, which can't be")
        self._peer_frame_bytes = size
        self._frame_bytes = min(size, _MAX_FRAME_BYTES)

    def _fill_all(self) -> None:
        for stream_id, outlet in list(self._outlets.items()):
            if outlet.queue:
                self._fill(stream_id, outlet)

    def _fill(self, stream_id: int, outlet: _Outlet) -> None:
        """Cuts what waits on a stream into frames, as far as credit goes."""
        queue = outlet.queue
        while queue:
            size = min(outlet.credit, self._credit, self._frame_bytes, outlet.queued)
            if size <= 0:
                return
            outlet.credit -= size
            self._credit -= size
            outlet.queued -= size
            self.unsent -= size  # `push` counts it again
            flags = 0
            if outlet.ending and not outlet.queued:
                flags = frames.END_STREAM
                del self._outlets[stream_id]
            self.push(frames.head(size, frames.DATA, flags, stream_id))
            while size:
                piece = queue[0]
                if len(piece) <= size:
                    queue.popleft()
                else:
                    view = memoryview(piece)
                    queue[0] = view[size:]
                    piece = view[:size]
                self.push(piece)
                size -= len(piece)
