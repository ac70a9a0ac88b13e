"""One pool's log, index and accounts.

Owns: `LogPool`: how a record is appended and found, what happens to the accounts when pages of it go, and the order of
segments by age. Every byte is in one account:

    payload   encoded length * live pages / pages of the chunk
    index     headers of live records, and the leaves
    dead      what segments hold for pages that are gone

and payload + index + dead is what the pool's segments and leaves take (`resident`). Must not know: quotas, limits, who is evicted.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tmem.server.store.interface import Counts, PoolPolicy
from tmem.server.store.pending import Pending, then
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES
from tmem.wire.results import Encoding
from tmem.wire.splice import BytesLike

from . import records
from .leaves import Leaves
from .records import Record
from .segments import OFFSET_BITS, OFFSET_MASK, Segment
from .spill import Scratch, SpilledSegment

__all__ = ["AnySegment", "Held", "Ledger", "LogPool", "Spare"]

AnySegment = Segment | SpilledSegment
Spare = Callable[[AnySegment, int, Record], bool]
Held = tuple[int, int, int, AnySegment, Record]
"""Pages of a leaf that lie side by side in one record: the first, how many, the locator, the segment, the record."""

_LZ4 = int(Encoding.LZ4)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)
# A pool of so many segments wastes little by one that is mostly empty.
_HUGE_FROM = 4
_NOTHING = array("Q", bytes(8 * BLOCK_PAGES))


@dataclass(slots=True)
class Ledger:
    """What all pools together take.

    Attributes:
        resident: bytes of segments and leaves.
        dead: of these, for pages that are gone.
        spilled: of these, on the disk; spilled_dead: of these and dead, in spilled segments.
        stuck: of the dead bytes in memory, those that cleaning has tried in vain.
        leaving: live bytes in memory of segments that are being written to the disk, as of when that began.
        tick: counts records, for their age.
    """

    resident: int = 0
    dead: int = 0
    spilled: int = 0
    spilled_dead: int = 0
    stuck: int = 0
    leaving: int = 0
    tick: int = 0

    @property
    def memory(self) -> int:
        """Bytes in memory."""
        return self.resident - self.spilled

    @property
    def live(self) -> int:
        """Payload and index in memory: what cleaning can't give back."""
        return self.memory - self.memory_dead

    @property
    def memory_dead(self) -> int:
        """Bytes in memory for pages that are gone."""
        return self.dead - self.spilled_dead

    @property
    def cleanable(self) -> int:
        """Bytes in memory that cleaning can give back."""
        return self.memory_dead - self.stuck


class LogPool:
    """A pool.

    Args:
        policy: what it may have.
        ledger: the store's.
        new_segment: makes one; told whether its memory may come in huge pages.

    Attributes:
        segments: in order of age; records go to the last one.
    """

    __slots__ = ("_by_number", "_counts", "_header_bytes", "_new_segment", "leaves", "ledger", "policy", "segments")

    def __init__(self, policy: PoolPolicy, ledger: Ledger, new_segment: Callable[[bool], Segment]) -> None:
        self.policy = policy
        self.ledger = ledger
        self.leaves = Leaves()
        self.segments: list[AnySegment] = []
        self._by_number: dict[int, AnySegment] = {}
        self._new_segment = new_segment
        self._counts = Counts()
        self._header_bytes = 0

    # ---- Accounts ----

    @property
    def counts(self) -> Counts:
        """How much it holds."""
        counts = self._counts
        counts.objects = self.leaves.objects
        counts.blocks = self.leaves.count
        counts.index_bytes = self._header_bytes + self.leaves.bytes
        return counts

    @property
    def used_bytes(self) -> int:
        """What counts towards its quota and its share."""
        return self._counts.payload_bytes + self._header_bytes + self.leaves.bytes

    @property
    def memory_bytes(self) -> int:
        """What it uses of memory rather than of the disk, at most."""
        on_disk = sum(max(0, each.on_disk - each.dead) for each in self.segments if isinstance(each, SpilledSegment))
        return self.used_bytes - on_disk

    @property
    def unspillable_bytes(self) -> int:
        """What memory must hold of it however much the disk takes: the index, and the segment that is being written to."""
        index = self._header_bytes + self.leaves.bytes
        return index + (0 if not self.segments or self.segments[-1].spilled else self.segments[-1].live)

    def _charge_dead(self, segment: AnySegment, size: int) -> None:
        segment.dead += size
        if segment.spilled:
            self.ledger.spilled_dead += size
        self._counts.dead_bytes += size
        self.ledger.dead += size

    # ---- Finding ----

    def runs(self, number: int, first: int, count: int) -> Iterator[Held]:
        """Cuts the pages of a leaf that are there into runs of one record."""
        locators = self.leaves.read(number, first, count)
        at = 0
        while at < count:
            locator = locators[at]
            begin = at
            if not locator:
                at += 1
                continue
            segment = self._by_number[locator >> OFFSET_BITS]
            record = segment.read(locator & OFFSET_MASK)
            # Nearly every record is there whole.
            at = min(record.first + record.pages - first, count)
            if locators[begin:at].count(locator) != at - begin:
                at = begin + 1
                while at < count and locators[at] == locator:
                    at += 1
            yield first + begin, at - begin, locator, segment, record

    def look(self, locator: int) -> tuple[AnySegment, Record]:
        """The record at a locator of a live page."""
        segment = self._by_number[locator >> OFFSET_BITS]
        return segment, segment.read(locator & OFFSET_MASK)

    def holds(self, segment: AnySegment) -> bool:
        """Whether the segment is still one of the log."""
        return self._by_number.get(segment.number) is segment

    # ---- Appending ----

    def append(
        self, number: int, first: int, encoding: int, data: BytesLike, crcs: "array[int]", version: Version
    ) -> int:
        """Writes a record at the log's end; answers its locator. The leaf must be told."""
        size = records.measure(encoding, data, crcs, version.generation)
        return self.append_to(self.head(size), size, number, first, encoding, data, crcs, version)

    def append_to(
        self,
        segment: Segment,
        size: int,
        number: int,
        first: int,
        encoding: int,
        data: BytesLike,
        crcs: "array[int]",
        version: Version,
        *,
        age: int | None = None,
    ) -> int:
        """Writes a record of `size` bytes where there is room for it; it is as young as can be unless an age is given."""
        at = segment.used
        overhead = records.write(segment.memory, at, number, first, encoding, data, crcs, version)
        assert overhead + len(data) == size
        segment.used += size
        pages = len(crcs)
        counts = self._counts
        counts.payload_bytes += len(data)
        self._header_bytes += overhead
        counts.pages += pages
        if encoding == _SAME_FILLED:
            counts.same_filled_pages += pages
        elif encoding == _RAW:
            counts.raw_pages += pages
        else:
            segment.loose += len(data)
        ledger = self.ledger
        ledger.resident += size
        if self.policy.ephemeral:
            segment.mark(at, ledger.tick if age is None else age)
        ledger.tick += 1
        return segment.base | at

    def move(
        self, record: Record, source: AnySegment, at: int, target: Segment, live: int, *, age: int | None = None
    ) -> None:
        """Copies a record, whose bytes are here, with so many live pages to where there is room for it.

        It keeps its age unless one is given.
        """
        begin = target.used
        if isinstance(source, Segment):
            target.memory[begin : begin + record.size] = source.memory[at : record.end]
        else:
            data = source.data(at, record)
            assert data is not None
            head = record.data_at - record.overhead
            target.memory[begin : begin + record.overhead] = source.heads[head : record.data_at]
            target.memory[begin + record.overhead : begin + record.size] = data
        target.used += record.size
        if record.encoding == _LZ4 and not record.dense:
            target.loose += record.length
        self.ledger.resident += record.size
        already_dead = record.length - record.live_bytes(live)
        self._charge_dead(source, record.size - already_dead)
        self._charge_dead(target, already_dead)
        target.stuck += already_dead
        self.ledger.stuck += already_dead
        if self.policy.ephemeral:
            target.mark(begin, source.age(at) if age is None else age)
        if at in source.users:
            self.note_use(target, begin, source.users.pop(at), touched=at in source.touched)
            source.touched.discard(at)
        old, new = source.base | at, target.base | begin
        found = self.leaves.read(record.leaf, record.first, record.pages)
        self.write(record.leaf, record.first, [new if locator == old else locator for locator in found])

    def move_run(self, source: Segment, at: int, target: Segment, most: int) -> tuple[int, int]:
        """Copies records that lie side by side and whose every page lives, while there is room for them.

        The first begins at `at`; at most `most` are moved. Answers where the first begins that was not, and how many were.
        """
        memory, leaves, base, end = source.memory, self.leaves, source.base, source.used
        begin, shift = at, target.base + target.used - at
        last = at + target.free
        moved = 0
        while at < end and moved < most:
            number, first, pages, size = records.span(memory, at)
            if at + size > last or not leaves.move(number, first, pages, base | at, at + shift):
                break
            if self.policy.ephemeral:
                target.mark(at - begin + target.used, source.age(at))
            at += size
            moved += 1
        length = at - begin
        if length:
            target.memory[target.used : target.used + length] = memory[begin:at]
            target.used += length
            target.loose += source.loose * length // source.used
            self.ledger.resident += length
            self._charge_dead(source, length)
        return at, moved

    @staticmethod
    def note_use(segment: AnySegment, offset: int, user: int | None, *, touched: bool) -> None:
        """Notes who used a record last, if that is not its writer, and whether since it came where it is."""
        if user is not None:
            segment.users[offset] = user
        if touched:
            segment.touched.add(offset)

    def head(self, size: int) -> Segment:
        """The segment at the log's end, with room for so many bytes."""
        last = self.segments[-1] if self.segments else None
        if isinstance(last, Segment) and last.free >= size:
            return last
        return self.insert(len(self.segments))

    def insert(self, position: int) -> Segment:
        """Adds an empty segment at a place in the order of age."""
        # Only the log's end is filled in one go; what cleaning fills may stay half empty.
        last = position == len(self.segments)
        if last and self.segments and isinstance(self.segments[-1], Segment):
            self.segments[-1].settle()
        segment = self._new_segment(last and len(self.segments) >= _HUGE_FROM)
        self.segments.insert(position, segment)
        self._by_number[segment.number] = segment
        return segment

    # ---- Removing ----

    def write(self, number: int, first: int, locators: Sequence[int]) -> None:
        """Tells the leaf where pages are."""
        leaves = self.leaves
        before = leaves.bytes
        leaves.write(number, first, locators)
        self.ledger.resident += leaves.bytes - before

    def make_leaf(self, extent: Extent) -> int:
        """The extent's leaf, made if need be; write to it."""
        leaves = self.leaves
        before = leaves.bytes
        number = leaves.make(extent.object, extent.block)
        self.ledger.resident += leaves.bytes - before
        return number

    def unmap(self, number: int, first: int, count: int, spare: Spare | None = None) -> int:
        """Removes some pages of a leaf; answers how many. `spare` says of a record whether its pages are to stay."""
        held = list(self.runs(number, first, count))
        if spare is None:
            return self.remove(number, first, count, held)
        removed = 0
        for at, pages, locator, segment, record in held:
            if spare(segment, locator - segment.base, record):
                continue
            live = self.live_pages(record, locator)
            self.write(number, at, _NOTHING[:pages])
            self.bury(segment, record, live, pages)
            removed += pages
        return removed

    def remove(self, number: int, first: int, count: int, held: Sequence[Held]) -> int:
        """Removes all pages of a part of a leaf, in which `held` is; answers how many. The leaf is told once."""
        if not held:
            return 0
        lives = [
            # Nearly every record is removed whole.
            pages if pages == record.pages else self.live_pages(record, locator)
            for _, pages, locator, _, record in held
        ]
        self.write(number, first, _NOTHING[:count])
        removed = 0
        left: dict[int, int] = {}
        for (_, pages, locator, segment, record), lived in zip(held, lives, strict=True):
            # A record that is there in several runs loses some of its pages each time.
            live = left.get(locator, lived)
            left[locator] = live - pages
            self.bury(segment, record, live, pages)
            removed += pages
        return removed

    def live_pages(self, record: Record, locator: int) -> int:
        """How many pages of a record are still its."""
        return self.leaves.read(record.leaf, record.first, record.pages).count(locator)

    def bury(self, segment: AnySegment, record: Record, live: int, pages: int) -> None:
        """Some of the live pages of a record are gone from its leaf."""
        if live == pages:
            gone = record.length if live == record.pages else record.live_bytes(live)
            dead = gone + record.overhead
            self._header_bytes -= record.overhead
        else:
            dead = gone = record.live_bytes(live) - record.live_bytes(live - pages)
        counts = self._counts
        counts.payload_bytes -= gone
        counts.pages -= pages
        if record.encoding == _SAME_FILLED:
            counts.same_filled_pages -= pages
        elif record.encoding == _RAW:
            counts.raw_pages -= pages
        self._charge_dead(segment, dead)
        if segment.live == 0:
            self.give_back(segment)

    def give_back(self, segment: AnySegment) -> None:
        """Gives back a segment in which nothing lives."""
        assert segment.live == 0
        if segment.spilled:
            self.ledger.spilled -= segment.on_disk
            self.ledger.spilled_dead -= segment.dead
        self.ledger.stuck -= segment.stuck
        self._forget_bytes(segment.resident)
        del self._by_number[segment.number]
        self.segments.remove(segment)
        segment.close()

    def release(self, segment: Segment, end: int) -> None:
        """Gives back the beginning of a segment, in which nothing lives."""
        self._forget_bytes(segment.release(end))

    def _forget_bytes(self, size: int) -> None:
        self._counts.dead_bytes -= size
        self.ledger.dead -= size
        self.ledger.resident -= size

    # ---- Spilling ----

    def spill(self, segment: Segment, scratch: Scratch) -> bool:
        """Begins to move a segment to the disk; False if it is known already that there is no room.

        It stays where it is, and can be read, cleaned and given back, until its bytes have been written.
        """
        size = segment.live
        segment.leaving = True
        self.ledger.leaving += size

        def written(slot: int | None) -> bool:
            segment.leaving = False
            self.ledger.leaving -= size
            if slot is None:
                return False
            if self.holds(segment):
                self._replace(segment, scratch, slot)
            else:
                scratch.free(slot)
            return True

        begun = then(scratch.write(segment.memory[: segment.used]), written)
        return True if isinstance(begun, Pending) else begun

    def _replace(self, segment: Segment, scratch: Scratch, slot: int) -> None:
        """A segment is on the disk."""
        offsets = []
        at = segment.passed
        while at < segment.used:
            record = segment.read(at)
            if self.live_pages(record, segment.base | at):
                offsets.append(at)
            at = record.end
        spilled = SpilledSegment(segment, scratch, slot, offsets)
        self.segments[self.segments.index(segment)] = spilled
        self._by_number[segment.number] = spilled
        self.ledger.spilled += spilled.on_disk
        self.ledger.spilled_dead += spilled.dead
        self.ledger.stuck -= segment.stuck
        segment.close()

    # ---- Ending ----

    def end(self) -> None:
        """Everything in it is dead from now on, and is given back by `shrink`."""
        live = self._counts.payload_bytes + self._header_bytes
        # The leaves count as dead memory too, until they are gone.
        self.ledger.dead += live + self.leaves.bytes
        self._counts.dead_bytes += live + self.leaves.bytes
        for segment in self.segments:
            if segment.spilled:
                self.ledger.spilled_dead += segment.live
            segment.dead = segment.resident

    def shrink(self) -> bool:
        """Gives back a bounded part of a pool that has ended; answers whether there is more."""
        if self.segments:
            self.give_back(self.segments[-1])
            return True
        before = self.leaves.bytes
        more = self.leaves.shrink()
        self._forget_bytes(before - self.leaves.bytes)
        return more
