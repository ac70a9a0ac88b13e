"""The journal's files, and the thread that writes them.

Owns: a directory: one lock, files of entries numbered from 1, and a reserve: room that is given up so that removals can still be written
when the disk is full. Entries are written in the order of `append`, by one thread, many at a time; whoever appended is told on
the store's thread. A write that fails is cut off again, so that what follows stands on whole entries.

Units: bytes.
"""

import fcntl
import mmap
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from tmem.server.store.journal.entries import (
    FileHeader,
    JournalError,
    Kind,
    encode_entry,
    encode_header,
    read_header,
)
from tmem.wire.splice import BytesLike

__all__ = ["JournalFiles", "StoredFile"]

_RESERVE_BYTES: Final = 4 << 20
_FILE_BYTES: Final = 256 << 20
_WAIT_SECONDS: Final = 30.0

Done = Callable[[OSError | None], None]
Write = Callable[[int, Sequence[BytesLike]], int]


@dataclass(slots=True)
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

    Raises:
        JournalError: another daemon uses it, or it can't be used.
    """

    def __init__(
        self, directory: Path, *, synced: bool, post: Callable[[Callable[[], None]], object], write: Write = os.writev
    ) -> None:
        self._directory = directory
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
        self._sizes: dict[int, int] = {}
        self._jobs: deque[_Job] = deque()
        self._queued = 0
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="tmem-journal", daemon=True)

    # ---- What is there ----

    def found(self) -> list[StoredFile]:
        """The files of the last run, in order.

        Raises:
            JournalError: one is no journal file, of another version, or missing between others.
        """
        files: list[StoredFile] = []
        for path in sorted(self._directory.glob("journal-*")):
            try:
                with path.open("rb") as file:
                    header = read_header(file.read(4096), str(path))
            except OSError as error:
                raise JournalError(f"{path}: {error.strerror}") from error
            if path.name != _name(header.number):
                raise JournalError(f"{path}: the file says that it is number {header.number}")
            if files and header.number != files[-1].header.number + 1:
                raise JournalError(f"{path}: the file before it, {_name(header.number - 1)}, is missing")
            files.append(StoredFile(path, header))
            self._sizes[header.number] = path.stat().st_size
        return files

    def survived(self, files: Sequence[StoredFile], *, ended: bool) -> bool:
        """Whether all that was acknowledged is surely in the files: not if the machine went down with unforced writes."""
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

    def start(self) -> None:
        """Begins a new file; from now on entries can be appended. Raises JournalError."""
        self._number = max(self._sizes, default=0)
        try:
            self._reserve()
            self._begin_file()
        except OSError as error:
            raise JournalError(f"{self._directory}: {error.strerror}") from error
        self._thread.start()

    def append(self, entry: Sequence[BytesLike], done: Done, *, urgent: bool = False) -> None:
        """Writes an entry; see Sink."""
        self._add(_Job(entry, sum(len(piece) for piece in entry), done, urgent))

    def append_now(self, entry: Sequence[BytesLike]) -> None:
        """Writes an entry, and waits for it."""
        self._wait(_Job(entry, sum(len(piece) for piece in entry), lambda _: None, urgent=True))

    def begin_file(self) -> int:
        """Begins a new file for what is appended from now on; answers its number."""
        self._wait(_Job(None, 0, lambda _: None, work=self._begin_file))
        return self._number

    def drop_before(self, number: int) -> None:
        """Deletes the files before this one."""
        self._add(_Job(None, 0, lambda _: None, work=lambda: self._drop_before(number)))

    def close(self) -> None:
        """Writes what is queued, forces it to the disk, notes that the daemon ended in order, and stops."""
        if self._thread.is_alive():
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
            raise TimeoutError(f"{self._directory}: the disk took no write for {_WAIT_SECONDS:g} s")
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
            return [(job, self._write_one(job)) for job in group]
        return [(job, None) for job in group]

    def _write_one(self, job: _Job) -> OSError | None:
        try:
            self._write_entries([job])
        except OSError as error:
            return error
        return None

    def _write_entries(self, group: list[_Job]) -> None:
        """Writes entries behind what is there, all or none."""
        pieces = [memoryview(piece) for job in group for piece in job.pieces or ()]
        try:
            self._write_all(pieces)
        except OSError:
            os.ftruncate(self._file, self._offset)
            if not all(job.urgent for job in group) or not self._give_reserve():
                raise
            try:
                self._write_all(pieces)
            except OSError:
                os.ftruncate(self._file, self._offset)
                raise
        self._offset += sum(map(len, pieces))
        self._sizes[self._number] = self._offset
        if self._offset >= _FILE_BYTES:
            self._begin_file_if_possible()

    def _write_all(self, pieces: list[memoryview]) -> None:
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
        path = self._directory / _name(self._number + 1)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        header = encode_header(FileHeader(self._number + 1, self._boot_id, self._synced))
        try:
            os.write(file, header)
            os.fsync(file)
            self._sync_directory()
        except OSError:
            os.close(file)
            path.unlink(missing_ok=True)
            raise
        if self._file >= 0:
            os.fdatasync(self._file)
            os.close(self._file)
        self._file, self._number, self._offset = file, self._number + 1, len(header)
        self._sizes[self._number] = self._offset

    def _begin_file_if_possible(self) -> None:
        try:
            self._begin_file()
        except OSError:
            return  # the one that is open goes on

    def _drop_before(self, number: int) -> None:
        os.fdatasync(self._file)  # what replaces them is on the disk first
        for old in [old for old in self._sizes if old < number]:
            (self._directory / _name(old)).unlink(missing_ok=True)
            del self._sizes[old]
        self._sync_directory()
        self._reserve()

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _reserve(self) -> None:
        """Takes room on the disk for the removals of a bad day."""
        file = os.open(self._directory / "reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, _RESERVE_BYTES)
        finally:
            os.close(file)

    def _give_reserve(self) -> bool:
        """Gives the reserve up; False if it was given already."""
        path = self._directory / "reserve"
        try:
            if not path.stat().st_size:
                return False
            os.truncate(path, 0)
        except OSError:
            return False
        return True


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
        return bytes(16)
    return bytes.fromhex(text.strip().replace("-", ""))
