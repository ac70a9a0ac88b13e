"""The journal's files and thread, on real files; only a failing disk is put in the place of os.writev."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.journals import WrittenBy, watch_calls

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


def begin_file(files: JournalFiles) -> int:
    """Begins a file, and waits for its number."""
    numbers: list[int | None] = []
    told = threading.Event()

    def done(number: int | None) -> None:
        numbers.append(number)
        told.set()

    files.begin_file(done)
    assert told.wait(20)
    assert numbers[0] is not None
    return numbers[0]


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
    files = make(disk=WrittenBy(disk))
    files.start()
    assert append(files, b"x" * 1000) is None
    files.close()
    assert disk.calls > 300
    assert held(tmp_path) == [b"x" * 1000]


def test_a_write_that_fails_half_way_leaves_no_half(make: Make, tmp_path: Path) -> None:
    disk = Disk()
    files = make(disk=WrittenBy(disk))
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

    files.directory._disk = WrittenBy(write)
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

    files = make(disk=WrittenBy(write))
    files.start()
    ends: list[bool] = []
    for payload in (b"one", b"bad", b"two"):
        files.append(encode_entry(Kind.BATCH, payload), lambda error: ends.append(error is None))
    files.close()
    assert ends == [True, False, True]
    assert held(tmp_path) == [b"one", b"two"]


def test_waiting_for_an_entry_raises_what_it_ended_with(make: Make) -> None:
    disk = Disk()
    files = make(disk=WrittenBy(disk))
    files.start()
    files.append_now(encode_entry(Kind.POOL, b"{}"))
    disk.full_at = 0
    with pytest.raises(OSError, match="No space left"):
        files.append_now(encode_entry(Kind.POOL, b"{}"))


def test_files_before_one_are_deleted_after_what_was_appended(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    append(files, b"old")
    number = begin_file(files)
    append(files, b"new")
    files.drop_before(number, lambda _: None)
    append(files, b"newer")
    assert [path.name for path in sorted((tmp_path / "journal").glob("journal-*"))] == [f"journal-{number:08d}"]
    files.close()
    assert held(tmp_path) == [b"new", b"newer"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_any_file_that_is_missing_is_named(make: Make, tmp_path: Path, number: int) -> None:
    files = make()
    files.start()
    for _ in range(2):
        begin_file(files)
    files.close()
    (tmp_path / f"journal/journal-0000000{number}").unlink()
    with pytest.raises(JournalError, match=f"journal-0000000{number}: the file is missing"):
        make().directory.found()


def test_a_daemon_killed_while_it_makes_a_file_leaves_no_half_file(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    append(files, b"kept")
    files.close()
    for left in (b"", b"TMEMJ"):
        (tmp_path / "journal/next").write_bytes(left)
        files = make()
        assert files.directory.found()
        files.start()
        files.close()
    assert held(tmp_path) == [b"kept"]


def test_a_daemon_killed_while_it_deletes_files_leaves_none_of_them(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    append(files, b"old")
    begin_file(files)
    append(files, b"also old")
    old = {path.name: path.read_bytes() for path in (tmp_path / "journal").glob("journal-*")}
    number = begin_file(files)
    append(files, b"new")
    files.drop_before(number, lambda _: None)
    files.close()
    (tmp_path / "journal/journal-00000002").write_bytes(
        old["journal-00000002"]
    )  # the first is gone, this one is not yet
    files = make()
    assert [file.header.number for file in files.directory.found()] == [3]
    assert not (tmp_path / "journal/journal-00000002").exists()
    assert held(tmp_path) == [b"new"]


def test_a_bad_range_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    files.close()
    path = tmp_path / "journal/range"
    good = path.read_bytes()
    for bad, message in (
        (b"", "not a file of"),
        (good[:12] + b"\xff" + good[13:], "checksum"),
        (good[:8] + b"\x09" + good[9:], "format 9"),
    ):
        path.write_bytes(bad)
        files = make()
        with pytest.raises(JournalError, match=f"journal/range: .*{message}"):
            files.directory.found()
        files.close()


def test_the_reserve_is_not_for_puts(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What removals were given must not go to the next put; once there is room, both go on and the reserve is back."""
    disk = {"free": 4 << 20}
    reserve = tmp_path / "journal/reserve"

    def fallocate(file: int, offset: int, size: int) -> None:
        if disk["free"] < size:
            raise OSError(errno.ENOSPC, "full")
        disk["free"] -= size
        os.truncate(file, size)

    monkeypatch.setattr(os, "posix_fallocate", fallocate)

    def write(file: int, pieces: list[memoryview]) -> int:
        left = disk["free"] if reserve.stat().st_size else disk["free"] + (4 << 20)
        if left < 100:
            raise OSError(errno.ENOSPC, "full")
        return os.writev(file, pieces)

    files = make(disk=WrittenBy(write))
    files.start()
    assert append(files, b"a put") is not None
    assert append(files, b"a removal", urgent=True) is None
    assert append(files, b"a second put") is not None
    assert append(files, b"a second removal", urgent=True) is None
    disk["free"] = 100 << 20
    assert append(files, b"a third put") is None
    assert reserve.stat().st_size == 4 << 20
    files.close()
    assert held(tmp_path) == [b"a removal", b"a second removal", b"a third put"]


def test_a_tail_that_could_not_be_cut_off_is_cut_off_later(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = Disk()
    files = make(disk=WrittenBy(disk))
    files.start()
    disk.at_most, disk.full_at = 50, files.size + 20
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda _file, _size: raise_io())
        assert append(files, b"y" * 1000) is not None
    disk.full_at = None
    assert append(files, b"z") is None
    files.close()
    assert held(tmp_path) == [b"z"]


def raise_io() -> None:
    raise OSError(errno.EIO, "no")


def test_a_wait_that_was_given_up_is_not_written_later(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a pool whose destruction was answered as failed would be gone after a restart, and its later pages name no pool."""
    monkeypatch.setattr("tmem.server.host.journal._WAIT_SECONDS", 0.05)
    writing, go_on = threading.Event(), threading.Event()

    def write(file: int, pieces: list[memoryview]) -> int:
        writing.set()
        assert go_on.wait(20)
        return os.writev(file, pieces)

    files = make(disk=WrittenBy(write))
    files.start()
    files.append(encode_entry(Kind.BATCH, b"slow"), lambda _: None)
    assert writing.wait(20)
    with pytest.raises(TimeoutError):
        files.append_now(encode_entry(Kind.BATCH, b"given up"))
    go_on.set()
    files.append_now(encode_entry(Kind.BATCH, b"later"))
    files.close()
    assert held(tmp_path) == [b"slow", b"later"]


def test_what_is_being_written_is_waited_for(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tmem.server.host.journal._WAIT_SECONDS", 0.05)
    go_on = threading.Event()

    def write(file: int, pieces: list[memoryview]) -> int:
        assert go_on.wait(20)
        return os.writev(file, pieces)

    files = make(disk=WrittenBy(write))
    files.start()
    timer = threading.Timer(0.3, go_on.set)
    timer.start()
    files.append_now(encode_entry(Kind.BATCH, b"slow"))
    timer.join()
    files.close()
    assert held(tmp_path) == [b"slow"]


def test_a_full_disk_does_not_keep_the_daemon_from_starting(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make()
    files.start()
    append(files, b"kept")
    files.close()

    def fallocate(_file: int, _offset: int, _size: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", fallocate)
    files = make()
    assert files.directory.found()
    files.start()
    assert append(files, b"a put") is not None
    assert append(files, b"a removal", urgent=True) is None
    files.close()
    assert held(tmp_path) == [b"kept", b"a removal"]


def test_only_the_last_file_can_be_torn(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is forced to the disk before another one begins, and so is what a killed daemon left."""
    events: list[str] = []
    watch_calls(monkeypatch, events.append)
    files = make()
    files.start()
    append(files, b"x")
    begin_file(files)
    assert [event for event in events if event in {"rename", "fdatasync"}] == ["rename", "fdatasync", "rename"]
    files.close()
    del events[:]
    files = make()
    files.directory.found()
    files.start()
    assert [event for event in events if event in {"rename", "fdatasync"}] == ["fdatasync", "fdatasync", "rename"]


def test_two_daemons_do_not_share_a_journal(make: Make) -> None:
    make()
    with pytest.raises(JournalError, match="another tmemd"):
        make()


def test_a_missing_file_between_others_is_refused_by_name(make: Make, tmp_path: Path) -> None:
    files = make()
    files.start()
    for _ in range(2):
        begin_file(files)
    files.close()
    (tmp_path / "journal/journal-00000002").unlink()
    with pytest.raises(JournalError, match="journal-00000002: the file is missing"):
        make().directory.found()


def test_a_directory_that_can_not_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="file/journal: "):
        JournalFiles(tmp_path / "file" / "journal", synced=False, post=lambda function: function())
