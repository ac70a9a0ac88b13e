"""Room on a disk for what memory can't hold: one file without a name, gone with the daemon however it ends.

Owns: the file and its slots. Reads and writes are plain calls that go through the kernel's page cache.
"""

import errno
import heapq
import os
from pathlib import Path

from .disk import Disk

__all__ = ["ScratchFile"]


class ScratchFile:
    """A file cut into slots; see tmem.server.store.log.spill.Scratch.

    Args:
        directory: on the disk that lends the room.
        slot_bytes: how long a slot is.
        limit_bytes: the most bytes of all slots.
        disk: what reads and writes; None = the system's own calls.

    Attributes:
        used_bytes: of slots that are in use.
        errors: reads and writes that failed.

    Raises:
        OSError: no file can be made there.
    """

    def __init__(self, directory: Path, slot_bytes: int, limit_bytes: int, disk: Disk | None = None) -> None:
        self._disk = disk or Disk()
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                raise
            # A file system that can't make a file without a name.
            path = directory / f"scratch-{os.getpid()}"
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            path.unlink()
        self._slot_bytes = slot_bytes
        self._slots = limit_bytes // slot_bytes
        self._next = 0
        self._free: list[int] = []
        self.used_bytes = 0
        self.errors = 0

    def write(self, data: memoryview) -> int | None:
        """Writes a segment; answers its slot, or None if there is no room."""
        if self._free:
            slot = heapq.heappop(self._free)
        elif self._next < self._slots:
            slot = self._next
            self._next += 1
        else:
            return None
        at = slot * self._slot_bytes
        try:
            while data:
                written = self._disk.pwrite(self._file, data, at)
                data = data[written:]
                at += written
        except OSError:
            self.errors += 1
            heapq.heappush(self._free, slot)
            raise
        self.used_bytes += self._slot_bytes
        return slot

    def read(self, slot: int, offset: int, size: int) -> bytes:
        """Some bytes of a slot."""
        try:
            data = self._disk.pread(self._file, size, slot * self._slot_bytes + offset)
        except OSError:
            self.errors += 1
            raise
        if len(data) != size:
            self.errors += 1
            raise OSError(errno.EIO, f"{len(data)} bytes of {size} came back")
        return data

    def free(self, slot: int) -> None:
        """The slot can be used again."""
        self.used_bytes -= self._slot_bytes
        heapq.heappush(self._free, slot)
        if len(self._free) == self._next:
            # Nothing is held: the disk gets all of it back.
            self._free.clear()
            self._next = 0
            os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Gives all of it back."""
        os.close(self._file)
