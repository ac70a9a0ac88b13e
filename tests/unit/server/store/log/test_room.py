"""Who must give when memory is short: what is promised is kept, and what is not is refused early."""

import pytest
from tests.pages import PAGE, random_page, text_page
from tests.stores import StoreUser

from tmem.server.store.interface import PoolPolicy
from tmem.server.store.layers.limited import LimitedLayer
from tmem.server.store.log import LogStore
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import OutOfCapacity, QuotaExceeded
from tmem.wire.limits import PAGE_OVERHEAD_BYTES
from tmem.wire.results import PoolKind, Reason

LIMIT = 8 << 20
RAW_PAGE = PAGE + PAGE_OVERHEAD_BYTES


@pytest.fixture
def store() -> LogStore:
    return LogStore(LIMIT, CopyCounter(), segment_bytes=256 << 10)


def fill(user: StoreUser, obj: int = 7, most: int = 1 << 20) -> int:
    """Puts incompressible pages until one is refused; answers how many were stored."""
    for number in range(most):
        stored = user.put(obj, number, random_page(number))
        if stored.reasons:
            assert stored.reasons == [Reason.CAPACITY]
            return number
    return most


class TestReservations:
    def test_every_page_of_a_reservation_is_stored_though_others_fill_the_memory_first(self, store: LogStore) -> None:
        pages = 1000
        reserver = StoreUser(store, key=1, reserved_bytes=pages * RAW_PAGE)
        greedy = StoreUser(store, key=2)
        assert fill(greedy) > 0

        assert fill(reserver, most=pages) == pages
        assert all(reserver.get(7, number).page == random_page(number) for number in range(pages))
        assert greedy.get(7, 0).page == random_page(0)

    def test_the_part_of_a_put_beyond_the_reservation_competes_with_others(self, store: LogStore) -> None:
        small = StoreUser(store, key=1, reserved_bytes=10 * RAW_PAGE)
        fill(StoreUser(store, key=2))

        stored = fill(small)

        assert 10 <= stored < 20

    def test_ephemeral_pages_may_use_what_is_promised_and_give_it_back(self, store: LogStore) -> None:
        pages = 1500
        reserver = StoreUser(store, key=1, reserved_bytes=pages * RAW_PAGE)
        ephemeral = StoreUser(store, PoolKind.EPHEMERAL, key=2)
        for number in range(2200):
            assert ephemeral.put(7, number, random_page(number)).reasons is None
        assert ephemeral.pages * PAGE + pages * RAW_PAGE > LIMIT

        assert fill(reserver, most=pages) == pages
        assert ephemeral.pages > 0

    def test_overwriting_within_a_reservation_goes_on_at_the_limit(self, store: LogStore) -> None:
        pages = 500
        reserver = StoreUser(store, key=1, reserved_bytes=pages * RAW_PAGE)
        fill(StoreUser(store, key=2))
        fill(reserver, most=pages)

        for turn in range(4):
            for number in range(pages):
                assert reserver.put(7, number, random_page(number + turn + 1)).reasons is None

        assert all(reserver.get(7, number).page == random_page(number + 4) for number in range(pages))

    def test_more_than_there_is_can_not_be_reserved(self, store: LogStore) -> None:
        with pytest.raises(OutOfCapacity, match="memory_limit"):
            store.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t", reserved_bytes=LIMIT))

        StoreUser(store, key=1)  # the number is free: nothing was made

    def test_what_others_hold_or_were_promised_can_not_be_reserved_again(self, store: LogStore) -> None:
        store.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t", reserved_bytes=LIMIT // 2))
        other = StoreUser(store, key=2)
        for number in range(200):
            other.put(7, number, random_page(number))

        with pytest.raises(OutOfCapacity):
            store.add_pool(PoolPolicy(3, PoolKind.PERSISTENT, "t", reserved_bytes=int(LIMIT * 0.35)))
        store.add_pool(PoolPolicy(3, PoolKind.PERSISTENT, "t", reserved_bytes=int(LIMIT * 0.25)))

    def test_a_reservation_can_be_changed_and_ends_with_its_pool(self, store: LogStore) -> None:
        policy = PoolPolicy(1, PoolKind.PERSISTENT, "t", reserved_bytes=LIMIT // 2)
        store.add_pool(policy)
        with pytest.raises(OutOfCapacity):
            store.reserve(1, LIMIT)
        assert policy.reserved_bytes == LIMIT // 2

        store.reserve(1, LIMIT * 3 // 4)
        store.reserve(1, LIMIT // 4)
        store.drop_pool(1)
        store.add_pool(PoolPolicy(2, PoolKind.PERSISTENT, "t", reserved_bytes=LIMIT * 3 // 4))

    def test_a_tenant_can_not_reserve_more_than_its_quota(self, store: LogStore) -> None:
        limited = LimitedLayer(store, {"t": 1 << 20})
        limited.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t", reserved_bytes=700 << 10))

        with pytest.raises(QuotaExceeded, match="tenant t"):
            limited.add_pool(PoolPolicy(2, PoolKind.PERSISTENT, "t", reserved_bytes=400 << 10))
        limited.add_pool(PoolPolicy(2, PoolKind.PERSISTENT, "t", reserved_bytes=300 << 10))
        with pytest.raises(QuotaExceeded):
            limited.reserve(2, 400 << 10)
        limited.reserve(1, 0)
        limited.reserve(2, 1 << 20)


class TestOverhead:
    def test_a_page_of_a_dense_block_takes_no_more_than_the_overhead_that_is_reported(self, store: LogStore) -> None:
        user = StoreUser(store)
        generation_wide = 70000
        for number in range(512):
            user.put(7, number, text_page(number), version=user.version()._replace(generation=generation_wide))

        counts = store.counts(1)

        assert counts.index_bytes <= 512 * PAGE_OVERHEAD_BYTES
