"""The other end of a connection, for tests of the pure parts: frames by hand, and bytes fed in pieces."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import hpack

from tmem.client.link import frames
from tmem.client.link.frames import Headers, Message
from tmem.client.link.headers import HeaderCodec
from tmem.client.link.http2 import Http2

SETTINGS = frames.head(0, frames.SETTINGS, 0, 0)
RESPONSE = [(":status", "200"), ("content-type", "application/grpc")]
OK = [("grpc-status", "0")]


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return frames.head(len(payload), kind, flags, stream_id) + payload


def prefixed(message: bytes) -> bytes:
    """A message as gRPC cuts the data."""
    return struct.pack(">BI", 0, len(message)) + message


def padded(payload: bytes, padding: int) -> bytes:
    return bytes([padding]) + payload + bytes(padding)


def block(fields: Iterable[tuple[str, str]]) -> bytes:
    """A header block that needs no table of its connection."""
    encoder = hpack.Encoder()
    return bytes(encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields]))


def connected(*, streams: int = 1, self_crediting: bool = True) -> Http2:
    """A connection whose peer has sent its settings, with so many streams open."""
    http2 = Http2(HeaderCodec())
    assert feed(http2, SETTINGS) == []
    for _ in range(streams):
        http2.open_stream(b"", self_crediting=self_crediting)
    written(http2)
    return http2


def feed(http2: Http2, data: bytes, sizes: Sequence[int] = ()) -> list[Any]:
    """Lets data arrive, in pieces of these sizes and the rest at once; answers the events, their data as bytes."""
    events: list[Any] = []
    rest = iter(sizes)
    left = memoryview(data)
    while left:
        piece = left[: next(rest, len(left))]
        left = left[len(piece) :]
        while piece:
            took = 0
            for buffer in http2.buffers():
                count = min(len(buffer), len(piece) - took)
                buffer[:count] = piece[took : took + count]
                took += count
            assert took, "there is no room for more"
            http2.received(took)
            piece = piece[took:]
            while (event := http2.next_event()) is not None:
                if isinstance(event, Message):
                    event = Message(event.stream_id, bytes(event.data))
                events.append(event)
    return events


def written(http2: Http2, count: int | None = None) -> bytes:
    """Takes what is outgoing, all of it or so many bytes."""
    outbox = http2.outbox
    data = b"".join(map(bytes, outbox.outgoing))[:count]
    outbox.sent(len(data))
    return data


def cut(data: bytes) -> list[tuple[int, int, int, bytes]]:
    """The frames of what was written: type, flags, stream, payload."""
    found = []
    data = data.removeprefix(frames.PREFACE)
    while data:
        length = int.from_bytes(data[:3], "big")
        found.append((data[3], data[4], int.from_bytes(data[5:9], "big"), data[9 : 9 + length]))
        assert len(data) >= 9 + length
        data = data[9 + length :]
    return found


def ended(stream_id: int, fields: list[tuple[str, str]]) -> Headers:
    return Headers(stream_id, fields, ended=True)
