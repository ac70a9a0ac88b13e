from typing import Any

import grpc
import pytest

from tmem.client._core.calls import PoolInfo, PoolStat, call_metadata, create_pool, take_listing, translate
from tmem.client._core.options import Options
from tmem.client._core.presence import PresenceMap
from tmem.v1 import pools_pb2 as pb
from tmem.wire import errors
from tmem.wire.handles import Extent
from tmem.wire.metadata import REASON
from tmem.wire.results import PoolFlag, PoolKind

DEFAULTS: dict[str, Any] = {
    "quota_bytes": 0,
    "reserved_bytes": 0,
    "weight": 0,
    "durability": "memory",
    "chunk_pages": 0,
    "take": None,
    "encrypted": False,
    "uuid": b"",
}


class Status:
    def __init__(self, code: grpc.StatusCode, details: str = "words", *trailing: tuple[str, str]) -> None:
        self._parts = code, details, trailing

    def code(self) -> grpc.StatusCode:
        return self._parts[0]

    def details(self) -> str:
        return self._parts[1]

    def trailing_metadata(self) -> Any:
        return self._parts[2]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (Status(grpc.StatusCode.NOT_FOUND, "gone", (REASON, "NO_SUCH_POOL")), errors.NoSuchPool),
        (Status(grpc.StatusCode.RESOURCE_EXHAUSTED, "full", (REASON, "POOL_LIMIT")), errors.PoolLimit),
        (Status(grpc.StatusCode.UNAVAILABLE), errors.Unavailable),
        (Status(grpc.StatusCode.DEADLINE_EXCEEDED), errors.DeadlineExceeded),
        (Status(grpc.StatusCode.UNAUTHENTICATED), errors.Unauthenticated),
        (Status(grpc.StatusCode.INVALID_ARGUMENT), errors.InvalidRequest),
        (Status(grpc.StatusCode.UNIMPLEMENTED), errors.ProtocolError),
        (Status(grpc.StatusCode.INTERNAL), errors.RemoteError),
        (Status(grpc.StatusCode.NOT_FOUND, "gone", (REASON, "A_NEW_REASON")), errors.RemoteError),
    ],
)
def test_a_status_becomes_an_exception_of_the_tree(status: Status, error: type[Exception]) -> None:
    translated = translate(status, "CreatePool", "host:1")

    assert type(translated) is error


def test_the_message_names_the_server() -> None:
    assert "host:1" in str(translate(Status(grpc.StatusCode.UNAVAILABLE), "x", "host:1"))


@pytest.mark.parametrize(
    ("take", "encrypted", "flags"),
    [(None, False, 0), (True, False, PoolFlag.TAKE), (False, True, PoolFlag.KEEP | PoolFlag.ENCRYPTED)],
)
def test_options_of_a_pool_become_its_request(take: bool | None, encrypted: bool, flags: int) -> None:
    call = create_pool("a", "shared", **DEFAULTS | {"take": take, "encrypted": encrypted})
    request: Any = call.request

    assert (request.name, request.kind, request.flags, request.abi_version) == ("a", PoolKind.SHARED, flags, 1)
    assert len(request.token) == 32
    assert call.path == "/tmem.v1.PoolsService/CreatePool"


@pytest.mark.parametrize(("name", "value"), [("kind", "permanent"), ("durability", "tape")])
def test_words_that_mean_nothing_are_refused_with_those_that_do(name: str, value: str) -> None:
    arguments = {"kind": "persistent"} | DEFAULTS | {name: value}
    with pytest.raises(errors.InvalidOption, match="there are: "):
        create_pool("a", **arguments)


def test_a_response_that_is_none_is_a_protocol_error() -> None:
    with pytest.raises(errors.ProtocolError):
        create_pool("a", "persistent", **DEFAULTS).parse(b"\xff")


def test_a_token_travels_as_a_bearer() -> None:
    assert call_metadata(Options(token="abc")) == (("authorization", "Bearer abc"),)
    assert call_metadata(Options()) == ()


def test_descriptions_are_plain_python() -> None:
    info = PoolInfo.of(pb.Pool(name="a", kind=2, durability=1, flags=1, epoch=9))  # type: ignore[arg-type]
    stat = PoolStat.of(pb.PoolStat(pages=3, evicted=4))

    assert (info.name, info.kind, info.durability, info.flags, info.epoch) == (
        "a",
        "persistent",
        "memory",
        PoolFlag.TAKE,
        9,
    )
    assert (stat.pages, stat.evicted, stat.gets_hit) == (3, 4, 0)


def test_a_listing_fills_the_map() -> None:
    presence = PresenceMap()
    listing = pb.ListPagesResponse(
        object_low=[7],
        object_high=[1],
        block=[0, 3],
        bitmaps=b"\x05" + bytes(63) + b"\x80" + bytes(63),
        page_crc32c=[1, 2, 3],
    )
    take_listing(presence, listing)

    obj = 7 | 1 << 128
    first, second = presence.block(Extent(obj, 0, 1)), presence.block(Extent(obj, 3 * 512, 1))
    assert first is not None
    assert second is not None
    assert (first.stored, second.stored) == (5, 0x80)
    assert (first.crcs[0], first.crcs[2], second.crcs[7]) == (1, 2, 3)


@pytest.mark.parametrize(
    "listing",
    [
        pb.ListPagesResponse(block=[1], bitmaps=bytes(63)),
        pb.ListPagesResponse(block=[1, 2, 3], object_low=[1, 2], bitmaps=bytes(192)),
        pb.ListPagesResponse(block=[1], bitmaps=b"\xff" * 64, page_crc32c=[1]),
    ],
)
def test_a_listing_that_contradicts_itself_is_a_protocol_error(listing: pb.ListPagesResponse) -> None:
    with pytest.raises(errors.ProtocolError):
        take_listing(PresenceMap(), listing)
