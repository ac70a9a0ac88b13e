"""What the log store does behind its interface: memory comes back, the order of age stays, nothing leaks."""

import random

import pytest
from tests.pages import PAGE, random_page, same_filled_page, text_page
from tests.stores import KEY, StoreUser, make_put

from tmem.server.store.log import LogStore
from tmem.server.store.log.segments import Segment
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent
from tmem.wire.results import Code, Encoding, PoolKind, Reason

SEGMENT = 256 << 10
MIB = 1 << 20


def make_store(limit: int = 64 * MIB) -> LogStore:
    return LogStore(limit, CopyCounter(), segment_bytes=SEGMENT)


def settle(store: LogStore) -> None:
    while store.step():
        pass


def resident(store: LogStore) -> int:
    return store._ledger.resident


def audit(store: LogStore) -> None:
    """Every account, made anew from the segments and leaves."""
    total = dead = 0
    for pool in store._pools.values():
        payload = overhead = pages = 0
        for number in pool.leaves.numbers():
            seen = set()
            for _, count, locator, _, record in pool.runs(number, 0, 512):
                pages += count
                assert record.leaf == number
                if locator not in seen:
                    seen.add(locator)
                    payload += record.live_bytes(pool.live_pages(record, locator))
                    overhead += record.overhead
        counts = pool.counts
        held = sum(segment.resident for segment in pool.segments)
        assert (counts.pages, counts.payload_bytes) == (pages, payload)
        assert counts.index_bytes == overhead + pool.leaves.bytes
        assert counts.dead_bytes == held - payload - overhead == sum(segment.dead for segment in pool.segments)
        total += held + pool.leaves.bytes
        dead += counts.dead_bytes
    assert (store._ledger.resident, store._ledger.dead) == (total, dead)


@pytest.mark.parametrize("chunk_pages", [1, 16])
def test_memory_follows_what_lives_while_pages_are_overwritten_and_flushed(chunk_pages):
    store = make_store()
    user = StoreUser(store)
    chance = random.Random(3)
    pages = [text_page(seed) for seed in range(40)]
    model = {}
    for block in range(6):
        user.put(7, block * 512, b"".join(pages[page % 40] for page in range(512)), chunk_pages=chunk_pages)
        model |= {block * 512 + page: page % 40 for page in range(512)}
    for _ in range(4000):
        index = chance.randrange(6 * 512)
        if chance.random() < 0.3:
            user.flush(7, index)
            model.pop(index, None)
        else:
            model[index] = chance.randrange(40)
            user.put(7, index, pages[model[index]], chunk_pages=1)
        counts = store.counts()
        live = counts.payload_bytes + counts.index_bytes
        # What the cleaner works towards, and what one put may add before it is its turn again.
        assert counts.dead_bytes <= 0.10 * live + SEGMENT + 70_000
    audit(store)
    assert store._cleaner.moved_bytes

    settle(store)

    audit(store)
    counts = store.counts()
    assert counts.dead_bytes <= max(0.02 * (counts.payload_bytes + counts.index_bytes), 256 << 10)
    for index in range(6 * 512):
        page = user.get(7, index).page
        assert page == (pages[model[index]] if index in model else None)


def test_a_partly_dead_chunk_is_cut_to_what_lives_and_keeps_its_checksums():
    store = make_store()
    user = StoreUser(store)
    pages = [text_page(seed) for seed in range(16)]
    for block in range(64):
        user.put(7, block * 512, b"".join(pages))
        for page in range(16):
            if page not in {2, 3, 9}:
                user.flush(7, block * 512 + page)
    settle(store)

    assert store._cleaner.repacked_chunks
    audit(store)
    for block in range(64):
        assert user.get(7, block * 512, 16).data == {page: pages[page] for page in (2, 3, 9)}


def test_cleaning_ends_although_some_chunks_can_not_be_made_smaller():
    """Pages of which each is the others' dictionary: a chunk with half of them costs as much as with all."""
    store = make_store()
    user = StoreUser(store)
    chance = random.Random(1)
    halves = [chance.randbytes(1400) + bytes(4096 - 1400) for _ in range(8)]
    for block in range(60):
        user.put(7, block * 512, b"".join(chance.choice(halves) for _ in range(512)))
    for _ in range(4000):
        user.flush(7, chance.randrange(60 * 512))
    steps = 0
    while store.step():
        steps += 1
        assert steps < 20_000
    audit(store)
    assert store._ledger.stuck == sum(segment.stuck for segment in store._pools[KEY].segments)
    user.flush_object(7)
    assert (store._ledger.stuck, resident(store)) == (0, 0)


def test_dead_memory_is_bounded_when_one_message_kills_many_records():
    store = make_store(1 << 30)
    user = StoreUser(store)
    chance = random.Random(2)
    pages = [chance.randbytes(1400) + bytes(4096 - 1400) for _ in range(16)]
    for block in range(24):
        user.put(7, block * 512, b"".join(chance.choice(pages) for _ in range(512)), chunk_pages=1)
    worst = 0.0
    for number in range(60):
        version = user.version()
        if number % 6 == 5:
            store.flush(KEY, version, [Extent(7, page, 1) for page in chance.sample(range(24 * 512), 256)], None)
        else:
            items = [(Extent(7, page, 1), chance.choice(pages)) for page in chance.sample(range(24 * 512), 512)]
            store.put(KEY, version, make_put(items, version.sequence, chunk_pages=1), 1)
        counts = store.counts()
        worst = max(worst, counts.dead_bytes / (counts.payload_bytes + counts.index_bytes))
    assert worst < 0.2
    audit(store)


def test_a_page_whose_bytes_went_bad_stays_bad_through_cleaning_and_its_neighbours_live():
    store = make_store()
    user = StoreUser(store)
    pages = [random_page(seed) for seed in range(16)]
    for block in range(40):
        user.put(7, block * 512, b"".join(pages))
    segment = store._pools[KEY].segments[0]
    # The chunk is raw: its second page begins 4096 bytes behind the first.
    at = bytes(segment.memory[: segment.used]).find(pages[1])
    segment.memory[at] ^= 1
    for block in range(40):
        user.flush(7, block * 512 + 5, 11)
    settle(store)

    assert store._cleaner.repacked_chunks
    codes = user.get(7, 0, 3, alone=True).codes
    assert codes == [Code.HIT, Code.CORRUPT, Code.HIT]
    assert user.get(7, 512, 3).whole == b"".join(pages[:3])


def test_cleaning_never_makes_old_pages_young():
    store = make_store(4 * MIB)
    user = StoreUser(store, PoolKind.EPHEMERAL)
    for index in range(400):
        user.put(7, index, random_page(index))
    for index in range(0, 400, 2):
        user.flush(7, index)
    settle(store)
    audit(store)
    held = [index for index in range(400) if user.get(7, index).page is not None]
    assert held == list(range(1, 400, 2))
    index = 1000
    while store.counts(KEY).evicted < 60:
        user.put(7, index, random_page(index))
        index += 1
    gone = [index for index in held if user.get(7, index).page is None]
    assert gone == held[: len(gone)]
    assert len(gone) == store.counts(KEY).evicted
    audit(store)


def test_eviction_gives_memory_back_as_it_goes():
    store = make_store(2 * MIB)
    user = StoreUser(store, PoolKind.EPHEMERAL)
    for index in range(3000):
        assert user.put(7, index, random_page(index)).reasons is None
        assert resident(store) <= 2 * MIB
    assert user.pages > 300
    audit(store)


def test_memory_that_is_given_back_comes_back_zero():
    segment = Segment(1, SEGMENT)
    segment.memory[:SEGMENT] = b"x" * SEGMENT
    segment.used = SEGMENT
    segment.dead = 100_000
    given = segment.release(70_000)
    assert given == 69632
    assert bytes(segment.memory[:given]) == bytes(given)
    assert segment.memory[given] == ord("x")
    segment.close()


def test_no_answer_of_one_pool_holds_bytes_of_another():
    """Whatever was freed and used again, a get answers the bytes of its own pool or none."""
    store = make_store(3 * MIB)
    ours = StoreUser(store, key=1, tenant="a")
    theirs = StoreUser(store, key=2, tenant="b")
    secret = b"a secret of tenant b, who trusts"
    chance = random.Random(5)
    for round_number in range(300):
        theirs.put(7, chance.randrange(200), secret * (PAGE // len(secret)), chunk_pages=1)
        theirs.flush(7, chance.randrange(200))
        index = chance.randrange(200)
        ours.put(7, index, text_page(round_number % 5), chunk_pages=1)
        for got in (ours.get(7, chance.randrange(190), 10), ours.get(7, index, alone=True)):
            assert all(secret not in bytes(chunk.data) for chunk in got.raw.chunks)
            assert all(secret not in page for page in got.data.values())


def test_destroying_a_large_pool_gives_memory_back_in_pieces():
    store = make_store()
    user = StoreUser(store)
    for block in range(20):
        user.put(7, block * 512, b"".join(random_page(page) for page in range(256)))
    held = resident(store)
    assert store.drop_pool(KEY) == 20 * 256
    assert 0 < resident(store) < held
    assert store.counts().pages == 0
    steps = 0
    while store.step():
        steps += 1
    assert steps > 10
    assert resident(store) == 0


def test_at_capacity_puts_are_refused_until_enough_has_gone():
    store = make_store(4 * MIB)
    user = StoreUser(store)
    index = 0
    while user.put(7, index, random_page(index)).reasons is None:
        index += 1
    assert resident(store) <= 4 * MIB
    assert user.put(7, index, random_page(0)).reasons == [Reason.CAPACITY]
    # The same page again takes no more than it had.
    assert user.put(7, 0, random_page(1)).reasons is None
    user.flush(7, 1)
    assert user.put(7, 5000, random_page(2)).reasons == [Reason.CAPACITY]  # one page is not enough
    user.flush(7, 2, 60)
    assert user.put(7, 5000, random_page(2)).reasons is None
    for number in range(100, 200):
        assert user.get(7, number).page == random_page(number)


def test_ephemeral_pages_make_room_for_persistent_ones_and_for_each_other():
    store = make_store(4 * MIB)
    kept = StoreUser(store, key=1)
    cache = StoreUser(store, PoolKind.EPHEMERAL, key=2)
    for index in range(2000):
        assert cache.put(7, index, random_page(index)).reasons is None
    for index in range(600):
        assert kept.put(7, index, random_page(index)).reasons is None
    assert all(kept.get(7, index).page == random_page(index) for index in range(600))
    assert resident(store) <= 4 * MIB
    audit(store)


def test_a_shared_page_that_is_used_outlives_older_ones():
    store = make_store(4 * MIB)
    user = StoreUser(store, PoolKind.SHARED)
    index = 0
    while not store.counts(KEY).evicted:
        user.put(7, index, random_page(index))
        if index > 10:
            assert user.get(7, 10).page == random_page(10)
        index += 1
    for later in range(index, index + 2000):
        user.put(7, later, random_page(later))
        assert user.get(7, 10, user=9).page == random_page(10)
    assert user.get(7, 9).page is None
    audit(store)


def test_a_run_of_one_word_is_one_record_however_long():
    store = make_store()
    user = StoreUser(store)
    user.put(7, 0, same_filled_page() * 512)
    counts = store.counts(KEY)
    assert (counts.payload_bytes, counts.same_filled_pages) == (8, 512)
    assert counts.index_bytes / 512 < 9
    assert user.get(7, 100, 3).raw.chunks[0].encoding == Encoding.SAME_FILLED


def test_the_index_of_dense_blocks_is_small_whatever_the_order_of_writing():
    store = make_store()
    user = StoreUser(store)
    order = list(range(1024))
    random.Random(1).shuffle(order)
    for index in order:
        user.put(7, index, text_page(index % 7), chunk_pages=1)
    assert store.counts(KEY).index_bytes / 1024 <= 32


def test_the_index_of_one_page_a_block_is_bounded():
    store = make_store()
    user = StoreUser(store)
    for block in range(1000):
        user.put((block << 130) + 1, block * 512, text_page(block % 7))
    assert store.counts(KEY).index_bytes / 1000 <= 256
