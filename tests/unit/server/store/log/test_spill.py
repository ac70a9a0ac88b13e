"""Cold segments go to the disk when memory is full, and come back byte for byte, or the reader is told."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.disks import LateScratch
from tests.pages import PAGE, random_page, same_filled_page, text_page
from tests.stores import KEY, Got, StoreUser

from tmem.server.host.disk import Disk, FaultyDisk
from tmem.server.host.scratch import ScratchFile
from tmem.server.store.log import LogStore
from tmem.server.store.pending import Pending
from tmem.wire.answers import Pages
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import OutOfCapacity
from tmem.wire.handles import Extent
from tmem.wire.results import Code, PoolKind, Reason
from tmem.wire.splice import BytesLike

SEGMENT = 256 << 10
MIB = 1 << 20


class Breakable(Disk):
    """A disk that fails when told to."""

    broken = False

    def pread(self, file: int, size: int, offset: int) -> bytes:
        self._check(5)
        return super().pread(file, size, offset)

    def pwrite(self, file: int, data: BytesLike, offset: int) -> int:
        self._check(28)
        return super().pwrite(file, data, offset)

    def _check(self, number: int) -> None:
        if self.broken:
            raise OSError(number, os.strerror(number))


class FailingScratch(ScratchFile):
    """On such a disk."""

    def __init__(self, directory: Path, slot_bytes: int, limit_bytes: int) -> None:
        self.disk = Breakable()
        super().__init__(directory, slot_bytes, limit_bytes, self.disk)


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
    scratch.disk.broken = True
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
    scratch.disk.broken = True
    got = user.get(7, 0, 2)
    assert got.codes == [Code.REFUSED] * 2
    assert {reason for _, _, reason in got.raw.refused} == {Reason.IO}
    assert user.get(7, 999).page == random_page(999)  # in memory
    scratch.disk.broken = False
    assert user.get(7, 0).page == random_page(0)


def test_a_disk_that_takes_nothing_is_as_none(store: LogStore, scratch: FailingScratch) -> None:
    scratch.disk.broken = True
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


def test_what_is_on_the_disk_or_can_go_there_does_not_keep_memory_from_being_reserved(
    store: LogStore, scratch: FailingScratch
) -> None:
    greedy = StoreUser(store)
    fill(greedy, 1200)
    assert scratch.room > 2 * MIB

    reserver = StoreUser(store, key=KEY + 1, reserved_bytes=MIB)

    fill(greedy, 100, first=1200)
    for index in range(2000):
        if greedy.put(8, index, random_page(index)).reasons:
            break
    assert scratch.room < SEGMENT
    fill(reserver, 200)
    assert all(reserver.get(7, index).page == random_page(index) for index in range(200))
    with pytest.raises(OutOfCapacity, match="can't be reserved"):
        store.reserve(KEY + 1, int(1.5 * MIB))


def test_same_filled_pages_need_no_disk_to_be_read(store: LogStore, scratch: FailingScratch) -> None:
    user = StoreUser(store)
    user.put(9, 0, same_filled_page(b"8 bytes!") * 20)
    fill(user, 1500)
    scratch.disk.broken = True
    assert user.get(9, 0, 20).whole == same_filled_page(b"8 bytes!") * 20


def test_chunks_of_many_pages_are_read_in_part(store: LogStore) -> None:
    user = StoreUser(store)
    for block in range(12):
        user.put(7, block * 512, b"".join(random_page(page) for page in range(128)))
    for page in range(0, 128, 3):
        user.flush(7, page)
    got = user.get(7, 0, 128)
    assert got.data == {page: random_page(page) for page in range(128) if page % 3}


# ---- A disk that takes its time ----


@pytest.fixture
def late(tmp_path: Path) -> Iterator[LateScratch]:
    made = LateScratch(tmp_path, SEGMENT, 8 * MIB)
    yield made
    made.finish()
    made.close()


@pytest.fixture
def waiting(late: LateScratch) -> LogStore:
    return LogStore(4 * MIB, CopyCounter(), segment_bytes=SEGMENT, scratch=late)


def fill_all(user: StoreUser, late: LateScratch, count: int) -> None:
    """Puts pages, each as soon as the disk has made room for it."""
    for index in range(count):
        while user.put(7, index, random_page(index)).reasons:
            assert late.turn(), "there is no room, and the disk has nothing to do"


def ask(store: LogStore, index: int, count: int = 1) -> list[Pages]:
    """Asks for pages; the list has the answer once it is there."""
    answers: list[Pages] = []
    result = store.get(KEY, [Extent(7, index, count)], 32 * PAGE, 1)
    assert isinstance(result, Pending), "it has to wait for the disk"
    result.when_settled(answers.append)
    return answers


def pages_of(answer: Pages, count: int = 1) -> dict[int, bytes]:
    return Got(answer, count, Codec(CopyCounter())).data


def spilled_index(store: LogStore, count: int) -> int:
    return next(index for index in range(count) if store.find(KEY, 7, index).tier == "disk")  # type: ignore[union-attr]


def test_puts_go_on_while_segments_are_on_their_way_and_memory_stays_within_its_limit(
    waiting: LogStore, late: LateScratch
) -> None:
    user = StoreUser(waiting)
    refused = 0
    for index in range(3000):
        refused += user.put(7, index, random_page(index)).reasons is not None
        assert memory(waiting) <= 4 * MIB
        if index % 3 == 0:
            late.turn()
    assert late.used_bytes
    assert refused < 3000 - 2000
    late.finish()
    assert waiting._ledger.leaving == 0


def test_a_disk_that_takes_nothing_for_a_while_refuses_early_and_reads_go_on(
    waiting: LogStore, late: LateScratch
) -> None:
    user = StoreUser(waiting)
    stored = 0
    while user.put(7, stored, random_page(stored)).reasons is None:
        stored += 1
    assert late.jobs
    for index in range(stored):
        assert user.get(7, index).page == random_page(index)
    late.finish()
    assert user.put(7, stored, random_page(stored)).reasons is None


def test_a_get_that_waits_answers_what_was_there_when_it_came(waiting: LogStore, late: LateScratch) -> None:
    """A put, a flush, or the end of the pool that comes after it changes nothing of its answer."""
    user = StoreUser(waiting)
    fill_all(user, late, 1500)
    late.finish()
    index = spilled_index(waiting, 1500)
    overwritten, flushed, ended = ask(waiting, index), ask(waiting, index), ask(waiting, index)
    user.put(7, index, text_page(1))
    late.turn()
    assert pages_of(overwritten[0]) == {0: random_page(index)}
    user.flush(7, index)
    late.turn()
    assert pages_of(flushed[0]) == {0: random_page(index)}
    waiting.drop_pool(KEY)
    while waiting.step():
        pass
    assert late.used_bytes == SEGMENT * len(late.jobs), "what is being read or written is not given back before"
    late.turn()
    assert pages_of(ended[0]) == {0: random_page(index)}
    late.finish()
    assert late.used_bytes == 0


def test_pages_of_memory_and_disk_come_in_one_answer(waiting: LogStore, late: LateScratch) -> None:
    user = StoreUser(waiting)
    fill_all(user, late, 1500)
    late.finish()
    first = spilled_index(waiting, 1500) // 4 * 4
    expected = {page: random_page(first + page) for page in range(4)}
    user.put(7, first + 1, text_page(5))
    expected[1] = text_page(5)
    answers = ask(waiting, first, 4)
    user.put(7, first + 1, text_page(6))  # its segment may be cleaned away before the answer is made
    while waiting.step():
        late.turn()
    late.finish()
    assert pages_of(answers[0], 4) == expected


def test_cleaning_the_disk_does_not_keep_memory_from_being_cleaned(waiting: LogStore, late: LateScratch) -> None:
    user = StoreUser(waiting)
    fill_all(user, late, 1600)
    late.finish()
    for index in range(1600):
        if index % 4 and waiting.find(KEY, 7, index).tier == "disk":  # type: ignore[union-attr]
            user.flush(7, index)
    while waiting.step():
        pass
    assert late.jobs, "a segment on the disk that is mostly dead has been asked for"
    before = memory(waiting)
    for index in range(1600):
        place = waiting.find(KEY, 7, index)
        if place is not None and place.tier == "memory" and index % 2:
            user.flush(7, index)
    while waiting.step():
        pass
    assert memory(waiting) < before - MIB // 2, "though the disk has not answered"
    spilled = waiting.counts().spilled_bytes
    for _ in range(200):
        late.turn()
        waiting.step()
    assert waiting.counts().spilled_bytes < spilled
    for index in range(1600):
        place = waiting.find(KEY, 7, index)
        if place is not None:
            answers: list[Pages] = []
            result = waiting.get(KEY, [Extent(7, index, 1)], 32 * PAGE, 1)
            if isinstance(result, Pending):
                result.when_settled(answers.append)
                late.finish()
            else:
                answers.append(result)
            assert pages_of(answers[0]) == {0: random_page(index)}


def test_a_segment_that_is_given_back_on_its_way_leaves_no_slot_taken(waiting: LogStore, late: LateScratch) -> None:
    user = StoreUser(waiting)
    stored = 0
    while not late.jobs:
        assert user.put(7, stored, random_page(stored)).reasons is None
        stored += 1
    user.flush_object(7)
    assert user.pages == 0
    late.finish()
    assert late.used_bytes == 0
    assert waiting._ledger.leaving == 0


def test_a_write_that_fails_late_leaves_the_pages_where_they_are(waiting: LogStore, late: LateScratch) -> None:
    user = StoreUser(waiting)
    stored = 0
    while not late.jobs:
        assert user.put(7, stored, random_page(stored)).reasons is None
        stored += 1
    late._disk = FaultyDisk("write_error=1")
    late.finish()
    assert (late.used_bytes, late.errors) == (0, 1)
    assert all(user.get(7, index).page == random_page(index) for index in range(stored))
