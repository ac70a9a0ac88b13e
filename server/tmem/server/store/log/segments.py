"""Segments: the memory that records are appended to.

Owns: `Segment`, an anonymous mapping that is filled from its beginning and given back whole, or page by page from its
beginning as its oldest records go. Memory is never used twice: a new segment is zero, so what one tenant stored can't be seen by
another, and a view of a record stays what it was until the segment is given back.

A locator is a page's address: segment number << 32 | offset of its record. 0 is no page; segments are numbered from 1, and a
number is never used again, so an old locator never fits a younger record.
"""

import mmap
from array import array
from bisect import bisect_right
from contextlib import suppress

from . import records
from .records import Record

__all__ = ["OFFSET_BITS", "OFFSET_MASK", "Segment"]

OFFSET_BITS = 32
OFFSET_MASK = (1 << OFFSET_BITS) - 1
# Ages are noted so seldom that they take 0.3 % of the memory.
_MARK_BYTES = 4096
# Python has no name for it yet.
_MADV_DONTNEED_LOCKED = 24


class Segment:
    """Some records of one pool, in order of age.

    Args:
        number: its own.
        capacity: bytes that it can hold.
        huge: whether its memory may come in pages of 2 MiB. Measured: a fifth of the time that filling it takes, which is mostly the
            system's to give pages of 4 KiB; but the first record then takes 2 MiB.

    Attributes:
        memory: a view of it.
        used: bytes filled, from the beginning.
        released: bytes given back already, from the beginning.
        dead: of the bytes from `released` to `used`, those that belong to no live page.
        stuck: of the dead bytes, those of partly dead chunks that cleaning could not make smaller.
        users: offsets of records whose last user is not their writer, and who it is (shared pools).
        touched: of these, the ones used since they were written or moved to the log's end.
        passed: how far eviction has come.
        leaving: it is being written to the disk.
        loose: bytes appended that compressing anew might make fewer.
    """

    spilled = False
    unreadable = False
    on_disk = 0

    __slots__ = (
        "_ages",
        "_huge",
        "_map",
        "_marks",
        "base",
        "capacity",
        "dead",
        "leaving",
        "loose",
        "memory",
        "number",
        "passed",
        "released",
        "stuck",
        "touched",
        "used",
        "users",
    )

    def __init__(self, number: int, capacity: int, *, huge: bool = False) -> None:
        self.number = number
        self.base = number << OFFSET_BITS
        self.capacity = capacity
        self._map = mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._huge = huge
        with suppress(OSError):  # a kernel without huge pages
            self._map.madvise(mmap.MADV_HUGEPAGE if huge else mmap.MADV_NOHUGEPAGE)
        self.memory = memoryview(self._map)
        self.used = 0
        self.released = 0
        self.dead = 0
        self.stuck = 0
        self.users: dict[int, int] = {}
        self.touched: set[int] = set()
        self.passed = 0
        self.leaving = False
        self.loose = 0
        self._marks = array("I")
        self._ages = array("Q")

    @property
    def free(self) -> int:
        """Bytes that can still be appended: none to what is on its way to the disk as it is."""
        return 0 if self.leaving else self.capacity - self.used

    @property
    def resident(self) -> int:
        """Bytes that it takes."""
        return self.used - self.released

    @property
    def live(self) -> int:
        """Bytes that belong to live pages, with their records' headers."""
        return self.used - self.released - self.dead

    @property
    def heads(self) -> memoryview:
        """Where the headers of its records are."""
        return self.memory

    def next(self, at: int) -> int:
        """The first record that is not before `at`, which is the end of another one."""
        return at

    def read(self, at: int) -> Record:
        """The record at an offset."""
        return records.read(self.memory, at)

    def data(self, at: int, record: Record) -> memoryview:  # noqa: ARG002  its position is in the record
        """The data of a record."""
        return self.memory[record.data_at : record.end]

    def mark(self, offset: int, age: int) -> None:
        """Notes when a record was written, unless one close before it has been noted."""
        if not self._marks or offset - self._marks[-1] >= _MARK_BYTES:
            self._marks.append(offset)
            self._ages.append(age)

    def age(self, offset: int) -> int:
        """About when the record at an offset was written."""
        number = bisect_right(self._marks, offset) - 1
        return self._ages[number] if number >= 0 else 0

    def settle(self) -> None:
        """Another segment is the log's end now: no more huge pages, whose unused part would be resident all the same.

        Nor shall the system make new ones of what has been given back in parts.
        """
        if not self._huge:
            return
        self._huge = False
        with suppress(OSError):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        end = -(-self.used // mmap.PAGESIZE) * mmap.PAGESIZE
        if end < self.capacity:
            _give_back(self._map, end, self.capacity - end)

    def release(self, end: int) -> int:
        """Gives memory back up to `end`, in whole pages of the system; every record before is dead. Answers the bytes."""
        end -= end % mmap.PAGESIZE
        given = end - self.released
        if given <= 0:
            return 0
        _give_back(self._map, self.released, given)
        self.released = end
        self.dead -= given
        return given

    def close(self) -> None:
        """Gives all of it back; at the latest when the last view of it is gone."""
        self.memory.release()
        try:
            self._map.close()
        except BufferError:
            return  # an answer on its way holds a view; the map goes with that


def _give_back(memory: mmap.mmap, start: int, length: int) -> None:
    """The system takes pages back, also in a process whose memory is locked (--lock-memory)."""
    try:
        memory.madvise(_MADV_DONTNEED_LOCKED, start, length)
    except OSError:  # a system older than Linux 5.18
        memory.madvise(mmap.MADV_DONTNEED, start, length)
