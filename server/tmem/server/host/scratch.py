"""Room on a disk for what memory can't hold: one file without a name, gone with the daemon however it ends.

Owns: the file, its slots, and the threads that read and write so that a slow disk holds up nobody but those who wait for it. Reads and
writes are plain calls that go through the kernel's page cache. Slots are given out and taken back on the store's thread alone.
"""

import contextlib
import errno
import heapq
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tmem.server.store.pending import Pending, then

from .disk import Disk

__all__ = ["ScratchFile"]

_READERS = 4

T = TypeVar("T")


class ScratchFile:
    """A file cut into slots; see tmem.server.store.log.spill.Scratch.

    Args:
        directory: on the disk that lends the room.
        slot_bytes: how long a slot is.
        limit_bytes: the most bytes of all slots.
        disk: what reads and writes; None = the system's own calls.
        post: calls a function on the store's thread, later; None = reads and writes are done at once, on that thread.

    Attributes:
        used_bytes: of slots that are in use.
        errors: reads and writes that failed.

    Raises:
        OSError: no file can be made there.
    """

    def __init__(
        self,
        directory: Path,
        slot_bytes: int,
        limit_bytes: int,
        disk: Disk | None = None,
        post: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
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
        self._post = post
        # Apart, so that no read waits behind whole segments on their way to the disk.
        self._writer: ThreadPoolExecutor | None = None
        self._reader: ThreadPoolExecutor | None = None
        if post is not None:
            self._writer = ThreadPoolExecutor(1, "tmem-spill-write")
            self._reader = ThreadPoolExecutor(_READERS, "tmem-spill-read")
        self.used_bytes = 0
        self.errors = 0

    @property
    def room(self) -> int:
        """Bytes of all slots that are free."""
        return self._slots * self._slot_bytes - self.used_bytes

    # ---- Writing ----

    def write(self, data: memoryview) -> int | Pending[int | None] | None:
        """Writes a segment; answers its slot, or None if there is no room or the disk failed."""
        if self._free:
            slot = heapq.heappop(self._free)
        elif self._next < self._slots:
            slot = self._next
            self._next += 1
        else:
            return None
        self.used_bytes += self._slot_bytes

        def done(written: bool) -> int | None:
            if written:
                return slot
            self.errors += 1
            self.free(slot)
            return None

        return then(self._do(self._writer, lambda: self._write(data, slot * self._slot_bytes)), done)

    def _write(self, data: memoryview, at: int) -> bool:
        try:
            while data:
                written = self._disk.pwrite(self._file, data, at)
                data = data[written:]
                at += written
        except OSError:
            return False
        return True

    def wait(self) -> None:
        """Waits, on any thread, until what is being written now has been, and that was posted."""
        if self._writer is not None:
            # It has one thread, which does this after all the rest.
            self._writer.submit(lambda: None).result()

    def free(self, slot: int) -> None:
        """The slot can be used again."""
        self.used_bytes -= self._slot_bytes
        heapq.heappush(self._free, slot)
        if len(self._free) == self._next:
            # Nothing is held, nor being read or written: the disk gets all of it back.
            self._free.clear()
            self._next = 0
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, 0)

    # ---- Reading ----

    def read(self, slot: int, offset: int, size: int) -> bytes | Pending[bytes | None] | None:
        """Some bytes of a slot; None if the disk failed."""

        def done(data: bytes | None) -> bytes | None:
            self.errors += data is None
            return data

        return then(self._do(self._reader, lambda: self._read_or_none(slot, offset, size)), done)

    def read_now(self, slot: int, offset: int, size: int) -> bytes:
        """The same, and waits for it. Raises OSError."""
        try:
            return self._read(slot, offset, size)
        except OSError:
            self.errors += 1
            raise

    def _read_or_none(self, slot: int, offset: int, size: int) -> bytes | None:
        try:
            return self._read(slot, offset, size)
        except OSError:
            return None

    def _read(self, slot: int, offset: int, size: int) -> bytes:
        data = self._disk.pread(self._file, size, slot * self._slot_bytes + offset)
        if len(data) != size:
            raise OSError(errno.EIO, f"{len(data)} bytes of {size} came back")
        return data

    # ---- Threads ----

    def _do(self, executor: ThreadPoolExecutor | None, work: Callable[[], T]) -> T | Pending[T]:
        """Does it here, or on a thread: then the result comes on the store's thread."""
        post = self._post
        if executor is None or post is None:
            return work()
        pending: Pending[T] = Pending()

        def done(future: "Future[T]") -> None:
            if not future.cancelled():
                with contextlib.suppress(RuntimeError):  # the daemon has ended: nobody waits
                    post(lambda: pending.settle(future.result()))

        executor.submit(work).add_done_callback(done)
        return pending

    def close(self) -> None:
        """Gives all of it back; waits for what is being read or written this moment."""
        for executor in (self._writer, self._reader):
            if executor is not None:
                executor.shutdown(cancel_futures=True)
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
