"""HTTP/2 without a socket: whatever the pieces in which bytes arrive, and whatever the bytes."""

import contextlib
import tracemalloc
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.client.link.peer import (
    OK,
    RESPONSE,
    SETTINGS,
    block,
    connected,
    cut,
    ended,
    feed,
    frame,
    padded,
    prefixed,
    written,
)

from tmem.client.link import frames
from tmem.client.link.frames import Goaway, Headers, Message, Reset
from tmem.client.link.headers import HeaderCodec
from tmem.client.link.http2 import Http2
from tmem.wire.errors import ProtocolError
from tmem.wire.limits import MAX_MESSAGE_BYTES

DATA, HEADERS, CONTINUATION = frames.DATA, frames.HEADERS, frames.CONTINUATION
END_STREAM, END_HEADERS, PADDED = frames.END_STREAM, frames.END_HEADERS, frames.PADDED
LONG = bytes(range(256)) * 700  # longer than the receive buffer


def transcript() -> tuple[bytes, list[Any]]:
    """What a server may say on two streams, with everything that the protocol allows; and what must be heard."""
    response, trailers = block(RESPONSE), block(OK)
    long = prefixed(LONG)
    said = b"".join(
        (
            frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(frames.INITIAL_WINDOW_SIZE, 4 << 20)),
            frame(HEADERS, END_HEADERS, 1, response),
            frame(HEADERS, 0, 3, response[:3]),
            frame(CONTINUATION, 0, 3, b""),
            frame(CONTINUATION, END_HEADERS, 3, response[3:]),
            frame(DATA, 0, 1, prefixed(b"one") + prefixed(b"") + prefixed(b"two")[:4]),
            frame(frames.PING, 0, 0, b"12345678"),
            frame(DATA, 0, 1, prefixed(b"two")[4:6]),
            frame(DATA, PADDED, 1, padded(prefixed(b"two")[6:] + prefixed(b"x"), 200)),
            frame(DATA, 0, 3, long[:100_000]),
            frame(frames.WINDOW_UPDATE, 0, 0, frames.WORD.pack(1)),
            frame(frames.PRIORITY, 0, 3, bytes(5)),
            frame(0xFE, 0x3, 77, b"a type that nobody knows"),
            frame(DATA, 0, 1, prefixed(LONG[:1000])),
            frame(DATA, 0, 3, b""),
            frame(DATA, 0, 3, long[100_000:] + prefixed(b"behind")),
            frame(HEADERS, END_HEADERS | END_STREAM | PADDED | frames.HAS_PRIORITY, 1, padded(bytes(5) + trailers, 9)),
            frame(frames.RST_STREAM, 0, 1, frames.WORD.pack(0)),
            frame(DATA, END_STREAM, 3, prefixed(b"last")),
            frame(frames.GOAWAY, 0, 0, frames.WORD.pack(3) + frames.WORD.pack(0) + b"bye"),
        )
    )
    heard = [
        Headers(1, RESPONSE, ended=False),
        Headers(3, RESPONSE, ended=False),
        *(Message(1, data) for data in (b"one", b"", b"two", b"x")),
        Message(1, LONG[:1000]),
        Message(3, LONG),
        Message(3, b"behind"),
        ended(1, OK),
        Message(3, b"last"),
        ended(3, []),
        Goaway(3, 0, "bye"),
    ]
    return said, heard


SAID, HEARD = transcript()


def opened() -> Http2:
    http2 = Http2(HeaderCodec())
    for _ in range(2):
        http2.open_stream(b"")
    return http2


class TestPieces:
    def test_all_at_once(self) -> None:
        assert feed(opened(), SAID) == HEARD

    def test_byte_by_byte(self) -> None:
        assert feed(opened(), SAID, [1] * len(SAID)) == HEARD

    @given(sizes=st.lists(st.integers(1, 70_000), max_size=60))
    @settings(max_examples=60, deadline=None)
    def test_in_any_pieces(self, sizes: list[int]) -> None:
        http2 = opened()
        assert feed(http2, SAID, sizes) == HEARD
        assert http2.closing

    def test_cut_at_any_byte_of_heads_and_short_frames(self) -> None:
        at = 0
        while at < len(SAID):
            length = int.from_bytes(SAID[at : at + 3], "big")
            for edge in range(at, at + 9 + min(length, 40)):
                assert feed(opened(), SAID, [edge] if edge else []) == HEARD, edge
            at += 9 + length

    def test_a_long_message_is_received_into_its_place(self) -> None:
        http2 = connected()
        data = frame(DATA, 0, 1, prefixed(LONG) + prefixed(b"next"))
        assert feed(http2, data[:5000]) == []
        into, scratch = http2.buffers()

        assert len(into) == len(LONG) - (5000 - 9 - 5)
        assert len(scratch) > 0
        assert feed(http2, data[5000:]) == [Message(1, LONG), Message(1, b"next")]

    def test_the_memory_of_a_long_message_is_used_again(self) -> None:
        http2 = connected()
        data = memoryview(frame(DATA, 0, 1, prefixed(LONG)))
        feed(http2, bytes(data), [5000])
        tracemalloc.start()
        try:
            begun, _ = tracemalloc.get_traced_memory()
            for _ in range(3):
                for piece in (data[:5000], data[5000:]):
                    rest = piece
                    for buffer in http2.buffers():
                        count = min(len(buffer), len(rest))
                        buffer[:count] = rest[:count]
                        rest = rest[count:]
                    http2.received(len(piece))
                    event = http2.next_event()
                assert isinstance(event, Message)
                assert event.data == LONG
                event = None
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak - begun < 10_000


class TestAnswers:
    def test_it_begins_with_preface_settings_and_credit(self) -> None:
        http2 = Http2(HeaderCodec())
        data = written(http2)
        assert data.startswith(frames.PREFACE)
        kinds = [kind for kind, *_ in cut(data)]
        assert kinds == [frames.SETTINGS, frames.WINDOW_UPDATE]

    def test_settings_and_pings_are_answered_and_their_answers_not(self) -> None:
        http2 = Http2(HeaderCodec())
        written(http2)
        feed(http2, SETTINGS + frame(frames.SETTINGS, frames.ACK, 0) + frame(frames.PING, 0, 0, b"12345678"))
        feed(http2, frame(frames.PING, frames.ACK, 0, b"87654321"))
        assert cut(written(http2)) == [
            (frames.SETTINGS, frames.ACK, 0, b""),
            (frames.PING, frames.ACK, 0, b"12345678"),
        ]

    def test_a_stream_that_the_server_ends_first_is_reset(self) -> None:
        http2 = connected()
        feed(http2, frame(HEADERS, END_HEADERS | END_STREAM, 1, block([*RESPONSE, *OK])))
        assert cut(written(http2)) == [(frames.RST_STREAM, 0, 1, frames.WORD.pack(0))]
        http2.send(1, b"too late")
        http2.half_close(1)
        assert not http2.outbox.outgoing

    def test_a_half_closed_stream_that_the_server_ends_needs_nothing_more(self) -> None:
        http2 = connected()
        http2.half_close(1)
        http2.half_close(1)
        assert cut(written(http2)) == [(DATA, END_STREAM, 1, b"")]
        assert feed(http2, frame(DATA, END_STREAM, 1, b"")) == [ended(1, [])]
        assert not http2.outbox.outgoing

    def test_what_comes_on_a_stream_that_was_reset_is_thrown_away(self) -> None:
        http2 = connected()
        http2.reset(1)
        http2.reset(1)
        assert cut(written(http2)) == [(frames.RST_STREAM, 0, 1, frames.WORD.pack(frames.CANCEL))]
        late = frame(HEADERS, END_HEADERS, 1, block(RESPONSE)) + frame(DATA, PADDED, 1, padded(prefixed(b"late"), 3))
        assert feed(http2, late + frame(DATA, END_STREAM, 1, prefixed(b"x"))) == []

    def test_a_stream_can_be_reset_between_two_messages_of_one_frame(self) -> None:
        http2 = connected(streams=2)
        data = frame(DATA, PADDED | END_STREAM, 1, padded(prefixed(b"one") + prefixed(b"two") + prefixed(LONG), 7))
        (buffer,) = http2.buffers()
        buffer[:100] = data[:100]
        http2.received(100)
        assert http2.next_event() == Message(1, b"one")
        http2.reset(1)
        assert http2.next_event() is None
        assert feed(http2, data[100:] + frame(DATA, 0, 3, prefixed(b"other"))) == [Message(3, b"other")]

    def test_the_table_of_fields_goes_on_over_streams_that_are_no_more(self) -> None:
        """A header block of a stream that was reset may still put fields into the table."""
        import hpack

        encoder = hpack.Encoder()
        http2 = connected(streams=2)
        http2.reset(1)
        fields = [("x-first", "a" * 40)]
        feed(http2, frame(HEADERS, END_HEADERS, 1, encoder.encode(fields)))
        second = encoder.encode(fields)
        assert len(second) < 5  # it refers to the first
        assert feed(http2, frame(HEADERS, END_HEADERS, 3, second)) == [Headers(3, fields, ended=False)]

    def test_a_reset_is_told_once(self) -> None:
        http2 = connected()
        reset = frame(frames.RST_STREAM, 0, 1, frames.WORD.pack(8))
        assert feed(http2, reset + reset) == [Reset(1, 8)]

    def test_a_server_that_asks_for_answers_without_end_and_takes_none_is_left(self) -> None:
        http2 = connected()
        with pytest.raises(ProtocolError, match="takes none"):
            feed(http2, frame(frames.PING, 0, 0, bytes(8)) * 100_000)

    def test_one_that_takes_them_is_not(self) -> None:
        http2 = connected()
        for _ in range(100):
            feed(http2, frame(frames.PING, 0, 0, bytes(8)) * 1000)
            written(http2)


class TestCredit:
    """Of the server, given by this end."""

    def renewals(self, http2: Http2, stream_id: int) -> int:
        return sum(
            int.from_bytes(payload, "big")
            for kind, _, to, payload in cut(written(http2))
            if kind == frames.WINDOW_UPDATE and to == stream_id
        )

    def test_a_stream_is_renewed_by_exactly_what_came_and_seldom(self) -> None:
        http2 = connected()
        payload = prefixed(bytes(50_000))
        given = came = 0
        for _ in range(500):
            feed(http2, frame(DATA, PADDED, 1, padded(payload, 100)))
            came += len(payload) + 101
            renewal = self.renewals(http2, 1)
            assert renewal == 0 or renewal > MAX_MESSAGE_BYTES
            given += renewal
            assert came - MAX_MESSAGE_BYTES <= given <= came

    def test_one_whose_user_takes_messages_is_renewed_as_they_are_taken(self) -> None:
        http2 = connected(self_crediting=False)
        for _ in range(8):
            feed(http2, frame(DATA, 0, 1, prefixed(bytes(1_000_000))))
        assert self.renewals(http2, 1) == 0
        with pytest.raises(ProtocolError, match="credit"):
            feed(http2, frame(DATA, 0, 1, prefixed(bytes(1_000_000))))
        http2 = connected(self_crediting=False)
        for _ in range(100):
            feed(http2, frame(DATA, 0, 1, prefixed(bytes(1_000_000))))
            http2.consumed(1, 1_000_000)
        assert self.renewals(http2, 1) >= 92_000_000

    def test_data_of_streams_that_are_no_more_count_for_the_connection(self) -> None:
        http2 = connected()
        http2.reset(1)
        for _ in range(1100):
            feed(http2, frame(DATA, 0, 1, bytes(1_000_000)))
        assert self.renewals(http2, 0) > 1_000_000_000


HEAD = frame(HEADERS, END_HEADERS, 1, block(RESPONSE))
MALFORMED = {
    "HTTP/1": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "no settings": frame(frames.PING, 0, 0, bytes(8)),
    "settings without end": frames.head(1 << 20, frames.SETTINGS, 0, 0),
    "settings of a stream": frame(frames.SETTINGS, 0, 1),
    "settings cut short": frame(frames.SETTINGS, 0, 0, bytes(5)),
    "a window that can't be": frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(frames.INITIAL_WINDOW_SIZE, 1 << 31)),
    "frames too small": frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(frames.MAX_FRAME_SIZE, 16383)),
    "frames too large": frame(frames.SETTINGS, 0, 0, frames.SETTING.pack(frames.MAX_FRAME_SIZE, 1 << 24)),
    "a frame too long": SETTINGS + frames.head((4 << 20) + 1, DATA, 0, 1),
    "a control frame too long": SETTINGS + frames.head(70_000, frames.PING, 0, 0),
    "data of the connection": SETTINGS + frame(DATA, 0, 0, b"x"),
    "data of an even stream": SETTINGS + frame(DATA, 0, 2, b"x"),
    "data of a stream that nobody opened": SETTINGS + frame(DATA, 0, 5, b"x"),
    "data shorter than their padding": SETTINGS + HEAD + frame(DATA, PADDED, 1, b"\x05abcd"),
    "padding of nothing": SETTINGS + HEAD + frame(DATA, PADDED, 1, b""),
    "headers shorter than their padding": SETTINGS + frame(HEADERS, END_HEADERS | PADDED, 1, b"\x05abcd"),
    "headers without their padding": SETTINGS + frame(HEADERS, END_HEADERS | PADDED, 1, b""),
    "headers without their priority": SETTINGS + frame(HEADERS, END_HEADERS | frames.HAS_PRIORITY, 1, b"abc"),
    "headers of a stream that nobody opened": SETTINGS + frame(HEADERS, END_HEADERS, 9, block(RESPONSE)),
    "headers that are none": SETTINGS + frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff"),
    "headers that are no text": SETTINGS + frame(HEADERS, END_HEADERS, 1, b"\x00\x01\xff\x01\xfe"),
    "headers without end": SETTINGS + frame(HEADERS, 0, 1, bytes(40_000)) + frame(CONTINUATION, 0, 1, bytes(40_000)),
    "headers of many fields": SETTINGS + frame(HEADERS, END_HEADERS, 1, b"\x90" * 60_000),
    "headers not continued": SETTINGS + frame(HEADERS, 0, 1, b"") + frame(frames.PING, 0, 0, bytes(8)),
    "headers continued by another": SETTINGS + frame(HEADERS, 0, 1, b"") + frame(CONTINUATION, 0, 3, b""),
    "a continuation of nothing": SETTINGS + frame(CONTINUATION, END_HEADERS, 1, b""),
    "a short ping": SETTINGS + frame(frames.PING, 0, 0, bytes(7)),
    "a ping of a stream": SETTINGS + frame(frames.PING, 0, 1, bytes(8)),
    "a short reset": SETTINGS + frame(frames.RST_STREAM, 0, 1, bytes(3)),
    "a reset of the connection": SETTINGS + frame(frames.RST_STREAM, 0, 0, bytes(4)),
    "a short goodbye": SETTINGS + frame(frames.GOAWAY, 0, 0, bytes(7)),
    "a goodbye of a stream": SETTINGS + frame(frames.GOAWAY, 0, 1, bytes(8)),
    "a push": SETTINGS + frame(frames.PUSH_PROMISE, END_HEADERS, 1, bytes(8)),
    "short credit": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)),
    "no credit": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)),
    "no credit for a stream": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 1, bytes(4)),
    "too much credit": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 0, frames.WORD.pack(frames.MAX_WINDOW)),
    "too much for a stream": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 1, frames.WORD.pack(frames.MAX_WINDOW)),
    "credit for a stream that nobody opened": SETTINGS + frame(frames.WINDOW_UPDATE, 0, 7, frames.WORD.pack(1)),
    "a compressed message": SETTINGS + HEAD + frame(DATA, 0, 1, b"\x01\x00\x00\x00\x01x"),
    "a message that is too long": SETTINGS
    + HEAD
    + frame(DATA, 0, 1, b"\x00" + frames.WORD.pack(MAX_MESSAGE_BYTES + 1)),
    "a message of 4 GiB": SETTINGS + HEAD + frame(DATA, 0, 1, b"\x00\xff\xff\xff\xff"),
    "an end within a message": SETTINGS + HEAD + frame(DATA, END_STREAM, 1, prefixed(b"whole")[:-1]),
    "an end within a prefix": SETTINGS + HEAD + frame(DATA, END_STREAM, 1, b"\x00\x00"),
    "trailers within a message": SETTINGS
    + HEAD
    + frame(DATA, 0, 1, prefixed(b"whole")[:-1])
    + frame(HEADERS, END_HEADERS | END_STREAM, 1, block(OK)),
    "more than the stream's credit": SETTINGS + HEAD + frame(DATA, 0, 1, prefixed(bytes(3 << 20))) * 3,
}


class TestMalformed:
    @pytest.mark.parametrize("name", MALFORMED)
    @pytest.mark.parametrize("pieces", ["whole", "bytes"])
    def test_it_is_a_protocol_error(self, name: str, pieces: str) -> None:
        http2 = Http2(HeaderCodec())
        http2.open_stream(b"", self_crediting=False)
        data = MALFORMED[name]
        sizes = [1] * min(len(data), 300) if pieces == "bytes" else []
        with pytest.raises(ProtocolError):
            feed(http2, data, sizes)

    @given(data=st.binary(max_size=300))
    @settings(max_examples=300, deadline=None)
    def test_random_bytes_raise_nothing_else(self, data: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            feed(opened(), SETTINGS + data, [20, 1, 1, 1])

    @given(
        at=st.integers(0, len(SAID) - 1), byte=st.integers(0, 255), sizes=st.lists(st.integers(1, 50_000), max_size=8)
    )
    @settings(max_examples=500, deadline=None)
    def test_one_wrong_byte_raises_nothing_else_and_takes_no_memory(self, at: int, byte: int, sizes: list[int]) -> None:
        data = bytearray(SAID)
        data[at] = byte
        http2 = opened()
        with contextlib.suppress(ProtocolError):
            feed(http2, bytes(data), sizes)
        for inlet in http2._inlets.values():
            assert len(inlet.memory) <= MAX_MESSAGE_BYTES

    def test_a_length_that_is_announced_takes_memory_once_and_within_the_limit(self) -> None:
        http2 = connected()
        tracemalloc.start()
        try:
            feed(http2, frame(DATA, 0, 1, prefixed(b"")[:1] + frames.WORD.pack(MAX_MESSAGE_BYTES) + b"that is all"))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < MAX_MESSAGE_BYTES + 100_000


# ---- Beside a well-kept HTTP/2 ----


class H2Server:
    """h2 as the server; it raises if a client breaks the protocol."""

    def __init__(self, *, window: int = 65_535, frame_bytes: int = 16_384) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        codes = h2.settings.SettingCodes
        self.h2.local_settings = h2.settings.Settings(
            client=False, initial_values={codes.INITIAL_WINDOW_SIZE: window, codes.MAX_FRAME_SIZE: frame_bytes}
        )
        self.h2.max_inbound_frame_size = self.h2.incoming_buffer.max_frame_size = frame_bytes
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.data: dict[int, bytes] = {}
        self.unacknowledged: list[tuple[int, int]] = []

    def take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived):
                assert event.data is not None
                self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                self.unacknowledged.append((event.stream_id, event.flow_controlled_length or 0))

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class TestBesideH2:
    def test_a_call_from_begin_to_end(self) -> None:
        server = H2Server()
        headers = HeaderCodec()
        http2 = Http2(headers)
        stream_id = http2.open_stream(headers.request("/a/B", "host", (("authorization", "Bearer x"),), 1.5))
        http2.send(stream_id, b"question", end=True)
        server.take(written(http2))
        (request,) = server.of(h2.events.RequestReceived)
        assert dict(request.headers)[":path"] == "/a/B"
        assert dict(request.headers)["grpc-timeout"] == "1500m"
        assert server.data == {1: prefixed(b"question")}
        assert server.of(h2.events.StreamEnded)

        server.h2.send_headers(1, RESPONSE)
        server.h2.send_data(1, prefixed(b"answer"), pad_length=10)
        server.h2.send_headers(1, [("grpc-status", "5"), ("grpc-message", "no")], end_stream=True)

        assert feed(http2, server.h2.data_to_send()) == [
            Headers(1, RESPONSE, ended=False),
            Message(1, b"answer"),
            ended(1, [("grpc-status", "5"), ("grpc-message", "no")]),
        ]
        server.take(written(http2))
        assert server.of(h2.events.SettingsAcknowledged)

    @given(
        window=st.integers(500, 200_000),
        frame_bytes=st.integers(16_384, 300_000),
        messages=st.lists(st.tuples(st.sampled_from([1, 3]), st.integers(0, 150_000)), min_size=1, max_size=12),
        grants=st.lists(st.integers(1, 50_000), min_size=1, max_size=5),
        chunk=st.integers(500, 100_000),
    )
    @settings(max_examples=60, deadline=None)
    def test_credit_is_never_exceeded_and_everything_arrives(
        self, window: int, frame_bytes: int, messages: list[tuple[int, int]], grants: list[int], chunk: int
    ) -> None:
        """h2 raises when more comes than it gave credit for, or a frame is longer than it takes."""
        server = H2Server(window=window, frame_bytes=frame_bytes)
        headers = HeaderCodec()
        http2 = Http2(headers)
        feed(http2, server.h2.data_to_send())
        for _ in range(2):
            http2.open_stream(headers.request("/a/B", "host", (), None))
        expected = {1: b"", 3: b""}
        for number, (stream_id, size) in enumerate(messages):
            message = bytes([number]) * size
            http2.send(stream_id, message)
            expected[stream_id] += prefixed(message)
        for stream_id in (1, 3):
            http2.half_close(stream_id)
        for turn in range(100_000):
            data = written(http2, chunk)
            server.take(data)
            if not data and not server.unacknowledged:
                break
            # Gives back what was taken, sometimes in pieces, and now and then something on top.
            if not data or turn % 3 == 0:
                for ended_id, length in server.unacknowledged:
                    server.h2.acknowledge_received_data(length, ended_id)
                server.unacknowledged.clear()
            if not data:
                extra = grants[turn % len(grants)]
                for open_id in (None, 1, 3):
                    with contextlib.suppress(h2.exceptions.ProtocolError):  # one that has ended
                        server.h2.increment_flow_control_window(extra, open_id)
            feed(http2, server.h2.data_to_send())
        assert {stream_id: server.data.get(stream_id, b"") for stream_id in (1, 3)} == expected
        assert len(server.of(h2.events.StreamEnded)) == 2
        assert http2.outbox.unsent == 0

    @pytest.mark.parametrize("window", [3, 5, 8, 10, 12])
    def test_empty_messages_that_wait_for_credit_are_sent_too(self, window: int) -> None:
        server = H2Server(window=window)
        headers = HeaderCodec()
        http2 = Http2(headers)
        feed(http2, server.h2.data_to_send())
        http2.open_stream(headers.request("/a/B", "host", (), None))
        for message in (b"", b"", b"x", b""):
            http2.send(1, message)
        http2.half_close(1)
        for _ in range(20):
            server.take(written(http2))
            for ended_id, length in server.unacknowledged:
                server.h2.acknowledge_received_data(length, ended_id)
            server.unacknowledged.clear()
            with contextlib.suppress(h2.exceptions.ProtocolError):
                server.h2.increment_flow_control_window(1, 1)
            feed(http2, server.h2.data_to_send())
        assert server.data[1] == prefixed(b"") * 2 + prefixed(b"x") + prefixed(b"")
        assert server.of(h2.events.StreamEnded)
        assert all(http2.outbox.outgoing)
        assert http2.outbox.unsent == 0

    def test_a_smaller_window_for_streams_takes_back_credit(self) -> None:
        server = H2Server(window=100_000)
        headers = HeaderCodec()
        http2 = Http2(headers)
        feed(http2, server.h2.data_to_send())
        http2.open_stream(headers.request("/a/B", "host", (), None))
        http2.send(1, bytes(40_000))
        server.take(written(http2))
        server.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 30_000})
        feed(http2, server.h2.data_to_send())
        http2.send(1, bytes(10_000))
        server.take(written(http2))
        assert http2.outbox.unsent == 10_005  # it owes the stream 10 005 bytes before it may send more
        server.h2.increment_flow_control_window(50_000, 1)
        feed(http2, server.h2.data_to_send())
        server.take(written(http2))
        assert http2.outbox.unsent == 0
        assert server.data[1] == prefixed(bytes(40_000)) + prefixed(bytes(10_000))
