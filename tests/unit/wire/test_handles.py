import pytest

from tmem.wire.errors import InvalidHandle
from tmem.wire.handles import Extent, check_extent, check_object, join_object, split_object


@pytest.mark.parametrize("obj", [0, 1, 2**64 - 1, 2**64, 2**128, 2**192 - 1, 0x0123456789ABCDEF << 100])
def test_object_ids_survive_the_three_words(obj: int) -> None:
    assert join_object(*split_object(obj)) == obj


@pytest.mark.parametrize("obj", [-1, 2**192, 1.5, "7", None])
def test_objects_out_of_range_are_refused_and_never_truncated(obj: object) -> None:
    with pytest.raises(InvalidHandle, match="object id"):
        check_object(obj)


@pytest.mark.parametrize("index", [-1, 2**32, 2**40, 0.5])
def test_indices_out_of_range_are_refused_and_never_truncated(index: object) -> None:
    with pytest.raises(InvalidHandle, match="page index"):
        check_extent(1, index, 1)


def test_both_ends_of_the_index_range_are_usable() -> None:
    check_extent(1, 0, 512)
    check_extent(1, 2**32 - 1, 1)
    check_extent(1, 2**32 - 512, 512)


@pytest.mark.parametrize("pages", [0, -1, 513])
def test_an_extent_has_1_to_512_pages(pages: int) -> None:
    with pytest.raises(InvalidHandle, match="pages"):
        check_extent(1, 0, pages)


@pytest.mark.parametrize(("index", "pages"), [(1, 512), (511, 2), (2**32 - 1, 2)])
def test_an_extent_stays_inside_its_block(index: int, pages: int) -> None:
    with pytest.raises(InvalidHandle, match="split the extent"):
        check_extent(1, index, pages)


def test_an_extent_knows_its_block() -> None:
    extent = Extent(7, 1025, 3)

    assert (extent.block, extent.first) == (2, 1)
