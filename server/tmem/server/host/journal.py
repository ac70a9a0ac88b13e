"""The journal's files, and the thread that writes them.

Owns: a directory:

    lock           who uses it
    journal-N      files of entries, numbered from 1; a file is forced to the disk before the next one begins
    range          which of them must be there: files before its first are leftovers, one that is missing is an error
    reserve        room that is given up so that removals can still be written when the disk is full
    next           a file that is being made; it gets its name when its header is written

Entries are written in the order of `append`, by one thread, many at a time; whoever appended is told on the store's thread. A write
that fails is cut off again, so that what follows stands on whole entries. A daemon may be killed between any two calls here, and what
it leaves is read again.

Units: bytes.
"""

import contextlib
import errno
import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tmem.server.store.journal.entries import (
    HEADER_BYTES,
    FileHeader,
    JournalError,
    Kind,
    encode_entry,
    encode_header,
    encode_range,
    read_header,
    read_range,
)
from tmem.wire.splice import BytesLike

__all__ = ["JournalFiles", "StoredFile"]

_RESERVE_BYTES: Final = 4 << 20
_FILE_BYTES: Final = 256 << 20
_WAIT_SECONDS: Final = 30.0

Done = Callable[[OSError | None], None]
Write = Callable[[int, Sequence[BytesLike]], int]


@dataclass(slots=True, eq=False)
class _Job:
    """An entry, or with pieces None something to do between entries.

    Attributes:
        at_once: `done` is called by the journal's thread itself, for somebody who waits for it.
    """

    pieces: Sequence[BytesLike] | None
    size: int
    done: Done
    urgent: bool = False
    work: Callable[[], None] | None = None
    at_once: bool = False


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the journal as it was found at the start."""

    path: Path
    header: FileHeader


class JournalFiles:
    """A directory of journal files; see tmem.server.store.journal.layer.Sink.

    Args:
        directory: made if need be.
        synced: every write is forced to the disk before it is acknowledged.
        post: calls a function on the store's thread.
        write: os.writev, or what a test has in its place.

    Attributes:
        directory: as given.
        written, failed: entries, so far.

    Raises:
        JournalError: another daemon uses it, or it can't be used.
    """

    def __init__(
        self, directory: Path, *, synced: bool, post: Callable[[Callable[[], None]], object], write: Write = os.writev
    ) -> None:
        self.directory = directory
        self._synced = synced
        self._post = post
        self._write = write
        self._boot_id = boot_id()
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{directory}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise JournalError(f"{directory}: another tmemd keeps its journal here") from error
        self._file = -1
        self._number = 0
        self._offset = 0
        self._ragged = False  # behind the offset there may be bytes of a write that failed
        self._reserved = False
        self._sizes: dict[int, int] = {}
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tmem-journal", daemon=True)
        self.written = 0
        self.failed = 0

    # ---- What is there ----

    def found(self) -> list[StoredFile]:
        """The files of the last run, in order.

        Raises:
            JournalError: one is no journal file, of another version, or missing.
        """
        files: list[StoredFile] = []
        first, last = self._read_range()
        for path in sorted(self.directory.glob("journal-*")):
            try:
                with path.open("rb") as file:
                    header = read_header(file.read(HEADER_BYTES), str(path))
                if path.name != _name(header.number):
                    raise JournalError(f"{path}: the file says that it is number {header.number}")
                if header.number < first:
                    path.unlink()  # a daemon was killed while it deleted what it no longer needed
                    continue
            except OSError as error:
                raise JournalError(f"{path}: {error.strerror}") from error
            self._demand(header.number, files[-1].header.number + 1 if files else first)
            files.append(StoredFile(path, header))
            self._sizes[header.number] = path.stat().st_size
        if last:
            self._demand(last + 1, files[-1].header.number + 1 if files else first)
        return files

    def _demand(self, number: int, expected: int) -> None:
        """Raises JournalError if files are missing before this one."""
        if number > expected:
            raise JournalError(f"{self.directory / _name(expected)}: the file is missing")

    def _read_range(self) -> tuple[int, int]:
        path = self.directory / "range"
        try:
            return read_range(path.read_bytes(), str(path))
        except FileNotFoundError:
            return 1, 0  # the first file is made before it
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from error

    def survived(self, files: Sequence[StoredFile], *, ended: bool) -> bool:
        """Whether all that was acknowledged is surely in these files: not if the machine went down with unforced writes."""
        return ended or all(file.header.synced or file.header.boot_id == self._boot_id for file in files)

    @staticmethod
    def cut(file: StoredFile, offset: int) -> None:
        """Cuts a torn tail off."""
        os.truncate(file.path, offset)

    @staticmethod
    def view(file: StoredFile) -> mmap.mmap:
        """The bytes of a file."""
        with file.path.open("rb") as opened:
            return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)

    # ---- Writing ----

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self._sizes.values())

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        return self._queued

    @property
    def room(self) -> int:
        """Bytes that the disk still has."""
        try:
            disk = os.statvfs(self.directory)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize

    def start(self) -> None:
        """Begins a new file; from now on entries can be appended. Raises JournalError."""
        self._number = max(self._sizes, default=0)
        try:
            for number in self._sizes:
                # What a killed daemon wrote is with the kernel, not yet on the disk; and it must be there before what follows.
                with (self.directory / _name(number)).open("rb") as file:
                    os.fdatasync(file.fileno())
            # On a full disk what is there is served, and removals are written; puts are refused until there is room.
            with _unless_full():
                self._reserve()
            with _unless_full():
                self._begin_file()
            if self._file < 0:
                self._give_reserve()
                self._begin_file()
        except OSError as error:
            raise JournalError(f"{self.directory}: {error.strerror}") from error
        self._thread.start()

    def append(self, entry: Sequence[BytesLike], done: Done, *, urgent: bool = False) -> None:
        """Writes an entry; see Sink."""
        self._add(_Job(entry, sum(len(piece) for piece in entry), done, urgent))

    def append_now(self, entry: Sequence[BytesLike]) -> None:
        """Writes an entry, and waits for it."""
        self._wait(_Job(entry, sum(len(piece) for piece in entry), lambda _: None, urgent=True))

    def begin_file(self, done: Callable[[int | None], None]) -> None:
        """Begins a new file for what is appended from now on; tells its number, or None if it can't."""
        numbers: list[int] = []

        def begin() -> None:
            self._begin_file()
            numbers.append(self._number)

        self._add(_Job(None, 0, lambda error: done(None if error else numbers[0]), work=begin))

    def drop_before(self, number: int) -> None:
        """Deletes the files before this one."""
        self._add(_Job(None, 0, lambda _: None, work=lambda: self._drop_before(number)))

    def close(self) -> None:
        """Writes what is queued, forces it to the disk, notes that the daemon ended in order, and stops."""
        if self._thread.is_alive():
            self._add(_Job(None, 0, lambda _: None, work=lambda: os.fsync(self._file)))
            self._add(_Job(encode_entry(Kind.END, b""), 0, lambda _: None, urgent=True))
            self._add(_Job(None, 0, lambda _: None, work=lambda: os.fsync(self._file)))
            with self._wake:
                self._closing = True
                self._wake.notify()
            self._thread.join()
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _add(self, job: _Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._queued += job.size
            self._wake.notify()

    def _wait(self, job: _Job) -> None:
        """Adds a job and waits for its end; raises what it ended with."""
        finished = threading.Event()
        ends: list[OSError | None] = []

        def done(error: OSError | None) -> None:
            ends.append(error)
            finished.set()

        job.done = done
        job.at_once = True
        self._add(job)
        if not finished.wait(_WAIT_SECONDS):
            with self._wake:
                withdrawn = job in self._jobs
                if withdrawn:
                    self._jobs.remove(job)
                    self._queued -= job.size
            if withdrawn:
                raise TimeoutError(errno.ETIMEDOUT, f"the disk took no write for {_WAIT_SECONDS:g} s")
            # It is being written: to say that it was not, and find it there after a restart, would be worse than to wait.
            finished.wait()
        if ends[0] is not None:
            raise ends[0]

    # ---- The thread ----

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._jobs:
                    if self._closing:
                        return
                    self._wake.wait()
            self._turn()

    def _turn(self) -> None:
        """Does what is queued."""
        with self._wake:
            jobs, self._jobs = list(self._jobs), deque()
        ends: list[tuple[_Job, OSError | None]] = []
        group: list[_Job] = []
        for job in jobs:
            if job.pieces is not None:
                group.append(job)
                continue
            ends += self._write_group(group)
            group = []
            ends.append((job, self._do(job)))
        ends += self._write_group(group)
        with self._wake:
            self._queued -= sum(job.size for job in jobs)
        for job, error in ends:
            if job.at_once:
                job.done(error)
        self._post(partial(_tell, [(job, error) for job, error in ends if not job.at_once]))

    @staticmethod
    def _do(job: _Job) -> OSError | None:
        assert job.work is not None
        try:
            job.work()
        except OSError as error:
            return error
        return None

    def _write_group(self, group: list[_Job]) -> list[tuple[_Job, OSError | None]]:
        """Writes entries; together if they go, else one by one, so that each knows what became of it."""
        if not group:
            return []
        try:
            self._write_entries(group)
        except OSError:
            ends = [(job, self._write_one(job)) for job in group]
        else:
            ends = [(job, None) for job in group]
        failed = sum(error is not None for _, error in ends)
        self.failed += failed
        self.written += len(ends) - failed
        return ends

    def _write_one(self, job: _Job) -> OSError | None:
        try:
            self._write_entries([job])
        except OSError as error:
            return error
        return None

    def _write_entries(self, group: list[_Job]) -> None:
        """Writes entries behind what is there, all or none."""
        pieces = [memoryview(piece) for job in group for piece in job.pieces or ()]
        urgent = all(job.urgent for job in group)
        if not urgent and not self._reserved:
            self._reserve()  # before anything else takes the room that removals may need
        try:
            self._write_all(pieces)
        except OSError:
            self._tidy()
            if not urgent or not self._give_reserve():
                raise
            self._write_all(pieces)
        self._offset += sum(map(len, pieces))
        self._ragged = False
        self._sizes[self._number] = self._offset
        if self._offset >= _FILE_BYTES:
            with contextlib.suppress(OSError):  # the one that is open goes on
                self._begin_file()

    def _tidy(self) -> None:
        """Cuts off what is left of a write that failed."""
        if self._ragged:
            os.ftruncate(self._file, self._offset)
            self._ragged = False

    def _write_all(self, pieces: list[memoryview]) -> None:
        self._tidy()
        self._ragged = True
        os.lseek(self._file, self._offset, os.SEEK_SET)
        left = deque(pieces)
        while left:
            batch = [left[number] for number in range(min(len(left), 512))]
            written = self._write(self._file, batch)
            while left and written >= len(left[0]):
                written -= len(left.popleft())
            if written:
                left[0] = left[0][written:]
        if self._synced:
            os.fdatasync(self._file)

    # ---- Files ----

    def _begin_file(self) -> None:
        if self._file >= 0:
            self._tidy()
            os.fdatasync(self._file)  # only the last file may be torn, whatever happens to the machine
        number = self._number + 1
        path, unnamed = self.directory / _name(number), self.directory / "next"
        header = encode_header(FileHeader(number, self._boot_id, self._synced))
        file = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            _write_whole(file, header)
            os.fsync(file)
            unnamed.rename(path)
            self._sync_directory()
        except OSError:
            os.close(file)
            unnamed.unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            os.close(self._file)
        self._file, self._number, self._offset, self._ragged = file, number, len(header), False
        self._sizes[number] = self._offset
        with contextlib.suppress(OSError):  # it lags behind, and would not miss this file
            self._write_range(min(self._sizes), number)

    def _drop_before(self, number: int) -> None:
        os.fdatasync(self._file)  # what replaces them is on the disk first
        # Some of them without the others would be half a history: so they go all at once, by this.
        self._write_range(number, self._number)
        for old in [old for old in self._sizes if old < number]:
            (self.directory / _name(old)).unlink(missing_ok=True)
            del self._sizes[old]
        self._sync_directory()
        if not self._reserved:
            self._reserve()

    def _write_range(self, first: int, last: int) -> None:
        """Notes which files must be there; in place, so that it needs no room: so few bytes are written whole or not at all."""
        file = os.open(self.directory / "range", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, encode_range(first, last), 0)
            os.fsync(file)
        finally:
            os.close(file)

    def _sync_directory(self) -> None:
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _reserve(self) -> None:
        """Takes room on the disk for the removals of a bad day."""
        file = os.open(self.directory / "reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _RESERVE_BYTES)
        except OSError:
            os.ftruncate(file, 0)
            raise
        finally:
            os.close(file)
        self._reserved = True

    def _give_reserve(self) -> bool:
        """Gives the reserve up; False if it was given already."""
        self._reserved = False
        path = self.directory / "reserve"
        try:
            if not path.stat().st_size:
                return False
            os.truncate(path, 0)
        except OSError:
            return False
        return True


def _write_whole(file: int, data: bytes) -> None:
    if os.write(file, data) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def _unless_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise


def _tell(ends: list[tuple[_Job, OSError | None]]) -> None:
    """Tells whoever appended what became of it."""
    for job, error in ends:
        job.done(error)


def _name(number: int) -> str:
    return f"journal-{number:08d}"


def boot_id() -> bytes:
    """Names this run of the machine; 16 bytes."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        return os.urandom(16)  # unknown: then it is another one each time
    return bytes.fromhex(text.strip().replace("-", ""))
