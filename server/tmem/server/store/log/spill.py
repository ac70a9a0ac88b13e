"""Segments that went to the disk because memory was full: scratch, gone with the daemon.

Owns: `SpilledSegment`: a segment whose data are in a file and whose records' headers stay in memory, so that only a get of its
bytes waits for the disk; an overwrite or a flush does not. Where the bytes are is a `Scratch`'s business.

Who waits for bytes pins the segment: its slot is not used again before they have come.
"""

from array import array
from bisect import bisect_left
from typing import Protocol

from tmem.server.store.pending import Pending, then
from tmem.wire.results import Encoding

from . import records
from .records import Record
from .segments import Segment

__all__ = ["Scratch", "SpilledSegment"]

_SAME_FILLED = int(Encoding.SAME_FILLED)


class Scratch(Protocol):
    """Room on a disk, in slots as long as a segment. A Pending is settled on the store's thread."""

    @property
    def room(self) -> int:
        """Bytes of all slots that are free."""
        ...

    def write(self, data: memoryview) -> int | Pending[int | None] | None:
        """Writes a segment, which stays as it is meanwhile; answers its slot, or None if it could not be written."""
        ...

    def read(self, slot: int, offset: int, size: int) -> bytes | Pending[bytes | None] | None:
        """Some bytes of a slot, which is not freed meanwhile; None if they can't be read."""
        ...

    def read_now(self, slot: int, offset: int, size: int) -> bytes:
        """The same, and waits for it. Raises OSError."""
        ...

    def free(self, slot: int) -> None:
        """The slot can be used again."""
        ...

    def wait(self) -> None:
        """Waits, on any thread, until what is being written now has been; the store's thread is told of that before it goes on."""
        ...


class SpilledSegment:
    """What a segment becomes; it has the same reading side.

    Args:
        segment: written to the slot already.
        scratch, slot: where.
        offsets: of its live records.

    Attributes:
        heads: the headers and checksums of its records; of same-filled ones the data too.
        on_disk: bytes that memory no longer has to hold.
        unreadable: the disk has failed once; it is not worth cleaning.
        image: all of its bytes, while it is being cleaned.
    """

    spilled = True
    leaving = False
    free = 0
    stuck = 0

    __slots__ = (
        "_closed",
        "_offsets",
        "_pins",
        "_positions",
        "_scratch",
        "_slot",
        "base",
        "dead",
        "heads",
        "image",
        "number",
        "on_disk",
        "passed",
        "released",
        "touched",
        "unreadable",
        "used",
        "users",
    )

    def __init__(self, segment: Segment, scratch: Scratch, slot: int, offsets: list[int]) -> None:
        self.number = segment.number
        self.base = segment.base
        self.used = segment.used
        self.released = segment.released
        self.dead = segment.dead
        self.users = segment.users
        self.touched = segment.touched
        self.passed = 0
        self.unreadable = False
        self._scratch = scratch
        self._slot = slot
        self._offsets = array("I", offsets)
        self._positions = array("I")
        self._pins = 0
        self._closed = False
        self.image: memoryview | None = None
        heads = bytearray()
        for at in offsets:
            record = segment.read(at)
            self._positions.append(len(heads))
            end = record.end if record.encoding == _SAME_FILLED else record.data_at
            heads += segment.memory[at:end]
        self.heads = memoryview(bytes(heads))
        self.on_disk = max(0, segment.resident - len(self.heads))

    @property
    def resident(self) -> int:
        """Bytes that it takes, here and there."""
        return self.used - self.released

    @property
    def live(self) -> int:
        """Bytes that belong to live pages, with their records' headers."""
        return self.used - self.released - self.dead

    def next(self, at: int) -> int:
        """The first record that is not before `at`; `used` if there is none."""
        number = bisect_left(self._offsets, at)
        return self._offsets[number] if number < len(self._offsets) else self.used

    def read(self, at: int) -> Record:
        """The record at an offset."""
        return records.read(self.heads, self._positions[bisect_left(self._offsets, at)])

    def data(self, at: int, record: Record) -> memoryview | None:
        """The data of a record; None if they are on the disk alone."""
        if record.encoding == _SAME_FILLED:
            return self.heads[record.data_at : record.end]
        if self.image is None:
            return None
        begin = at + record.overhead
        return self.image[begin : begin + record.length]

    def data_now(self, at: int, record: Record) -> memoryview:
        """The data of a record, waiting for the disk if it must. Raises OSError."""
        here = self.data(at, record)
        return (
            here
            if here is not None
            else memoryview(self._scratch.read_now(self._slot, at + record.overhead, record.length))
        )

    def fetch_data(self, at: int, record: Record) -> bytes | Pending[bytes | None] | None:
        """The data of a record, once it is here; None if it can't be read."""
        return self._fetch(at + record.overhead, record.length)

    def fetch_image(self) -> None:
        """Sees to it that all its bytes are here, or that it is known to be unreadable: later, unless the disk is quick."""
        if self._pins:
            return  # on their way

        def take(image: bytes | None) -> None:
            self.image = None if image is None or self._closed else memoryview(image)
            self.unreadable = image is None

        then(self._fetch(0, self.used), take)

    def _fetch(self, offset: int, size: int) -> bytes | Pending[bytes | None] | None:
        self._pins += 1

        def unpin(data: bytes | None) -> bytes | None:
            self._pins -= 1
            if self._closed and not self._pins:
                self._scratch.free(self._slot)
            return data

        return then(self._scratch.read(self._slot, offset, size), unpin)

    def age(self, offset: int) -> int:  # noqa: ARG002  a segment in memory needs it
        """Ages matter where pages are evicted, and those are never spilled."""
        return 0

    def close(self) -> None:
        """Gives it back, once nobody reads it any more."""
        self._closed = True
        self.image = None
        if not self._pins:
            self._scratch.free(self._slot)
