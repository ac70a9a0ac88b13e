"""What is answered is in the journal: the layer over a real store and real files; only what writes is put in the place of os.writev."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.journals import Host, contents
from tests.pages import PAGE, extent, random_page, same_filled_page, text_page

from tmem.server.store.journal.entries import HEADER_BYTES, Kind, Torn, read_entries
from tmem.server.store.layers.limited import LimitedLayer
from tmem.server.store.pending import Pending, then
from tmem.wire.errors import StoreFailed
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Flush, Put, decode_request
from tmem.wire.results import Code, Reason

A, B, C = text_page(1), text_page(2), random_page(3)
IO, UNSETTLED, QUOTA = int(Reason.IO), int(Reason.UNSETTLED), int(Reason.QUOTA)
Start = Callable[..., Host]


class Disk:
    """os.writev that fails when told to.

    Attributes:
        fails: whether a write of these bytes does.
    """

    def __init__(self) -> None:
        self.fails: Callable[[bytes], bool] = lambda _: False

    def __call__(self, file: int, pieces: list[memoryview]) -> int:
        data = b"".join(pieces)
        if self.fails(data):
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.EIO, "no")
        return os.write(file, data)

    def fail_puts(self) -> None:
        """Puts fail, removals do not."""
        self.fails = has_put

    def fail(self) -> None:
        """Everything fails."""
        self.fails = lambda _: True

    def heal(self) -> None:
        self.fails = lambda _: False


def batches(data: bytes) -> list[Any]:
    """The batches among some entries."""
    entries = read_entries(memoryview(bytes(HEADER_BYTES) + data), "written", last=True)
    return [
        decode_request(bytes(entry[1]))[0]
        for entry in entries
        if not isinstance(entry, Torn) and entry[0] == Kind.BATCH
    ]


def has_put(data: bytes) -> bool:
    return any(isinstance(batch, Put) for batch in batches(data))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts hosts on one directory, or on another."""
    started: list[Host] = []

    def start(directory: Path | None = None, **options: object) -> Host:
        started.append(Host(directory or tmp_path / "journal", **options))  # type: ignore[arg-type]
        return started[-1]

    yield start
    for host in started:
        host.files.close()


@pytest.fixture
def again(start: Start, tmp_path: Path) -> Callable[..., Host]:
    """What a host would be if it were killed now and started again."""
    copies = iter(range(1000))

    def again(host: Host, **options: object) -> Host:
        return start(host.crash(tmp_path / f"copy-{next(copies)}"), **options)

    return again


# ---- Answers wait for their entries ----


def test_a_put_is_answered_when_its_entry_is_written(start: Start) -> None:
    go_on = threading.Event()
    writes: list[bytes] = []

    def write(file: int, pieces: list[memoryview]) -> int:
        data = b"".join(pieces)
        if has_put(data):
            assert go_on.wait(20)
            writes.append(data)
        return os.write(file, data)

    host = start(write=write)
    writer = host.make()
    result = writer.ask_put((7, 0, A))
    answers: list[object] = []
    then(result, answers.append)
    host.settle()
    assert not answers
    assert writer.get(7, 0).page == A  # what a batch does it does at once
    go_on.set()
    assert host.run(result).reasons is None
    assert len(writes) == 1


@pytest.mark.parametrize("stepped", [False, True])
def test_all_that_was_done_is_there_after_a_crash(start: Start, again: Start, stepped: bool) -> None:
    host = start(stepped=stepped)
    writer = host.make(quota_bytes=1 << 20, weight=3)
    block = bytes(extent(0, 40))
    writer.put(7, 500, block[: 12 * PAGE])
    writer.put(8, 512, block)
    writer.put(8, 512 + 5, A)
    writer.put(9, 0, same_filled_page())
    assert writer.flush(8, 512 + 20, 3).found == [3]
    assert writer.flush_object(7).found == [12]
    held = contents(host.store, writer.key)
    assert len(held) == 38
    other = again(host)
    found = other.find()
    assert contents(other.store, found.key) == held
    assert (found.pool.policy.quota_bytes, found.pool.policy.weight) == (1 << 20, 3)
    assert found.pool.members.keys() == writer.pool.members.keys()
    mine, its = (next(iter(pool.members.values())) for pool in (writer.pool, found.pool))
    assert (mine.token, mine.pool_id) == (its.token, its.pool_id)
    counts, expected = other.store.counts(found.key), host.store.counts(writer.key)
    assert (counts.pages, counts.objects, counts.blocks, counts.same_filled_pages, counts.raw_pages) == (
        expected.pages,
        expected.objects,
        expected.blocks,
        expected.same_filled_pages,
        expected.raw_pages,
    )
    assert counts.payload_bytes == expected.payload_bytes


def test_pools_of_memory_leave_nothing_in_the_journal(start: Start, again: Start, tmp_path: Path) -> None:
    host = start()
    memory, durable = host.make("memory", durable=False), host.make("durable")
    before = host.files.size
    stored = memory.ask_put((7, 0, C))
    assert not isinstance(stored, Pending)
    memory.flush(7, 0)
    memory.flush_object(7)
    host.store.refuse(memory.key, memory.version(), [Extent(7, 0, 1)], Reason.FROZEN)
    host.lifecycle.freeze(memory.pool, frozen=True)
    host.lifecycle.destroy(memory.pool)
    assert host.files.size == before
    durable.put(7, 0, A)
    assert C[:50] not in b"".join(path.read_bytes() for path in (tmp_path / "journal").iterdir())
    assert [pool.name for pool in again(host).table] == ["durable"]


def test_a_conditional_flush_is_conditional_after_a_crash_too(start: Start, again: Start) -> None:
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    writer.put(7, 1, B)
    old = writer.get(7, 0).versions[0]
    writer.put(7, 0, C)
    assert writer.flush(7, 0, condition=old).found == [0]
    assert writer.flush(7, 1, condition=writer.get(7, 1).versions[0]).found == [1]
    found = again(host).find()
    assert (found.get(7, 0).page, found.get(7, 1).page) == (C, None)


def test_what_was_refused_because_the_pool_is_frozen_stays_away(start: Start, again: Start) -> None:
    host = start()
    writer = host.make()
    writer.put(7, 0, A + B)
    result = host.run(host.store.refuse(writer.key, writer.version(), [Extent(7, 0, 1)], Reason.FROZEN))
    assert result.reasons == [Reason.FROZEN]
    found = again(host).find()
    assert (found.get(7, 0).page, found.get(7, 1).page) == (None, B)


def test_extents_refused_within_a_batch_are_removed_for_good(start: Start, again: Start) -> None:
    host = start()
    writer = host.make(quota_bytes=60_000)
    writer.put(7, 0, A)
    writer.put(8, 0, B)
    big = b"".join(map(random_page, range(16)))
    result = host.run(writer.ask_put((7, 0, C), (8, 0, big), (9, 0, B)))
    assert result.reasons == [0, QUOTA, 0]
    held = contents(host.store, writer.key)
    assert {handle: page for handle, (page, _) in held.items()} == {(7, 0): C, (9, 0): B}
    other = again(host)
    assert contents(other.store, writer.key) == held


@pytest.mark.parametrize("refused_first", [True, False])
def test_a_refused_extent_removes_no_page_that_another_of_the_batch_stored(
    start: Start, again: Start, refused_first: bool
) -> None:
    """A later extent of a put wins over an earlier one, also when the journal is read."""
    host = start()
    writer = host.make(quota_bytes=60_000)
    writer.put(7, 2, B)
    big = b"".join(map(random_page, range(16)))
    items = [(7, 0, big), (7, 2, A)] if refused_first else [(7, 2, A), (7, 0, big)]
    result = host.run(writer.ask_put(*items))
    assert sorted(result.reasons or ()) == [0, QUOTA]
    held = contents(host.store, writer.key)
    assert len(held) == refused_first
    assert contents(again(host).store, writer.key) == held


def test_quotas_of_tenants_are_held_above_the_journal(start: Start, again: Start) -> None:
    host = start(wrap=lambda store: LimitedLayer(store, {"t": 20_000}))
    writer = host.make()
    writer.put(7, 0, C * 2)
    writer.put(8, 0, A)
    big = b"".join(map(random_page, range(8)))
    assert writer.put(7, 0, big).reasons == [QUOTA]
    found = again(host, wrap=lambda store: LimitedLayer(store, {"t": 20_000})).find()
    assert found.get(7, 0, 8).codes == [Code.MISS] * 8
    assert found.get(8, 0).page == A
    # In the place of what is there it fits: the old one is removed, and the new one is there.
    assert writer.put(7, 0, C * 4).reasons is None
    result = writer.put(7, 0, random_page(9) * 4)
    assert (result.reasons, result.replaced) == (None, 4)
    assert again(host).find().get(7, 0, 4).whole == random_page(9) * 4


# ---- A disk that fails ----


def test_a_put_that_can_not_be_written_is_refused_and_gone(start: Start, again: Start) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(7, 0, A)
    writer.put(8, 0, B)
    disk.fail_puts()
    result = host.run(writer.ask_put((7, 0, C), (9, 0, C)))
    assert (result.reasons, result.replaced, result.dropped) == ([IO, IO], 0, 1)
    assert contents(host.store, writer.key).keys() == {(8, 0)}
    assert contents(again(host).store, writer.key).keys() == {(8, 0)}
    disk.heal()
    assert writer.put(7, 0, C).reasons is None
    assert contents(again(host).store, writer.key).keys() == {(7, 0), (8, 0)}


def test_a_put_whose_removal_can_not_be_written_either_is_unsettled(start: Start, again: Start) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(7, 0, A)
    disk.fail()
    assert writer.put(7, 0, C).reasons == [UNSETTLED]
    assert writer.get(7, 0).page is None
    assert again(host).find().get(7, 0).page == A  # as its caller was told: it owes the flush


def test_the_flush_that_is_owed_is_written_though_nothing_is_there(start: Start, again: Start) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(7, 0, A)
    disk.fail()
    assert writer.put(7, 0, C).reasons == [UNSETTLED]
    assert writer.flush(7, 0) == ([0], [IO])
    assert writer.flush_object(7) == ([0], [IO])
    disk.heal()
    assert writer.flush(7, 0) == ([0], None)
    assert again(host).find().get(7, 0).page is None


@pytest.mark.parametrize("how", ["flush", "flush_object", "conditional"])
def test_a_flush_that_can_not_be_written_is_refused_and_can_be_repeated(start: Start, again: Start, how: str) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(7, 0, A)
    condition = writer.get(7, 0).versions[0] if how == "conditional" else None

    def flush() -> object:
        return writer.flush_object(7) if how == "flush_object" else writer.flush(7, 0, condition=condition)

    disk.fail()
    assert flush() == ([1], [IO])
    assert again(host).find().get(7, 0).page == A
    disk.heal()
    assert flush() == ([0], None)
    assert again(host).find().get(7, 0).page is None


@pytest.mark.parametrize("reason", [Reason.QUOTA, Reason.FROZEN])
def test_what_a_failed_flush_left_in_the_journal_goes_with_a_refused_put(
    start: Start, again: Start, reason: Reason
) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make(quota_bytes=60_000)
    writer.put(7, 0, A)
    disk.fail()
    writer.flush(7, 0)
    disk.heal()
    if reason == Reason.QUOTA:
        result = writer.put(7, 0, b"".join(map(random_page, range(16))))
    else:
        result = host.run(host.store.refuse(writer.key, writer.version(), [Extent(7, 0, 1)], reason))
    assert result.reasons == [reason]
    assert again(host).find().get(7, 0).page is None


def test_a_replayed_flush_is_not_answered_before_the_first_one_is_written(start: Start) -> None:
    """A client that lost its connection asks again; the page is gone already, but not yet from the journal."""
    host = start(stepped=True)
    writer = host.make()
    writer.put(7, 0, A)
    version = writer.version()
    first = host.store.flush(writer.key, version, [Extent(7, 0, 1)], None)
    second = host.store.flush(writer.key, version, [Extent(7, 0, 1)], None)
    assert [isinstance(result, Pending) for result in (first, second)] == [True, True]
    assert host.run(second) == ([0], None)
    assert not isinstance(writer.ask_flush(7, 0), Pending)


def test_a_replayed_put_whose_first_could_not_be_written_is_not_answered_as_stored(start: Start, again: Start) -> None:
    """The failure of the first takes the pages away: they are the same ones."""
    disk = Disk()
    host = start(write=disk, stepped=True)
    writer = host.make()
    version = writer.version()
    seen: list[bytes] = []

    def first_put(data: bytes) -> bool:
        puts = [batch for batch in batches(data) if isinstance(batch, Put)]
        if len(puts) == 1 and len(seen) < 1:
            seen.append(data)
        return bool(puts) and (len(puts) > 1 or data is seen[-1])

    disk.fails = first_put
    first, second = (writer.ask_put((7, 0, A), version=version) for _ in range(2))
    assert host.run(first).reasons == [IO]
    assert host.run(second).reasons == [IO]
    assert writer.get(7, 0).page is None
    assert again(host).find().get(7, 0).page is None
    assert writer.put(7, 0, A).reasons is None


def test_a_put_that_fails_leaves_a_newer_one_alone(start: Start, again: Start) -> None:
    """Also one of the next writer: generations have no order in the store."""
    disk = Disk()
    host = start(write=disk, stepped=True)
    writer = host.make()
    writer.put(7, 0, A + A)
    disk.fails = lambda data: any(isinstance(batch, Put) and batch.header.sequence == 2 for batch in batches(data))
    failing = writer.ask_put((7, 0, B + B))
    pool, member = host.table.open("t", "pool", next(iter(writer.pool.members.values())).token)
    successor = host.find()
    newer = successor.ask_put((7, 1, C))
    assert (pool.generation, member.generation) == (2, 2)
    assert host.run(failing).reasons == [IO]
    assert host.run(newer).reasons is None
    held = contents(host.store, writer.key)
    assert {handle: page for handle, (page, _) in held.items()} == {(7, 1): C}
    assert contents(again(host).store, writer.key) == held


def test_a_pool_that_is_destroyed_while_its_puts_fail_is_gone_for_good(start: Start, again: Start) -> None:
    """The removal of what failed must not be written behind the pool's end: no daemon could read that."""
    disk = Disk()
    host = start(write=disk, stepped=True)
    writer = host.make()
    host.make("other")
    writer.put(7, 0, A)
    disk.fail_puts()
    failing = writer.ask_put((7, 0, B))
    host.lifecycle.destroy(writer.pool)
    assert host.run(failing).reasons == [IO]
    assert [pool.name for pool in again(host).table] == ["other"]


def test_puts_of_new_pages_that_fail_take_nothing_from_the_reserve(start: Start) -> None:
    """A client that goes on putting on a full disk must not use up the room for removals."""
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(7, 0, A)
    disk.fail_puts()
    size = host.files.size
    for number in range(20):
        assert writer.put(8, number, B).reasons == [IO]
    assert host.files.size == size
    assert writer.put(7, 0, B).reasons == [IO]  # this one removes a page
    assert host.files.size > size


def test_a_change_of_a_pool_that_can_not_be_written_changes_nothing(start: Start, again: Start) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make(quota_bytes=1 << 20, weight=5)
    writer.put(7, 0, A)
    disk.fail()
    for change in (
        lambda: host.lifecycle.freeze(writer.pool, frozen=True),
        lambda: host.lifecycle.resize(writer.pool, 2 << 20, 6),
        lambda: host.lifecycle.destroy(writer.pool),
        lambda: host.make("other"),
    ):
        with pytest.raises(StoreFailed):
            change()
        for state in (host, again(host)):
            pool = state.pool()
            assert (pool.frozen, pool.policy.quota_bytes, pool.policy.weight) == (False, 1 << 20, 5)
            assert len(state.table) == 1
            assert state.find().get(7, 0).page == A
    disk.heal()
    host.lifecycle.freeze(writer.pool, frozen=True)
    host.lifecycle.resize(writer.pool, 2 << 20, None)
    pool = again(host).pool()
    assert (pool.frozen, pool.policy.quota_bytes, pool.policy.weight) == (True, 2 << 20, 5)


def test_a_disk_that_takes_a_little_at_a_time_holds_everything(start: Start, again: Start) -> None:
    host = start(write=lambda file, pieces: os.write(file, b"".join(pieces)[:1000]))
    writer = host.make()
    for number in range(20):
        writer.put(7, number * 16, bytes(extent(number, 16)))
    assert contents(again(host).store, writer.key) == contents(host.store, writer.key)


def test_what_fails_within_a_batch_with_refused_extents_is_answered_once(start: Start, again: Start) -> None:
    """The removal of the refused ones and of those that could not be written: both are waited for."""
    disk = Disk()
    host = start(write=disk)
    writer = host.make(quota_bytes=60_000)
    writer.put(7, 0, A)
    writer.put(8, 0, A)
    disk.fail_puts()
    big = b"".join(map(random_page, range(16)))
    assert host.run(writer.ask_put((7, 0, B), (8, 0, big))).reasons == [IO, QUOTA]
    assert contents(again(host).store, writer.key) == {}
    disk.heal()
    writer.put(7, 0, A)
    writer.put(8, 0, A)
    disk.fail()
    assert host.run(writer.ask_put((7, 0, B), (8, 0, big))).reasons == [UNSETTLED, UNSETTLED]


def test_a_stale_extent_is_not_removed_because_others_failed(start: Start, again: Start) -> None:
    disk = Disk()
    host = start(write=disk)
    writer = host.make()
    writer.put(8, 0, A)
    writer.sequence = 10
    writer.put(7, 0, A)
    disk.fail_puts()
    result = host.run(writer.ask_put((7, 0, B), (8, 0, B), version=Version(1, 5)))
    assert result.reasons == [Reason.STALE, IO]
    assert contents(again(host).store, writer.key).keys() == {(7, 0)}


def test_a_flush_is_one_small_entry(start: Start) -> None:
    host = start()
    writer = host.make()
    writer.put(7, 0, A)
    size = host.files.size
    writer.flush(7, 0)
    assert host.files.size - size < 80
    data = b"".join(path.read_bytes()[HEADER_BYTES:] for path in sorted(host.directory.glob("journal-*")))
    assert isinstance(batches(data)[-1], Flush)
