"""The store over logs.

Owns: `LogStore`: what a put, a get and a flush do to a pool's log and index, who must give when memory is short, and the end of
pools. The bytes of an answer are views of segments: valid until the store is called again.

Limits: live bytes (payload and index) stay below the limit less a tenth, which is the cleaner's; above that ephemeral pages go, and
where there are none persistent puts are refused, until as much has gone again as the hysteresis says.
"""

import itertools
from array import array
from collections.abc import Iterator, Sequence

from tmem.server.store.interface import BlockListing, Counts, Flushed, PoolPolicy, Stored
from tmem.server.store.shares import Holding, choose_victim
from tmem.wire.answers import Chunk, Pages, Run
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES
from tmem.wire.requests import Put
from tmem.wire.results import Code, Durability, Encoding, PoolKind, Reason

from . import records
from .cleaner import Cleaner
from .pool import Ledger, LogPool, Spare
from .records import MAX_RECORD_BYTES, Record
from .segments import Segment

__all__ = ["LogStore"]

_MISS = int(Code.MISS)
_HIT = int(Code.HIT)
_CORRUPT = int(Code.CORRUPT)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)

_SEGMENT_BYTES = (256 << 10, 4 << 20)
# What the cleaner needs to run well: it moves about ten bytes for every byte put when a tenth is dead.
_CLEANER_SHARE = 0.10
# After a refusal for want of memory puts that need more of it are refused until this share of it is free again: else a server at
# its limit would take one page of every few, and none of its clients could plan.
_HYSTERESIS = 0.005
# The most that making an extent's leaf can take.
_LEAF_BYTES = 4096 + 512
# A pool that ends gives back so many pieces at once; the rest goes in steps.
_PIECES_AT_ONCE = 8


class LogStore:
    """Pools as logs of segments.

    Args:
        limit_bytes: the most bytes of segments and index.
        copies: where expanding a chunk for one page is counted.
        segment_bytes: how long a segment is; None = by the limit.
    """

    name = "segments"
    durabilities = (Durability.MEMORY,)

    def __init__(self, limit_bytes: int, copies: CopyCounter, *, segment_bytes: int | None = None) -> None:
        low, high = _SEGMENT_BYTES
        self._segment_bytes = segment_bytes or min(max(limit_bytes // 64, low), high)
        self._limit_bytes = limit_bytes
        self._live_limit = int(limit_bytes * (1 - _CLEANER_SHARE))
        self._pools: dict[int, LogPool] = {}
        self._ending: list[LogPool] = []
        self._ledger = Ledger()
        self._numbers = itertools.count(1)
        self._codec = Codec(copies)
        self._cleaner = Cleaner(self._pools.values(), self._ledger, Codec(CopyCounter()), self._segment_bytes)
        self._full = False
        self._retired = Counts()  # the counters of pools that are gone

    # ---- Pools ----

    def add_pool(self, policy: PoolPolicy) -> None:
        assert policy.key not in self._pools
        self._pools[policy.key] = LogPool(policy, self._ledger, self._new_segment)

    def _new_segment(self) -> Segment:
        return Segment(next(self._numbers), self._segment_bytes)

    def drop_pool(self, key: int) -> int:
        pool = self._pools.pop(key)
        counts = pool.counts
        self._retired.evicted += counts.evicted
        self._retired.expanded += counts.expanded
        pages = counts.pages
        self._cleaner.forget(pool)
        pool.end()
        self._ending.append(pool)
        for _ in range(_PIECES_AT_ONCE):
            self._end_some()
        return pages

    def _end_some(self) -> bool:
        """Gives back a piece of a pool that has ended; False if there is none."""
        if not self._ending:
            return False
        if not self._ending[0].shrink():
            del self._ending[0]
        return True

    def leave(self, key: int, user: int) -> int:
        pool = self._pools[key]
        return sum(
            pool.unmap(number, 0, BLOCK_PAGES, lambda segment, at, record: _last_user(segment, at, record) != user)
            for number in list(pool.leaves.numbers())
        )

    # ---- Pages ----

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored:  # noqa: ARG002  a writer is known by its generation
        pool = self._pools[key]
        reasons = []
        replaced = dropped = 0
        chunk = page = body = 0  # how far the columns are used up
        for extent in put.extents:
            chunk_end, size, covered = chunk, 0, 0
            while covered < extent.pages:
                covered += put.pages[chunk_end]
                size += put.sizes[chunk_end]
                chunk_end += 1
            if self._is_stale(pool, version, extent):
                reasons.append(int(Reason.STALE))
            else:
                # Stored or refused, the old pages go: so what they free may be used for the new ones.
                live_before = self._ledger.live
                number = pool.leaves.find(extent.object, extent.block)
                removed = pool.unmap(number, extent.first, extent.pages) if number else 0
                freed = live_before - self._ledger.live
                reason = self._make_room(pool, extent, size, chunk_end - chunk, version.generation, freed)
                if reason:
                    dropped += removed
                else:
                    replaced += removed
                    self._add(pool, version, extent, put, range(chunk, chunk_end), page, body)
                reasons.append(int(reason))
            chunk = chunk_end
            page += extent.pages
            body += size
        self._cleaner.keep_up(body)
        return Stored(reasons if any(reasons) else None, replaced, dropped)

    def _add(
        self, pool: LogPool, version: Version, extent: Extent, put: Put, chunks: range, page: int, body: int
    ) -> None:
        """Appends an extent's chunks; its handles hold nothing."""
        number = pool.make_leaf(extent)
        first = extent.first
        locators: list[int] = []
        for chunk in chunks:
            size, pages = put.sizes[chunk], put.pages[chunk]
            data, crcs = put.body[body : body + size], put.crcs[page : page + pages]
            locator = pool.append(number, first, put.encodings[chunk], data, crcs, version)
            locators += [locator] * pages
            first += pages
            page += pages
            body += size
        pool.write(number, extent.first, locators)

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored:
        pool = self._pools[key]
        dropped = sum(
            self._unmap_extent(pool, extent) for extent in extents if not self._is_stale(pool, version, extent)
        )
        return Stored([int(reason)] * len(extents), 0, dropped)

    @staticmethod
    def _unmap_extent(pool: LogPool, extent: Extent) -> int:
        number = pool.leaves.find(extent.object, extent.block)
        return pool.unmap(number, extent.first, extent.pages) if number else 0

    def get(self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False) -> Pages:
        pool = self._pools[key]
        shared = pool.policy.kind == PoolKind.SHARED
        pages = Pages()
        asked = sum(extent.pages for extent in extents)
        codes = [_MISS] * asked
        crcs = array("I")
        chunks: dict[int, int] = {}
        room = max_bytes - asked * PAGE_BYTES  # beyond what the pages alone could take
        begin = hits = 0
        for extent in extents:
            number = pool.leaves.find(extent.object, extent.block)
            start = begin - extent.first
            begin += extent.pages
            if not number:
                continue
            for first, count, locator, segment, record in pool.runs(number, extent.first, extent.pages):
                if shared:
                    pool.note_use(segment, locator - segment.base, user, touched=True)
                position = start + first
                codes[position : position + count] = [_HIT] * count
                hits += count
                offset = first - record.first
                room += count * PAGE_BYTES
                chunk = chunks.get(locator)
                whole = not alone or record.pages == 1 or record.encoding == _SAME_FILLED
                if chunk is None and whole and record.length <= room:
                    chunk = chunks[locator] = len(pages.chunks)
                    data = segment.memory[record.data_at : record.end]
                    pages.chunks.append(Chunk(record.encoding, record.pages, data))
                    room -= record.length
                if chunk is not None:
                    record.add_crcs(segment.memory, offset, count, crcs)
                    pages.runs.append(Run(position, count, chunk, offset, *record.version))
                else:
                    pool.counts.expanded += count
                    room -= count * PAGE_BYTES
                    self._expand(pages, codes, crcs, segment, record, position, offset, count)
        if hits != asked or len(crcs) != asked:
            pages.codes = codes
        pages.crcs = crcs
        return pages

    def _expand(
        self,
        pages: Pages,
        codes: list[int],
        crcs: "array[int]",
        segment: Segment,
        record: Record,
        position: int,
        offset: int,
        count: int,
    ) -> None:
        """Answers some pages of a chunk raw, because there is no room for the whole chunk."""
        plain = memoryview(bytearray(count * PAGE_BYTES))
        expected = record.crcs(segment.memory)[offset : offset + count]
        data = segment.memory[record.data_at : record.end]
        bad = self._codec.decode(record.encoding, data, record.pages, offset, plain, expected)
        for page, crc in enumerate(expected):
            if page in bad:
                codes[position + page] = _CORRUPT
                continue
            pages.runs.append(Run(position + page, 1, len(pages.chunks), 0, *record.version))
            pages.chunks.append(Chunk(_RAW, 1, plain[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]))
            crcs.append(crc)

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed:
        pool = self._pools[key]
        found = []
        for position, extent in enumerate(extents):
            condition = conditions[position] if conditions is not None else None
            number = pool.leaves.find(extent.object, extent.block)
            found.append(pool.unmap(number, extent.first, extent.pages, _sparing(version, condition)) if number else 0)
        return Flushed(found)

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed:
        pool = self._pools[key]
        spare = _sparing(version, None)
        return Flushed(
            [sum(pool.unmap(number, 0, BLOCK_PAGES, spare) for number in pool.leaves.of_object(obj)) for obj in objects]
        )

    # ---- Reports ----

    def blocks(self, key: int) -> Iterator[BlockListing]:
        pool = self._pools[key]
        for number in pool.leaves.numbers():
            obj, block = pool.leaves.name(number)
            bits = 0
            crcs = array("I")
            for first, count, _, segment, record in pool.runs(number, 0, BLOCK_PAGES):
                record.add_crcs(segment.memory, first - record.first, count, crcs)
                bits |= (1 << count) - 1 << first
            yield BlockListing(obj, block, bits.to_bytes(BLOCK_PAGES // 8, "little"), crcs)

    def counts(self, key: int | None = None) -> Counts:
        if key is not None:
            return self._pools[key].counts
        total = Counts(evicted=self._retired.evicted, expanded=self._retired.expanded)
        for pool in self._pools.values():
            counts = pool.counts
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        total.dead_bytes = self._ledger.dead  # of pools that are ending, too
        return total

    def step(self) -> bool:
        return self._end_some() or self._cleaner.step()

    def close(self) -> None:
        for pool in [*self._pools.values(), *self._ending]:
            self._cleaner.forget(pool)
            for segment in pool.segments:
                segment.close()
        self._pools.clear()
        self._ending.clear()

    # ---- Admission ----

    @staticmethod
    def _is_stale(pool: LogPool, version: Version, extent: Extent) -> bool:
        """Whether a page of the extent was written later by the same generation."""
        _, found = pool.locators(extent)
        return any(_is_newer(pool.look(locator)[1].version, version) for locator in found)

    def _make_room(self, pool: LogPool, extent: Extent, size: int, chunks: int, generation: int, freed: int) -> Reason:
        """Why the extent can't be stored; UNSPECIFIED if it can, once others were evicted and memory was cleaned.

        `size` encoded bytes in so many chunks are to go there, in the place of pages that took `freed` bytes.
        """
        new = size + chunks * records.overhead(generation) + records.CRC_BYTES * extent.pages
        if not pool.leaves.find(extent.object, extent.block):
            new += _LEAF_BYTES if extent.pages > 1 else _LEAF_BYTES // 16
        quota = pool.policy.quota_bytes
        if quota and pool.used_bytes + new > quota:
            return Reason.QUOTA
        ledger = self._ledger
        while ledger.live + new > self._live_limit or self._must_wait(pool, new, freed):
            if not self._evict_one():
                self._full = True
                return Reason.CAPACITY
        while ledger.resident + new > self._limit_bytes:
            if not (self._end_some() or self._cleaner.make_room() or self._evict_one()):
                return Reason.CAPACITY
        return Reason.UNSPECIFIED

    def _must_wait(self, pool: LogPool, new: int, freed: int) -> bool:
        """Whether the memory was full a moment ago, and too little has gone since."""
        if not self._full:
            return False
        if self._ledger.live + new <= self._live_limit * (1 - _HYSTERESIS):
            self._full = False
            return False
        return not pool.policy.ephemeral and new > freed

    # ---- Eviction ----

    def _evict_one(self) -> bool:
        """Drops the oldest record of whoever must give; False if nobody has one."""
        while True:
            holdings = (
                Holding(
                    key,
                    pool.policy.tenant,
                    pool.policy.tenant_weight,
                    pool.policy.weight,
                    pool.used_bytes,
                    _oldest(pool),
                )
                for key, pool in self._pools.items()
                if pool.policy.ephemeral and pool.counts.pages
            )
            key = choose_victim(holdings)
            if key is None:
                return False
            if self._evict_from(self._pools[key]):
                return True

    def _evict_from(self, pool: LogPool) -> bool:
        """Passes the oldest record of a pool; answers whether it was dropped. One used since it was written becomes young instead."""
        segment = pool.segments[0]
        at = segment.passed
        record = records.read(segment.memory, at)
        locator = segment.base | at
        segment.passed = record.end
        live = pool.live_pages(record, locator)
        dropped = False
        if live and at in segment.touched:
            segment.touched.discard(at)
            target = pool.head(record.size)
            pool.move(record, segment, at, target, live, age=self._ledger.tick)
            self._ledger.tick += 1
        elif live:
            dropped = True
            pool.counts.evicted += pool.unmap(
                record.leaf, record.first, record.pages, lambda holder, offset, _: holder.base | offset != locator
            )
        if pool.holds(segment):
            if segment.live == 0:
                pool.give_back(segment)
            elif segment.passed - segment.released >= MAX_RECORD_BYTES:
                pool.release(segment, segment.passed)
        return dropped


def _oldest(pool: LogPool) -> int:
    segment = pool.segments[0]
    return segment.age(segment.passed)


def _last_user(segment: Segment, at: int, record: Record) -> int:
    return segment.users.get(at, record.version.generation)


def _is_newer(held: Version, version: Version) -> bool:
    """Whether what is held was written later by the same generation."""
    return held.generation == version.generation and held.sequence > version.sequence


def _sparing(version: Version, condition: Version | None) -> Spare:
    """Says which records a flush leaves alone: newer ones, and where it has a condition all but that version."""
    if condition is None:
        return lambda _segment, _at, record: _is_newer(record.version, version)
    return lambda _segment, _at, record: record.version != condition or _is_newer(record.version, version)
