"""The plainest store that honours the contract: dicts of records on the heap.

Owns: `PlainStore`. A put becomes one record per chunk, its bytes copied once out of the message; a block is a dict from
page to the record that holds it. It is the model that the real one is held against, so it is written to be read.

A record is freed when its last page goes; the bytes of its other pages are dead until then. Nothing is ever lost here but
by eviction of ephemeral pages.
"""

import itertools
from array import array
from collections import OrderedDict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from tmem.server.store.interface import BlockListing, Counts, Flushed, Place, PoolPolicy, Stored
from tmem.server.store.shares import Holding, choose_victim
from tmem.wire.answers import Chunk, Pages, Run
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import OutOfCapacity
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES
from tmem.wire.requests import Put
from tmem.wire.results import Code, Durability, Encoding, PoolKind, Reason

__all__ = ["PlainStore"]

_MISS = int(Code.MISS)
_HIT = int(Code.HIT)
_CORRUPT = int(Code.CORRUPT)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)

# What CPython takes on 64 bits, by sys.getsizeof: a Record with its bytes and array headers; a Leaf with its dict and its
# entry in the object's; one entry of a leaf's dict.
_RECORD_BYTES = 120 + 33 + 80
_LEAF_BYTES = 64 + 232 + 100
_SLOT_BYTES = 36


@dataclass(slots=True, eq=False)
class Record:
    """One chunk.

    Attributes:
        first, pages: where it lies in its block.
        live: how many of its pages are still its.
        user: who used it last (shared pools).
        age: when it was stored or last made young.
    """

    leaf: "Leaf"
    first: int
    pages: int
    encoding: int
    data: bytes
    crcs: "array[int]"
    version: Version
    live: int
    user: int
    age: int

    @property
    def live_bytes(self) -> int:
        """The share of its bytes that belongs to live pages."""
        return len(self.data) * self.live // self.pages


@dataclass(slots=True, eq=False)
class Leaf:
    """One block: which record holds each page. Pages are counted within the block."""

    object: int
    block: int
    slots: dict[int, Record] = field(default_factory=dict)

    def runs(self, first: int, end: int) -> Iterator[tuple[int, int, Record | None]]:
        """Cuts first..end into runs of one record, or of nothing: (first, pages, record)."""
        at = first
        slots = self.slots
        while at < end:
            record = slots.get(at)
            begin = at
            if record is not None and record.live == record.pages:
                at = min(record.first + record.pages, end)
            else:
                at += 1
                while at < end and slots.get(at) is record:
                    at += 1
            yield begin, at - begin, record


@dataclass(slots=True)
class _Pool:
    """One pool.

    Attributes:
        aged: the records of an ephemeral pool, oldest first.
    """

    policy: PoolPolicy
    objects: dict[int, dict[int, Leaf]] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    aged: OrderedDict[Record, None] = field(default_factory=OrderedDict)

    @property
    def used_bytes(self) -> int:
        """What counts towards its quota and share."""
        return self.counts.payload_bytes + self.counts.index_bytes

    def leaf(self, extent: Extent) -> Leaf | None:
        """The leaf of the extent's block, if there is one."""
        blocks = self.objects.get(extent.object)
        return None if blocks is None else blocks.get(extent.block)


class PlainStore:
    """Records in dicts.

    Args:
        limit_bytes: the most bytes of payload, dead or alive, and index. Beyond it ephemeral pages are evicted, and
            what still does not fit is refused CAPACITY.
        copies: where expanding a chunk for one page is counted.
    """

    name = "plain"
    durabilities = (Durability.MEMORY,)

    def __init__(self, limit_bytes: int, copies: CopyCounter) -> None:
        self._limit_bytes = limit_bytes
        self._pools: dict[int, _Pool] = {}
        self._resident_bytes = 0
        self._clock = itertools.count()
        self._copies = copies
        self._codec = Codec(copies)
        self._retired = Counts()  # the counters of pools that are gone

    # ---- Pools ----

    def add_pool(self, policy: PoolPolicy) -> None:
        assert policy.key not in self._pools
        if policy.reserved_bytes:
            raise OutOfCapacity("the plain store promises nothing")
        self._pools[policy.key] = _Pool(policy)

    def reserve(self, key: int, size: int) -> None:
        if size:
            raise OutOfCapacity("the plain store promises nothing")

    def drop_pool(self, key: int) -> int:
        pool = self._pools.pop(key)
        counts = pool.counts
        self._resident_bytes -= counts.payload_bytes + counts.dead_bytes + counts.index_bytes
        self._retired.evicted += counts.evicted
        self._retired.expanded += counts.expanded
        return counts.pages

    def leave(self, key: int, user: int) -> Iterator[int]:
        pool = self._pools.get(key)
        leaving = [record for record in pool.aged if record.user == user] if pool is not None else []
        yield sum(self._free(pool, record) for record in leaving if pool is not None)

    def reclaim(self, keys: Collection[int], wanted: int) -> int:
        before = self._live(keys)
        while before - self._live(keys) < wanted:
            aged = [(next(iter(self._pools[key].aged)), self._pools[key]) for key in keys if self._pools[key].aged]
            if not aged:
                break
            record, pool = min(aged, key=lambda held: held[0].age)
            pool.counts.evicted += self._free(pool, record)
        return before - self._live(keys)

    def _live(self, keys: Collection[int]) -> int:
        return sum(self._pools[key].counts.payload_bytes + self._pools[key].counts.index_bytes for key in keys)

    # ---- Pages ----

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored:
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
                removed = self._unmap_extent(pool, extent)
                reason = self._make_room(pool, extent, size, chunk_end - chunk)
                if reason:
                    dropped += removed
                else:
                    replaced += removed
                    self._add(pool, version, extent, put, range(chunk, chunk_end), page, body, user)
                reasons.append(int(reason))
            chunk = chunk_end
            page += extent.pages
            body += size
        return Stored(reasons if any(reasons) else None, replaced, dropped)

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored:
        pool = self._pools[key]
        dropped = sum(
            self._unmap_extent(pool, extent) for extent in extents if not self._is_stale(pool, version, extent)
        )
        return Stored([int(reason)] * len(extents), 0, dropped)

    def get(self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False) -> Pages:
        pool = self._pools[key]
        pages = Pages()
        codes = [_HIT] * sum(extent.pages for extent in extents)
        crcs = array("I")
        chunks: dict[Record, int] = {}
        room = max_bytes - len(codes) * PAGE_BYTES  # beyond what the pages alone could take
        position = 0
        for extent in extents:
            leaf = pool.leaf(extent)
            if leaf is None:
                codes[position : position + extent.pages] = [_MISS] * extent.pages
                position += extent.pages
                continue
            for first, count, record in leaf.runs(extent.first, extent.first + extent.pages):
                if record is None:
                    codes[position : position + count] = [_MISS] * count
                    position += count
                    continue
                if pool.policy.kind == PoolKind.SHARED:
                    self._make_young(pool, record, user)
                offset = first - record.first
                room += count * PAGE_BYTES
                number = chunks.get(record)
                whole = not alone or record.pages == 1 or record.encoding == _SAME_FILLED
                if number is None and whole and len(record.data) <= room:
                    number = chunks[record] = len(pages.chunks)
                    pages.chunks.append(Chunk(record.encoding, record.pages, record.data))
                    room -= len(record.data)
                if number is not None:
                    pages.runs.append(Run(position, count, number, offset, *record.version))
                    crcs.extend(record.crcs[offset : offset + count])
                else:
                    pool.counts.expanded += count
                    room -= count * PAGE_BYTES
                    self._expand(pages, codes, crcs, record, position, offset, count)
                position += count
        if codes.count(_HIT) != len(codes):
            pages.codes = codes
        pages.crcs = crcs
        return pages

    def read_now(self, key: int, extents: Sequence[Extent], max_bytes: int) -> Pages:
        return self.get(key, extents, max_bytes, 0)

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed:
        pool = self._pools[key]
        found = []
        for number, extent in enumerate(extents):
            condition = conditions[number] if conditions is not None else None
            found.append(self._unmap_extent(pool, extent, condition=condition, unless_newer_than=version))
        return Flushed(found)

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed:
        pool = self._pools[key]
        found = []
        for obj in objects:
            leaves = list(pool.objects.get(obj, {}).values())
            extents = [Extent(obj, leaf.block * BLOCK_PAGES, BLOCK_PAGES) for leaf in leaves]
            found.append(sum(self._unmap_extent(pool, extent, unless_newer_than=version) for extent in extents))
        return Flushed(found)

    # ---- Reports ----

    def blocks(self, key: int) -> Iterator[BlockListing]:
        leaves = [leaf for blocks in self._pools[key].objects.values() for leaf in blocks.values()]
        for leaf in leaves:
            pages = sorted(leaf.slots)
            if not pages:
                continue  # emptied since
            bits = sum(1 << page for page in pages)
            records = [leaf.slots[page] for page in pages]
            crcs = array("I", [record.crcs[page - record.first] for page, record in zip(pages, records, strict=True)])
            yield BlockListing(leaf.object, leaf.block, bits.to_bytes(BLOCK_PAGES // 8, "little"), crcs)

    def find(self, key: int, obj: int, index: int) -> Place | None:
        leaf = self._pools[key].leaf(Extent(obj, index, 1))
        record = None if leaf is None else leaf.slots.get(index % BLOCK_PAGES)
        if record is None:
            return None
        return Place("memory", record.encoding, record.pages, len(record.data), record.version)

    def counts(self, key: int | None = None) -> Counts:
        if key is not None:
            return self._pools[key].counts
        total = Counts(evicted=self._retired.evicted, expanded=self._retired.expanded)
        for pool in list(self._pools.values()):
            for name in Counts.__slots__:
                setattr(total, name, getattr(total, name) + getattr(pool.counts, name))
        return total

    def step(self) -> bool:
        return False

    def close(self) -> None:
        self._pools.clear()
        self._resident_bytes = 0

    # ---- Admission ----

    def _is_stale(self, pool: _Pool, version: Version, extent: Extent) -> bool:
        """Whether a page of the extent was written later by the same generation."""
        leaf = pool.leaf(extent)
        if leaf is None:
            return False
        return any(
            record is not None
            and record.version.generation == version.generation
            and record.version.sequence > version.sequence
            for _, _, record in leaf.runs(extent.first, extent.first + extent.pages)
        )

    def _make_room(self, pool: _Pool, extent: Extent, size: int, chunks: int) -> Reason:
        """Why the extent can't be stored; UNSPECIFIED if it can, once others were evicted."""
        new = size + chunks * _RECORD_BYTES + extent.pages * _SLOT_BYTES + _LEAF_BYTES
        quota = pool.policy.quota_bytes
        if quota and pool.used_bytes + new > quota:
            return Reason.QUOTA
        while self._resident_bytes + new > self._limit_bytes:
            if not self._evict_one():
                return Reason.CAPACITY
        return Reason.UNSPECIFIED

    def _evict_one(self) -> bool:
        """Drops the next victim; False if there is none."""
        holdings = (
            Holding(
                key,
                pool.policy.tenant,
                pool.policy.tenant_weight,
                pool.policy.weight,
                pool.used_bytes,
                next(iter(pool.aged)).age,
            )
            for key, pool in self._pools.items()
            if pool.aged
        )
        key = choose_victim(holdings)
        if key is None:
            return False
        pool = self._pools[key]
        pool.counts.evicted += self._free(pool, next(iter(pool.aged)))
        return True

    def _make_young(self, pool: _Pool, record: Record, user: int) -> None:
        record.user = user
        record.age = next(self._clock)
        pool.aged.move_to_end(record)

    # ---- Records ----

    def _add(
        self, pool: _Pool, version: Version, extent: Extent, put: Put, chunks: range, page: int, body: int, user: int
    ) -> None:
        """Maps the extent's chunks; its handles hold nothing."""
        leaf = pool.leaf(extent)
        if leaf is None:
            leaf = Leaf(extent.object, extent.block)
            pool.objects.setdefault(extent.object, {})[extent.block] = leaf
            pool.counts.blocks += 1
            pool.counts.objects = len(pool.objects)
            self._charge(pool, index=_LEAF_BYTES)
        first = extent.first
        for number in chunks:
            size, pages = put.sizes[number], put.pages[number]
            record = Record(
                leaf,
                first,
                pages,
                put.encodings[number],
                bytes(put.body[body : body + size]),
                put.crcs[page : page + pages],
                version,
                pages,
                user,
                next(self._clock),
            )
            leaf.slots.update(dict.fromkeys(range(first, first + pages), record))
            self._charge(pool, payload=size, index=_RECORD_BYTES + pages * _SLOT_BYTES)
            self._count(pool, record, pages)
            if pool.policy.ephemeral:
                pool.aged[record] = None
            first += pages
            page += pages
            body += size

    def _unmap_extent(
        self,
        pool: _Pool,
        extent: Extent,
        *,
        condition: Version | None = None,
        unless_newer_than: Version | None = None,
    ) -> int:
        """Removes what the extent's handles hold; answers how many pages."""
        leaf = pool.leaf(extent)
        if leaf is None:
            return 0
        removed = 0
        for first, count, record in list(leaf.runs(extent.first, extent.first + extent.pages)):
            if record is None or (condition is not None and record.version != condition):
                continue
            if (
                unless_newer_than is not None
                and record.version.generation == unless_newer_than.generation
                and record.version.sequence > unless_newer_than.sequence
            ):
                continue
            self._unmap(pool, record, first, count)
            removed += count
        return removed

    def _unmap(self, pool: _Pool, record: Record, first: int, count: int) -> None:
        """Takes pages first .. first + count - 1 of the block from the record that holds them."""
        leaf = record.leaf
        for page in range(first, first + count):
            del leaf.slots[page]
        before = record.live_bytes
        record.live -= count
        gone = before - record.live_bytes
        self._charge(pool, payload=-gone, dead=gone, index=-count * _SLOT_BYTES)
        self._count(pool, record, -count)
        if not record.live:
            self._charge(pool, dead=-len(record.data), index=-_RECORD_BYTES)
            pool.aged.pop(record, None)
        if not leaf.slots:
            blocks = pool.objects[leaf.object]
            del blocks[leaf.block]
            if not blocks:
                del pool.objects[leaf.object]
            pool.counts.blocks -= 1
            pool.counts.objects = len(pool.objects)
            self._charge(pool, index=-_LEAF_BYTES)

    def _free(self, pool: _Pool, record: Record) -> int:
        """Removes every page of a record; answers how many."""
        pages = [
            page for page in range(record.first, record.first + record.pages) if record.leaf.slots.get(page) is record
        ]
        for page in pages:
            self._unmap(pool, record, page, 1)
        return len(pages)

    def _charge(self, pool: _Pool, *, payload: int = 0, dead: int = 0, index: int = 0) -> None:
        pool.counts.payload_bytes += payload
        pool.counts.dead_bytes += dead
        pool.counts.index_bytes += index
        self._resident_bytes += payload + dead + index

    def _count(self, pool: _Pool, record: Record, pages: int) -> None:
        pool.counts.pages += pages
        if record.encoding == _SAME_FILLED:
            pool.counts.same_filled_pages += pages
        elif record.encoding == _RAW:
            pool.counts.raw_pages += pages

    def _expand(
        self,
        pages: Pages,
        codes: list[int],
        crcs: "array[int]",
        record: Record,
        position: int,
        offset: int,
        count: int,
    ) -> None:
        """Answers some pages of a chunk raw, because there is no room for the whole chunk."""
        plain = bytearray(count * PAGE_BYTES)
        expected = record.crcs[offset : offset + count]
        bad = self._codec.decode(record.encoding, record.data, record.pages, offset, memoryview(plain), expected)
        for page in range(count):
            if page in bad:
                codes[position + page] = _CORRUPT
                continue
            data = memoryview(plain)[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
            pages.runs.append(Run(position + page, 1, len(pages.chunks), 0, *record.version))
            pages.chunks.append(Chunk(_RAW, 1, data))
            crcs.append(expected[page])
