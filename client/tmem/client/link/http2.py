"""HTTP/2 as a client of gRPC needs it, without a socket.

Owns: `Http2`, the client's end of one connection: what arrives is cut into frames, these into the messages that gRPC's 5-byte
prefixes announce; settings, and the credit that the peer has here. Bytes go in and come out as buffers; what happened comes out as
events, one at a time. What is sent is outbox.py's, header blocks are headers.py's.

Must not know: sockets, time, sessions, what a message means.

Ordering: the events of the bytes received so far must be taken (`next_event` until it answers None) before more bytes are
received. The data of a `Message` are valid until the next call of `next_event`: a long message lies in memory that the
next one uses again.

Copies: a message that arrived whole in one piece is cut out of the receive buffer. Of one that did not, what has arrived is moved to
memory of its announced length, and the rest is received straight into that. Units: bytes.
"""

from tmem.wire.errors import ProtocolError
from tmem.wire.limits import MAX_MESSAGE_BYTES
from tmem.wire.splice import BytesLike

from . import frames
from .frames import Event, Goaway, Headers, Message, Reset
from .headers import HeaderCodec
from .outbox import Outbox

__all__ = ["Http2"]

# One message may be as long as the contract lets it be, so one frame may.
_MAX_FRAME_BYTES = 4 << 20
_SCRATCH_BYTES = 128 << 10
_MAX_HEADER_BYTES = 64 << 10
# The peer's credit. Streams: two of the longest messages. Connection: as much as there can be, because every stream has its
# own bound and none may starve the others. Each is renewed when half of it is used, so that hardly any answer is followed
# by a renewal.
_STREAM_CREDIT = 2 * MAX_MESSAGE_BYTES
_CONNECTION_CREDIT = frames.MAX_WINDOW
# A message that is shorter is handed on as bytes: copying it costs less than looking at bytes through a view.
_VIEW_BYTES = 16 << 10
# Memory for long messages is taken in steps of this.
_ROOM_BYTES = 64 << 10

_SETTINGS = (
    (frames.ENABLE_PUSH, 0),
    (frames.INITIAL_WINDOW_SIZE, _STREAM_CREDIT),
    (frames.MAX_FRAME_SIZE, _MAX_FRAME_BYTES),
    (frames.MAX_HEADER_LIST_SIZE, _MAX_HEADER_BYTES),
)


class _Inlet:
    """The peer's direction of one stream.

    Attributes:
        credit: what the peer may send on it. used: what of that is not given back yet.
        self_crediting: it is given back as it arrives; else as it is consumed.
        prefix: the beginning of a message's prefix.
        message, have: a message that has arrived in part, and how much of it.
        memory: of the last long message.
    """

    __slots__ = ("credit", "have", "memory", "message", "prefix", "self_crediting", "used")

    def __init__(self, *, self_crediting: bool) -> None:
        self.credit = _STREAM_CREDIT
        self.used = 0
        self.self_crediting = self_crediting
        self.prefix = b""
        self.message: memoryview | None = None
        self.have = 0
        self.memory = memoryview(b"")


class Http2:
    """The client's end of a connection.

    Args:
        headers: packs and unpacks header blocks; this connection's alone.

    Attributes:
        outbox: what is to be sent.
        closing: the peer sent GOAWAY: streams go on, new ones can't be opened.
    """

    def __init__(self, headers: HeaderCodec) -> None:
        self._headers = headers
        self.outbox = Outbox()
        self.closing = False
        self._inlets: dict[int, _Inlet] = {}
        self._next_stream_id = 1
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0  # what of the scratch has arrived and is not taken yet
        self._data: _Inlet | None = None  # whose DATA frame is at hand
        self._data_id = self._data_left = self._data_padding = 0
        self._data_ends = False
        self._skip = 0  # payload that is of no interest: padding, unknown frames, data of streams that are no more
        self._then: Event | None = None  # what follows from the event told last
        self._block = bytearray()  # of headers that go on in CONTINUATION
        self._block_id = 0
        self._block_ends = False
        self._settled = False  # the peer's first settings came
        self._credit = _CONNECTION_CREDIT
        self._used = 0
        payload = b"".join(frames.SETTING.pack(*setting) for setting in _SETTINGS)
        renewal = frames.window_update(0, _CONNECTION_CREDIT - frames.DEFAULT_WINDOW)
        self.outbox.push(frames.PREFACE + frames.head(len(payload), frames.SETTINGS, 0, 0) + payload + renewal)

    # ---- Streams ----

    def open_stream(self, block: bytes, *, self_crediting: bool = True) -> int:
        """Begins a request; answers its stream's number.

        Args:
            block: its headers, packed.
            self_crediting: whether the peer may send on as soon as data arrive; else when they are `consumed`.
        """
        stream_id = self._next_stream_id
        assert stream_id <= frames.MAX_STREAM_ID
        self._next_stream_id += 2
        if self._next_stream_id > frames.MAX_STREAM_ID:
            self.closing = True  # no numbers are left
        self._inlets[stream_id] = _Inlet(self_crediting=self_crediting)
        self.outbox.open(stream_id, block)
        return stream_id

    def send(self, stream_id: int, message: BytesLike, *, end: bool = False) -> None:
        """Sends a message as far as the peer's credit goes, and the rest when there is more of it.

        Args:
            stream_id: a stream that was not ended by this end; nothing is sent if the peer has ended it.
            message: not to be changed before it is sent.
            end: whether this end says nothing more on the stream.
        """
        if stream_id in self._inlets:
            self.outbox.send(stream_id, message, end=end)

    def half_close(self, stream_id: int) -> None:
        """Says nothing more on a stream, once what waits is sent."""
        if stream_id in self._inlets:
            self.outbox.end(stream_id)

    def reset(self, stream_id: int) -> None:
        """Ends a stream at once, in both directions; what arrives on it is thrown away."""
        inlet = self._inlets.pop(stream_id, None)
        if inlet is not None:
            if inlet is self._data:
                self._skip = self._data_left + self._data_padding
                self._data = None
            self.outbox.forget(stream_id)
            self.outbox.push(frames.rst_stream(stream_id, frames.CANCEL))

    def consumed(self, stream_id: int, count: int) -> None:
        """The user of a stream that is not self-crediting has taken a message of so many bytes."""
        inlet = self._inlets.get(stream_id)
        if inlet is not None:
            self._give_credit(stream_id, inlet, count + frames.PREFIX_BYTES)

    def _find(self, stream_id: int) -> _Inlet | None:
        """The stream that a frame speaks of; None for one that is no more."""
        if stream_id >= self._next_stream_id or not stream_id & 1:
            raise ProtocolError(f"a frame for stream {stream_id}, which was not opened")
        return self._inlets.get(stream_id)

    def _end_stream(self, stream_id: int, inlet: _Inlet) -> None:
        """The peer says nothing more on a stream: whatever is left to say to it is of no interest."""
        if inlet.message is not None or inlet.prefix:
            raise ProtocolError("a stream ended within a message")
        del self._inlets[stream_id]
        if self.outbox.forget(stream_id):
            self.outbox.push(frames.rst_stream(stream_id, frames.NO_ERROR))

    # ---- Receiving ----

    def buffers(self) -> list[memoryview]:
        """Where to receive to, in this order; how many bytes came must be told to `received`."""
        inlet = self._data
        if self._data_left and inlet is not None and inlet.message is not None:
            # The scratch is empty: what came of this frame is where it belongs already.
            return [inlet.message[inlet.have :][: self._data_left], self._view]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._start > _SCRATCH_BYTES // 2:
            count = self._end - self._start
            self._scratch[:count] = self._scratch[self._start : self._end]
            self._start, self._end = 0, count
        return [self._view[self._end :]]

    def received(self, count: int) -> None:
        """So many bytes came into the buffers."""
        inlet = self._data
        if self._data_left and inlet is not None and inlet.message is not None:
            direct = min(count, self._data_left, len(inlet.message) - inlet.have)
            inlet.have += direct
            self._data_left -= direct
            self._start, self._end = 0, count - direct
        else:
            self._end += count

    def next_event(self) -> Event | None:
        """What happened next in the bytes received so far; None when nothing more can be told.

        Raises:
            ProtocolError: the peer breaks the protocol; the connection is of no use any more.
        """
        while True:
            if self._data is not None:
                message = self._take_data(self._data)
                if not self._data_left:
                    self._end_data(self._data)
                if message is not None:
                    return message
                if self._data is not None:
                    return None
            if self._then is not None:
                event, self._then = self._then, None
                return event
            if self._skip:
                count = min(self._skip, self._end - self._start)
                self._skip -= count
                self._start += count
                if self._skip:
                    return None
            begin = self._start + frames.HEAD_BYTES
            if begin > self._end:
                return None
            high, low, kind, flags, stream_id = frames.HEAD.unpack_from(self._scratch, self._start)
            length = high << 8 | low
            stream_id &= frames.MAX_STREAM_ID
            if kind == frames.DATA and not flags and (message := self._take_lone(begin, length, stream_id)) is not None:
                return message
            self._check_head(length, kind, stream_id)
            if kind == frames.DATA:
                if not self._begin_data(length, flags, stream_id):
                    return None
            elif kind == frames.PRIORITY or kind > frames.CONTINUATION:
                self._start = begin
                self._skip = length
            elif begin + length > self._end:
                return None
            elif kind == frames.WINDOW_UPDATE:
                self._start = begin + length
                self._take_credit(length, stream_id, begin)  # comes with nearly every answer
            else:
                self._start = begin + length
                found = self._take_control(kind, flags, stream_id, bytes(self._view[begin : self._start]))
                if found is not None:
                    return found

    def _check_head(self, length: int, kind: int, stream_id: int) -> None:
        if not self._settled and (kind != frames.SETTINGS or length > _MAX_HEADER_BYTES):
            raise ProtocolError("the server does not begin as HTTP/2 does")
        if self._block_id and (kind != frames.CONTINUATION or stream_id != self._block_id):
            raise ProtocolError("a header block was not continued")
        if length > _MAX_FRAME_BYTES or (
            length > _MAX_HEADER_BYTES and kind <= frames.CONTINUATION and kind not in {frames.DATA, frames.PRIORITY}
        ):
            raise ProtocolError(f"a frame of type {kind} has {length} bytes")

    # ---- Data ----

    def _begin_data(self, length: int, flags: int, stream_id: int) -> bool:
        """Takes the head of a DATA frame; False while it is not there yet."""
        begin = self._start + frames.HEAD_BYTES
        padding = 0  # with the byte that says how much there is
        if flags & frames.PADDED:
            if length and begin >= self._end:
                return False
            padding = self._scratch[begin] + 1 if length else 1
            begin += 1
            if padding > length:
                raise ProtocolError("a frame is shorter than its padding")
        inlet = self._find(stream_id)
        self._charge(stream_id, inlet, length, padding)
        self._start = begin
        if inlet is None:
            self._skip = length - bool(padding)
            return True
        self._data, self._data_id = inlet, stream_id
        self._data_left = length - padding
        self._data_padding = padding - bool(padding)
        self._data_ends = bool(flags & frames.END_STREAM)
        return True

    def _take_lone(self, begin: int, length: int, stream_id: int) -> Message | None:
        """A DATA frame that has arrived whole and is one message, which most are; None: look closer.

        What this does not check is so, or the frame is none of these: a block of headers is followed by its continuation, the
        first frame is settings, padding has a flag.
        """
        inlet = self._inlets.get(stream_id)
        end = begin + length
        if (
            inlet is None
            or end > self._end
            or length < frames.PREFIX_BYTES
            or inlet.message is not None
            or inlet.prefix
            or not inlet.self_crediting
            or inlet.used + length > _STREAM_CREDIT // 2
            or self._used + length > _CONNECTION_CREDIT // 2
            or self._block_id
            or not self._settled
        ):
            return None
        compressed, size = frames.PREFIX.unpack_from(self._scratch, begin)
        if compressed or size != length - frames.PREFIX_BYTES:
            return None
        # Less than half of the credit is used, so there was enough.
        self._credit -= length
        self._used += length
        inlet.credit -= length
        inlet.used += length
        self._start = end
        data = self._view[begin + frames.PREFIX_BYTES : end]
        return Message(stream_id, data if size > _VIEW_BYTES else bytes(data))

    def _charge(self, stream_id: int, inlet: _Inlet | None, length: int, padding: int) -> None:
        """Counts a DATA frame against the peer's credit."""
        self._credit -= length
        self._used += length
        if self._credit < 0:
            raise ProtocolError("the server sent more than it had credit for")
        if self._used > _CONNECTION_CREDIT // 2:
            self._credit += self._used
            self.outbox.answer(frames.window_update(0, self._used))
            self._used = 0
        if inlet is not None:
            inlet.credit -= length
            if inlet.credit < 0:
                raise ProtocolError("the server sent more on a stream than it had credit for")
            self._give_credit(stream_id, inlet, length if inlet.self_crediting else padding)

    def _give_credit(self, stream_id: int, inlet: _Inlet, count: int) -> None:
        inlet.used += count
        if inlet.used > _STREAM_CREDIT // 2:
            inlet.credit += inlet.used
            self.outbox.answer(frames.window_update(stream_id, inlet.used))
            inlet.used = 0

    def _take_data(self, inlet: _Inlet) -> Message | None:
        """Takes what has arrived of the DATA frame at hand, up to the end of a message."""
        message = inlet.message
        while True:
            if message is None:
                length = self._take_prefix(inlet)
                if length is None:
                    return None
                start = self._start
                if length <= self._data_left and length <= self._end - start:
                    self._start += length
                    self._data_left -= length
                    return self._message(self._view[start : self._start])
                message = inlet.message = self._room(inlet, length)
                inlet.have = 0
            count = min(len(message) - inlet.have, self._data_left, self._end - self._start)
            if count:
                message[inlet.have : inlet.have + count] = self._view[self._start : self._start + count]
                inlet.have += count
                self._start += count
                self._data_left -= count
            if inlet.have < len(message):
                return None
            inlet.message = None
            return self._message(message)

    def _take_prefix(self, inlet: _Inlet) -> int | None:
        """The length of the message that begins here; None while that has not arrived."""
        start = self._start
        available = min(self._data_left, self._end - start)
        if available >= frames.PREFIX_BYTES and not inlet.prefix:
            compressed, length = frames.PREFIX.unpack_from(self._scratch, start)
            self._start += frames.PREFIX_BYTES
            self._data_left -= frames.PREFIX_BYTES
        else:
            taken = min(frames.PREFIX_BYTES - len(inlet.prefix), available)
            inlet.prefix += self._view[start : start + taken]
            self._start += taken
            self._data_left -= taken
            if len(inlet.prefix) < frames.PREFIX_BYTES:
                return None
            compressed, length = frames.PREFIX.unpack(inlet.prefix)
            inlet.prefix = b""
        if compressed:
            raise ProtocolError("a message is compressed, which nobody asked for")
        if length > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message claims {length} bytes; {MAX_MESSAGE_BYTES} are allowed")
        return int(length)

    @staticmethod
    def _room(inlet: _Inlet, length: int) -> memoryview:
        if len(inlet.memory) < length:
            inlet.memory = memoryview(bytearray(-(-length // _ROOM_BYTES) * _ROOM_BYTES))
        return inlet.memory[:length]

    def _message(self, data: memoryview) -> Message:
        return Message(self._data_id, data if len(data) > _VIEW_BYTES else bytes(data))

    def _end_data(self, inlet: _Inlet) -> None:
        """The data of the frame at hand are taken."""
        self._data = None
        self._skip = self._data_padding
        if self._data_ends:
            self._end_stream(self._data_id, inlet)
            self._then = Headers(self._data_id, [], ended=True)

    # ---- Everything else ----

    def _take_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Takes a whole frame that carries neither data nor credit."""
        if kind == frames.HEADERS:
            return self._take_headers(flags, stream_id, payload)
        if kind == frames.CONTINUATION:
            if not self._block_id:
                raise ProtocolError("a continuation of nothing")
            return self._take_block(payload, flags)
        if kind == frames.PING:
            if len(payload) != 8 or stream_id:
                raise ProtocolError("a ping that is none")
            if not flags & frames.ACK:
                self.outbox.answer(frames.head(8, frames.PING, frames.ACK, 0) + payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, stream_id, payload)
        elif kind == frames.RST_STREAM:
            if len(payload) != 4:
                raise ProtocolError("a reset that is none")
            if self._find(stream_id) is not None:
                del self._inlets[stream_id]
                self.outbox.forget(stream_id)
                return Reset(stream_id, frames.WORD.unpack(payload)[0])
        elif kind == frames.GOAWAY:
            if len(payload) < 8 or stream_id:
                raise ProtocolError("a goodbye that is none")
            self.closing = True
            last = frames.WORD.unpack_from(payload)[0] & frames.MAX_STREAM_ID
            return Goaway(last, frames.WORD.unpack_from(payload, 4)[0], payload[8:].decode(errors="replace"))
        else:
            raise ProtocolError("the server pushes, which was forbidden")
        return None

    def _take_credit(self, length: int, stream_id: int, begin: int) -> None:
        if length != 4:
            raise ProtocolError("credit that is none")
        if stream_id:
            self._find(stream_id)
        self.outbox.credit(stream_id, frames.WORD.unpack_from(self._scratch, begin)[0] & frames.MAX_WINDOW)

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._find(stream_id)
        begin, end = 0, len(payload)
        if flags & frames.PADDED:
            begin = 1
            end -= payload[0] if payload else 1
        if flags & frames.HAS_PRIORITY:
            begin += 5
        if begin > end:
            raise ProtocolError("a frame is shorter than its padding")
        self._block.clear()
        self._block_id = stream_id
        self._block_ends = bool(flags & frames.END_STREAM)
        return self._take_block(payload[begin:end], flags)

    def _take_block(self, piece: bytes, flags: int) -> Event | None:
        self._block += piece
        if len(self._block) > _MAX_HEADER_BYTES:
            raise ProtocolError("a header block is too long")
        if not flags & frames.END_HEADERS:
            return None
        stream_id, self._block_id = self._block_id, 0
        # Also of a stream that is no more: the table of fields is one for the whole connection.
        fields = self._headers.decode(bytes(self._block))
        inlet = self._inlets.get(stream_id)
        if inlet is None:
            return None
        if self._block_ends:
            self._end_stream(stream_id, inlet)
        return Headers(stream_id, fields, self._block_ends)

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) % frames.SETTING.size:
            raise ProtocolError("settings that are none")
        if flags & frames.ACK:
            return
        self._settled = True
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.HEADER_TABLE_SIZE:
                self._headers.limit_table(value)
            elif name == frames.INITIAL_WINDOW_SIZE:
                self.outbox.limit_streams(value)
            elif name == frames.MAX_FRAME_SIZE:
                self.outbox.limit_frames(value)
        self.outbox.answer(frames.head(0, frames.SETTINGS, frames.ACK, 0))
