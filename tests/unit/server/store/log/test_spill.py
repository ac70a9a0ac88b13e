"""Cold segments go to the disk when memory is full, and come back byte for byte, or the reader is told."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.pages import PAGE, random_page, same_filled_page, text_page
from tests.stores import KEY, StoreUser

from tmem.server.host.scratch import ScratchFile
from tmem.server.store.log import LogStore
from tmem.wire.copies import CopyCounter
from tmem.wire.results import Code, PoolKind, Reason

SEGMENT = 256 << 10
MIB = 1 << 20


class FailingScratch(ScratchFile):
    """A disk that fails when told to."""

    broken = False

    def read(self, slot: int, offset: int, size: int) -> bytes:
        if self.broken:
            raise OSError(5, "Input/output error")
        return super().read(slot, offset, size)

    def write(self, data: memoryview) -> int | None:
        if self.broken:
            raise OSError(28, "No space left on device")
        return super().write(data)


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[FailingScratch]:
    made = FailingScratch(tmp_path, SEGMENT, 8 * MIB)
    yield made
    made.close()


@pytest.fixture
def store(scratch: ScratchFile) -> LogStore:
    return LogStore(2 * MIB, CopyCounter(), segment_bytes=SEGMENT, scratch=scratch)


def fill(user: StoreUser, count: int, first: int = 0) -> None:
    for index in range(first, first + count):
        assert user.put(7, index, random_page(index)).reasons is None


def memory(store: LogStore) -> int:
    return store._ledger.memory


def test_more_than_memory_holds_is_kept_on_the_disk(store: LogStore, scratch: ScratchFile) -> None:
    user = StoreUser(store)
    fill(user, 1500)
    assert memory(store) <= 2 * MIB
    assert scratch.used_bytes
    assert all(user.get(7, index).page == random_page(index) for index in range(1500))
    assert user.get(7, 3, alone=True).page == random_page(3)
    assert user.pages == 1500


def test_when_the_disk_is_full_too_puts_are_refused_and_nothing_is_lost(store: LogStore) -> None:
    user = StoreUser(store)
    index = 0
    while user.put(7, index, random_page(index)).reasons is None:
        index += 1
    assert index * PAGE > 8 * MIB
    assert user.put(7, index, random_page(index)).reasons == [Reason.CAPACITY]
    assert all(user.get(7, number).page == random_page(number) for number in range(index))


def test_overwrites_and_flushes_of_pages_on_the_disk_need_no_disk(store: LogStore, scratch: FailingScratch) -> None:
    user = StoreUser(store)
    fill(user, 1000)
    scratch.broken = True
    assert user.flush(7, 0, 100) == 100
    assert user.put(7, 200, text_page(1)).replaced == 1
    assert user.get(7, 0, 100).codes == [Code.MISS] * 100
    assert user.get(7, 200).page == text_page(1)
    assert user.pages == 900


def test_a_disk_that_fails_is_told_to_the_reader_and_not_taken_for_a_miss(
    store: LogStore, scratch: FailingScratch
) -> None:
    user = StoreUser(store)
    fill(user, 1000)
    scratch.broken = True
    got = user.get(7, 0, 2)
    assert got.codes == [Code.REFUSED] * 2
    assert {reason for _, _, reason in got.raw.refused} == {Reason.IO}
    assert user.get(7, 999).page == random_page(999)  # in memory
    scratch.broken = False
    assert user.get(7, 0).page == random_page(0)


def test_a_disk_that_takes_nothing_is_as_none(store: LogStore, scratch: FailingScratch) -> None:
    scratch.broken = True
    user = StoreUser(store)
    index = 0
    while user.put(7, index, random_page(index)).reasons is None:
        index += 1
    assert index * PAGE <= 2 * MIB
    assert all(user.get(7, number).page == random_page(number) for number in range(index))


def test_what_is_flushed_gives_disk_back(store: LogStore, scratch: ScratchFile) -> None:
    user = StoreUser(store)
    fill(user, 1500)
    before = scratch.used_bytes
    chance = random.Random(1)
    order = list(range(1500))
    chance.shuffle(order)
    for index in order[:1300]:
        user.flush(7, index)
    while store.step():
        pass
    assert scratch.used_bytes < before / 2
    assert all(user.get(7, index).page == random_page(index) for index in order[1300:])
    user.flush_object(7)
    assert scratch.used_bytes == 0
    counts = store.counts()
    assert (counts.pages, counts.payload_bytes, counts.index_bytes) == (0, 0, 0)


def test_a_pool_that_is_destroyed_gives_disk_back(store: LogStore, scratch: ScratchFile) -> None:
    fill(StoreUser(store), 1500)
    store.drop_pool(KEY)
    while store.step():
        pass
    assert scratch.used_bytes == 0
    assert store._ledger.resident == store._ledger.spilled == store._ledger.dead == store._ledger.spilled_dead == 0


def test_ephemeral_pages_are_evicted_and_never_spilled(store: LogStore, scratch: ScratchFile) -> None:
    user = StoreUser(store, PoolKind.EPHEMERAL)
    fill(user, 2000)
    assert scratch.used_bytes == 0
    assert store.counts(KEY).evicted


def test_same_filled_pages_need_no_disk_to_be_read(store: LogStore, scratch: FailingScratch) -> None:
    user = StoreUser(store)
    user.put(9, 0, same_filled_page(b"8 bytes!") * 20)
    fill(user, 1500)
    scratch.broken = True
    assert user.get(9, 0, 20).whole == same_filled_page(b"8 bytes!") * 20


def test_chunks_of_many_pages_are_read_in_part(store: LogStore) -> None:
    user = StoreUser(store)
    for block in range(12):
        user.put(7, block * 512, b"".join(random_page(page) for page in range(128)))
    for page in range(0, 128, 3):
        user.flush(7, page)
    got = user.get(7, 0, 128)
    assert got.data == {page: random_page(page) for page in range(128) if page % 3}
