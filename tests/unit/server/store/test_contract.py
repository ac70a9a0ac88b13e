"""What every store must do, run on each; layers and rights are not its business."""

from collections.abc import Callable

import pytest
from tests.pages import PAGE, extent, mixed_page, random_page, same_filled_page, text_page
from tests.plain import PlainStore
from tests.stores import StoreUser

from tmem.server.store.interface import Store, Stored
from tmem.server.store.log import LogStore
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Code, PoolKind, Reason

MakeStore = Callable[[int], Store]
A, B, C = text_page(1), text_page(2), random_page(3)


@pytest.fixture(params=[PlainStore, LogStore])
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    return lambda limit: request.param(limit, CopyCounter())


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store(1 << 30)


@pytest.fixture
def user(store: Store) -> StoreUser:
    return StoreUser(store)


class TestPages:
    @pytest.mark.parametrize("plain", [A, random_page(), same_filled_page(), mixed_page()])
    def test_bytes_come_back_as_they_were_and_stay(self, user: StoreUser, plain: bytes) -> None:
        assert user.put(7, 0, plain).reasons is None

        assert user.get(7, 0).page == plain
        assert user.get(7, 0).page == plain

    def test_nothing_stored_is_a_miss_that_leaves_no_trace(self, user: StoreUser) -> None:
        got = user.get(7, 0, 4)

        assert got.codes == [Code.MISS] * 4
        assert (user.pages, user.store.counts().objects) == (0, 0)

    def test_an_overwrite_replaces(self, user: StoreUser) -> None:
        user.put(7, 0, A)

        assert user.put(7, 0, B).replaced == 1
        assert user.get(7, 0).page == B
        assert user.pages == 1

    def test_the_later_of_two_equal_handles_in_one_put_wins(self, user: StoreUser) -> None:
        user.put_many([(7, 0, A), (7, 0, B)])

        assert user.get(7, 0).page == B

    def test_objects_differing_in_one_bit_are_different(self, user: StoreUser) -> None:
        for bit in (0, 63, 64, 127, 128, 191):
            user.put(1 << bit, 0, text_page(bit))

        for bit in (0, 63, 64, 127, 128, 191):
            assert user.get(1 << bit, 0).page == text_page(bit)

    def test_both_ends_of_the_index_are_usable(self, user: StoreUser) -> None:
        user.put(7, 0, A)
        user.put(7, 2**32 - 1, B)

        assert user.get(7, 2**32 - 1).page == B
        assert user.get(7, 0).page == A

    def test_a_version_comes_back_with_its_page(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 5))
        user.put(7, 1, B, version=Version(1, 9))

        assert user.get(7, 0, 2).versions == {0: Version(1, 5), 1: Version(1, 9)}

    def test_an_older_write_of_the_same_generation_is_stale_and_changes_nothing(self, user: StoreUser) -> None:
        user.put(7, 0, B, version=Version(1, 9))

        stored = user.put(7, 0, A, version=Version(1, 5))

        assert stored.reasons == [Reason.STALE]
        assert user.get(7, 0).page == B

    def test_the_same_write_again_leaves_the_same_state(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 5))
        user.put(7, 0, A, version=Version(1, 5))

        assert user.get(7, 0).page == A
        assert user.pages == 1

    def test_a_newer_generation_always_wins(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 9))
        user.put(7, 0, B, version=Version(2, 1))

        assert user.get(7, 0).page == B


class TestExtents:
    def test_an_extent_reads_back_whole_and_page_by_page(self, user: StoreUser) -> None:
        plain = bytes(extent(0, 512))
        user.put(7, 512, plain)

        assert user.get(7, 512, 512).whole == plain
        for page in range(0, 512, 37):
            assert user.get(7, 512 + page).page == plain[page * PAGE : (page + 1) * PAGE]

    def test_single_pages_read_back_as_an_extent(self, user: StoreUser) -> None:
        plain = bytes(extent(0, 64))
        for page in range(64):
            user.put(7, page, plain[page * PAGE : (page + 1) * PAGE])

        assert user.get(7, 0, 64).whole == plain

    def test_absent_pages_of_an_extent_are_misses_between_hits(self, user: StoreUser) -> None:
        user.put(7, 1, A)
        user.put(7, 3, B)

        got = user.get(7, 0, 5)

        assert got.codes == [Code.MISS, Code.HIT, Code.MISS, Code.HIT, Code.MISS]
        assert got.data == {1: A, 3: B}

    def test_an_overwrite_inside_an_extent_affects_that_page_alone(self, user: StoreUser) -> None:
        plain = bytearray(extent(0, 40))
        user.put(7, 0, bytes(plain))

        user.put(7, 20, C)

        plain[20 * PAGE : 21 * PAGE] = C
        assert user.get(7, 0, 40).whole == plain
        assert user.pages == 40

    def test_a_flush_inside_an_extent_affects_that_page_alone(self, user: StoreUser) -> None:
        plain = bytes(extent(0, 40))
        user.put(7, 0, plain)

        assert user.flush(7, 20) == 1

        got = user.get(7, 0, 40)
        assert [number for number, code in enumerate(got.codes) if code == Code.MISS] == [20]
        assert got.data[19] == plain[19 * PAGE : 20 * PAGE]
        assert got.data[21] == plain[21 * PAGE : 22 * PAGE]

    def test_an_extent_over_parts_of_others_replaces_exactly_them(self, user: StoreUser) -> None:
        first, second = bytes(extent(0, 32)), bytes(extent(100, 32))
        user.put(7, 0, first)

        assert user.put(7, 10, second).replaced == 22

        assert user.get(7, 0, 42).whole == first[: 10 * PAGE] + second

    def test_a_get_of_part_of_a_chunk_answers_the_chunk_whole(self, user: StoreUser) -> None:
        user.put(7, 0, b"".join(map(text_page, range(16))))

        got = user.get(7, 5)

        assert got.page == text_page(5)
        assert [chunk.pages for chunk in got.raw.chunks] == [16]

    def test_where_there_is_no_room_for_the_chunk_it_is_expanded_and_counted(self, user: StoreUser) -> None:
        user.put(7, 0, b"".join(map(text_page, range(16))))

        got = user.get(7, 3, 2, room=2 * PAGE)

        assert got.data == {0: text_page(3), 1: text_page(4)}
        assert sum(len(chunk.data) for chunk in got.raw.chunks) <= 2 * PAGE
        assert user.store.counts().expanded == 2

    def test_answers_never_exceed_their_room(self, user: StoreUser) -> None:
        for page in range(0, 512, 16):
            user.put(7, page, b"".join(random_page(page + n) for n in range(16)))
        for page in range(0, 512, 2):
            user.put(7, page, random_page(1000 + page))

        got = user.get(7, 0, 512, room=512 * PAGE)

        assert len(got.data) == 512
        assert sum(len(chunk.data) for chunk in got.raw.chunks) <= 512 * PAGE

    def test_a_reader_that_knows_no_chunks_gets_each_page_alone(self, user: StoreUser) -> None:
        user.put(7, 0, b"".join(map(text_page, range(16))))

        got = user.get(7, 5, alone=True)

        assert got.page == text_page(5)
        assert [chunk.pages for chunk in got.raw.chunks] == [1]
        assert user.store.counts().expanded == 1


class TestFlush:
    def test_a_flushed_page_is_a_miss_and_its_neighbours_are_not(self, user: StoreUser) -> None:
        for index in range(3):
            user.put(7, index, text_page(index))

        assert user.flush(7, 1) == 1

        assert user.get(7, 0, 3).codes == [Code.HIT, Code.MISS, Code.HIT]

    def test_a_flush_of_what_is_absent_finds_nothing(self, user: StoreUser) -> None:
        assert user.flush(7, 0, 512) == 0
        assert user.flush_object(7) == 0

    def test_a_whole_object_goes_and_no_other(self, user: StoreUser) -> None:
        user.put(7, 0, A)
        user.put(7, 5000, B)
        user.put(8, 0, C)

        assert user.flush_object(7) == 2

        assert user.get(7, 0).page is None
        assert user.get(7, 5000).page is None
        assert user.get(8, 0).page == C

    def test_an_object_is_gone_with_its_last_page(self, user: StoreUser) -> None:
        user.put(7, 0, A)
        assert user.store.counts().objects == 1

        user.flush(7, 0)

        assert user.store.counts().objects == 0

    def test_a_conditional_flush_removes_exactly_its_version(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 5))
        user.sequence = 5

        assert user.flush(7, 0, condition=Version(1, 4)) == 0
        assert user.get(7, 0).page == A
        assert user.flush(7, 0, condition=Version(1, 5)) == 1
        assert user.flush(7, 0, condition=Version(1, 5)) == 0

    def test_a_put_between_take_and_ack_wins(self, user: StoreUser) -> None:
        user.put(7, 0, A)
        version = user.get(7, 0).versions[0]
        user.put(7, 0, B)

        assert user.flush(7, 0, condition=version) == 0
        assert user.get(7, 0).page == B

    def test_a_condition_on_an_extent_spares_its_overwritten_pages(self, user: StoreUser) -> None:
        user.put(7, 0, b"".join(map(text_page, range(16))))
        version = user.get(7, 0).versions[0]
        user.put(7, 4, C)

        assert user.flush(7, 0, 16, condition=version) == 15
        assert user.get(7, 0, 16).data == {4: C}

    def test_an_old_flush_does_not_remove_a_newer_page(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 9))

        flushed = user.store.flush(user.key, Version(1, 5), [Extent(7, 0, 1)], None)

        assert flushed.found == [0]  # type: ignore[union-attr]
        assert user.get(7, 0).page == A

    def test_drop_removes_like_a_refused_put_and_respects_newer_pages(self, user: StoreUser) -> None:
        user.put(7, 0, A, version=Version(1, 9))
        user.put(7, 1, B, version=Version(1, 2))

        refused = user.store.refuse(user.key, Version(1, 5), [Extent(7, 0, 1), Extent(7, 1, 1)], Reason.FROZEN)
        assert refused == Stored([Reason.FROZEN] * 2, 0, 1)
        assert user.get(7, 0, 2).data == {0: A}


class TestQuotaAndCapacity:
    def test_a_put_beyond_the_quota_is_refused_and_the_old_page_is_gone(self, store: Store) -> None:
        user = StoreUser(store, quota_bytes=40_000)
        stored = 0
        while user.put(7, stored, random_page(stored)).reasons is None:
            stored += 1
        assert 5 <= stored <= 9

        refused = user.put(7, 0, b"".join(map(random_page, range(50, 66))))

        assert refused.reasons == [Reason.QUOTA]
        assert refused.dropped == stored
        assert user.get(7, 0).page is None

    def test_a_refused_new_put_leaves_no_object_and_no_charge(self, store: Store) -> None:
        user = StoreUser(store, quota_bytes=1000)

        assert user.put(7, 0, random_page()).reasons == [Reason.QUOTA]

        counts = store.counts()
        assert (counts.pages, counts.objects, counts.payload_bytes, counts.index_bytes, counts.dead_bytes) == (
            0,
            0,
            0,
            0,
            0,
        )

    def test_pages_stored_before_a_refusal_stay_and_a_flush_makes_room(self, store: Store) -> None:
        user = StoreUser(store, quota_bytes=40_000)
        stored = 0
        while user.put(7, stored, random_page(stored)).reasons is None:
            stored += 1

        for index in range(stored):
            assert user.get(7, index).page == random_page(index)
        user.flush(7, 0)
        user.flush(7, 1)
        assert user.put(7, 999, random_page()).reasons is None

    def test_an_overwrite_at_the_quota_needs_no_new_room(self, store: Store) -> None:
        user = StoreUser(store, quota_bytes=40_000)
        stored = 0
        while user.put(7, stored, random_page(stored)).reasons is None:
            stored += 1

        for round_number in range(20):
            assert user.put(7, 0, random_page(100 + round_number)).reasons is None

    def test_at_capacity_persistent_puts_are_refused_and_reads_go_on(self, make_store: MakeStore) -> None:
        user = StoreUser(make_store(1 << 20))
        stored = 0
        while user.put(7, stored, random_page(stored)).reasons is None:
            stored += 1

        assert user.put(7, stored + 1, random_page(1)).reasons == [Reason.CAPACITY]
        for index in range(stored):
            assert user.get(7, index).page == random_page(index)

    def test_one_refusal_in_a_put_does_not_fail_the_others(self, store: Store) -> None:
        user = StoreUser(store, quota_bytes=20_000)

        stored = user.put_many([(7, 0, A), (7, 16, bytes(b"".join(map(random_page, range(16))))), (7, 40, B)])

        assert stored.reasons == [0, Reason.QUOTA, 0]
        assert user.get(7, 0).page == A
        assert user.get(7, 40).page == B

    def test_shrinking_the_quota_below_its_use_drops_nothing(self, store: Store) -> None:
        user = StoreUser(store)
        for index in range(20):
            user.put(7, index, random_page(index))

        user.policy.quota_bytes = 1000

        assert user.pages == 20
        assert user.put(7, 99, A).reasons == [Reason.QUOTA]
        assert user.get(7, 3).page == random_page(3)


class TestEviction:
    LIMIT = 1 << 20

    def test_ephemeral_puts_never_fail_and_the_oldest_pages_go_first(self, make_store: MakeStore) -> None:
        user = StoreUser(make_store(self.LIMIT), PoolKind.EPHEMERAL)

        for index in range(600):
            assert user.put(7, index, random_page(index)).reasons is None

        held = [index for index in range(600) if user.get(7, index).page is not None]
        assert held == list(range(600 - len(held), 600))
        assert 100 < len(held) < 300
        assert user.store.counts(user.key).evicted == 600 - len(held)

    def test_an_evicted_page_can_be_stored_again(self, make_store: MakeStore) -> None:
        user = StoreUser(make_store(self.LIMIT), PoolKind.EPHEMERAL)
        for index in range(600):
            user.put(7, index, random_page(index))
        assert user.get(7, 0).page is None

        user.put(7, 0, B)

        assert user.get(7, 0).page == B

    def test_persistent_pages_are_never_victims_and_may_push_others_out(self, make_store: MakeStore) -> None:
        store = make_store(self.LIMIT)
        kept = StoreUser(store, key=1)
        cache = StoreUser(store, PoolKind.EPHEMERAL, key=2)
        for index in range(50):
            kept.put(7, index, random_page(index))
        for index in range(400):
            cache.put(7, index, random_page(index))
        before = cache.pages
        for index in range(50, 100):
            assert kept.put(7, index, random_page(index)).reasons is None

        for index in range(100):
            assert kept.get(7, index).page == random_page(index)
        assert cache.pages < before

    def test_a_get_makes_shared_pages_young(self, make_store: MakeStore) -> None:
        user = StoreUser(make_store(self.LIMIT), PoolKind.SHARED)
        user.put(1, 0, A)
        user.put(2, 0, B)
        for index in range(400):
            user.put(7, index, random_page(index))
            user.get(1, 0)

        assert user.get(1, 0).page == A
        assert user.get(2, 0).page is None

    def test_a_get_does_not_make_private_ephemeral_pages_young(self, make_store: MakeStore) -> None:
        user = StoreUser(make_store(self.LIMIT), PoolKind.EPHEMERAL)
        user.put(1, 0, A)
        for index in range(400):
            user.put(7, index, random_page(index))
            user.get(1, 0)

        assert user.get(1, 0).page is None

    @pytest.mark.parametrize(("weights", "expected"), [((3, 1), 3.0), ((1, 1), 1.0), ((1, 4), 0.25)])
    def test_endless_puts_share_memory_by_weight(
        self, make_store: MakeStore, weights: tuple[int, int], expected: float
    ) -> None:
        store = make_store(self.LIMIT)
        first = StoreUser(store, PoolKind.EPHEMERAL, key=1, tenant="a", tenant_weight=weights[0])
        second = StoreUser(store, PoolKind.EPHEMERAL, key=2, tenant="b", tenant_weight=weights[1])
        for index in range(1500):
            first.put(7, index, random_page(index))
            second.put(7, index, random_page(index))

        assert first.pages / second.pages == pytest.approx(expected, rel=0.1)

    def test_reclaim_frees_at_least_what_is_asked_for_oldest_first_and_only_where_it_may(
        self, make_store: MakeStore
    ) -> None:
        store = make_store(8 << 20)
        kept = StoreUser(store, key=1)
        cache = StoreUser(store, PoolKind.EPHEMERAL, key=2)
        others = StoreUser(store, PoolKind.EPHEMERAL, key=3, tenant="b")
        for user in (kept, cache, others):
            for index in range(100):
                user.put(7, index, random_page(index))

        def used(user: StoreUser) -> int:
            counts = store.counts(user.key)
            return counts.payload_bytes + counts.index_bytes

        before = used(cache)
        freed = store.reclaim([cache.key], 100_000)

        assert 100_000 <= freed < 120_000
        assert before - used(cache) == freed
        held = [index for index in range(100) if cache.get(7, index).page is not None]
        assert held == list(range(100 - len(held), 100))
        assert store.counts(cache.key).evicted == 100 - len(held)
        assert (kept.pages, others.pages) == (100, 100)
        rest = used(cache)
        assert store.reclaim([cache.key, kept.key], 1 << 40) == rest
        assert (cache.pages, kept.pages) == (0, 100)
        assert store.reclaim([cache.key], 1) == 0

    def test_weights_divide_among_tenants_before_their_pools(self, make_store: MakeStore) -> None:
        store = make_store(self.LIMIT)
        alone = StoreUser(store, PoolKind.EPHEMERAL, key=1, tenant="a", tenant_weight=1, weight=1)
        pair = [
            StoreUser(store, PoolKind.EPHEMERAL, key=key, tenant="b", tenant_weight=1, weight=weight)
            for key, weight in ((2, 1), (3, 3))
        ]
        for index in range(1500):
            for user in (alone, *pair):
                user.put(7, index, random_page(index))

        assert alone.pages == pytest.approx(pair[0].pages + pair[1].pages, rel=0.1)
        assert pair[1].pages / pair[0].pages == pytest.approx(3, rel=0.15)

    def test_the_member_who_leaves_takes_what_it_used_last(self, store: Store) -> None:
        pool = StoreUser(store, PoolKind.SHARED)
        pool.put(1, 0, A, user=1)
        pool.put(2, 0, B, user=1)
        pool.get(2, 0, user=2)

        assert sum(store.leave(pool.key, 1)) == 1

        assert pool.get(1, 0, user=2).page is None
        assert pool.get(2, 0, user=2).page == B


class TestAccounting:
    def test_everything_is_zero_once_pools_are_gone(self, store: Store) -> None:
        users = [StoreUser(store, kind, key=key) for key, kind in enumerate((PoolKind.PERSISTENT, PoolKind.SHARED), 1)]
        for user in users:
            user.put(7, 0, bytes(extent(0, 512)))
            user.put(7, 100, random_page())
            user.flush(7, 5, 3)
            user.put(9, 2**32 - 1, same_filled_page())
        for user in users:
            assert store.drop_pool(user.key) == 510
        while store.step():
            pass

        counts = store.counts()
        for name in ("pages", "objects", "blocks", "payload_bytes", "index_bytes", "dead_bytes", "raw_pages"):
            assert getattr(counts, name) == 0, name
        assert counts.same_filled_pages == 0

    def test_everything_is_zero_once_pages_are_flushed(self, user: StoreUser) -> None:
        user.put(7, 0, bytes(extent(0, 100)))
        for page in range(0, 100, 3):
            user.put(7, page, text_page(page))
        user.flush(7, 0, 50)
        user.flush_object(7)

        counts = user.store.counts(user.key)
        assert (counts.pages, counts.payload_bytes, counts.index_bytes, counts.dead_bytes) == (0, 0, 0, 0)

    def test_payload_is_the_live_share_of_each_chunk(self, user: StoreUser) -> None:
        plain = b"".join(map(text_page, range(16)))
        user.put(7, 0, plain)
        whole = user.store.counts(user.key).payload_bytes

        user.flush(7, 0, 8)

        assert user.store.counts(user.key).payload_bytes == pytest.approx(whole / 2, abs=1)

    def test_kinds_of_pages_are_counted(self, user: StoreUser) -> None:
        user.put(7, 0, random_page())
        user.put(7, 1, same_filled_page())
        user.put(7, 2, A)

        counts = user.store.counts(user.key)
        assert (counts.raw_pages, counts.same_filled_pages, counts.pages) == (1, 1, 3)

    def test_blocks_lists_what_is_held(self, user: StoreUser) -> None:
        user.put(7, 0, A)
        user.put(7, 511, B)
        user.put(2**100, 600, C)

        listed = {(block.object, block.block): block for block in user.store.blocks(user.key)}

        assert set(listed) == {(7, 0), (2**100, 1)}
        assert int.from_bytes(listed[7, 0].bitmap, "little") == 1 | 1 << 511
        assert int.from_bytes(listed[2**100, 1].bitmap, "little") == 1 << 88
        from tmem.wire.checksum import page_checksum

        assert list(listed[7, 0].crcs) == [page_checksum(A), page_checksum(B)]

    def test_listing_survives_changes_while_it_runs(self, user: StoreUser) -> None:
        for number in range(10):
            user.put(number, 0, text_page(number))

        seen = []
        for block in user.store.blocks(user.key):
            seen.append(block.object)
            user.flush_object((block.object + 1) % 10)
            user.put(100 + block.object, 0, A)

        assert len(seen) == len(set(seen))
