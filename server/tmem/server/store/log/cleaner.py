"""The cleaner: moves what lives out of segments that are mostly dead, in bounded steps.

Owns: which segments are cleaned, and when. A victim's records are copied into a new segment that takes the victim's place in the order
of age, so that cleaning never makes old pages young; neighbours are cleaned into one where they fit. A partly dead chunk is expanded,
verified, and cut into chunks of what lives where that is smaller; page checksums are kept, never made anew, so that a page that fails its checksum
stays one that fails.

A step may be the last at any time: every record's move is whole, and what was not moved stays where it is.
"""

from array import array
from collections.abc import Collection
from itertools import groupby

import lz4.block

from tmem.wire.checksum import page_checksums
from tmem.wire.codec import Codec
from tmem.wire.limits import MAX_CHUNK_PAGES, PAGE_BYTES
from tmem.wire.results import Encoding
from tmem.wire.splice import BytesLike

from . import records
from .pool import AnySegment, Ledger, LogPool
from .records import MAX_RECORD_BYTES, Record
from .segments import Segment
from .spill import SpilledSegment

__all__ = ["Cleaner"]

_LZ4 = int(Encoding.LZ4)
_RAW = int(Encoding.RAW)

# Above this share of dead bytes every put pays for cleaning; down to the other one the daemon cleans when it has time.
_BUSY_DEAD = 0.08
_IDLE_DEAD = 0.01
# In a small store one segment that is being overwritten is more than that share: what is left of it will be dead in a moment.
_BUSY_SEGMENTS = 2
# Cleaning less than this is not worth a step.
_MIN_DEAD_BYTES = 256 << 10
# To free one byte of segments whose records are five sixths alive, five are moved; the more, the more is dead already.
_BYTES_PER_BYTE_PUT = 7
_EXCESS_FACTOR = 30
# What the busiest put does at most, about 8 ms, and what a step does while nothing else is to do, about 0.3 ms: what a get
# that comes meanwhile waits.
_PUT_BYTES = 16 << 20
_STEP_BYTES = 512 << 10
# Moving a record costs as much as copying so many bytes besides its own, looking at a dead one so many; expanding and compressing a
# chunk so many.
_RECORD_BYTES = 4 << 10
_DEAD_RECORD_BYTES = 2 << 10
_REPACK_BYTES = 192 << 10
_RUN_RECORDS = 64
_RELEASE_BYTES = 128 << 10
# A spilled segment is cleaned, into memory, only when so much of it is dead.
_SPILLED_DEAD = 0.5


class Cleaner:
    """Cleans the pools of a store.

    Args:
        pools: all of them, as they come and go.
        ledger: the store's.
        codec: for partly dead chunks; used between calls of the store only.
        segment_bytes: how long a segment is.
        limit_bytes: the most bytes in memory.

    Attributes:
        moved_bytes, repacked_chunks: work done so far.
    """

    def __init__(
        self, pools: Collection[LogPool], ledger: Ledger, codec: Codec, segment_bytes: int, limit_bytes: int
    ) -> None:
        self._pools = pools
        self._ledger = ledger
        self._codec = codec
        self._segment_bytes = segment_bytes
        self._limit_bytes = limit_bytes
        self._plain = memoryview(bytearray(MAX_CHUNK_PAGES * PAGE_BYTES))
        # What is being cleaned: a pool, its victims, how far the first is done, and where their records go.
        self._pool: LogPool | None = None
        self._victims: list[AnySegment] = []
        self._at = 0
        self._target: Segment | None = None
        self.moved_bytes = 0
        self.repacked_chunks = 0

    # ---- When ----

    def keep_up(self, put_bytes: int) -> None:
        """Does as much as a put of so many bytes owes."""
        ledger = self._ledger
        allowed = max(_BUSY_DEAD * ledger.live, _BUSY_SEGMENTS * self._segment_bytes)
        if ledger.cleanable > allowed:
            excess = _BUSY_DEAD * (ledger.cleanable / allowed - 1)
            factor = _BYTES_PER_BYTE_PUT * (1 + _EXCESS_FACTOR * max(excess, 0.0))
            self.work(min(int(put_bytes * factor) + _RECORD_BYTES, _PUT_BYTES))

    def step(self) -> bool:
        """Does a bounded piece; answers whether there is more to do while nothing else is."""
        ledger = self._ledger
        if ledger.cleanable > max(_IDLE_DEAD * ledger.live, _MIN_DEAD_BYTES):
            return self.work(_STEP_BYTES)
        if (
            ledger.spilled_dead > _SPILLED_DEAD * ledger.spilled
            and ledger.memory + self._segment_bytes < self._limit_bytes
        ):
            return self.work(_STEP_BYTES, spilled=True)
        return False

    def make_room(self) -> bool:
        """Cleans until a segment has been given back; False if nothing dead can be."""
        before = self._ledger.memory
        while self._ledger.memory >= before:
            if not self.work(_STEP_BYTES):
                return self._ledger.memory < before
        return True

    # ---- What ----

    def work(self, budget: int, *, spilled: bool = False) -> bool:
        """Moves about so many bytes; False if there is nothing to clean. Spilled segments come into memory by that."""
        while budget > 0:
            if not self._victims and not self._choose(spilled=spilled):
                return False
            budget -= self._clean_one()
        return True

    def _choose(self, *, spilled: bool) -> bool:
        """Takes the segment with the largest dead share, and its neighbours as far as they fit into one."""
        best: tuple[float, LogPool, int] | None = None
        for pool in self._pools:
            if pool.counts.dead_bytes < MAX_RECORD_BYTES:
                continue
            for position, segment in enumerate(pool.segments):
                share = (segment.dead - segment.stuck) / (segment.resident or 1)
                if isinstance(segment, SpilledSegment) and segment.image is not None:
                    share += 1  # it was fetched for this
                if segment.spilled and (not spilled or share < _SPILLED_DEAD or segment.unreadable):
                    continue
                if share > 0 and (best is None or share > best[0]):
                    best = share, pool, position
        if best is None:
            return False
        _, pool, position = best
        segments = pool.segments
        if not self._is_here(segments[position]):
            return False
        first = last = position
        live = segments[position].live
        room = self._segment_bytes - MAX_RECORD_BYTES

        def joins(neighbour: AnySegment) -> bool:
            return neighbour.dead > neighbour.stuck and not neighbour.spilled

        while (
            not segments[position].spilled
            and last + 1 < len(segments)
            and joins(segments[last + 1])
            and live + segments[last + 1].live <= room
        ):
            last += 1
            live += segments[last].live
        while (
            not segments[position].spilled
            and first
            and joins(segments[first - 1])
            and live + segments[first - 1].live <= room
        ):
            first -= 1
            live += segments[first].live
        self._pool = pool
        self._victims = segments[first : last + 1]
        self._target = None
        self._at = self._victims[0].passed
        return True

    @staticmethod
    def _is_here(victim: AnySegment) -> bool:
        """Whether a victim can be cleaned now; one on the disk is fetched, and its turn comes again."""
        if not isinstance(victim, SpilledSegment):
            return True
        if victim.image is None:
            victim.fetch_image()
        return victim.image is not None

    def cleans(self, segment: AnySegment) -> bool:
        """Whether a segment is being cleaned."""
        return segment in self._victims

    def forget(self, pool: LogPool) -> None:
        """The pool is gone."""
        if self._pool is pool:
            self._pool = self._target = None
            self._victims = []

    def _clean_one(self) -> int:
        """Deals with one record, or with some that lie side by side; answers what that cost, in bytes."""
        pool = self._pool
        assert pool is not None
        victim = self._victims[0]
        at = self._at = victim.next(max(self._at, victim.passed))
        if not pool.holds(victim) or at >= victim.used or victim.unreadable:
            del self._victims[0]
            self._at = self._victims[0].passed if self._victims else 0
            return _DEAD_RECORD_BYTES
        if isinstance(victim, Segment) and at - victim.released >= _RELEASE_BYTES:
            # Nothing lives before here; given back now, cleaning needs no memory in reserve.
            victim.passed = at
            pool.release(victim, at)
        if isinstance(victim, Segment) and not victim.users:
            target = self._room(pool, victim, MAX_RECORD_BYTES)
            self._at, moved = pool.move_run(victim, at, target, _RUN_RECORDS)
            if moved:
                self.moved_bytes += self._at - at
                if victim.live == 0:
                    pool.give_back(victim)
                return self._at - at + moved * _RECORD_BYTES
        record = victim.read(at)
        self._at = at + record.size
        locator = victim.base | at
        found = pool.leaves.read(record.leaf, record.first, record.pages)
        live = found.count(locator)
        if not live:
            return _DEAD_RECORD_BYTES
        if live < record.pages and record.pages <= MAX_CHUNK_PAGES and record.encoding in {_LZ4, _RAW}:
            pages = [page for page, holder in enumerate(found) if holder == locator]
            if self._repack(pool, victim, record, locator, pages):
                return _REPACK_BYTES
        self._move(pool, victim, record, at, live)
        return record.size + _RECORD_BYTES

    def _room(self, pool: LogPool, victim: AnySegment, size: int) -> Segment:
        """Where survivors of the victim go."""
        target = self._target
        if target is None or not pool.holds(target) or target.free < size:
            target = self._target = pool.insert(pool.segments.index(victim))
        return target

    def _move(self, pool: LogPool, victim: AnySegment, record: Record, at: int, live: int) -> None:
        target = self._room(pool, victim, record.size)
        pool.move(record, victim, at, target, live)
        self.moved_bytes += record.size
        if victim.live == 0 and pool.holds(victim):
            pool.give_back(victim)

    def _repack(self, pool: LogPool, victim: AnySegment, record: Record, locator: int, pages: list[int]) -> bool:
        """Cuts a partly dead chunk into chunks of what lives, if that is smaller."""
        data = victim.data(locator - victim.base, record)
        assert data is not None
        plain = self._plain[: record.pages * PAGE_BYTES]
        if not self._codec.expand(record.encoding, data, record.pages, 0, plain):
            return False  # its readers will find it corrupt
        crcs = record.crcs(victim.heads)
        found = page_checksums(plain)
        pieces: list[tuple[int, int, BytesLike, array[int]]] = []
        size = 0
        for _, group in groupby(enumerate(pages), lambda item: item[1] - item[0]):
            run = [page for _, page in group]
            first, count = run[0], len(run)
            own = crcs[first : first + count]
            chunk = plain[first * PAGE_BYTES : (first + count) * PAGE_BYTES]
            encoding = _RAW
            packed: BytesLike = chunk
            if found[first : first + count] == own.tolist():
                compressed = lz4.block.compress(chunk, store_size=False)
                if len(compressed) < len(chunk):
                    encoding, packed = _LZ4, compressed
            size += records.measure(encoding, packed, own, record.version.generation)
            pieces.append((first, encoding, packed, own))
        if size >= record.size:
            return False
        user = victim.users.get(locator - victim.base)
        touched = locator - victim.base in victim.touched
        age = victim.age(locator - victim.base)
        leaf = record.leaf
        for first, encoding, packed, own in pieces:
            length = records.measure(encoding, packed, own, record.version.generation)
            target = self._room(pool, victim, length)
            new = pool.append_to(
                target, length, leaf, record.first + first, encoding, packed, own, record.version, age=age
            )
            pool.note_use(target, new - target.base, user, touched=touched)
            pool.write(leaf, record.first + first, [new] * len(own))
        pool.bury(victim, record, len(pages), len(pages))
        self.repacked_chunks += 1
        return True
