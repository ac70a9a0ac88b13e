"""Recompression: what lies in memory for a while is compressed anew, harder than its writer had time for.

Owns: which segments are recompressed, and how a segment's records go into a new one that takes its place in the order of age. LZ4's
slow compressor writes the format that its fast one does, so readers notice nothing: a page keeps its version and its checksum, which is verified
before anything is thrown away. Measured on memory of real processes, 64 KiB at a time: 0.80 of the bytes, at 120 MB/s.

A piece of work is taken by `begin`, done by its `run`, which touches nothing but itself and so may be called on another thread, and brought back
by `finish`; whatever was put, flushed, cleaned or evicted meanwhile stays so.

Units: bytes.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

import lz4.block

from tmem.wire.checksum import page_checksums
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.limits import MAX_CHUNK_PAGES, PAGE_BYTES
from tmem.wire.results import Encoding

from . import records
from .cleaner import Cleaner
from .pool import Ledger, LogPool
from .records import Record
from .room import CLEANER_SHARE
from .segments import Segment

__all__ = ["Recompression", "Recompressor"]

_LZ4 = int(Encoding.LZ4)
# Level 9 gains 1 % more, at 0.4 of the speed.
_LEVEL = 6
# A segment is worth it when so much of it was never tried.
_LOOSE_SHARE = 0.25
# What one piece of work is at most: 5 ms of another thread, and 1 ms of the store's to take and to bring back.
_PLAIN_BYTES = 512 << 10
_RECORDS = 128
_RELEASE_BYTES = 128 << 10


@dataclass(slots=True, eq=False)
class Recompression:
    """A piece of work.

    Attributes:
        pool, segment: where the records are. begin, end: from where to where in it.
        items: by offset the records to try, with copies of their data and checksums.
        packed: by offset what became smaller.
    """

    pool: LogPool
    segment: Segment
    begin: int
    end: int
    items: list[tuple[int, Record, bytes, list[int]]]
    packed: dict[int, bytes] = field(default_factory=dict)

    def run(self) -> None:
        """Compresses; what is not what its checksums say is left alone."""
        codec = Codec(CopyCounter())
        room = memoryview(bytearray(MAX_CHUNK_PAGES * PAGE_BYTES))
        for at, record, data, crcs in self.items:
            plain = room[: record.pages * PAGE_BYTES]
            if not codec.expand(_LZ4, data, record.pages, 0, plain) or page_checksums(plain) != crcs:
                continue
            packed = lz4.block.compress(plain, mode="high_compression", compression=_LEVEL, store_size=False)
            if len(packed) < record.length:
                self.packed[at] = packed


class Recompressor:
    """Recompresses the pools of a store.

    Args:
        pools: all of them, as they come and go.
        ledger, cleaner: the store's.
        segment_bytes: how long a segment is.
        limit_bytes: the most bytes in memory.

    Attributes:
        tried_bytes, saved_bytes: of chunks, so far.
    """

    def __init__(
        self, pools: Collection[LogPool], ledger: Ledger, cleaner: Cleaner, segment_bytes: int, limit_bytes: int
    ) -> None:
        self._pools = pools
        self._ledger = ledger
        self._cleaner = cleaner
        self._segment_bytes = segment_bytes
        self._limit_bytes = limit_bytes
        self._pool: LogPool | None = None
        self._victim: Segment | None = None
        self._at = 0
        self._target: Segment | None = None
        self.tried_bytes = 0
        self.saved_bytes = 0

    def begin(self) -> Recompression | None:
        """The next piece of work; None while there is none."""
        if not self._valid() and not self._choose():
            return None
        assert self._pool is not None
        assert self._victim is not None
        return self._gather(self._pool, self._victim, max(self._at, self._victim.passed))

    def _valid(self) -> bool:
        """Whether the segment that is being recompressed is still there to be."""
        pool, victim = self._pool, self._victim
        if pool is None or victim is None or not pool.holds(victim) or victim.leaving:
            return False
        return max(self._at, victim.passed) < victim.used and not self._cleaner.cleans(victim)

    def _choose(self) -> bool:
        """Takes the oldest segment that is worth it."""
        self._pool = self._victim = None
        # What reading a journal has left above the limit must go: for that it may be a segment more for a while.
        above = self._ledger.live - self._ledger.leaving > self._limit_bytes * (1 - CLEANER_SHARE)
        if self._ledger.memory + self._segment_bytes > self._limit_bytes and not above:
            return False
        for pool in self._pools:
            # The last one is still being written to.
            for segment in pool.segments[:-1]:
                if (
                    isinstance(segment, Segment)
                    and segment.loose > _LOOSE_SHARE * segment.resident
                    and not segment.leaving
                    and not self._cleaner.cleans(segment)
                    and (self._victim is None or segment.number < self._victim.number)
                ):
                    self._pool, self._victim = pool, segment
                    break
        if self._victim is None:
            return False
        self._at = self._victim.passed
        self._target = None
        return True

    @staticmethod
    def _gather(pool: LogPool, victim: Segment, begin: int) -> Recompression:
        """The records of the next piece."""
        items = []
        at, plain, walked = begin, 0, 0
        while at < victim.used and plain < _PLAIN_BYTES and walked < _RECORDS:
            walked += 1
            record = victim.read(at)
            if record.encoding == _LZ4 and not record.dense:
                live = pool.live_pages(record, victim.base | at)
                if live == record.pages:
                    data = bytes(victim.data(at, record))
                    items.append((at, record, data, record.crcs(victim.memory).tolist()))
                    plain += record.pages * PAGE_BYTES
            at = record.end
        return Recompression(pool, victim, begin, at, items)

    def finish(self, work: Recompression) -> None:
        """Takes a piece of work that was done: its records go to the new segment, smaller ones in the place of what they were."""
        pool, victim = work.pool, work.segment
        if victim is not self._victim or not self._valid():
            return
        at = max(work.begin, victim.passed)
        while at < work.end and pool.holds(victim):
            record = victim.read(at)
            live = pool.live_pages(record, victim.base | at)
            if live:
                packed = work.packed.get(at) if live == record.pages else None
                if packed is None:
                    self._move(pool, victim, record, at, live)
                else:
                    self._replace(pool, victim, record, at, packed)
            at = record.end
        self.tried_bytes += sum(record.length for _, record, _, _ in work.items)
        self._at = at
        if pool.holds(victim):
            if victim.live == 0:
                pool.give_back(victim)
            elif at - victim.released >= _RELEASE_BYTES:
                # Nothing lives before here.
                victim.passed = at
                pool.release(victim, at)

    def _move(self, pool: LogPool, victim: Segment, record: Record, at: int, live: int) -> None:
        target = self._room(pool, victim, record.size)
        begin = target.used
        pool.move(record, victim, at, target, live)
        if record.encoding == _LZ4 and not record.dense:
            records.mark_dense(target.memory, begin)
            target.loose -= record.length

    def _replace(self, pool: LogPool, victim: Segment, record: Record, at: int, packed: bytes) -> None:
        size = record.overhead + len(packed)
        target = self._room(pool, victim, size)
        crcs = record.crcs(victim.memory)
        begin = target.used
        new = pool.append_to(
            target, size, record.leaf, record.first, _LZ4, packed, crcs, record.version, age=victim.age(at)
        )
        target.loose -= len(packed)
        records.mark_dense(target.memory, begin)
        pool.note_use(target, new - target.base, victim.users.get(at), touched=at in victim.touched)
        pool.write(record.leaf, record.first, [new] * record.pages)
        pool.bury(victim, record, record.pages, record.pages)
        self.saved_bytes += record.length - len(packed)

    def _room(self, pool: LogPool, victim: Segment, size: int) -> Segment:
        """Where the victim's records go."""
        target = self._target
        if target is None or not pool.holds(target) or target.free < size:
            target = self._target = pool.insert(pool.segments.index(victim))
        return target
