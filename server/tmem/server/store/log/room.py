"""Who must give when memory is short.

Owns: `Room`: whether new bytes find room, and what goes for them. Live bytes in memory (payload and index) stay below the limit less a
tenth, which is the cleaner's. Above that ephemeral pages go, oldest first, of whoever is furthest over its share; where there are none,
the oldest persistent segments go to the disk if there is one for that; and where that is full too, the put is refused CAPACITY, as
are all that need more memory until so much is free again as the hysteresis says.

What a pool has reserved and not used yet is promised: ephemeral pages may be there meanwhile, other persistent ones may not.
"""

from collections.abc import Callable, Collection, Mapping

from tmem.server.store.shares import Holding, choose_victim
from tmem.wire.errors import OutOfCapacity
from tmem.wire.handles import Extent
from tmem.wire.limits import BLOCK_PAGES
from tmem.wire.results import Reason

from .cleaner import Cleaner
from .pool import Ledger, LogPool
from .records import MAX_RECORD_BYTES
from .segments import Segment
from .spill import Scratch

__all__ = ["CLEANER_SHARE", "Room"]

# What the cleaner needs to run well: it moves about ten bytes for every byte put when a tenth is dead.
CLEANER_SHARE = 0.10
# How much above its limit memory may be after a journal was read: recompression had made room for more than fits as it was sent.
_LOADING_SHARE = 1 / 2
# After a refusal for want of memory puts that need more of it are refused until this share of it is free again: else a server at
# its limit would take one page of every few, and none of its clients could plan.
_HYSTERESIS = 0.005
# A segment is not worth spilling when so much of it is dead: cleaning it frees as much.
_MAX_SPILLED_DEAD = 0.25
# Spilling begins so far below the limit, because the disk takes a while; and so much of the limit may be on its way there at once,
# which puts may count on already: a third of what is the cleaner's.
_SPILL_AHEAD = 0.05
_LEAVING_SHARE = CLEANER_SHARE / 3


class Room:
    """The memory of a store.

    Args:
        pools: all of them, as they come and go.
        ledger, cleaner: the store's.
        limit_bytes: the most bytes of segments and index in memory.
        segment_bytes: how long a segment is.
        scratch: room on a disk, or None.
        on_evicted: told the pool and pages of whatever is evicted.

    Attributes:
        ending: pools that are gone, and give their memory back piece by piece.
        loading: what a journal says is being stored again. It was all there before: so that it lies less well now is no reason to
            refuse it, where no disk takes what is too much.
    """

    def __init__(
        self,
        pools: Mapping[int, LogPool],
        ledger: Ledger,
        cleaner: Cleaner,
        limit_bytes: int,
        segment_bytes: int,
        scratch: Scratch | None,
        on_evicted: Callable[[int, Extent], object],
    ) -> None:
        self._pools = pools
        self._ledger = ledger
        self._cleaner = cleaner
        self._limit_bytes = limit_bytes
        self._live_limit = int(limit_bytes * (1 - CLEANER_SHARE))
        self._segment_bytes = segment_bytes
        self._scratch = scratch
        self._on_evicted = on_evicted
        self._full = False
        # Pools that were ever promised something: few, where all that there are would be too many to look at for each put. Their
        # policies say what they are promised now.
        self._promised: dict[int, LogPool] = {}
        self.ending: list[LogPool] = []
        self.loading = False

    def make(self, pool: LogPool, new: int, freed: int) -> Reason:
        """Makes room for `new` bytes of a pool, in the place of `freed` ones; answers why not, or UNSPECIFIED."""
        quota = pool.policy.quota_bytes
        if quota and pool.used_bytes + new > quota:
            return Reason.QUOTA
        ledger = self._ledger
        reserved = pool.used_bytes + new <= pool.policy.reserved_bytes
        if not reserved and not pool.policy.ephemeral and not self._spare_promised(pool, new):
            return Reason.CAPACITY
        limit_bytes = self._limit_bytes
        while self._staying + new > self._live_limit or (not reserved and self._must_wait(pool, new, freed)):
            if not (self.evict_one() or self._spill_one()):
                if self._may_exceed(new):
                    limit_bytes = int(limit_bytes * (1 + _LOADING_SHARE))  # cleaning can't bring it below the other one
                    break
                self._full = True
                return Reason.CAPACITY
        while ledger.memory + new > limit_bytes:
            if not (self.end_some() or self._cleaner.make_room() or self.evict_one() or self._spill_one()):
                if self._may_exceed(new):
                    break
                return Reason.CAPACITY
        if (
            self._scratch is not None
            and self._staying > self._live_limit * (1 - _SPILL_AHEAD)
            and not any(other.policy.ephemeral and other.counts.pages for other in self._pools.values())
        ):
            self._spill_one()
        return Reason.UNSPECIFIED

    def _may_exceed(self, new: int) -> bool:
        """Whether `new` bytes may be stored above the limit: while a journal is read, and no disk is about to take others."""
        share = 1 + _LOADING_SHARE
        return (
            self.loading
            and self.spilling is None
            and self._ledger.live + new <= share * self._live_limit
            and self._ledger.memory + new <= share * self._limit_bytes
        )

    @property
    def excess_bytes(self) -> int:
        """Bytes that must go before puts find room again, if memory is above its limit."""
        return max(0, self._staying - self._live_limit, self._ledger.memory - self._limit_bytes)

    @property
    def _staying(self) -> int:
        """Live bytes in memory that are not on their way to the disk."""
        return self._ledger.live - self._ledger.leaving

    def _must_wait(self, pool: LogPool, new: int, freed: int) -> bool:
        """Whether the memory was full a moment ago, and too little has gone since."""
        if not self._full:
            return False
        if self._staying + new <= self._live_limit * (1 - _HYSTERESIS):
            self._full = False
            return False
        return not pool.policy.ephemeral and new > freed

    def end_some(self) -> bool:
        """Gives back a piece of a pool that has ended; False if there is none."""
        if not self.ending:
            return False
        if not self.ending[0].shrink():
            del self.ending[0]
        return True

    # ---- Reservations ----

    def reserve(self, pool: LogPool, size: int) -> None:
        """Promises a pool room for so many bytes.

        Raises:
            OutOfCapacity: with what others hold and were promised, there is not so much.
        """
        free = max(0, self._live_limit - self._kept_beside(pool))
        shrinks = pool.policy.key in self._pools and size <= pool.policy.reserved_bytes
        if size > free and not shrinks:
            raise OutOfCapacity(
                f"{size} bytes can't be reserved: of {self._live_limit} that pages may take, {free} are neither held "
                "nor promised; ask for less, free memory, or raise memory_limit"
            )
        pool.policy.reserved_bytes = size
        if size:
            self._promised[pool.policy.key] = pool

    def _kept_beside(self, pool: LogPool) -> int:
        """The memory that other pools need, or were promised."""
        others = [other for other in self._pools.values() if other is not pool and not other.policy.ephemeral]
        if self.loading:
            # These promises were all kept before: what is held besides may lie otherwise now, and more of it in memory.
            return sum(other.policy.reserved_bytes for other in others)
        if self._scratch is None:
            return sum(max(other.used_bytes, other.policy.reserved_bytes) for other in others)
        here = sum(max(other.memory_bytes, other.policy.reserved_bytes) for other in others)
        staying = sum(max(other.unspillable_bytes, other.policy.reserved_bytes) for other in others)
        return max(staying, here - self._scratch.room)

    def _spare_promised(self, pool: LogPool, new: int) -> bool:
        """Whether `new` bytes leave what other pools were promised; spills to make it so."""
        promised = 0
        for key, other in [*self._promised.items()]:
            if self._pools.get(key) is not other:
                del self._promised[key]
            elif other is not pool:
                promised += max(0, other.policy.reserved_bytes - other.used_bytes)
        if not promised or self._staying + new + promised <= self._live_limit:
            return True
        evictable = sum(other.used_bytes for other in self._pools.values() if other.policy.ephemeral)
        while self._staying - evictable + new + promised > self._live_limit:
            if not self._spill_one():
                return False
        return True

    # ---- Spilling ----

    @property
    def spilling(self) -> Callable[[], None] | None:
        """What waits for the pages on their way to the disk; None if there are none."""
        return self._scratch.wait if self._scratch is not None and self._ledger.leaving else None

    def _spill_one(self) -> bool:
        """Begins to move the oldest segment of persistent pages to the disk; False if there is none, or no room, or enough on its way."""
        if self._scratch is None or self._ledger.leaving > max(_LEAVING_SHARE * self._limit_bytes, self._segment_bytes):
            return False
        oldest: tuple[LogPool, Segment] | None = None
        for pool in self._pools.values():
            if pool.policy.ephemeral:
                continue
            for segment in pool.segments[:-1]:
                # Segments are numbered as they are made, and within a pool the first that is there is the oldest.
                if not isinstance(segment, Segment) or segment.leaving:
                    continue
                if segment.dead <= _MAX_SPILLED_DEAD * segment.resident:
                    if oldest is None or segment.number < oldest[1].number:
                        oldest = pool, segment
                    break
        if oldest is None:
            return False
        pool, segment = oldest
        return pool.spill(segment, self._scratch)

    # ---- Eviction ----

    def reclaim(self, keys: Collection[int], wanted: int) -> int:
        """Evicts from these pools alone until so many bytes are free, or nothing is left; answers how many are."""
        before = self._ledger.live
        while before - self._ledger.live < wanted and self.evict_one(keys):
            pass
        return before - self._ledger.live

    def evict_one(self, among: Collection[int] | None = None) -> bool:
        """Drops the oldest record of whoever must give, perhaps only among some pools; False if nobody has one."""
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
                if pool.policy.ephemeral and pool.counts.pages and (among is None or key in among)
            )
            key = choose_victim(holdings)
            if key is None:
                return False
            if self._evict_from(self._pools[key]):
                return True

    def _evict_from(self, pool: LogPool) -> bool:
        """Passes the oldest record of a pool; answers whether it was dropped.

        One used since it was written becomes young instead.
        """
        segment = pool.segments[0]
        assert isinstance(segment, Segment)  # evictable pages are never spilled
        at = segment.passed
        record = segment.read(at)
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
            obj, block = pool.leaves.name(record.leaf)
            for first, count, held, _, _ in pool.runs(record.leaf, record.first, record.pages):
                if held == locator:
                    self._on_evicted(pool.policy.key, Extent(obj, block * BLOCK_PAGES + first, count))
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
