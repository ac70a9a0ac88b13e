"""A disk that fails on purpose fails as asked, and a good one does not."""

import errno
import os
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tmem.server.host.disk import Disk, FaultyDisk, check_faults, disk_of
from tmem.server.host.scratch import ScratchFile

KIB = 1 << 10


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def test_no_faults_is_the_disk_itself(file: int) -> None:
    disk = disk_of("")
    assert type(disk) is Disk
    assert disk.writev(file, [b"ab", b"cd"]) == 4
    assert disk.pwrite(file, b"X", 1) == 1
    assert disk.pread(file, 10, 0) == b"aXcd"


def test_a_full_disk_takes_what_fits_and_then_nothing_but_overwrites(file: int) -> None:
    disk = FaultyDisk("full_after=6")
    assert disk.writev(file, [b"abc", b"defg"]) == 6
    with pytest.raises(OSError, match="No space left") as full:
        disk.writev(file, [b"h"])
    assert full.value.errno == errno.ENOSPC
    assert disk.pwrite(file, b"XY", 0) == 2
    assert disk.pread(file, 10, 0) == b"XYcdef"


def test_chances_are_kept_and_a_seed_repeats_them(file: int) -> None:
    def outcome(seed: int) -> list[object]:
        disk = FaultyDisk(f"short_write=0.5,write_error=0.2,read_error=0.3,seed={seed}")
        found: list[object] = []
        for _ in range(200):
            try:
                found.append(disk.pwrite(file, bytes(100), 0))
                found.append(len(disk.pread(file, 100, 0)))
            except OSError as error:
                found.append(error.errno)
        return found

    seen = outcome(1)
    assert seen == outcome(1) != outcome(2)
    assert errno.EIO in seen
    assert any(isinstance(written, int) and 0 < written < 100 for written in seen)


def test_a_short_write_is_never_nothing(file: int) -> None:
    disk = FaultyDisk("short_write=1")
    assert disk.pwrite(file, b"x", 0) == 1
    assert all(1 <= disk.pwrite(file, b"xyz", 0) < 3 for _ in range(50))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("broken=1", "no fault of disks is called 'broken'; there are: full_after"),
        ("short_write=2", "short_write: 2 is no chance"),
        ("seconds=1e9", "seconds: 1e9 is not 0..60"),
        ("full_after=much", "full_after: 'much' is not a size"),
    ],
)
def test_a_bad_spec_says_what_is_wrong(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_faults(spec)


class TestScratchFile:
    def test_slots_are_used_again_and_the_file_shrinks_when_all_are_free(self, tmp_path: Path) -> None:
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB)
        slots = [scratch.write(memoryview(bytes([number]) * 4 * KIB)) for number in range(3)]
        assert slots == [0, 1, 2]
        assert scratch.write(memoryview(b"x")) is None
        scratch.free(1)
        assert scratch.write(memoryview(b"again")) == 1
        assert scratch.read(1, 0, 5) == b"again"
        assert scratch.read(2, 100, 3) == b"\x02" * 3
        for slot in range(3):
            scratch.free(slot)
        assert scratch.used_bytes == 0
        assert os.fstat(scratch._file).st_size == 0
        scratch.close()

    def test_it_leaves_no_name_behind(self, tmp_path: Path) -> None:
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB)
        scratch.write(memoryview(b"x" * 4 * KIB))
        assert list(tmp_path.iterdir()) == []
        scratch.close()

    def test_short_writes_are_gone_on_with_and_failed_ones_leave_the_slot_free(self, tmp_path: Path) -> None:
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB, FaultyDisk("short_write=0.9,seed=1"))
        data = os.urandom(4 * KIB)
        slot = scratch.write(memoryview(data))
        assert slot == 0
        assert scratch.read(0, 0, 4 * KIB) == data
        scratch.close()
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB, FaultyDisk("write_error=1"))
        assert scratch.write(memoryview(data)) is None
        assert (scratch.used_bytes, scratch.errors) == (0, 1)
        scratch.close()

    def test_less_than_asked_for_is_an_error(self, tmp_path: Path) -> None:
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB)
        scratch.write(memoryview(b"short"))
        assert scratch.read(0, 0, 10) is None
        with pytest.raises(OSError, match="5 bytes of 10 came back"):
            scratch.read_now(0, 0, 10)
        assert scratch.errors == 2
        scratch.close()

    def test_with_threads_results_come_on_the_store_s_thread_and_none_after_the_end(self, tmp_path: Path) -> None:
        posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        scratch = ScratchFile(tmp_path, 4 * KIB, 12 * KIB, post=posted.put)
        slots: list[int | None] = []
        scratch.write(memoryview(b"x" * KIB)).when_settled(slots.append)
        assert slots == []
        posted.get(timeout=20)()
        assert slots == [0]
        answers: list[bytes | None] = []
        for size in (KIB, 2 * KIB):
            scratch.read(0, 0, size).when_settled(answers.append)
            posted.get(timeout=20)()
        assert answers == [b"x" * KIB, None]
        assert (scratch.used_bytes, scratch.errors) == (4 * KIB, 1)
        scratch.close()
        assert threading.active_count() == 1 or not any(
            thread.name.startswith("tmem-spill") for thread in threading.enumerate()
        )
