import pytest
from tests.pages import PAGE, text_page

from tmem.client._core.calls import recreation
from tmem.client._core.face import BatchCore, acknowledgement, buffer_extent, flush_extents
from tmem.client._core.gets import GetOperation
from tmem.client._core.operations import FlushOperation, PutOperation
from tmem.client._core.pool import PoolCore
from tmem.client._core.results import GetResult
from tmem.v1 import pools_pb2 as pb
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import InvalidBuffer, InvalidHandle
from tmem.wire.handles import Extent, Version


@pytest.fixture
def pool() -> PoolCore:
    description = pb.Pool(pool_id=1, name="a", kind=2, chunk_pages=16, epoch=9, durability=1)  # type: ignore[arg-type]
    return PoolCore(description, b"t" * 32, 1, recreation(description, b"t" * 32))


@pytest.fixture
def batch(pool: PoolCore) -> BatchCore:
    return BatchCore(pool, Codec(CopyCounter()))


def test_a_buffer_says_how_many_pages() -> None:
    extent, view = buffer_extent(7, 512, bytearray(3 * PAGE), writable=True)

    assert extent == Extent(7, 512, 3)
    assert len(view) == 3 * PAGE


def test_more_than_a_block_is_refused_with_advice() -> None:
    with pytest.raises(InvalidBuffer, match="put it in pieces"):
        buffer_extent(7, 0, bytes(513 * PAGE), writable=False)
    with pytest.raises(InvalidHandle, match="split the extent there"):
        buffer_extent(7, 1, bytes(512 * PAGE), writable=False)


def test_flushes_are_cut_at_blocks() -> None:
    assert list(flush_extents(7, 510, 1030)) == [
        Extent(7, 510, 2),
        Extent(7, 512, 512),
        Extent(7, 1024, 512),
        Extent(7, 1536, 4),
    ]
    with pytest.raises(InvalidHandle):
        list(flush_extents(7, 0, 0))
    with pytest.raises(InvalidHandle):
        list(flush_extents(7, 2**32 - 1, 2))


def test_an_acknowledgement_names_each_run_of_one_version(pool: PoolCore) -> None:
    result = GetResult(Extent(7, 10, 6), take=True)
    first, second = Version(1, 5), Version(1, 6)
    result.versions = [first, first, None, second, second, first]

    operation = acknowledgement(pool, [result])

    assert operation is not None
    assert operation.extents == [Extent(7, 10, 2), Extent(7, 13, 2), Extent(7, 15, 1)]
    assert operation._conditions == [first, second, first]


def test_a_get_without_hits_needs_none(pool: PoolCore) -> None:
    assert acknowledgement(pool, [GetResult(Extent(7, 10, 6), take=True)]) is None


def test_items_of_one_kind_share_an_operation_until_it_is_full(batch: BatchCore) -> None:
    page = memoryview(text_page())
    for index in range(512):
        assert batch.make_room(PutOperation, 1) is None
        batch.put(Extent(7, index, 1), page)

    full = batch.make_room(PutOperation, 1)

    assert isinstance(full, PutOperation)
    assert full.pages == 512


def test_another_kind_displaces_what_came_before(batch: BatchCore) -> None:
    batch.make_room(PutOperation, 1)
    batch.put(Extent(7, 0, 1), memoryview(text_page()))

    assert isinstance(batch.make_room(GetOperation, 1), PutOperation)
    batch.get_into(Extent(7, 0, 1), memoryview(bytearray(PAGE)), take=None)
    assert isinstance(batch.make_room(FlushOperation, 1), GetOperation)
    assert batch.flush(Extent(7, 0, 1)).done  # nothing is stored there: nobody need be asked
    assert isinstance(batch.take_open(), FlushOperation)
    assert batch.take_open() is None


@pytest.mark.parametrize(
    ("kind", "flags", "asked", "takes"),
    [
        (1, 0, None, True),
        (2, 0, None, False),
        (3, 0, None, False),
        (2, 1, None, True),
        (1, 2, None, False),
        (1, 0, False, False),
        (2, 0, True, True),
    ],
)
def test_a_get_takes_as_asked_else_as_flagged_else_as_its_kind_does(
    kind: int, flags: int, asked: bool | None, takes: bool
) -> None:
    core = PoolCore(pb.Pool(name="a", kind=kind, flags=flags), b"", 1, None)  # type: ignore[arg-type]

    assert core.takes(asked) is takes
