"""The program's memory as the agent sees it: the core's Memory port over userfaultfd and the file behind the region.

Owns: the agent's own mapping of the file, and what each kind of page needs. The agent's mapping is not registered: the agent
reads and writes pages there that the program does not see, or not yet.

Must not know: states, targets, policy.

Units: units and pages, see `ports`; inside, bytes.

What the kinds need
    4 KiB     UFFDIO_ZEROPAGE makes zeros in the program's mapping
    thp       the agent's mapping asks for huge pages; the program's is mapped by 4 KiB as long as it is registered, so a unit
              may be mapped in part
    hugetlb   no UFFDIO_ZEROPAGE. Touching a page when the pool is empty would kill the agent: it is allocated first
"""

import errno
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tmem.wire.limits import PAGE_BYTES

from . import kernel
from .ports import NoRoomError
from .settings import Pages, Settings
from .uffd import Userfaultfd

__all__ = ["AgentMemory"]

_PRESENT = 63  # of a pagemap entry
_MEMINFO = Path("/proc/meminfo")
_SWAPS = Path("/proc/swaps")


class AgentMemory:
    """One region.

    Args:
        settings: the region's.
        uffd: the program's userfaultfd. file: what the region is a mapping of.
        base: where the region begins in the program. pid, pidfd: the program.

    Attributes:
        can_hide: whether `hide` works at the moment.
    """

    def __init__(self, settings: Settings, uffd: Userfaultfd, file: int, base: int, pid: int, pidfd: int) -> None:
        self._uffd = uffd
        self._file = file
        self._base = base
        self._pidfd = pidfd
        self._unit = settings.unit
        self._pages = settings.pages
        self._unit_pages = settings.pages.unit_pages
        # NORESERVE: a region of huge pages may be larger than their pool.
        self._map = mmap.mmap(file, settings.size, flags=mmap.MAP_SHARED | kernel.MAP_NORESERVE)
        if self._pages is Pages.THP:
            self._map.madvise(kernel.MADV_HUGEPAGE)
        self._view = memoryview(self._map)
        self._pagemap = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC) if self._pages is Pages.THP else -1
        self._hideable = self._pages is not Pages.HUGETLB
        self.can_hide = self._hideable

    @property
    def span(self) -> tuple[int, int]:
        """Address and length of the agent's own mapping."""
        return kernel.address_of(self._map), len(self._map)

    def close(self) -> None:
        """Lets go of the mapping."""
        self._view.release()
        self._map.close()
        if self._pagemap >= 0:
            os.close(self._pagemap)

    def _range(self, first: int, count: int) -> tuple[int, int]:
        return self._base + first * self._unit, count * self._unit

    # ---- The port ----

    def protect(self, first: int, count: int) -> None:
        self._uffd.protect(*self._range(first, count))

    def unprotect(self, first: int, count: int) -> None:
        self._uffd.unprotect(*self._range(first, count))

    def view(self, page: int, count: int) -> memoryview:
        return self._view[page * PAGE_BYTES : (page + count) * PAGE_BYTES]

    def missing(self, first: int, count: int) -> Sequence[int]:
        if self._pages is Pages.HUGETLB:
            return self.resume(first, count)  # such files tell no holes
        start, end = first * self._unit, (first + count) * self._unit
        if os.lseek(self._file, start, os.SEEK_HOLE) >= end:
            return ()
        return [
            unit
            for unit in range(first, first + count)
            if os.lseek(self._file, unit * self._unit, os.SEEK_HOLE) < (unit + 1) * self._unit
        ]

    def reserve(self, unit: int) -> None:
        if self._pages is Pages.HUGETLB:
            try:
                kernel.allocate(self._file, unit * self._unit, self._unit)
            except OSError as error:
                if error.errno not in {errno.ENOSPC, errno.ENOMEM}:
                    raise
                raise NoRoomError from None

    def punch(self, first: int, count: int) -> None:
        kernel.punch(self._file, first * self._unit, count * self._unit)

    def resume(self, first: int, count: int) -> Sequence[int]:
        if self._pages is not Pages.THP:
            absent = self._uffd.resume(*self._range(first, count))
            return [(address - self._base) // self._unit for address in absent] if absent else absent
        return [unit for unit in range(first, first + count) if not self._resume_parts(unit)]

    def _resume_parts(self, unit: int) -> bool:
        """Maps what is not mapped of a unit of 4 KiB pages; False if a part of it is not in the file."""
        start, length = self._range(unit, 1)
        complete = True
        for at, part in self._unmapped(start, length):
            complete &= not self._uffd.resume(at, part)
        self._uffd.wake(start, length)  # who waits for a part that was mapped already
        return complete

    def _unmapped(self, start: int, length: int) -> Iterator[tuple[int, int]]:
        """Runs of pages that the program has not mapped, by its page table: asking by CONTINUE costs two calls a page."""
        entries = struct.unpack(
            f"<{length // PAGE_BYTES}Q", os.pread(self._pagemap, length // PAGE_BYTES * 8, start // PAGE_BYTES * 8)
        )
        first = 0
        while first < len(entries):
            end = first
            while end < len(entries) and not entries[end] >> _PRESENT & 1:
                end += 1
            if end > first:
                yield start + first * PAGE_BYTES, (end - first) * PAGE_BYTES
            first = end + 1

    def zero(self, first: int, count: int) -> None:
        if self._pages is Pages.BASE:
            self._uffd.zero(*self._range(first, count))
            return
        for unit in range(first, first + count):
            self.reserve(unit)
            offset = unit * self._unit
            self._view[offset] = self._view[offset]  # a huge page, if there is one
            if self._pages is Pages.THP:
                kernel.allocate(self._file, offset, self._unit)  # small ones for the rest, if there was none
            self.resume(unit, 1)

    def poison(self, first: int, count: int) -> None:
        self._uffd.poison(*self._range(first, count))

    def wake(self, first: int, count: int) -> None:
        self._uffd.wake(*self._range(first, count))

    def hide(self, first: int, count: int) -> bool:
        if not self.can_hide:
            return False
        # The kernel unmaps only what nobody else has mapped: not the agent either.
        self._map.madvise(mmap.MADV_DONTNEED, first * self._unit, count * self._unit)
        try:
            kernel.page_out(self._pidfd, *self._range(first, count))
        except OSError as error:
            if error.errno in {errno.ESRCH, errno.EAGAIN, errno.ENOMEM}:
                return True  # the program ends, or has unmapped a part: nothing is hidden, and the next touch is none
            self._hideable = self.can_hide = False
        return self.can_hide

    # ---- The machine ----

    def look_around(self) -> int:
        """What the machine can spare, in units; also notes whether pages can be hidden: the kernel would swap them out if it could."""
        if self._hideable:
            with suppress(OSError):
                self.can_hide = len(_SWAPS.read_bytes().splitlines()) <= 1
        fields = dict(line.split(b":", 1) for line in _MEMINFO.read_bytes().splitlines())
        if self._pages is Pages.HUGETLB:
            return int(fields[b"HugePages_Free"])
        total, available = (int(fields[name].split()[0]) * 1024 for name in (b"MemTotal", b"MemAvailable"))
        return max(available - total // 16, 0) // self._unit
