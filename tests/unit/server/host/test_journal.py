"""The journal's files and thread, on real files; only a failing disk is put in the place of os.writev."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tmem.server.host.journal import JournalFiles
from tmem.server.store.journal.entries import JournalError, Kind, Torn, encode_entry, read_entries

Make = Callable[..., JournalFiles]


class Disk:
    """os.writev that fails when told to, or writes less than it was given."""

    def __init__(self) -> None:
        self.full_at: int | None = None
        self.at_most = 1 << 30
        self.calls = 0
        self.allowed = 0

    def __call__(self, file: int, pieces: list[memoryview]) -> int:
        self.calls += 1
        if self.full_at is not None and os.fstat(file).st_size >= self.full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(file, b"".join(pieces)[: self.at_most])


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[JournalFiles] = []

    def make(**options: object) -> JournalFiles:
        arguments = {"synced": False, "post": lambda function: function()} | options
        made.append(JournalFiles(tmp_path / "journal", **arguments))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for files in made:
        files.close()


def append(files: JournalFiles, payload: bytes, *, urgent: bool = False) -> OSError | None:
    """Appends, and waits for what becomes of it."""
    ends: list[OSError | None] = []
    told = threading.Event()

    def done(error: OSError | None) -> None:
        ends.append(error)
        told.set()

    files.append(encode_entry(Kind.BATCH, payload), done, urgent=urgent)
    assert told.wait(20)
    return ends[0]


def held(directory: Path) -> list[bytes]:
    """The payloads of all files' batches."""
    found = []
    paths = sorted((directory / "journal").glob("journal-*"))
    for path in paths:
        for entry in read_entries(memoryview(path.read_bytes()), path.name, last=path == paths[-1]):
            assert not isinstance(entry, Torn)
            if entry[0] == Kind.BATCH:
                found.append(bytes(entry[1]))
    return found


@pytest.mark.parametrize("synced", [False, True])
def test_entries_come_in_order_and_whoever_appended_is_told_in_order(make: Make, tmp_path: Path, synced: bool) -> None:
    files = make(synced=synced)
    files.start()
    told: list[int] = []
    for number in range(2000):
        files.append(encode_entry(Kind.BATCH, b"%d" % number), lambda error, number=number: told.append(number))  # type: ignore[misc]
    files.close()
    assert told == list(range(2000))
    assert held(tmp_path) == [b"%d" % number for number in range(2000)]


def test_a_short_write_goes_on_where_it_stopped(make: Make, tmp_path: Path) -> None:
    disk = Disk()
    disk.at_most = 3
    files = make(write=disk)
    files.start()
    assert append(files, b"x" * 1000) is None
    files.close()
    assert disk.calls > 300
    assert held(tmp_path) == [b"x" * 1000]


def test_a_write_that_fails_half_way_leaves_no_half(make: Make, tmp_path: Path) -> None:
    disk = Disk()
    files = make(write=disk)
    files.start()
    assert append(files, b"first") is None
    disk.at_most, disk.full_at = 10, files.size + 20
    error = append(files, b"y" * 100)
    assert error is not None
    assert error.errno == errno.ENOSPC
    disk.full_at = None
    assert append(files, b"second") is None
    files.close()
    assert held(tmp_path) == [b"first", b"second"]


def test_on_a_full_disk_removals_have_room_of_their_own(make: Make, tmp_path: Path) -> None:
    files = make()

    def write(file: int, pieces: list[memoryview]) -> int:
        if (tmp_path / "journal/reserve").stat().st_size:
            raise OSError(errno.ENOSPC, "full")
        return os.writev(file, pieces)

    files._write = write  # type: ignore[assignment]
    files.start()
    assert append(files, b"a put") is not None
    assert append(files, b"a removal", urgent=True) is None
    files.close()
    assert held(tmp_path) == [b"a removal"]


def test_one_entry_that_fails_does_not_fail_its_neighbours(make: Make, tmp_path: Path) -> None:
    def write(file: int, pieces: list[memoryview]) -> int:
        if any(b"bad" in bytes(piece) for piece in pieces):
            raise OSError(errno.EIO, "no")
        return os.writev(file, pieces)

    files = make(write=write)
    files.start()
    ends: list[bool] = []
    for payload in (b"one", b"bad", b"two"):
        files.append(encode_entry(Kind.BATCH, payload), lambda error: ends.append(error is None))
    files.close()
    assert ends == [True, False, True]
    assert held(tmp_path) == [b"one", b"two"]


def test_waiting_for_an_entry_raises_what_it_ended_with(make: Make) -> None:
    disk = Disk()
    files = make(write=disk)
    files.start()
    files.append_now(encode_entry(Kind.POOL, b"{}"))
    disk.full_at = 0
    with pytest.raises(OSError, match="No space left"):
        files.append_now(encode_entry(Kind.POOL, b"{}"))


def test_files_before_one_are_deleted_after_what_was_appended(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    append(files, b"old")
    number = files.begin_file()
    append(files, b"new")
    files.drop_before(number)
    append(files, b"newer")
    assert [path.name for path in sorted((tmp_path / "journal").glob("journal-*"))] == [f"journal-{number:08d}"]
    files.close()
    assert held(tmp_path) == [b"new", b"newer"]


def test_two_daemons_do_not_share_a_journal(make: Make) -> None:
    make()
    with pytest.raises(JournalError, match="another tmemd"):
        make()


def test_a_missing_file_between_others_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    for _ in range(2):
        files.begin_file()
    files.close()
    (tmp_path / "journal/journal-00000002").unlink()
    with pytest.raises(JournalError, match="journal-00000003: the file before it, journal-00000002, is missing"):
        make().found()


def test_a_directory_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file/journal: "):
        JournalFiles(tmp_path / "file" / "journal", synced=False, post=lambda function: function())
