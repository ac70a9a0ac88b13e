"""The disk as the journal and the scratch file see it, and one that fails on purpose.

Owns: `Disk`, which is the system's own calls, and `FaultyDisk`, which is full, slow, short of breath or broken by chance: for tests of
what the daemon and its clients do about it.
"""

import errno
import mmap
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tmem.server.sizes import parse_size
from tmem.wire.splice import BytesLike

__all__ = ["Disk", "FaultyDisk", "check_faults", "disk_of"]

_MAX_SECONDS = 60.0


class Disk:
    """Reads and writes; the signatures of the functions of `os`."""

    def writev(self, file: int, pieces: Sequence[BytesLike]) -> int:
        """Writes pieces at the file's offset; answers how many bytes."""
        return os.writev(file, pieces)

    def pwrite(self, file: int, data: BytesLike, offset: int) -> int:
        """Writes at an offset; answers how many bytes."""
        return os.pwrite(file, data, offset)

    def pread(self, file: int, size: int, offset: int) -> bytes:
        """Reads at an offset; fewer bytes at the end of the file."""
        return os.pread(file, size, offset)

    def view(self, path: Path) -> mmap.mmap:
        """The bytes of a whole file, which are read as they are looked at."""
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


class FaultyDisk(Disk):
    """Fails by chance.

    Args:
        spec: `full_after=10MiB,short_write=0.1,write_error=0.01,read_error=0.01,seconds=0.05,read_seconds=1,seed=4`, any
            of them: no room after so many bytes of a file; chances that a write is cut short, a write fails, a read
            fails; how long every write and read takes besides, and every read on top of that.

    Raises:
        ValueError: the spec says something else; the message says what.
    """

    def __init__(self, spec: str) -> None:
        values = _parse(spec)
        self._full_after = int(values.get("full_after", 0))
        self._short_write = values.get("short_write", 0.0)
        self._write_error = values.get("write_error", 0.0)
        self._read_error = values.get("read_error", 0.0)
        self._seconds = values.get("seconds", 0.0)
        self._read_seconds = values.get("read_seconds", 0.0)
        seed = values.get("seed")
        self._chance = random.Random(None if seed is None else int(seed))  # noqa: S311  no secret

    def writev(self, file: int, pieces: Sequence[BytesLike]) -> int:
        """As Disk does, or not."""
        size = self._before_write(file, os.lseek(file, 0, os.SEEK_CUR), sum(map(len, pieces)))
        return os.write(file, b"".join(pieces)[:size])

    def pwrite(self, file: int, data: BytesLike, offset: int) -> int:
        """As Disk does, or not."""
        size = self._before_write(file, offset, len(data))
        return os.pwrite(file, memoryview(data)[:size], offset)

    def pread(self, file: int, size: int, offset: int) -> bytes:
        """As Disk does, or not."""
        self._before_read()
        return os.pread(file, size, offset)

    def view(self, path: Path) -> mmap.mmap:
        """As Disk does, or not."""
        self._before_read()
        return super().view(path)

    def _before_read(self) -> None:
        time.sleep(self._seconds + self._read_seconds)
        if self._chance.random() < self._read_error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _before_write(self, file: int, offset: int, size: int) -> int:
        """How much of a write goes; raises OSError for one that fails."""
        time.sleep(self._seconds)
        if self._full_after:
            # Room is what the file has already, and what is left below the limit.
            size = min(size, max(self._full_after, os.fstat(file).st_size) - offset)
            if size <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if self._chance.random() < self._write_error:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        if size > 1 and self._chance.random() < self._short_write:
            return self._chance.randrange(1, size)
        return size


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= _MAX_SECONDS:
        raise ValueError(f"{text} is not 0..{_MAX_SECONDS:g} seconds")
    return value


def _chance(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise ValueError(f"{text} is no chance: 0..1")
    return value


_PARAMETERS: dict[str, Callable[[str], float]] = {
    "full_after": parse_size,
    "short_write": _chance,
    "write_error": _chance,
    "read_error": _chance,
    "seconds": _seconds,
    "read_seconds": _seconds,
    "seed": int,
}


def _parse(spec: str) -> dict[str, float]:
    values: dict[str, float] = {}
    for item in filter(None, spec.split(",")):
        key, _, text = item.partition("=")
        if key not in _PARAMETERS:
            raise ValueError(f"no fault of disks is called {key!r}; there are: {', '.join(_PARAMETERS)}")
        try:
            values[key] = _PARAMETERS[key](text)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    return values


def check_faults(spec: str) -> str:
    """The spec, if it can be used; raises ValueError with a message that says what is wrong."""
    _parse(spec)
    return spec


def disk_of(spec: str) -> Disk:
    """The disk that a setting asks for; an empty one is a good disk."""
    return FaultyDisk(spec) if spec else Disk()
