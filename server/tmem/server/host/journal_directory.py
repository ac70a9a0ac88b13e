"""The directory of a journal: which files there are, and what is in them.

Owns: a directory:

    lock           who uses it
    journal-N      files of entries, numbered from 1; a file is forced to the disk before the next one begins
    range          which of them must be there: files before its first are leftovers, one that is missing is an error
    reserve        room that is given up so that removals can still be written when the disk is full
    next           a file that is being made; it gets its name when its header is written

A write that fails is cut off again, so that what follows stands on whole entries. A daemon may be killed between any two calls here,
and what it leaves is read again. Used by one thread at a time; only `size` and `room` are for all.

Units: bytes.
"""

import contextlib
import errno
import fcntl
import mmap
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tmem.server.store.journal.entries import (
    HEADER_BYTES,
    FileHeader,
    JournalError,
    encode_header,
    encode_range,
    read_header,
    read_range,
)
from tmem.wire.splice import BytesLike

from .disk import Disk

__all__ = ["JournalDirectory", "StoredFile"]

_RESERVE_BYTES: Final = 4 << 20
_FILE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of the journal as it was found at the start."""

    path: Path
    header: FileHeader


class JournalDirectory:
    """The files.

    Args:
        path: made if need be.
        synced: every write is forced to the disk before it counts.
        disk: what reads and writes.

    Attributes:
        path: as given.

    Raises:
        JournalError: another daemon uses it, or it can't be used.
    """

    def __init__(self, path: Path, *, synced: bool, disk: Disk) -> None:
        self.path = path
        self._synced = synced
        self._disk = disk
        self._boot_id = boot_id()
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise JournalError(f"{path}: another tmemd keeps its journal here") from error
        self._file = -1
        self._number = 0
        self._offset = 0
        self._ragged = False  # behind the offset there may be bytes of a write that failed
        self._reserved = False
        self._sizes: dict[int, int] = {}

    # ---- What is there ----

    def found(self) -> list[StoredFile]:
        """The files of the last run, in order.

        Raises:
            JournalError: one is no journal file, of another version, or missing.
        """
        files: list[StoredFile] = []
        first, last = self._read_range()
        for path in sorted(self.path.glob("journal-*")):
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
            raise JournalError(f"{self.path / _name(expected)}: the file is missing")

    def _read_range(self) -> tuple[int, int]:
        path = self.path / "range"
        try:
            return read_range(path.read_bytes(), str(path))
        except FileNotFoundError:
            return 1, 0  # the first file is made before it
        except OSError as error:
            raise JournalError(f"{path}: {error.strerror}") from error

    def survived(self, files: Sequence[StoredFile], *, ended: bool) -> bool:
        """Whether all that was acknowledged is surely in these files: not if the machine went down with unforced writes."""
        return ended or all(file.header.synced or self.of_this_boot(file) for file in files)

    def of_this_boot(self, file: StoredFile) -> bool:
        """Whether the machine has not gone down since a file was begun."""
        return file.header.boot_id == self._boot_id

    @staticmethod
    def cut(file: StoredFile, offset: int) -> None:
        """Cuts a torn tail off."""
        os.truncate(file.path, offset)

    def view(self, file: StoredFile) -> mmap.mmap:
        """The bytes of a file."""
        return self._disk.view(file.path)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(list(self._sizes.values()))

    @property
    def room(self) -> int:
        """Bytes that the disk still has."""
        try:
            disk = os.statvfs(self.path)
        except OSError:
            return 0
        return disk.f_bavail * disk.f_frsize

    # ---- Writing ----

    def start(self) -> None:
        """Begins a new file; from now on entries can be written. Raises JournalError."""
        self._number = max(self._sizes, default=0)
        try:
            for number in self._sizes:
                # What a killed daemon wrote is with the kernel, not yet on the disk; and it must be there before what follows.
                with (self.path / _name(number)).open("rb") as file:
                    os.fdatasync(file.fileno())
            # On a full disk what is there is served, and removals are written; puts are refused until there is room.
            with _unless_full():
                self._reserve()
            with _unless_full():
                self.begin_file()
            if self._file < 0:
                self._give_reserve()
                self.begin_file()
        except OSError as error:
            raise JournalError(f"{self.path}: {error.strerror}") from error

    def write(self, entries: Sequence[BytesLike], *, urgent: bool) -> None:
        """Writes entries behind what is there, all or none; urgent ones may use what is reserved. Raises OSError."""
        pieces = [memoryview(piece) for piece in entries]
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
                self.begin_file()

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
            written = self._disk.writev(self._file, batch)
            while left and written >= len(left[0]):
                written -= len(left.popleft())
            if written:
                left[0] = left[0][written:]
        if self._synced:
            os.fdatasync(self._file)

    # ---- Files ----

    def begin_file(self) -> int:
        """Begins a new file for what is written from now on; answers its number."""
        if self._file >= 0:
            self._tidy()
            os.fdatasync(self._file)  # only the last file may be torn, whatever happens to the machine
        number = self._number + 1
        path, unnamed = self.path / _name(number), self.path / "next"
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
        return number

    def force(self) -> None:
        """Forces what was written to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Lets go of it."""
        for file in (self._file, self._lock):
            if file >= 0:
                os.close(file)
        self._file = self._lock = -1

    def drop_before(self, number: int) -> None:
        """Deletes the files before this one."""
        os.fdatasync(self._file)  # what replaces them is on the disk first
        # Some of them without the others would be half a history: so they go all at once, by this.
        self._write_range(number, self._number)
        for old in [old for old in self._sizes if old < number]:
            (self.path / _name(old)).unlink(missing_ok=True)
            del self._sizes[old]
        self._sync_directory()
        if not self._reserved:
            self._reserve()

    def _write_range(self, first: int, last: int) -> None:
        """Notes which files must be there; in place, so that it needs no room: so few bytes are written whole or not at all."""
        file = os.open(self.path / "range", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(file, encode_range(first, last), 0)
            os.fsync(file)
        finally:
            os.close(file)

    def _sync_directory(self) -> None:
        directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _reserve(self) -> None:
        """Takes room on the disk for the removals of a bad day."""
        file = os.open(self.path / "reserve", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
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
        path = self.path / "reserve"
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


def _name(number: int) -> str:
    return f"journal-{number:08d}"


def boot_id() -> bytes:
    """Names this run of the machine; 16 bytes."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
    except OSError:
        return os.urandom(16)  # unknown: then it is another one each time
    return bytes.fromhex(text.strip().replace("-", ""))
