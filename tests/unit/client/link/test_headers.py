import hpack
import pytest

from tmem.client.link.headers import HeaderCodec, Status, response_status, trailer_status
from tmem.wire.errors import ProtocolError


def request(
    timeout: float | None = None, token: str | None = None, scheme: str = "http"
) -> tuple[bytes, dict[str, str]]:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    data = HeaderCodec().request("/a.B/C", "host:1", metadata, timeout, scheme=scheme)
    return data, {str(name): str(value) for name, value in hpack.Decoder().decode(data)}


def test_a_request_is_what_grpc_wants() -> None:
    _, fields = request()
    assert fields == {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/a.B/C",
        ":authority": "host:1",
        "te": "trailers",
        "content-type": "application/grpc",
        "user-agent": "tmem-link",
    }
    assert list(fields)[:4] == [":method", ":scheme", ":path", ":authority"]


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(1.5, "1500m"), (0.0001, "1m"), (99_999.999, "99999999m"), (100_000, "100000S"), (1e12, "99999999S")],
)
def test_a_timeout_has_eight_digits_at_most(seconds: float, written: str) -> None:
    assert request(seconds)[1]["grpc-timeout"] == written


def test_the_token_stays_out_of_the_table_of_fields() -> None:
    """Or whoever shares the table could guess it."""
    codec = HeaderCodec()
    blocks = [codec.request("/a", "h", (("authorization", "Bearer secret"),), None) for _ in range(2)]
    decoder = hpack.Decoder()
    for block in blocks:
        field = next(item for item in decoder.decode(block) if item[0] == "authorization")
        assert isinstance(field, hpack.NeverIndexedHeaderTuple)
    assert len(blocks[1]) > len("Bearer secret") * 0.6


def test_the_peers_table_may_be_smaller() -> None:
    codec = HeaderCodec()
    codec.limit_table(0)
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for _ in range(2):
        assert (":path", "/a") in [tuple(field) for field in decoder.decode(codec.request("/a", "h", (), None))]


@pytest.mark.parametrize("block", [b"\xff\xff\xff\xff", b"\x80", b"\x40\x01\xff\x01\xff"])
def test_a_block_that_can_not_be_unpacked_is_a_protocol_error(block: bytes) -> None:
    with pytest.raises(ProtocolError):
        HeaderCodec().decode(block)


def test_a_block_that_unpacks_to_too_much_is_a_protocol_error() -> None:
    encoder = hpack.Encoder()
    first = encoder.encode([("x", "a" * 3000)])
    again = encoder.encode([("x", "a" * 3000)] * 40)
    assert len(again) < 100
    codec = HeaderCodec()
    codec.decode(first)
    with pytest.raises(ProtocolError):
        codec.decode(again)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([("grpc-status", "0")], Status("OK")),
        ([("grpc-status", "5"), ("grpc-message", "a%20b%0A%C3%A4")], Status("NOT_FOUND", "a b\nä")),
        ([("grpc-status", "8"), ("tmem-reason", "QUOTA")], Status("RESOURCE_EXHAUSTED", "", "QUOTA")),
        ([("grpc-status", "2"), ("grpc-message", "%zz%")], Status("UNKNOWN", "%zz%")),
        ([("grpc-status", "2"), ("grpc-message", "%ff")], Status("UNKNOWN", "\N{REPLACEMENT CHARACTER}")),
        ([("grpc-status", "17")], Status("UNKNOWN")),
        ([("grpc-status", "1" * 5000), ("grpc-message", "so long")], Status("UNKNOWN", "so long")),
        ([("grpc-status", "-1")], Status("UNKNOWN", "the server ended the call without a status")),
        ([], Status("UNKNOWN", "the server ended the call without a status")),
        ([(":status", "503")], Status("UNAVAILABLE", "the answer has HTTP status 503")),
        ([(":status", "200"), ("content-type", "application/grpc+proto"), ("grpc-status", "0")], Status("OK")),
    ],
)
def test_how_a_call_ended(fields: list[tuple[str, str]], status: Status) -> None:
    assert trailer_status(fields) == status


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ([(":status", "200"), ("content-type", "application/grpc")], None),
        ([(":status", "200"), ("content-type", "application/grpc+proto")], None),
        ([(":status", "200")], "UNKNOWN"),
        ([(":status", "401"), ("content-type", "application/grpc")], "UNAUTHENTICATED"),
        ([(":status", "418")], "UNKNOWN"),
        ([], "UNKNOWN"),
    ],
)
def test_what_is_wrong_with_the_head_of_a_response(fields: list[tuple[str, str]], code: str | None) -> None:
    status = response_status(fields)
    assert (status.code if status else None) == code


@pytest.mark.parametrize(
    ("code", "name"), [(7, "UNAVAILABLE"), (8, "CANCELLED"), (11, "RESOURCE_EXHAUSTED"), (1, "INTERNAL")]
)
def test_what_a_reset_means(code: int, name: str) -> None:
    assert Status.of_reset(code).code == name
    assert not Status.of_reset(code).ok
