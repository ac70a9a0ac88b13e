"""HTTP/2 (RFC 9113) as a client of gRPC needs it, without a socket.

Owns: `Http2`, the client's end of one connection: frames, settings, flow control both ways, and the messages that gRPC's
5-byte prefixes cut the data into. Bytes go in and come out as buffers; what happened comes out as events, one at a time.
Header blocks are packed and unpacked by headers.py.

Must not know: sockets, time, sessions, what a message means.

Ordering: the events of the bytes received so far must be taken (`next_event` until it answers None) before more bytes are
received. The data of a `Message` are valid until the next call of `next_event`: a large message lies in a buffer that the
next one uses again.

Copies: a message that arrived whole in one piece is sliced out of the receive buffer. Of one that did not, what has arrived is moved
to a buffer of its announced length, and the rest is received straight into that. Units: bytes.
"""

import struct
from collections import deque
from typing import NamedTuple

from tmem.wire.errors import ProtocolError
from tmem.wire.limits import MAX_MESSAGE_BYTES
from tmem.wire.splice import BytesLike

from .headers import Fields, HeaderCodec

__all__ = ["ErrorCode", "Event", "Goaway", "Headers", "Http2", "Message", "Reset"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types.
_DATA, _HEADERS, _PRIORITY, _RST_STREAM, _SETTINGS = 0, 1, 2, 3, 4
_PUSH_PROMISE, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 5, 6, 7, 8, 9
# Flags; ACK of a SETTINGS or PING is the bit that END_STREAM is elsewhere.
_END_STREAM = _ACK = 0x1
_END_HEADERS, _PADDED, _PRIORITY_FLAG = 0x4, 0x8, 0x20
# Settings.
_HEADER_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE, _MAX_HEADER_LIST_SIZE = 1, 2, 4, 5, 6

_HEAD_BYTES = 9
_PREFIX_BYTES = 5
_DEFAULT_WINDOW = 65_535
_MAX_WINDOW = (1 << 31) - 1
_MAX_STREAM_ID = (1 << 31) - 1
_DEFAULT_FRAME_BYTES = 16_384

# What is received. One message may be as long as the contract lets it be, so one frame may.
_MAX_FRAME_BYTES = 4 << 20
_SCRATCH_BYTES = 128 << 10
_MAX_HEADER_BYTES = 64 << 10
# The peer's credit. Streams: two of the longest messages. Connection: as much as there can be, because every stream has its
# own bound and none may starve the others. Each is renewed when half of it is used, so that a renewal rarely leaves alone.
_STREAM_WINDOW = 2 * MAX_MESSAGE_BYTES
_CONNECTION_WINDOW = _MAX_WINDOW
# A message that is shorter is answered as bytes: copying it costs less than looking at bytes through a view.
_VIEW_BYTES = 16 << 10
# What is sent: a longer frame would keep other streams' waiting too long.
_MAX_SENT_FRAME_BYTES = 256 << 10
# Memory for long messages is taken in steps of this.
_ROOM_BYTES = 64 << 10
# A peer that makes us answer (pings, settings) and takes no answers.
_MAX_CONTROL_BYTES = 1 << 20

_HEAD = struct.Struct(">HBBBI")  # length (16 high bits, 8 low bits), type, flags, stream
_DATA_HEAD = struct.Struct(">HBBBIBI")  # the same, then gRPC's compressed flag and length
_WORD = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_PREFIX = struct.Struct(">BI")


class ErrorCode:
    """Error codes of RST_STREAM and GOAWAY that this end sends or tells apart."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    FLOW_CONTROL_ERROR = 3
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12


class Message(NamedTuple):
    """A whole gRPC message arrived on a stream; `data` are valid until the next event is taken."""

    stream_id: int
    data: BytesLike


class Headers(NamedTuple):
    """Header fields arrived: the response's, or with `ended` its trailers (none, if the peer left them out)."""

    stream_id: int
    fields: Fields
    ended: bool


class Reset(NamedTuple):
    """The peer ended a stream with an error code."""

    stream_id: int
    code: int


class Goaway(NamedTuple):
    """The peer takes no new streams; those above `last_stream_id` it has not looked at."""

    last_stream_id: int
    code: int
    details: str


Event = Message | Headers | Reset | Goaway


class _Stream:
    """One stream that is open in at least one direction.

    Attributes:
        window: what may be sent on it. queue, ending: what waits for that, and whether the stream ends after it.
        credit: what the peer may send on it. used: what of that is not given back yet; self_crediting: it is given
            back as it arrives.
        prefix: the beginning of a message's prefix. message, have: a message that has arrived in part, and how much of it.
        buffer: the memory of the last long message.
    """

    __slots__ = (
        *("buffer", "credit", "ending", "have", "local_open", "message", "prefix", "queue"),
        *("queued", "self_crediting", "used", "window"),
    )

    def __init__(self, window: int, *, self_crediting: bool) -> None:
        self.window = window
        self.queue: deque[BytesLike] = deque()
        self.queued = 0
        self.ending = False
        self.local_open = True
        self.credit = _STREAM_WINDOW
        self.used = 0
        self.self_crediting = self_crediting
        self.prefix = b""
        self.message: memoryview | None = None
        self.have = 0
        self.buffer = memoryview(b"")


def _head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    return _HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


class Http2:
    """The client's end of a connection.

    Args:
        headers: packs and unpacks header blocks; this connection's alone.

    Attributes:
        closing: the peer sent GOAWAY: streams go on, new ones can't be opened.
        outgoing: what is to be written, in order; as much as is written must be told to `sent`.
    """

    def __init__(self, headers: HeaderCodec) -> None:
        self._headers = headers
        self._streams: dict[int, _Stream] = {}
        self._next_stream_id = 1
        self.closing = False
        # Receiving.
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._view = memoryview(self._scratch)
        self._start = self._end = 0  # what of the scratch has arrived and is not taken yet
        self._data: _Stream | None = None  # whose DATA frame is at hand
        self._data_id = self._data_left = self._data_padding = 0
        self._data_ends = False
        self._then: Event | None = None  # what follows from the event told last
        self._skip = 0  # payload that is of no interest: padding, unknown frames, data of streams that are no more
        self._block = bytearray()  # of a HEADERS frame that goes on in CONTINUATION
        self._block_id = 0
        self._block_ends = False
        self._settled = False  # the peer's first SETTINGS came
        self._credit = _CONNECTION_WINDOW
        self._used = 0
        # Sending.
        self.outgoing: deque[BytesLike] = deque()
        self._unsent = 0
        self._control_bytes = 0
        self._window = _DEFAULT_WINDOW
        self._peer_stream_window = _DEFAULT_WINDOW
        self._peer_frame_bytes = _DEFAULT_FRAME_BYTES
        settings = (
            (_ENABLE_PUSH, 0),
            (_INITIAL_WINDOW_SIZE, _STREAM_WINDOW),
            (_MAX_FRAME_SIZE, _MAX_FRAME_BYTES),
            (_MAX_HEADER_LIST_SIZE, _MAX_HEADER_BYTES),
        )
        payload = b"".join(_SETTING.pack(*setting) for setting in settings)
        renewal = _head(4, _WINDOW_UPDATE, 0, 0) + _WORD.pack(_CONNECTION_WINDOW - _DEFAULT_WINDOW)
        self._push(_PREFACE + _head(len(payload), _SETTINGS, 0, 0) + payload + renewal)

    # ---- Sending ----

    def open_stream(self, block: bytes, *, self_crediting: bool = True) -> int:
        """Begins a request; answers its stream's number.

        Args:
            block: its headers, packed.
            self_crediting: whether the peer may send on as soon as data arrive; else when they are `consumed`.
        """
        stream_id = self._next_stream_id
        assert stream_id <= _MAX_STREAM_ID
        self._next_stream_id += 2
        if self._next_stream_id > _MAX_STREAM_ID:
            self.closing = True  # no numbers are left
        self._streams[stream_id] = _Stream(self._peer_stream_window, self_crediting=self_crediting)
        size = self._peer_frame_bytes
        kind = _HEADERS
        for at in range(0, len(block), size):
            piece = block[at : at + size]
            flags = _END_HEADERS if at + size >= len(block) else 0
            self._push(_head(len(piece), kind, flags, stream_id) + piece)
            kind = _CONTINUATION
        return stream_id

    def send(self, stream_id: int, message: BytesLike, *, end: bool = False) -> None:
        """Sends a message as far as the peer's credit goes, and the rest when there is more of it.

        Args:
            stream_id: a stream that is open and not half-closed; nothing is sent if it has ended meanwhile.
            message: not to be changed before it is sent.
            end: whether this end says nothing more on the stream.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        assert stream.local_open
        assert not stream.ending
        length = len(message)
        size = length + _PREFIX_BYTES
        if not stream.queue and size <= min(stream.window, self._window, self._peer_frame_bytes, _MAX_SENT_FRAME_BYTES):
            stream.window -= size
            self._window -= size
            flags = _END_STREAM if end else 0
            if end:
                self._close_local(stream_id, stream)
            self._push(_DATA_HEAD.pack(size >> 8, size & 0xFF, _DATA, flags, stream_id, 0, length) + message)
            return
        stream.queue.append(_PREFIX.pack(0, length))
        stream.queue.append(memoryview(message))
        stream.queued += size
        stream.ending = end
        self._fill(stream_id, stream)

    def half_close(self, stream_id: int) -> None:
        """Says nothing more on a stream, once what waits is sent."""
        stream = self._streams.get(stream_id)
        if stream is None or not stream.local_open or stream.ending:
            return
        if stream.queue:
            stream.ending = True
            return
        self._close_local(stream_id, stream)
        self._push(_head(0, _DATA, _END_STREAM, stream_id))

    def reset(self, stream_id: int, code: int = ErrorCode.CANCEL) -> None:
        """Ends a stream at once, in both directions; what arrives on it is thrown away."""
        if self._streams.pop(stream_id, None) is not None:
            self._push(_head(4, _RST_STREAM, 0, stream_id) + _WORD.pack(code))

    def consumed(self, stream_id: int, count: int) -> None:
        """The user of a stream that is not self-crediting has taken so many bytes of messages."""
        stream = self._streams.get(stream_id)
        if stream is not None:
            self._give_credit(stream_id, stream, count)

    @property
    def unsent(self) -> int:
        """Bytes that are to be written or wait for the peer's credit."""
        return self._unsent + sum(stream.queued for stream in self._streams.values())

    def sent(self, count: int) -> None:
        """So many bytes of what is outgoing were written."""
        out = self.outgoing
        self._unsent -= count
        while count:
            first = out[0]
            size = len(first)
            if count < size:
                out[0] = memoryview(first)[count:]
                return
            out.popleft()
            count -= size
        if not out:
            self._control_bytes = 0

    def _push(self, data: BytesLike) -> None:
        self.outgoing.append(data)
        self._unsent += len(data)

    def _answer(self, data: bytes) -> None:
        """Sends what the peer made us send."""
        self._control_bytes += len(data)
        if self._control_bytes > _MAX_CONTROL_BYTES:
            raise ProtocolError("the server asks for answers and takes none")
        self._push(data)

    def _fill(self, stream_id: int, stream: _Stream) -> None:
        """Cuts what waits on a stream into frames, as far as credit goes."""
        queue = stream.queue
        most = min(self._peer_frame_bytes, _MAX_SENT_FRAME_BYTES)
        while queue:
            room = min(stream.window, self._window, most)
            if room <= 0:
                return
            size = min(room, stream.queued)
            stream.queued -= size
            stream.window -= size
            self._window -= size
            flags = 0
            if stream.ending and not stream.queued:
                flags = _END_STREAM
                self._close_local(stream_id, stream)
            self._push(_head(size, _DATA, flags, stream_id))
            while size:
                piece = queue[0]
                if len(piece) <= size:
                    queue.popleft()
                else:
                    view = memoryview(piece)
                    queue[0] = view[size:]
                    piece = view[:size]
                self._push(piece)
                size -= len(piece)

    def _fill_all(self) -> None:
        for stream_id, stream in list(self._streams.items()):
            if stream.queue:
                self._fill(stream_id, stream)

    @staticmethod
    def _close_local(_stream_id: int, stream: _Stream) -> None:
        stream.local_open = False
        stream.ending = False

    # ---- Receiving ----

    def buffers(self) -> list[memoryview]:
        """Where to receive to, in this order; how many bytes came must be told to `received`."""
        stream = self._data
        if self._data_left and stream is not None and stream.message is not None:
            # The scratch is empty: what came of this frame is where it belongs already.
            rest = stream.message[stream.have :]
            return [rest[: self._data_left], self._view]
        if self._start == self._end:
            self._start = self._end = 0
        elif self._end == _SCRATCH_BYTES or self._start > _SCRATCH_BYTES // 2:
            count = self._end - self._start
            self._scratch[:count] = self._scratch[self._start : self._end]
            self._start, self._end = 0, count
        return [self._view[self._end :]]

    def received(self, count: int) -> None:
        """So many bytes came into the buffers."""
        stream = self._data
        if self._data_left and stream is not None and stream.message is not None:
            direct = min(count, self._data_left, len(stream.message) - stream.have)
            stream.have += direct
            self._data_left -= direct
            self._start, self._end = 0, count - direct
        else:
            self._end += count

    def next_event(self) -> Event | None:
        """What happened next in the bytes received so far; None when nothing more can be told.

        Raises:
            ProtocolError: the peer breaks the protocol; the connection is of no use any more.
        """
        if self._then is not None:
            event, self._then = self._then, None
            return event
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
            available = self._end - self._start
            if available < _HEAD_BYTES:
                return None
            high, low, kind, flags, stream_id = _HEAD.unpack_from(self._scratch, self._start)
            length = high << 8 | low
            stream_id &= _MAX_STREAM_ID
            self._check_head(length, kind, stream_id)
            if kind == _DATA:
                if not self._begin_data(length, flags, stream_id, available):
                    return None
            elif kind > _CONTINUATION or kind == _PRIORITY:
                self._start += _HEAD_BYTES
                self._skip = length
            elif available < _HEAD_BYTES + length:
                return None
            else:
                begin = self._start + _HEAD_BYTES
                self._start = begin + length
                found = self._control(kind, flags, stream_id, bytes(self._view[begin : begin + length]))
                if found is not None:
                    return found

    def _check_head(self, length: int, kind: int, stream_id: int) -> None:
        if length > _MAX_FRAME_BYTES or not (self._settled or kind == _SETTINGS):
            raise ProtocolError("the server does not begin as HTTP/2 does")
        if self._block_id and (kind != _CONTINUATION or stream_id != self._block_id):
            raise ProtocolError("a header block was not continued")
        if kind not in {_DATA, _PRIORITY} and kind <= _CONTINUATION and length > _MAX_HEADER_BYTES:
            raise ProtocolError(f"a frame of type {kind} has {length} bytes")

    def _find(self, stream_id: int) -> _Stream | None:
        """The stream that a frame speaks of; None for one that is no more."""
        if stream_id >= self._next_stream_id or not stream_id % 2:
            raise ProtocolError(f"a frame for stream {stream_id}, which was not opened")
        return self._streams.get(stream_id)

    def _end_remote(self, stream_id: int, stream: _Stream) -> None:
        """The peer says nothing more on a stream: whatever is left to say to it is of no interest."""
        if stream.message is not None or stream.prefix:
            raise ProtocolError("a stream ended within a message")
        del self._streams[stream_id]
        if stream.local_open:
            self._push(_head(4, _RST_STREAM, 0, stream_id) + _WORD.pack(ErrorCode.NO_ERROR))

    # ---- Data ----

    def _begin_data(self, length: int, flags: int, stream_id: int, available: int) -> bool:
        """Takes the head of a DATA frame; False while it is not there yet."""
        head, padding = _HEAD_BYTES, 0
        if flags & _PADDED:
            head += 1
            if available < head:
                return False
            padding = self._scratch[self._start + _HEAD_BYTES] + 1
            if padding > length:
                raise ProtocolError("a frame is shorter than its padding")
        stream = self._find(stream_id)
        self._charge(stream_id, stream, length, padding)
        self._start += head
        if stream is None:
            self._skip = length - (head - _HEAD_BYTES)
            return True
        self._data, self._data_id = stream, stream_id
        self._data_left = length - padding
        self._data_padding = padding - (head - _HEAD_BYTES)
        self._data_ends = bool(flags & _END_STREAM)
        return True

    def _charge(self, stream_id: int, stream: _Stream | None, length: int, padding: int) -> None:
        """Counts a DATA frame against the peer's credit."""
        self._credit -= length
        self._used += length
        if self._credit < 0:
            raise ProtocolError("the server sent more than it had credit for")
        if self._used > _CONNECTION_WINDOW // 2:
            self._credit += self._used
            self._answer(_head(4, _WINDOW_UPDATE, 0, 0) + _WORD.pack(self._used))
            self._used = 0
        if stream is not None:
            stream.credit -= length
            if stream.credit < 0:
                raise ProtocolError("the server sent more on a stream than it had credit for")
            self._give_credit(stream_id, stream, length if stream.self_crediting else padding)

    def _give_credit(self, stream_id: int, stream: _Stream, count: int) -> None:
        stream.used += count
        if stream.used > _STREAM_WINDOW // 2:
            stream.credit += stream.used
            self._answer(_head(4, _WINDOW_UPDATE, 0, stream_id) + _WORD.pack(stream.used))
            stream.used = 0

    def _take_data(self, stream: _Stream) -> Message | None:
        """Takes what has arrived of the DATA frame at hand, up to the end of a message."""
        while True:
            message = stream.message
            if message is None:
                length = self._take_prefix(stream)
                if length is None:
                    return None
                start = self._start
                if length <= self._data_left and length <= self._end - start:
                    self._start += length
                    self._data_left -= length
                    return self._message(self._view[start : self._start])
                message = stream.message = self._room(stream, length)
                stream.have = 0
            count = min(len(message) - stream.have, self._data_left, self._end - self._start)
            if count:
                message[stream.have : stream.have + count] = self._view[self._start : self._start + count]
                stream.have += count
                self._start += count
                self._data_left -= count
            if stream.have < len(message):
                return None
            stream.message = None
            return self._message(message)

    def _take_prefix(self, stream: _Stream) -> int | None:
        """The length of the message that begins here; None while that has not arrived."""
        start = self._start
        available = min(self._data_left, self._end - start)
        if not stream.prefix and available >= _PREFIX_BYTES:
            prefix: BytesLike = self._view[start : start + _PREFIX_BYTES]
            taken = _PREFIX_BYTES
        else:
            taken = min(_PREFIX_BYTES - len(stream.prefix), available)
            prefix = stream.prefix = stream.prefix + self._view[start : start + taken]
        self._start += taken
        self._data_left -= taken
        if len(prefix) < _PREFIX_BYTES:
            return None
        stream.prefix = b""
        compressed, length = _PREFIX.unpack(prefix)
        if compressed:
            raise ProtocolError("a message is compressed, which nobody asked for")
        if length > MAX_MESSAGE_BYTES:
            raise ProtocolError(f"a message claims {length} bytes; {MAX_MESSAGE_BYTES} are allowed")
        assert isinstance(length, int)
        return length

    @staticmethod
    def _room(stream: _Stream, length: int) -> memoryview:
        if len(stream.buffer) < length:
            stream.buffer = memoryview(bytearray(-(-length // _ROOM_BYTES) * _ROOM_BYTES))
        return stream.buffer[:length]

    def _message(self, data: memoryview) -> Message:
        return Message(self._data_id, data if len(data) > _VIEW_BYTES else bytes(data))

    def _end_data(self, stream: _Stream) -> None:
        """The data of the frame at hand are taken."""
        self._data = None
        self._skip = self._data_padding
        if self._data_ends:
            self._end_remote(self._data_id, stream)
            self._then = Headers(self._data_id, [], ended=True)

    # ---- Everything else ----

    def _control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Takes a whole frame that carries no data."""
        if kind == _HEADERS:
            return self._take_headers(flags, stream_id, payload)
        if kind == _CONTINUATION:
            if not self._block_id:
                raise ProtocolError("a continuation of nothing")
            return self._take_block(payload, flags)
        if kind == _WINDOW_UPDATE:
            self._take_window(stream_id, payload)
        elif kind == _PING:
            if len(payload) != 8 or stream_id:
                raise ProtocolError("a ping that is none")
            if not flags & _ACK:
                self._answer(_head(8, _PING, _ACK, 0) + payload)
        elif kind == _SETTINGS:
            self._take_settings(flags, stream_id, payload)
        elif kind == _RST_STREAM:
            if len(payload) != 4:
                raise ProtocolError("a reset that is none")
            if self._find(stream_id) is not None:
                del self._streams[stream_id]
                return Reset(stream_id, _WORD.unpack(payload)[0])
        elif kind == _GOAWAY:
            if len(payload) < 8 or stream_id:
                raise ProtocolError("a goodbye that is none")
            self.closing = True
            last = _WORD.unpack_from(payload)[0] & _MAX_STREAM_ID
            return Goaway(last, _WORD.unpack_from(payload, 4)[0], payload[8:].decode(errors="replace"))
        else:  # PUSH_PROMISE
            raise ProtocolError("the server pushes, which was forbidden")
        return None

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        self._find(stream_id)
        begin, end = 0, len(payload)
        if flags & _PADDED:
            begin = 1
            end -= payload[0] if payload else 1
        if flags & _PRIORITY_FLAG:
            begin += 5
        if begin > end:
            raise ProtocolError("a frame is shorter than its padding")
        self._block.clear()
        self._block_id = stream_id
        self._block_ends = bool(flags & _END_STREAM)
        return self._take_block(payload[begin:end], flags)

    def _take_block(self, piece: bytes, flags: int) -> Event | None:
        self._block += piece
        if len(self._block) > _MAX_HEADER_BYTES:
            raise ProtocolError("a header block is too long")
        if not flags & _END_HEADERS:
            return None
        stream_id, self._block_id = self._block_id, 0
        # Also of a stream that is no more: the table of fields is one for the connection.
        fields = self._headers.decode(bytes(self._block))
        stream = self._streams.get(stream_id)
        if stream is None:
            return None
        if self._block_ends:
            self._end_remote(stream_id, stream)
        return Headers(stream_id, fields, self._block_ends)

    def _take_window(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError("a window update that is none")
        increment = _WORD.unpack(payload)[0] & _MAX_WINDOW
        if not increment:
            raise ProtocolError("a window update of nothing")
        if not stream_id:
            self._window += increment
            if self._window > _MAX_WINDOW:
                raise ProtocolError("the server gives more credit than there can be")
            self._fill_all()
            return
        stream = self._find(stream_id)
        if stream is not None:
            stream.window += increment
            if stream.window > _MAX_WINDOW:
                raise ProtocolError("the server gives a stream more credit than there can be")
            self._fill(stream_id, stream)

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) % _SETTING.size:
            raise ProtocolError("settings that are none")
        if flags & _ACK:
            return
        self._settled = True
        for name, value in _SETTING.iter_unpack(payload):
            if name == _HEADER_TABLE_SIZE:
                self._headers.limit_table(value)
            elif name == _INITIAL_WINDOW_SIZE:
                if value > _MAX_WINDOW:
                    raise ProtocolError("the server gives streams more credit than there can be")
                for stream in self._streams.values():
                    stream.window += value - self._peer_stream_window
                self._peer_stream_window = value
            elif name == _MAX_FRAME_SIZE:
                if not _DEFAULT_FRAME_BYTES <= value < 1 << 24:
                    raise ProtocolError(f"the server takes frames of {value} bytes, which can't be")
                self._peer_frame_bytes = value
        self._answer(_head(0, _SETTINGS, _ACK, 0))
        self._fill_all()
