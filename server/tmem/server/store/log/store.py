"""The store over logs.

Owns: `LogStore`: what a put, a get and a flush do to a pool's log and index. The bytes of an answer are views of segments: valid until the store is called again.
"""

import itertools
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from tmem.server.store.interface import BlockListing, Counts, Flushed, Place, PoolPolicy, Stored
from tmem.server.store.pending import Pending, then
from tmem.wire.answers import Chunk, Pages, Run
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES
from tmem.wire.requests import Put
from tmem.wire.results import Code, Durability, Encoding, PoolKind, Reason

from . import records
from .cleaner import Cleaner
from .pool import AnySegment, Held, Ledger, LogPool, Spare
from .recompressor import Recompressor
from .records import Record
from .room import Room
from .segments import Segment
from .spill import Scratch, SpilledSegment

__all__ = ["LogStore", "segment_size"]

_MISS = int(Code.MISS)
_HIT = int(Code.HIT)
_CORRUPT = int(Code.CORRUPT)
_REFUSED = int(Code.REFUSED)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)

_MIN_SEGMENT_BYTES, _MAX_SEGMENT_BYTES = 256 << 10, 4 << 20
# position in the answer, pages, the first one's offset in its chunk, locator, where it is, its record, its data if they are here
_Piece = tuple[int, int, int, int, "AnySegment | _Copy", Record, memoryview | None]
# The most that making an extent's leaf can take.
_LEAF_BYTES = 4096 + 512
# What a flushed page counts to the cleaner, as bytes put: about what it leaves dead.
_FLUSHED_BYTES = 1024
# A pool that ends gives back so many pieces at once; the rest goes in steps.
_PIECES_AT_ONCE = 8


class _Copy(NamedTuple):
    """A record by itself, for an answer that outlives its segment."""

    heads: memoryview
    spilled: bool = False


def _copied(piece: _Piece) -> _Piece:
    position, count, offset, locator, segment, record, data = piece
    assert data is not None
    begin = record.data_at - record.overhead
    memory = memoryview(bytes(segment.heads[begin : record.end]))
    own = records.read(memory, 0)
    return position, count, offset, locator, _Copy(memory), own, memory[own.data_at : own.end]


def segment_size(limit_bytes: int) -> int:
    """How long segments are where memory is limited so."""
    return min(max(limit_bytes // 64, _MIN_SEGMENT_BYTES), _MAX_SEGMENT_BYTES)


class LogStore:
    """Pools as logs of segments.

    Args:
        limit_bytes: the most bytes of segments and index.
        copies: where expanding a chunk for one page is counted.
        segment_bytes: how long a segment is; None = by the limit.
        scratch: where persistent segments go when memory is full; None = nowhere. Its slots are as long as a segment.
        on_evicted: told the pool and pages of whatever is evicted.

    Attributes:
        recompressor: makes smaller what has been there for a while, if it is asked to.
    """

    name = "segments"
    durabilities = (Durability.MEMORY,)

    def __init__(
        self,
        limit_bytes: int,
        copies: CopyCounter,
        *,
        segment_bytes: int | None = None,
        scratch: Scratch | None = None,
        on_evicted: Callable[[int, Extent], object] = lambda _key, _extent: None,
    ) -> None:
        self._segment_bytes = segment_bytes or segment_size(limit_bytes)
        self._pools: dict[int, LogPool] = {}
        self._ledger = Ledger()
        self._numbers = itertools.count(1)
        self._codec = Codec(copies)
        self._cleaner = Cleaner(
            self._pools.values(), self._ledger, Codec(CopyCounter()), self._segment_bytes, limit_bytes
        )
        self._room = Room(
            self._pools, self._ledger, self._cleaner, limit_bytes, self._segment_bytes, scratch, on_evicted
        )
        self.recompressor = Recompressor(
            self._pools.values(), self._ledger, self._cleaner, self._segment_bytes, limit_bytes
        )
        self._retired = Counts()  # the counters of pools that are gone

    # ---- Pools ----

    def add_pool(self, policy: PoolPolicy) -> None:
        assert policy.key not in self._pools
        pool = LogPool(policy, self._ledger, self._new_segment)
        if policy.reserved_bytes:
            self._room.reserve(pool, policy.reserved_bytes)
        self._pools[policy.key] = pool

    def reserve(self, key: int, size: int) -> None:
        self._room.reserve(self._pools[key], size)

    def _new_segment(self, huge: bool) -> Segment:
        return Segment(next(self._numbers), self._segment_bytes, huge=huge)

    def drop_pool(self, key: int) -> int:
        pool = self._pools.pop(key)
        counts = pool.counts
        self._retired.evicted += counts.evicted
        self._retired.expanded += counts.expanded
        pages = counts.pages
        self._cleaner.forget(pool)
        pool.end()
        self._room.ending.append(pool)
        for _ in range(_PIECES_AT_ONCE):
            self._room.end_some()
        return pages

    def leave(self, key: int, user: int) -> Iterator[int]:
        pool = self._pools.get(key)
        for number in pool.leaves.numbers() if pool is not None else ():
            assert pool is not None
            yield pool.unmap(
                number, 0, BLOCK_PAGES, lambda segment, at, record: _last_user(segment, at, record) != user
            )
            if self._pools.get(key) is not pool:
                return

    def reclaim(self, keys: Collection[int], wanted: int) -> int:
        return self._room.reclaim(keys, wanted)

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
            number = pool.leaves.find(extent.object, extent.block)
            held = list(pool.runs(number, extent.first, extent.pages)) if number else []
            if _has_newer(held, version):
                reasons.append(int(Reason.STALE))
            else:
                # Stored or refused, the old pages go: so what they free may be used for the new ones.
                live_before = self._ledger.live
                removed = pool.remove(number, extent.first, extent.pages, held)
                freed = live_before - self._ledger.live
                reason = self._room.make(
                    pool, self._size(pool, extent, size, chunk_end - chunk, version.generation), freed
                )
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
        dropped = 0
        for extent in extents:
            number = pool.leaves.find(extent.object, extent.block)
            held = list(pool.runs(number, extent.first, extent.pages)) if number else []
            if not _has_newer(held, version):
                dropped += pool.remove(number, extent.first, extent.pages, held)
        return Stored([int(reason)] * len(extents), 0, dropped)

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        pool = self._pools[key]
        taker = user if pool.policy.kind == PoolKind.SHARED else None
        found = self._find(pool, extents, taker)
        if not self._ledger.spilled:
            return self._answer(pool, extents, max_bytes, found, alone=alone)
        pieces = list(found)
        wanted = {piece[3]: piece for piece in pieces if piece[6] is None}
        if not wanted:
            return self._answer(pool, extents, max_bytes, pieces, alone=alone)
        # The answer is of now: what is put, flushed or cleaned until the disk has answered does not count.
        pieces = [piece if piece[4].spilled else _copied(piece) for piece in pieces]
        read: dict[int, memoryview | None] = {}

        def take(locator: int, data: bytes | None) -> Pages | None:
            read[locator] = None if data is None else memoryview(data)
            if len(read) < len(wanted):
                return None
            filled = (piece if piece[6] is not None else (*piece[:6], read[piece[3]]) for piece in pieces)
            return self._answer(pool, extents, max_bytes, filled, alone=alone)

        later: Pending[Pages] = Pending()
        for locator, (_, _, _, _, segment, record, _) in wanted.items():
            assert isinstance(segment, SpilledSegment)
            taken = then(segment.fetch_data(locator - segment.base, record), partial(take, locator))
            if isinstance(taken, Pages):
                return taken  # a disk that answers at once
            if isinstance(taken, Pending):
                taken.when_settled(lambda pages: later.settle(pages) if pages is not None else None)
        return later

    def read_now(self, key: int, extents: Sequence[Extent], max_bytes: int) -> Pages:
        pool = self._pools[key]
        pieces: list[_Piece] = []
        for piece in self._find(pool, extents, None):
            position, count, offset, locator, segment, record, data = piece
            if data is None and isinstance(segment, SpilledSegment):
                with suppress(OSError):
                    data = segment.data_now(locator - segment.base, record)
            pieces.append((position, count, offset, locator, segment, record, data))
        return self._answer(pool, extents, max_bytes, pieces, alone=False)

    @staticmethod
    def _find(pool: LogPool, extents: Sequence[Extent], taker: int | None) -> Iterator[_Piece]:
        """What is held of some extents, run by run; `taker` is who uses it, if that matters."""
        begin = 0
        for extent in extents:
            number = pool.leaves.find(extent.object, extent.block)
            start = begin - extent.first
            begin += extent.pages
            if not number:
                continue
            for first, count, locator, segment, record in pool.runs(number, extent.first, extent.pages):
                if taker is not None:
                    pool.note_use(segment, locator - segment.base, taker, touched=True)
                data = segment.data(locator - segment.base, record)
                yield start + first, count, first - record.first, locator, segment, record, data

    def _answer(
        self, pool: LogPool, extents: Sequence[Extent], max_bytes: int, pieces: Iterable[_Piece], *, alone: bool
    ) -> Pages:
        """The answer to a get: of what was found, the rest is missed; what has no data can't be read."""
        pages = Pages()
        asked = sum(extent.pages for extent in extents)
        codes = [_MISS] * asked
        crcs = array("I")
        chunks: dict[int, int] = {}
        room = max_bytes - asked * PAGE_BYTES  # beyond what the pages alone could take
        hits = 0
        for position, count, offset, locator, segment, record, data in pieces:
            room += count * PAGE_BYTES
            if data is None:
                codes[position : position + count] = [_REFUSED] * count
                pages.refused.append((position, count, int(Reason.IO)))
                continue
            chunk = chunks.get(locator)
            if chunk is None:
                whole = not alone or record.pages == 1 or record.encoding == _SAME_FILLED
                if whole and record.length <= room:
                    chunk = chunks[locator] = len(pages.chunks)
                    pages.chunks.append(Chunk(record.encoding, record.pages, data))
                    room -= record.length
            codes[position : position + count] = [_HIT] * count
            hits += count
            if chunk is not None:
                record.add_crcs(segment.heads, offset, count, crcs)
                pages.runs.append(Run(position, count, chunk, offset, *record.version))
            else:
                pool.counts.expanded += count
                room -= count * PAGE_BYTES
                expected = record.crcs(segment.heads)[offset : offset + count]
                self._expand(pages, codes, crcs, record, data, position, offset, expected)
        if hits != asked or len(crcs) != asked:
            pages.codes = codes
        pages.crcs = crcs
        return pages

    def _expand(
        self,
        pages: Pages,
        codes: list[int],
        crcs: "array[int]",
        record: Record,
        data: memoryview,
        position: int,
        offset: int,
        expected: "array[int]",
    ) -> None:
        """Answers some pages of a chunk raw, because there is no room for the whole chunk."""
        plain = memoryview(bytearray(len(expected) * PAGE_BYTES))
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
        self._cleaner.keep_up(sum(found) * _FLUSHED_BYTES)
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
                record.add_crcs(segment.heads, first - record.first, count, crcs)
                bits |= (1 << count) - 1 << first
            yield BlockListing(obj, block, bits.to_bytes(BLOCK_PAGES // 8, "little"), crcs)

    def find(self, key: int, obj: int, index: int) -> Place | None:
        pool = self._pools[key]
        number = pool.leaves.find(obj, index // BLOCK_PAGES)
        for _, _, _, segment, record in pool.runs(number, index % BLOCK_PAGES, 1) if number else ():
            tier = "disk" if segment.spilled else "memory"
            return Place(tier, record.encoding, record.pages, record.length, record.version)
        return None

    def counts(self, key: int | None = None) -> Counts:
        if key is not None:
            return self._pools[key].counts
        total = Counts(evicted=self._retired.evicted, expanded=self._retired.expanded)
        for pool in self._pools.values():
            counts = pool.counts
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(counts, name))
        total.spilled_bytes = self._ledger.spilled
        total.dead_bytes = self._ledger.dead  # of pools that are ending, too
        return total

    @contextmanager
    def loading(self) -> Iterator[None]:
        """While what a journal says is stored again: memory may then be above its limit."""
        self._room.loading = True
        try:
            yield
        finally:
            self._room.loading = False

    @property
    def memory_bytes(self) -> int:
        """Bytes of segments and index in memory."""
        return self._ledger.memory

    @property
    def excess_bytes(self) -> int:
        """Bytes that must go before puts find room again, if reading a journal has left memory above its limit."""
        return self._room.excess_bytes

    @property
    def spilling(self) -> Callable[[], None] | None:
        """Waits, on any thread, until the pages that are on their way to the disk are there; None if there are none."""
        return self._room.spilling

    def step(self) -> bool:
        return self._room.end_some() or self._cleaner.step()

    def close(self) -> None:
        for pool in [*self._pools.values(), *self._room.ending]:
            self._cleaner.forget(pool)
            for segment in pool.segments:
                segment.close()
        self._pools.clear()
        self._room.ending.clear()

    # ---- Small parts ----

    @staticmethod
    def _size(pool: LogPool, extent: Extent, size: int, chunks: int, generation: int) -> int:
        """Bytes that an extent will take, with its records' headers and its leaf at most."""
        total = size + chunks * records.overhead(generation) + records.CRC_BYTES * extent.pages
        if not pool.leaves.find(extent.object, extent.block):
            total += _LEAF_BYTES if extent.pages > 1 else _LEAF_BYTES // 16
        return total


def _has_newer(held: Sequence[Held], version: Version) -> bool:
    """Whether any of what is held was written later by the same generation."""
    return any(_is_newer(record.version, version) for *_, record in held)


def _last_user(segment: AnySegment, at: int, record: Record) -> int:
    return segment.users.get(at, record.version.generation)


def _is_newer(held: Version, version: Version) -> bool:
    """Whether what is held was written later by the same generation."""
    return held.generation == version.generation and held.sequence > version.sequence


def _sparing(version: Version, condition: Version | None) -> Spare:
    """Says which records a flush leaves alone: newer ones, and where it has a condition all but that version."""
    if condition is None:
        return lambda _segment, _at, record: _is_newer(record.version, version)
    return lambda _segment, _at, record: record.version != condition or _is_newer(record.version, version)
