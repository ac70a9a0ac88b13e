import pytest

from tmem.v1 import extents_pb2 as pb
from tmem.wire.errors import ProtocolError
from tmem.wire.splice import BODY_TAG, BytesLike, find_body, join, parse, varint


def spliced(body: bytes) -> bytes:
    message = pb.ExchangeRequest()
    message.echo.header.batch_id = 300
    return join(message.SerializeToString(), [body], len(body))


@pytest.mark.parametrize("size", [1, 127, 128, 16383, 16384, 2 << 20])
def test_a_spliced_message_is_byte_equal_to_the_generated_class(size: int) -> None:
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    message = pb.ExchangeRequest(body=body)
    message.echo.header.batch_id = 300

    assert spliced(body) == message.SerializeToString()


def test_an_empty_body_is_left_out_as_proto3_does() -> None:
    message = pb.ExchangeRequest()
    message.echo.header.batch_id = 300

    assert join(message.SerializeToString(), [], 0) == message.SerializeToString()


def test_pieces_of_every_kind_of_buffer_become_one_body() -> None:
    pieces: list[BytesLike] = [b"ab", bytearray(b"cd"), memoryview(b"xefx")[1:3]]

    assert join(b"", pieces, 6) == BODY_TAG + varint(6) + b"abcdef"


def test_the_body_of_a_canonical_message_is_a_view_and_no_copy() -> None:
    data = spliced(b"page bytes")

    message, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert not slow
    assert bytes(body) == b"page bytes"
    assert body.obj is data
    assert message.echo.header.batch_id == 300
    assert message.body == b""


def test_a_message_without_body_is_all_header() -> None:
    message = pb.ExchangeRequest()
    message.get.header.batch_id = 7
    data = message.SerializeToString()

    parsed, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert (parsed, len(body), slow) == (message, 0, False)


def body_field(body: bytes) -> bytes:
    return BODY_TAG + varint(len(body)) + body


def test_a_body_that_is_not_last_takes_the_slow_path_and_means_the_same() -> None:
    header = spliced(b"")
    data = body_field(b"early") + header

    message, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert slow
    assert bytes(body) == b"early"
    assert message.echo.header.batch_id == 300


def test_of_a_repeated_body_the_last_wins() -> None:
    data = spliced(b"first") + body_field(b"second")

    _, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert slow
    assert bytes(body) == b"second"


def test_unknown_fields_of_every_wire_type_before_the_body_are_skipped() -> None:
    unknown = (
        b"\x78\x96\x01" + b"\x79" + bytes(8) + b"\x7d" + bytes(4) + b"\x7a\x02hi"
    )  # field 15: varint, 64, 32, bytes
    data = unknown + spliced(b"body")

    message, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert not slow
    assert bytes(body) == b"body"
    assert message.echo.header.batch_id == 300


def test_an_unknown_field_of_a_high_number_takes_the_slow_path() -> None:
    data = b"\x82\x01\x02hi" + spliced(b"body")  # field 16

    _, body, slow = parse(data, pb.ExchangeRequest(), "body")

    assert slow
    assert bytes(body) == b"body"


@pytest.mark.parametrize(
    "data",
    [
        b"\xff" * 40,
        BODY_TAG,
        BODY_TAG + b"\x05abc",
        BODY_TAG + b"\xff" * 11,
        b"\x0a\x05abc",
        b"\x0b",
        b"\x0a" + b"\xff" * 11,
        b"\x08",
    ],
    ids=["garbage", "no length", "short body", "endless length", "short field", "group", "endless varint", "no value"],
)
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="no ExchangeRequest"):
        parse(data, pb.ExchangeRequest(), "body")


def test_a_length_beyond_the_message_is_not_believed() -> None:
    claim = BODY_TAG + varint(3 << 30) + b"x"

    assert find_body(claim) is None
    with pytest.raises(ProtocolError):
        parse(claim, pb.ExchangeRequest(), "body")


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**32 - 1, 2**64 - 1])
def test_varints_are_protobufs(value: int) -> None:
    from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]

    assert varint(value) == _VarintBytes(value)
