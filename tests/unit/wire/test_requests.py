from array import array
from collections.abc import Callable
from typing import Any

import pytest
from tests.pages import extent

from tmem.v1 import extents_pb2 as pb
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import MalformedBatch, ProtocolError
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import MAX_ANSWER_BYTES
from tmem.wire.requests import (
    Echo,
    Flush,
    FlushObject,
    Get,
    Header,
    Put,
    decode_request,
    encode_control,
    encode_echo,
    encode_flush,
    encode_flush_object,
    encode_get,
    encode_put,
    readdress,
)

OBJECT = 2**191 + 2**70 + 9
HEADER = Header(11, 22, 3, 44, 40, 55)


def put_request(extents: list[Extent], chunk_pages: int = 16) -> tuple[bytes, EncodedChunks]:
    chunks = EncodedChunks()
    codec = Codec(CopyCounter())
    for item in extents:
        codec.encode(memoryview(extent(item.index, item.pages)), item.first, chunk_pages, chunks)
    return encode_put(HEADER, extents, chunks), chunks


class TestRoundTrips:
    @pytest.mark.parametrize(
        "extents",
        [
            [Extent(OBJECT, 512, 512)],
            [Extent(1, 0, 1), Extent(2, 700, 3), Extent(OBJECT, 2**32 - 1, 1)],
            [Extent(5, number * 7, 1) for number in range(512)],
        ],
        ids=["block", "several", "512 pages"],
    )
    def test_put(self, extents: list[Extent]) -> None:
        data, chunks = put_request(extents)

        put, slow = decode_request(data)

        assert not slow
        assert isinstance(put, Put)
        assert (put.header, put.extents) == (HEADER, extents)
        assert (put.sizes, put.pages, put.encodings) == (chunks.sizes, chunks.pages, chunks.encodings)
        assert put.crcs == array("I", chunks.crcs)
        assert bytes(put.body) == b"".join(chunks.pieces)

    def test_put_is_byte_equal_to_the_generated_class(self) -> None:
        data, _ = put_request([Extent(OBJECT, 3, 100)])

        assert pb.ExchangeRequest.FromString(data).SerializeToString() == data

    def test_get(self) -> None:
        header = Header(1, 2, 3, 0, 4, 5, 8 * 4096)
        extents = [Extent(OBJECT, 1, 4), Extent(OBJECT, 9, 2)]

        assert decode_request(encode_get(header, extents)) == (Get(header, extents), False)

    @pytest.mark.parametrize("conditions", [None, [Version(1, 9), None], [Version(1, 9), Version(1, 9)]])
    def test_flush(self, conditions: list[Version | None] | None) -> None:
        extents = [Extent(0, 0, 512), Extent(7, 1000, 1)]

        flush, _ = decode_request(encode_flush(HEADER, extents, conditions))

        assert flush == Flush(HEADER, extents, conditions)

    def test_a_flush_may_name_more_pages_than_a_put(self) -> None:
        extents = [Extent(1, block * 512, 512) for block in range(512)]

        flush, _ = decode_request(encode_flush(HEADER, extents))

        assert isinstance(flush, Flush)
        assert flush.extents == extents

    @pytest.mark.parametrize("objects", [[0], [OBJECT], [1, 2, OBJECT], [3, 3]])
    def test_flush_object(self, objects: list[int]) -> None:
        assert decode_request(encode_flush_object(HEADER, objects))[0] == FlushObject(HEADER, objects)

    def test_echo(self) -> None:
        header = Header(11, answer_bytes=100)
        echo, _ = decode_request(encode_echo(header, b"hello", 99))

        assert isinstance(echo, Echo)
        assert (echo.header, bytes(echo.body), echo.zero_bytes) == (header, b"hello", 99)

    @pytest.mark.parametrize(("body", "zero_bytes"), [(b"x" * 11, 0), (b"", 11), (b"x", 2**32 - 1)])
    def test_an_echo_must_leave_room_for_what_comes_back(self, body: bytes, zero_bytes: int) -> None:
        with pytest.raises(MalformedBatch, match="come back"):
            decode_request(encode_echo(Header(11, answer_bytes=10), body, zero_bytes))

    @pytest.mark.parametrize(
        "message", [pb.Open(session_id=b"x" * 16), pb.Attach(attach_id=3), pb.Heartbeat(heartbeat_id=9)]
    )
    def test_control(self, message: Any) -> None:
        assert decode_request(encode_control(message)) == (message, False)

    def test_a_readdressed_put_differs_in_its_header_alone(self) -> None:
        data, _ = put_request([Extent(1, 0, 40)])
        header = Header(11, 99, 1, 44, 40, 1000)

        put, _ = decode_request(readdress(data, header))
        before, _ = decode_request(data)

        assert isinstance(put, Put)
        assert isinstance(before, Put)
        assert put.header == header
        assert (put.extents, put.sizes, put.crcs, bytes(put.body)) == (
            before.extents,
            before.sizes,
            before.crcs,
            bytes(before.body),
        )


def changed_put(change: Callable[[pb.ExchangeRequest], object]) -> bytes:
    data, _ = put_request([Extent(1, 0, 4), Extent(1, 16, 20)])
    message = pb.ExchangeRequest.FromString(data)
    change(message)
    return message.SerializeToString()


def changed_get(change: Callable[[pb.GetBatch], object]) -> bytes:
    message = pb.ExchangeRequest.FromString(encode_get(Header(7, 1, 1, 0, 0, 0, 16 * 4096), [Extent(1, 0, 2)]))
    change(message.get)
    return message.SerializeToString()


class TestMalformedBatches:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.put.extents.index.__setitem__(0, 2**32), "page index"),
            (lambda m: m.put.extents.index.__setitem__(1, 511), "split the extent"),
            (lambda m: m.put.extents.pages.__setitem__(1, 21), "do not cover"),
            (lambda m: m.put.extents.pages.__setitem__(1, 19), "crosses the end|more chunks"),
            (lambda m: m.put.extents.pages.__setitem__(0, 0), "1..512 pages"),
            (lambda m: m.put.extents.pages.pop(), "do not cover|crosses|more chunks"),
            (lambda m: m.put.extents.ClearField("index"), "1..512 extents"),
            (lambda m: m.put.extents.object_low.extend([1, 2, 3]), "object_low"),
            (lambda m: m.put.chunks.encoded_bytes.pop(), "chunks"),
            (lambda m: m.put.chunks.encoded_bytes.__setitem__(0, 5000), "chunks claim"),
            (lambda m: m.put.chunks.encoded_bytes.__setitem__(0, 2**32 - 1), "can't be"),
            (lambda m: m.put.chunks.pages.__setitem__(1, 17), "can't be"),
            (lambda m: m.put.chunks.pages.__setitem__(1, 0), "can't be"),
            (lambda m: m.put.chunks.encoding.extend([1, 2, 3, 1, 1, 1]), "column chunks.encoding"),
            (lambda m: (m.put.chunks.ClearField("encoding"), m.put.chunks.encoding.append(9)), "unknown"),
            (lambda m: (m.put.chunks.ClearField("encoding"), m.put.chunks.encoding.append(2)), "RAW"),
            (lambda m: m.put.page_crc32c.pop(), "page checksums"),
            (lambda m: m.ClearField("body"), "body of 0"),
            (lambda m: setattr(m, "body", m.body + b"x"), "chunks claim"),
            (lambda m: setattr(m.put.header, "sequence", 0), "sequence"),
            (lambda m: setattr(m.put.header, "sequence", 2**63), "sequence"),
            (lambda m: setattr(m.put.header, "answer_bytes", MAX_ANSWER_BYTES + 1), "answer_bytes"),
        ],
    )
    def test_put(self, change: Callable[[pb.ExchangeRequest], object], message: str) -> None:
        with pytest.raises(MalformedBatch, match=message) as raised:
            decode_request(changed_put(change))

        assert raised.value.batch_id == 11

    def test_put_of_more_than_a_block(self) -> None:
        data, _ = put_request([Extent(1, 0, 512), Extent(1, 512, 1)])

        with pytest.raises(MalformedBatch, match="513 pages"):
            decode_request(data)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda g: setattr(g.header, "answer_bytes", 2 * 4096 - 1), "leaves no room"),
            (lambda g: g.extents.index.__setitem__(0, 2**63), "page index"),
            (lambda g: g.extents.index.extend(range(600)), "1..512 extents"),
        ],
    )
    def test_get(self, change: Callable[[pb.GetBatch], object], message: str) -> None:
        with pytest.raises(MalformedBatch, match=message) as raised:
            decode_request(changed_get(change))

        assert raised.value.batch_id == 7

    def test_flush_conditions_of_a_wrong_number(self) -> None:
        message = pb.ExchangeRequest.FromString(encode_flush(HEADER, [Extent(1, n, 1) for n in range(3)]))
        message.flush.if_sequence.extend([1, 2])

        with pytest.raises(MalformedBatch, match="if_sequence"):
            decode_request(message.SerializeToString())

    def test_a_flush_condition_without_a_sequence(self) -> None:
        message = pb.ExchangeRequest.FromString(encode_flush(HEADER, [Extent(1, n, 1) for n in range(3)]))
        message.flush.if_generation.append(1)

        with pytest.raises(MalformedBatch, match="no sequence"):
            decode_request(message.SerializeToString())

    def test_flush_of_no_object(self) -> None:
        with pytest.raises(MalformedBatch, match="objects"):
            decode_request(encode_flush_object(HEADER, []))


@pytest.mark.parametrize("data", [b"", b"\x08\x96\x01", pb.ExchangeRequest(body=b"x").SerializeToString()])
def test_a_request_of_no_kind_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode_request(data)
