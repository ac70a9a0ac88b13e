"""The frames of HTTP/2 (RFC 9113), and what a connection tells of them.

Owns: numbers, layouts and names; and `Message`, `Headers`, `Reset`, `Goaway`, the events of a connection. Units: bytes.
"""

import struct
from typing import NamedTuple

from tmem.wire.splice import BytesLike

from .headers import Fields

__all__ = ["Event", "Goaway", "Headers", "Message", "Reset"]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types of frames.
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS = 0, 1, 2, 3, 4
PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 5, 6, 7, 8, 9

# Flags. ACK is of settings and pings, END_STREAM of data and headers.
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

# Settings.
HEADER_TABLE_SIZE, ENABLE_PUSH, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = 1, 2, 4, 5, 6

# Error codes that this end sends.
NO_ERROR, CANCEL = 0, 8

HEAD_BYTES = 9
PREFIX_BYTES = 5
DEFAULT_WINDOW = 65_535
MAX_WINDOW = (1 << 31) - 1
MAX_STREAM_ID = (1 << 31) - 1
DEFAULT_FRAME_BYTES = 16_384

# Of a frame: its length (16 high bits, 8 low ones), type, flags, stream. Of a DATA frame that begins with a message, that and
# gRPC's prefix: whether it is compressed, and its length.
HEAD = struct.Struct(">HBBBI")
DATA_HEAD = struct.Struct(">HBBBIBI")
PREFIX = struct.Struct(">BI")
WORD = struct.Struct(">I")
SETTING = struct.Struct(">HI")


def head(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """The head of a frame."""
    return HEAD.pack(length >> 8, length & 0xFF, kind, flags, stream_id)


def window_update(stream_id: int, increment: int) -> bytes:
    """A frame that gives credit, to a stream or (0) to the connection."""
    return head(4, WINDOW_UPDATE, 0, stream_id) + WORD.pack(increment)


def rst_stream(stream_id: int, code: int) -> bytes:
    """A frame that ends a stream at once."""
    return head(4, RST_STREAM, 0, stream_id) + WORD.pack(code)


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
