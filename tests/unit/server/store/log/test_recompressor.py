"""What lies in memory for a while becomes smaller, and stays what it was, whatever happens meanwhile."""

import random

import pytest
from tests.pages import PAGE, mixed_page, random_page, same_filled_page, text_page
from tests.stores import KEY, StoreUser
from tests.unit.server.store.log.test_cleaner import audit

from tmem.server.store.log import LogStore
from tmem.server.store.log.recompressor import Recompression
from tmem.wire.copies import CopyCounter
from tmem.wire.results import Code, PoolKind

SEGMENT = 256 << 10
MIB = 1 << 20


@pytest.fixture
def store() -> LogStore:
    return LogStore(64 * MIB, CopyCounter(), segment_bytes=SEGMENT)


def recompress(store: LogStore, most: int = 100_000) -> int:
    """Does what there is to do; answers how many pieces that were."""
    done = 0
    while done < most and (work := store.recompressor.begin()) is not None:
        work.run()
        store.recompressor.finish(work)
        done += 1
    return done


def fill(user: StoreUser, blocks: int = 3, chunk_pages: int = 16) -> dict[int, bytes]:
    """Stores pages of all kinds, and answers them by index."""
    model = {}
    kinds = (text_page, text_page, text_page, random_page, mixed_page)
    for index in range(0, blocks * 512, 16):
        pages = [kinds[number % 5](index + number) for number in range(15)] + [same_filled_page()]
        assert user.put(7, index, b"".join(pages), chunk_pages=chunk_pages).reasons is None
        model |= {index + number: page for number, page in enumerate(pages)}
    return model


def check(user: StoreUser, model: dict[int, bytes], blocks: int = 3) -> None:
    for index in range(blocks * 512):
        got = user.get(7, index)
        assert got.page == model.get(index)


@pytest.mark.parametrize("chunk_pages", [1, 16])
def test_it_becomes_smaller_and_every_page_stays_what_it_was(store: LogStore, chunk_pages: int) -> None:
    user = StoreUser(store)
    model = fill(user, chunk_pages=chunk_pages)
    versions = {index: user.get(7, index).versions[0] for index in model}
    before = store.counts(KEY).payload_bytes

    assert recompress(store) > 0

    counts = store.counts(KEY)
    # The last segment is still being written to, and stays as it is.
    assert counts.payload_bytes < before - store.recompressor.saved_bytes * 0.9
    assert store.recompressor.saved_bytes == before - counts.payload_bytes
    assert counts.pages == len(model)
    audit(store)
    check(user, model)
    assert {index: user.get(7, index).versions[0] for index in model} == versions


def test_nothing_is_tried_twice(store: LogStore) -> None:
    user = StoreUser(store)
    fill(user)
    recompress(store)
    tried = store.recompressor.tried_bytes

    assert recompress(store) == 0
    fill(user, blocks=1)  # an overwrite of a third
    recompress(store)

    assert tried < store.recompressor.tried_bytes < 1.8 * tried


def test_what_happens_while_it_works_stays_so(store: LogStore) -> None:
    user = StoreUser(store)
    model = fill(user)
    chance = random.Random(4)
    while (work := store.recompressor.begin()) is not None:
        for _ in range(6):
            index = chance.randrange(3 * 512)
            if chance.random() < 0.4:
                user.flush(7, index)
                model.pop(index, None)
            else:
                model[index] = text_page(chance.randrange(50))
                user.put(7, index, model[index])
        work.run()
        if chance.random() < 0.3:
            store.step()
        store.recompressor.finish(work)
        audit(store)
        if len(model) < 200:
            break
    check(user, model)


def test_a_page_that_fails_its_checksum_is_left_alone(store: LogStore) -> None:
    user = StoreUser(store)
    model = fill(user)
    pool = store._pools[KEY]
    segment, record = pool.look(pool.leaves.read(pool.leaves.find(7, 0), 0, 1)[0])
    assert record.pages > 1
    segment.heads[record.crcs_at] ^= 1  # the first page's

    recompress(store)

    assert store.find(KEY, 7, 0).encoded_bytes == record.length  # type: ignore[union-attr]
    for index in range(1, 16):
        assert store.find(KEY, 7, index) is not None
    model_rest = {index: page for index, page in model.items() if index >= 16}
    for index, page in model_rest.items():
        assert user.get(7, index).page == page


def test_a_pool_that_ends_meanwhile_is_let_go(store: LogStore) -> None:
    user = StoreUser(store)
    fill(user)
    work = store.recompressor.begin()
    assert isinstance(work, Recompression)
    work.run()
    store.drop_pool(KEY)
    while store.step():
        pass

    store.recompressor.finish(work)

    assert recompress(store) == 0
    counts = store.counts()
    assert (counts.pages, counts.payload_bytes, counts.dead_bytes, counts.index_bytes) == (0, 0, 0, 0)


def test_old_ephemeral_pages_stay_the_oldest(store: LogStore) -> None:
    small = LogStore(2 * MIB, CopyCounter(), segment_bytes=SEGMENT)
    user = StoreUser(small, PoolKind.EPHEMERAL)
    stored = 0
    while not small.counts(KEY).evicted:
        assert user.put(7, stored, text_page(stored)).reasons is None
        stored += 1
    recompress(small)

    for number in range(stored, stored + 700):
        assert user.put(7, number, text_page(number)).reasons is None

    held = [number for number in range(stored + 700) if user.get(7, number).codes == [Code.HIT]]
    assert held == list(range(held[0], stored + 700)), "the oldest went first"
    for number in held:
        assert user.get(7, number).page == text_page(number)
    audit(small)


def test_there_is_no_work_without_room_for_it(store: LogStore) -> None:
    full = LogStore(MIB, CopyCounter(), segment_bytes=SEGMENT)
    user = StoreUser(full)
    stored = 0
    while user.put(7, stored, text_page(stored)).reasons is None:
        stored += 1
    assert recompress(full) == 0
    for number in range(stored // 2):
        user.flush(7, number)
    while full.step():
        pass

    assert recompress(full) > 0
    assert user.get(7, stored - 1).page == text_page(stored - 1)
    assert full._ledger.memory <= MIB


def test_a_piece_of_work_is_bounded_however_small_the_pages_are(store: LogStore) -> None:
    user = StoreUser(store)
    for number in range(8000):
        user.put(7, number, (b"%d" % number).ljust(PAGE, b"."))
    work = store.recompressor.begin()
    assert work is not None
    assert len(work.items) <= 128
