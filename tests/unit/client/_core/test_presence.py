from array import array
from collections.abc import Callable

import pytest

from tmem.client import SharedPresence
from tmem.client._core.presence import Presence, PresenceMap, mask_of
from tmem.wire.handles import Extent

E = Extent(7, 512, 4)


def state(presence: PresenceMap, extent: Extent = E) -> tuple[int, int]:
    block = presence.block(extent)
    return (0, 0) if block is None else (block.stored >> extent.first & 15, block.uncertain >> extent.first & 15)


def test_masks_are_counted_within_the_block() -> None:
    assert mask_of(Extent(7, 512 + 3, 2)) == 0b11000
    assert mask_of(Extent(7, 0, 512)) == (1 << 512) - 1


def test_nothing_is_known_of_what_was_never_touched() -> None:
    presence = PresenceMap()

    assert presence.block(E) is None
    assert presence.counts() == (0, 0)


def test_a_write_is_uncertain_until_it_is_settled() -> None:
    presence = PresenceMap()
    presence.begin(E)
    assert state(presence) == (0, 15)

    presence.stored(E, [1, 2, 3, 4])

    assert state(presence) == (15, 0)
    block = presence.block(E)
    assert block is not None
    assert list(block.crcs[:4]) == [1, 2, 3, 4]


def test_a_refusal_that_changed_nothing_uncovers_what_was_known() -> None:
    presence = PresenceMap()
    presence.stored(E, [1, 2, 3, 4])
    presence.begin(E)
    presence.unchanged(E)

    assert state(presence) == (15, 0)
    presence.begin(Extent(9, 0, 1))
    presence.unchanged(Extent(9, 0, 1))
    assert presence.block(Extent(9, 0, 1)) is None


@pytest.mark.parametrize("make", [PresenceMap, lambda: SharedPresence(bytearray(SharedPresence.size(1024)), 1024, 7)])
def test_a_write_that_changed_nothing_leaves_in_doubt_what_an_earlier_one_did(make: Callable[[], Presence]) -> None:
    presence = make()
    presence.stored(E, array("I", [1, 2, 3, 4]))
    second = Extent(7, E.index + 1, 1)
    assert presence.begin(second) == 0  # nobody hears of it again
    doubted = presence.begin(E)
    presence.unchanged(E, doubted)
    block = presence.block(E)
    assert block is not None
    assert (block.stored >> E.first & 15, block.uncertain >> E.first & 15) == (0b1111, 0b0010)

    presence.begin(second)
    presence.stored(second, array("I", [5]))  # whoever stores it knows it again
    block = presence.block(E)
    assert block is not None
    assert block.uncertain == 0


def test_what_is_removed_is_absent_and_its_block_forgotten_with_its_last_page() -> None:
    presence = PresenceMap()
    presence.stored(E, [1, 2, 3, 4])
    presence.absent(Extent(7, 513, 1))
    assert state(presence) == (0b1101, 0)

    presence.absent(E)

    assert presence.block(E) is None
    assert presence.objects() == set()


def test_objects_and_blocks_are_told_apart() -> None:
    presence = PresenceMap()
    presence.stored(Extent(7, 0, 1), [1])
    presence.stored(Extent(7, 600, 1), [1])
    presence.stored(Extent(8, 0, 1), [1])

    assert presence.objects() == {7, 8}
    assert [number for number, _ in presence.blocks_of(7)] == [0, 1]
    assert presence.counts() == (3, 0)


def test_a_listing_fills_and_never_clears() -> None:
    presence = PresenceMap()
    presence.stored(Extent(7, 0, 1), [99])

    presence.listed(7, 0, 0b1011, [1, 2, 3])
    presence.listed(7, 0, 0, [])

    block = presence.block(Extent(7, 0, 1))
    assert block is not None
    assert block.stored == 0b1011
    assert (block.crcs[0], block.crcs[1], block.crcs[3]) == (99, 2, 3)


def test_a_listing_without_checksums_leaves_them_unknown() -> None:
    presence = PresenceMap()
    presence.listed(7, 0, 0b11, None)
    block = presence.block(Extent(7, 0, 1))

    assert block is not None
    assert (block.stored, block.with_crc) == (0b11, 0)


def test_where_absence_is_loss_own_removals_are_none() -> None:
    presence = PresenceMap()
    presence.absent_is_lost = True
    presence.absent(Extent(7, 3, 1))

    assert presence.was_removed(Extent(7, 0, 8), 3)
    assert not presence.was_removed(Extent(7, 0, 8), 4)
    presence.stored(Extent(7, 3, 1), [1])
    assert not presence.was_removed(Extent(7, 0, 8), 3)


def test_forgetting_keeps_what_is_under_way() -> None:
    presence = PresenceMap()
    presence.stored(E, [1, 2, 3, 4])
    presence.begin(Extent(7, 512, 1))

    presence.forget()

    assert state(presence) == (0, 1)
