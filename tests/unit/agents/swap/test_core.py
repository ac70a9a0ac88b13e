"""The file: what is answered to each request, and what never is."""

import errno
import struct

import pytest
from tests.unit.agents.swap.doubles import Clock, Kernel, Pool

from tmem.agents.swap.core import Core
from tmem.agents.swap.protocol import (
    FILE_NODE,
    MAX_WRITE_BYTES,
    ROOT_NODE,
    Allocate,
    Forget,
    Interrupt,
    Lookup,
    Opcode,
    Other,
    Read,
    ReadDirectory,
    Write,
)
from tmem.agents.swap.shared import CONTROL_BYTES, State, Word
from tmem.agents.swap.writes import STEP_PAGES
from tmem.wire.errors import Draining, OutOfCapacity, Recovering, Unavailable

PAGE = 4096
PAGES = 2048
PUNCH = 3


class Device:
    """A core between its two ends; requests are numbered."""

    def __init__(self, pages: int = PAGES, buffers: int = 40) -> None:
        self.pool = Pool()
        self.kernel = Kernel(buffers)
        self.clock = Clock()
        self.states = bytearray(pages)
        self.words = memoryview(bytearray(CONTROL_BYTES)).cast("Q")
        self.released: list[int] = []
        self.number = 0
        self.together = False
        self.restart()

    def restart(self) -> None:
        """Another worker takes over."""
        self.core = Core(
            memoryview(self.states),
            self.words,
            self.pool,
            self.kernel,
            read_limit=30_000_000_000,
            write_limit=10_000_000_000,
            clock=self.clock,
        )

    def send(self, kind: type, *fields: object) -> int:
        self.number += 1
        number = self.number
        request = kind(number, *fields)
        kept = self.core.handle(request, self.clock.now, lambda: self.released.append(number))
        if not self.together:
            self.core.send()
        if kind is Write and not kept:
            self.released.append(number)
        return number

    def read(self, offset: int, size: int) -> int:
        return self.send(Read, offset, size)

    def write(self, offset: int, data: bytes) -> int:
        return self.send(Write, offset, memoryview(bytearray(data)))

    def punch(self, offset: int, size: int) -> int:
        return self.send(Allocate, offset, size, PUNCH)

    def work(self) -> None:
        """Until nothing is left to do."""
        for _ in range(10_000):
            self.core.step()
            self.pool.finish_all()
            self.core.tick()
            if not self.core.busy and not self.pool.calls:
                return
        pytest.fail("it never comes to rest")

    def answer(self, number: int) -> int | bytes:
        return self.kernel.answers[number]

    def get(self, offset: int, size: int) -> int | bytes:
        number = self.read(offset, size)
        self.work()
        return self.answer(number)

    def put(self, offset: int, data: bytes) -> int | bytes:
        number = self.write(offset, data)
        self.work()
        return self.answer(number)


@pytest.fixture
def device() -> Device:
    return Device()


def pages(first: int, count: int, mark: int = 1) -> bytes:
    return b"".join(struct.pack("<QQ", page, mark) * 256 for page in range(first, first + count))


def taken(size: int) -> bytes:
    return struct.pack("<II", size, 0)


# ---- Reads and writes ----


def test_what_was_never_written_reads_as_zeros(device):
    assert device.get(0, 8 * PAGE) == bytes(8 * PAGE)


def test_what_was_written_is_read(device):
    assert device.put(5 * PAGE, pages(5, 3)) == taken(3 * PAGE)
    assert device.get(4 * PAGE, 5 * PAGE) == bytes(PAGE) + pages(5, 3) + bytes(PAGE)


def test_a_write_is_answered_when_it_is_stored_and_not_before(device):
    number = device.write(0, pages(0, 1))
    device.core.step()
    assert number not in device.kernel.answers
    device.pool.finish_all()
    assert device.answer(number) == taken(PAGE)


def test_a_readahead_is_one_message_also_across_blocks(device):
    device.put(508 * PAGE, pages(508, 8))
    device.pool.messages.clear()
    assert device.get(508 * PAGE, 8 * PAGE) == pages(508, 8)
    assert device.pool.messages == [("get", [(508, 4), (512, 4)])]


def test_reads_that_come_together_are_one_message(device):
    device.put(0, pages(0, 40))
    device.pool.messages.clear()
    device.together = True
    numbers = [device.read(page * PAGE, 2 * PAGE) for page in (0, 10, 100, 20)]
    device.core.send()
    assert device.pool.messages == [("get", [(0, 2), (10, 2), (100, 2), (20, 2)])]
    device.work()
    assert [device.answer(number) for number in numbers] == [pages(0, 2), pages(10, 2), bytes(2 * PAGE), pages(20, 2)]


def test_one_that_can_t_be_had_does_not_fail_those_that_came_with_it(device):
    device.put(0, pages(0, 40))
    device.pool.lost.add(10)
    device.together = True
    numbers = [device.read(page * PAGE, 2 * PAGE) for page in (0, 10, 20)]
    device.core.send()
    device.work()
    assert [device.answer(number) for number in numbers] == [pages(0, 2), errno.EIO, pages(20, 2)]


def test_many_large_reads_are_as_many_messages_as_they_need(device):
    device.together = True
    numbers = [device.read(first * PAGE, 32 * PAGE) for first in range(0, 1024, 32)]
    device.core.send()
    device.work()
    assert all(sum(count for _, count in parts) <= 512 for _, parts in device.pool.messages)
    assert len(device.pool.messages) == 3
    assert all(device.answer(number) == bytes(32 * PAGE) for number in numbers)


def test_a_large_write_goes_out_in_steps_between_which_reads_are_taken(device):
    device.put(1000 * PAGE, pages(1000, 1))
    device.pool.messages.clear()
    data = pages(0, MAX_WRITE_BYTES // PAGE)
    number = device.write(0, data)
    device.core.step()
    reading = device.read(1000 * PAGE, PAGE)
    assert [kind for kind, _ in device.pool.messages] == ["put", "get"]
    (get,) = [call for call in device.pool.calls if call.kind == "get"]
    device.pool.finish(get)
    assert device.answer(reading) == pages(1000, 1)
    assert number not in device.kernel.answers
    device.work()
    assert device.answer(number) == taken(MAX_WRITE_BYTES)
    sizes = [sum(count for _, count in parts) for kind, parts in device.pool.messages if kind == "put"]
    assert sizes == [STEP_PAGES] * (MAX_WRITE_BYTES // PAGE // STEP_PAGES)


def test_small_writes_share_a_message(device):
    numbers = [device.write(page * PAGE, pages(page, 1)) for page in range(0, 20, 2)]
    device.work()
    assert [device.answer(number) for number in numbers] == [taken(PAGE)] * 10
    assert device.pool.messages == [("put", [(page, 1) for page in range(0, 20, 2)])]


def test_a_write_across_the_end_of_a_block_is_whole(device):
    assert device.put(510 * PAGE, pages(510, 4)) == taken(4 * PAGE)
    assert device.get(510 * PAGE, 4 * PAGE) == pages(510, 4)


def test_the_memory_of_a_write_is_let_go_of_when_it_was_encoded(device):
    large, small = device.write(0, pages(0, STEP_PAGES + 1)), device.write(500 * PAGE, pages(500, 1))
    assert device.released == []
    device.core.step()
    assert device.released == []
    device.core.step()
    assert device.released == [large, small]


def test_the_end_of_the_device(device):
    end = PAGES * PAGE
    assert device.get(end, PAGE) == b""
    assert device.get(end - PAGE, 4 * PAGE) == bytes(PAGE)
    assert device.put(end - PAGE, pages(0, 2)) == errno.ENOSPC
    assert device.answer(device.punch(end, PAGE)) == errno.ENOSPC
    assert device.put(end, b"") == taken(0)


def test_a_read_that_the_mount_forbids_is_refused(device):
    assert device.get(0, 34 * PAGE) == errno.EINVAL


# ---- What fails ----


def test_one_refused_page_fails_the_whole_write(device):
    device.pool.refusal = OutOfCapacity("full")
    device.pool.refused = {513}
    number = device.write(510 * PAGE, pages(510, 4))
    beside = device.write(100 * PAGE, pages(100, 1))
    device.core.step()
    assert device.pool.messages == [("put", [(510, 2), (512, 2), (100, 1)])]
    device.work()
    assert device.answer(number) == errno.EIO
    assert device.answer(beside) == taken(PAGE), "others of the same message are not touched by it"
    assert list(device.pool.store) == [100]
    assert device.words[Word.PUTS_REFUSED] == 1


def test_a_write_of_which_a_later_part_is_refused_fails_and_leaves_nothing_behind(device):
    number = device.write(0, pages(0, 3 * STEP_PAGES))
    device.core.step()
    device.pool.finish_all()
    device.pool.refusal = OutOfCapacity("full")
    device.core.step()
    device.pool.finish_all()
    device.pool.refusal = None
    device.work()
    assert device.answer(number) == errno.EIO
    assert device.released == [number]
    assert not device.pool.store, "what was stored of it is removed again"
    assert device.states[: 3 * STEP_PAGES] == bytes((State.FAILED,)) * 3 * STEP_PAGES


def test_a_page_whose_write_failed_is_not_read_as_what_it_was_before(device):
    device.put(0, pages(0, 1))
    device.pool.refusal = OutOfCapacity("full")
    assert device.put(0, pages(0, 1, mark=2)) == errno.EIO
    assert device.get(0, PAGE) == errno.EIO
    device.restart()
    assert device.get(0, PAGE) == errno.EIO, "the next worker knows it too"
    device.pool.refusal = None
    assert device.put(0, pages(0, 1, mark=3)) == taken(PAGE)
    assert device.get(0, PAGE) == pages(0, 1, mark=3)


@pytest.mark.parametrize(("befallen", "word"), [("lost", Word.PAGES_LOST), ("corrupt", Word.PAGES_CORRUPT)])
def test_a_page_that_can_t_be_had_back_is_an_error_and_never_zeros(device, befallen, word):
    device.put(0, pages(0, 8))
    getattr(device.pool, befallen).add(3)
    assert device.get(0, 8 * PAGE) == errno.EIO
    assert device.get(3 * PAGE, PAGE) == errno.EIO
    assert device.get(4 * PAGE, PAGE) == pages(4, 1)
    assert device.words[word] == 2


@pytest.mark.parametrize("error", [Recovering, Draining])
def test_a_read_is_tried_again_while_a_server_starts_or_stops(device, error):
    device.put(0, pages(0, 1))
    number = device.read(0, PAGE)
    device.pool.finish(device.pool.calls[0], error("not yet"))
    assert number not in device.kernel.answers
    assert device.core.waiting
    device.clock.pass_seconds(0.2)
    device.core.tick()
    device.pool.finish_all()
    assert device.answer(number) == pages(0, 1)


def test_a_read_is_tried_again_only_until_its_deadline(device):
    number = device.read(0, PAGE)
    for _ in range(400):
        if number in device.kernel.answers:
            break
        device.pool.finish(device.pool.calls[0], Recovering("not yet"))
        device.clock.pass_seconds(0.1)
        device.core.tick()
    assert device.answer(number) == errno.EIO
    assert device.clock.now <= 1_000_000_000 + 30_000_000_000


def test_a_read_is_not_tried_again_before_the_pool_is_open_again(device):
    device.put(0, pages(0, 1))
    number = device.read(0, PAGE)
    device.pool.finish(device.pool.calls[0], Recovering("not yet"))
    device.pool.ready = False
    device.clock.pass_seconds(0.2)
    device.core.tick()
    assert not device.pool.calls
    device.pool.ready = True
    device.core.pool_opened()
    device.pool.finish_all()
    assert device.answer(number) == pages(0, 1)
    assert len(device.kernel.free) == 40


def test_requests_fail_in_time_while_the_pool_can_t_be_opened(device):
    device.pool.ready = False
    reading, writing = device.read(0, PAGE), device.write(PAGE, pages(1, 1))
    patching = device.write(5000, b"abc")
    held = device.write(2 * PAGE, pages(2, 1))
    device.clock.pass_seconds(10.1)
    device.core.tick()
    assert [device.answer(number) for number in (writing, patching)] == [errno.EIO] * 2
    device.core.tick()
    assert device.answer(held) == errno.EIO
    assert reading not in device.kernel.answers
    device.clock.pass_seconds(20)
    device.core.tick()
    assert device.answer(reading) == errno.EIO
    assert sorted(device.released) == [writing, patching, held]
    assert device.words[Word.DEADLINES_PASSED] == 4


def test_what_waited_for_the_pool_is_served_when_it_opens(device):
    device.pool.ready = False
    writing, reading = device.write(0, pages(0, 1)), device.read(PAGE, PAGE)
    assert device.core.waiting
    device.pool.ready = True
    device.core.pool_opened()
    device.work()
    assert device.answer(writing) == taken(PAGE)
    assert device.answer(reading) == bytes(PAGE)


def test_a_write_that_waits_makes_room_when_there_is_none(device):
    device.pool.ready = False
    first, second = device.write(0, pages(0, 1)), device.write(PAGE, pages(1, 1))
    device.core.make_room()
    assert device.answer(first) == errno.EIO
    assert device.released == [first]
    assert second not in device.kernel.answers
    device.pool.ready = True
    device.core.make_room()
    assert device.released == [first, second]


def test_an_error_of_the_way_there_fails_a_write(device):
    number = device.write(0, pages(0, 1))
    device.core.step()
    device.pool.finish(device.pool.calls[0], Unavailable("no"))
    assert device.answer(number) == errno.EIO


def test_reads_that_have_little_time_left_do_not_hurry_others(device):
    device.clock.pass_seconds(29)
    for page, age in [(5, 0), (6, 29), (7, 0.5), (8, 28.5)]:
        device.core.handle(Read(page, page * PAGE, PAGE), device.clock.now - int(age * 1e9))
    device.core.send()
    assert device.pool.messages == [("get", [(6, 1), (8, 1)]), ("get", [(7, 1), (5, 1)])]
    assert device.pool.seconds == [1, 29.5]


def test_writes_that_have_little_time_left_do_not_hurry_others(device):
    old = device.write(0, pages(0, 1))
    device.clock.pass_seconds(9)
    new = [device.write(page * PAGE, pages(page, 1)) for page in (1, 2)]
    device.core.step()
    device.core.step()
    assert device.pool.messages == [("put", [(0, 1)]), ("put", [(1, 1), (2, 1)])]
    assert device.pool.seconds == [1, 10]
    device.work()
    assert [device.answer(number) for number in (old, *new)] == [taken(PAGE)] * 3


# ---- Buffers ----


def test_reads_wait_for_buffers_and_never_for_writes():
    device = Device(buffers=2)
    device.put(0, pages(0, 8))
    device.write(100 * PAGE, pages(100, 1))
    numbers = [device.read(page * PAGE, PAGE) for page in range(8)]
    gets = [call for call in device.pool.calls if call.kind == "get"]
    assert len(gets) == 2
    while gets := [call for call in device.pool.calls if call.kind == "get"]:
        device.pool.finish(gets[0])
    assert [device.answer(number) for number in numbers] == [pages(page, 1) for page in range(8)]
    assert len(device.kernel.free) == 2


# ---- Holes ----


def test_what_was_given_up_reads_as_zeros_before_the_server_knows(device):
    device.put(0, pages(0, 8))
    number = device.punch(PAGE, 2 * PAGE)
    assert device.answer(number) == b"", "a discard is answered at once"
    reading = device.read(0, 4 * PAGE)
    device.pool.finish_all()
    assert device.answer(reading) == pages(0, 1) + bytes(2 * PAGE) + pages(3, 1)
    device.work()
    assert sorted(device.pool.store) == [0, 3, 4, 5, 6, 7]
    assert not any(device.states)


def test_what_was_given_up_stays_so_for_the_next_worker(device):
    device.put(0, pages(0, 4))
    device.punch(0, 2 * PAGE)
    device.restart()
    device.core.recover()
    number = device.read(0, 4 * PAGE)
    device.pool.finish_all()
    assert device.answer(number) == bytes(2 * PAGE) + pages(2, 2)
    device.work()
    assert sorted(device.pool.store) == [2, 3]


def test_a_write_after_a_discard_is_not_removed_with_it(device):
    device.put(0, pages(0, 4))
    device.punch(0, 4 * PAGE)
    number = device.write(PAGE, pages(1, 1, mark=2))
    device.work()
    assert device.answer(number) == taken(PAGE)
    assert device.get(0, 4 * PAGE) == bytes(PAGE) + pages(1, 1, mark=2) + bytes(2 * PAGE)
    assert list(device.pool.store) == [1]


def test_a_write_while_a_removal_is_on_its_way_is_not_removed_with_it(device):
    device.put(0, pages(0, 4))
    device.punch(0, 4 * PAGE)
    device.core.step()  # the removal is sent
    number = device.write(PAGE, pages(1, 1, mark=2))
    device.core.step()
    device.work()
    assert device.answer(number) == taken(PAGE)
    assert device.get(PAGE, PAGE) == pages(1, 1, mark=2)


def test_a_discard_while_an_older_removal_is_on_its_way_is_carried_out_too(device):
    device.put(0, pages(0, 1))
    device.punch(0, PAGE)
    device.core.step()
    device.write(0, pages(0, 1, mark=2))
    device.core.step()
    device.punch(0, PAGE)
    device.work()
    assert device.get(0, PAGE) == bytes(PAGE)
    assert not device.pool.store


@pytest.mark.parametrize("fails", [False, True])
def test_a_removal_that_was_overwritten_speaks_for_no_later_one_of_the_same_pages(device, fails):
    device.put(0, pages(0, 2))
    device.punch(0, 2 * PAGE)
    device.core.step()
    device.write(0, pages(0, 2, mark=2))  # nothing is left of the first removal
    device.core.step()
    device.punch(0, PAGE)
    device.core.step()
    first, put, second = device.pool.calls
    assert [call.kind for call in (first, put, second)] == ["flush", "put", "flush"]
    device.pool.finish(first)
    device.pool.finish(put)
    number = device.read(0, 2 * PAGE)
    device.pool.finish(device.pool.calls[-1])
    assert device.answer(number) == bytes(PAGE) + pages(1, 1, mark=2), "the bytes from before the discard"
    device.pool.finish(second, Unavailable("no") if fails else None)
    device.clock.pass_seconds(2)
    device.work()
    assert list(device.pool.store) == [1], "its removal was forgotten"
    assert not any(device.states)


def test_nothing_spins_while_what_is_owed_waits_for_a_removal_on_its_way(device):
    device.put(0, pages(0, 2))
    device.punch(0, PAGE)
    device.core.step()
    device.punch(PAGE, PAGE)
    assert not device.core.busy
    device.pool.finish_all()
    assert device.core.busy
    device.work()
    assert not device.pool.store


def test_neighbouring_discards_are_one_message(device):
    device.put(0, pages(0, 256))
    device.put(256 * PAGE, pages(256, 256))
    device.put(512 * PAGE, pages(512, 256))
    device.put(768 * PAGE, pages(768, 256))
    device.pool.messages.clear()
    for first in (512, 0, 256, 768):
        device.punch(first * PAGE, 256 * PAGE)
    device.work()
    assert ("flush", [(0, 1024)]) in device.pool.messages or [kind for kind, _ in device.pool.messages].count(
        "flush"
    ) <= 2
    assert not device.pool.store
    assert not any(device.states)


def test_a_discard_of_what_was_never_written_costs_no_message(device):
    device.answer(device.punch(0, PAGES * PAGE))
    assert not device.core.busy
    assert not any(device.states)
    assert device.words[Word.PAGES_DISCARDED] == PAGES


def test_a_removal_that_fails_is_tried_again_later(device):
    device.put(0, pages(0, 1))
    device.punch(0, PAGE)
    device.core.step()
    device.pool.finish(device.pool.calls[0], Unavailable("no"))
    assert not device.core.busy
    device.clock.pass_seconds(1)
    assert device.core.busy
    device.work()
    assert not device.pool.store


def test_a_removal_that_failed_is_not_repeated_over_a_later_write(device):
    device.put(0, pages(0, 2))
    device.punch(0, 2 * PAGE)
    device.core.step()
    device.write(0, pages(0, 1, mark=2))
    device.core.step()
    device.pool.finish(device.pool.calls[0], Unavailable("no"))
    device.clock.pass_seconds(2)
    device.work()
    assert device.get(0, 2 * PAGE) == pages(0, 1, mark=2) + bytes(PAGE)
    assert list(device.pool.store) == [0]


@pytest.mark.parametrize("refused", [False, True])
def test_what_is_given_up_while_a_write_of_it_is_on_its_way_is_a_hole(device, refused):
    device.write(0, pages(0, 2))
    device.core.step()
    device.punch(0, PAGE)
    device.pool.refusal = OutOfCapacity("full") if refused else None
    device.pool.finish(device.pool.calls[0])
    assert device.states[:2] == bytes((State.HOLE, State.FAILED if refused else State.ORDINARY))
    device.pool.refusal = None
    assert device.get(0, PAGE) == bytes(PAGE)
    device.work()
    assert list(device.pool.store) == ([] if refused else [1])


def test_a_hole_heals_a_failed_page(device):
    device.pool.refusal = OutOfCapacity("full")
    device.put(0, pages(0, 1))
    device.pool.refusal = None
    device.work()
    device.punch(0, PAGE)
    assert device.get(0, PAGE) == bytes(PAGE)
    assert not any(device.states)


@pytest.mark.parametrize("mode", [0, 1])
def test_room_is_there_from_the_start(device, mode):
    assert device.answer(device.send(Allocate, 0, PAGE, mode)) == b""
    device.put(0, pages(0, 1))
    device.send(Allocate, 0, PAGE, mode)
    assert device.get(0, PAGE) == pages(0, 1)


def test_modes_that_would_move_bytes_are_refused(device):
    assert device.answer(device.send(Allocate, 0, PAGE, 8)) == errno.EOPNOTSUPP
    assert device.answer(device.send(Allocate, 0, 0, PUNCH)) == errno.EINVAL


# ---- Parts of pages ----


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 512), (1024, 512), (PAGE - 1, 2), (3 * PAGE + 7, 4 * PAGE), (PAGE, 100), (511 * PAGE + 9, PAGE)],
)
@pytest.mark.parametrize("filled", [True, False])
def test_parts_of_pages_are_read_and_written(device, offset, size, filled):
    whole = bytearray(pages(0, 520) if filled else bytes(520 * PAGE))
    if filled:
        for first in range(0, 520, 130):
            device.put(first * PAGE, pages(first, 130))
    assert device.get(offset, size) == whole[offset : offset + size]
    data = bytes(range(256)) * (size // 256 + 1)
    assert device.put(offset, data[:size]) == taken(size)
    whole[offset : offset + size] = data[:size]
    first, end = offset // PAGE, -(-(offset + size) // PAGE)
    assert device.get(first * PAGE, (end - first) * PAGE) == whole[first * PAGE : end * PAGE]


@pytest.mark.parametrize(("offset", "size"), [(100, 50), (100, PAGE), (0, PAGE + 1), (PAGE - 3, 3 * PAGE)])
def test_discards_of_parts_of_pages_are_zeros_exactly(device, offset, size):
    whole = bytearray(pages(0, 8))
    device.put(0, bytes(whole))
    number = device.punch(offset, size)
    device.work()
    assert device.answer(number) == b""
    whole[offset : offset + size] = bytes(size)
    assert device.get(0, 8 * PAGE) == whole


def test_a_part_of_a_page_waits_for_writes_of_it_and_later_writes_wait_for_it(device):
    first = device.write(0, pages(0, 1))
    part = device.write(10, b"part")
    later = device.write(PAGE, pages(1, 1))
    synced = device.send(Other, Opcode.FSYNC, FILE_NODE)
    device.core.step()
    assert [kind for kind, _ in device.pool.messages] == ["put"]
    device.pool.finish_all()
    assert device.answer(first) == taken(PAGE)
    assert later not in device.kernel.answers
    device.work()
    assert device.answer(part) == taken(4)
    assert device.answer(later) == taken(PAGE)
    assert device.answer(synced) == b""
    expected = bytearray(pages(0, 1))
    expected[10:14] = b"part"
    assert device.get(0, PAGE) == expected


def test_a_part_of_a_failed_page_can_t_be_written(device):
    device.pool.refusal = OutOfCapacity("full")
    device.put(0, pages(0, 1))
    device.pool.refusal = None
    assert device.put(10, b"part") == errno.EIO
    assert device.put(PAGE + 10, b"part") == taken(4)


def test_a_part_of_a_lost_page_can_t_be_written(device):
    device.put(0, pages(0, 1))
    device.pool.lost.add(0)
    assert device.put(10, b"part") == errno.EIO


# ---- The file system around the file ----


def test_a_sync_waits_for_the_writes_before_it_and_for_no_others(device):
    assert device.answer(device.send(Other, Opcode.FSYNC, FILE_NODE)) == b""
    before = device.write(0, pages(0, 1))
    device.core.step()
    sync = device.send(Other, Opcode.FLUSH, FILE_NODE)
    after = device.write(PAGE, pages(1, 1))
    device.core.step()
    first, second = device.pool.calls
    assert sync not in device.kernel.answers
    device.pool.finish(first)
    assert device.answer(before) == taken(PAGE)
    assert device.answer(sync) == b""
    assert after not in device.kernel.answers
    device.pool.finish(second)


def test_a_sync_behind_a_part_of_a_page_that_was_given_up_is_answered(device):
    device.pool.ready = False
    part = device.write(10, b"part")
    sync = device.send(Other, Opcode.FSYNC, FILE_NODE)
    assert sync not in device.kernel.answers
    device.clock.pass_seconds(10.1)
    device.core.tick()
    assert device.answer(part) == errno.EIO
    assert device.answer(sync) == b""


def test_a_part_of_a_page_behind_one_that_was_given_up_is_begun(device):
    device.pool.ready = False
    late = device.write(10, b"late")
    device.clock.pass_seconds(5)
    part = device.write(20, b"part")
    held = device.write(PAGE, pages(1, 1))
    device.pool.ready = True  # and nobody has said so yet
    device.clock.pass_seconds(5.1)
    device.work()
    assert device.answer(late) == errno.EIO
    assert device.answer(part) == taken(4)
    assert device.answer(held) == taken(PAGE)


def test_a_sync_waits_for_writes_that_are_held_behind_a_part_of_a_page(device):
    device.write(10, b"part")
    held = device.write(PAGE, pages(1, 1))
    sync = device.send(Other, Opcode.FSYNC, FILE_NODE)
    while held not in device.kernel.answers:
        assert sync not in device.kernel.answers
        device.core.step()
        device.pool.finish(device.pool.calls[0])
    assert device.answer(sync) == b""


def test_names_and_attributes(device):
    assert isinstance(device.answer(device.send(Lookup, ROOT_NODE, b"swap")), bytes)
    assert device.answer(device.send(Lookup, ROOT_NODE, b"other")) == errno.ENOENT
    assert device.answer(device.send(Lookup, FILE_NODE, b"swap")) == errno.ENOENT
    attributes = device.answer(device.send(Other, Opcode.GETATTR, FILE_NODE))
    assert isinstance(attributes, bytes)
    assert struct.unpack_from("<QQ", attributes, 16) == (FILE_NODE, PAGES * PAGE)
    assert device.answer(device.send(Other, Opcode.GETATTR, 99)) == errno.ENOENT
    assert device.answer(device.send(Other, 99, FILE_NODE)) == errno.ENOSYS
    for opcode in (Opcode.OPEN, Opcode.RELEASE, Opcode.STATFS, Opcode.DESTROY, Opcode.ACCESS, Opcode.OPENDIR):
        assert isinstance(device.answer(device.send(Other, opcode, ROOT_NODE)), bytes)


def test_the_directory_lists_the_file(device):
    listing = device.answer(device.send(ReadDirectory, ROOT_NODE, 0, 4096))
    assert isinstance(listing, bytes)
    assert b"swap" in listing
    assert device.answer(device.send(ReadDirectory, ROOT_NODE, 3, 4096)) == b""
    assert device.answer(device.send(ReadDirectory, FILE_NODE, 0, 4096)) == errno.ENOTDIR


def test_what_wants_no_answer_gets_none(device):
    device.send(Forget)
    device.send(Interrupt)
    assert device.kernel.answers == {}
