"""Gets: what is asked of the server, what the presence map answers, and what the caller's buffer gets.

Owns: `GetOperation`, and with it the promise that a get never returns bytes whose checksum fails, nor an old page with a
valid one: the presence map's CRC says what the page was when it was last STORED.
"""

from array import array
from collections.abc import Iterator, Sequence
from itertools import chain

from tmem.wire.answers import Answer, Chunk, GetAnswer, Pages, Run
from tmem.wire.codec import Codec
from tmem.wire.errors import ProtocolError
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_ANSWER_BYTES, MAX_BATCH_EXTENTS, MAX_BATCH_PAGES, PAGE_BYTES
from tmem.wire.requests import Header, encode_get
from tmem.wire.results import Code

from .operations import EXTENT_BYTES, HEADER_BYTES, Operation, mismatch
from .pool import PoolCore
from .presence import Block
from .results import GetResult

__all__ = ["GetOperation"]

_HIT_CODE = Code.HIT
_HIT = int(Code.HIT)
_PAGE_CODES = frozenset({Code.MISS, Code.LOST, Code.CORRUPT})  # beside HIT


class _Part:
    """Consecutive pages of one get that must be asked for.

    Attributes:
        extent: which. offset: its first page, counted in the result.
        destination: the caller's memory for it.
        stored, with_crc: what the presence map was sure of when this was asked, as bits of the extent.
        crcs: what it knew of the pages then; None where it has no say.
    """

    __slots__ = ("crcs", "destination", "extent", "offset", "result", "stored", "with_crc")

    def __init__(self, extent: Extent, result: GetResult, offset: int, destination: memoryview) -> None:
        self.extent = extent
        self.result = result
        self.offset = offset
        self.destination = destination
        self.stored = 0
        self.with_crc = 0
        self.crcs: array[int] | None = None


class GetOperation(Operation):
    """Extents to read, up to one block of pages.

    Attributes:
        pages: how many are asked of the server.
    """

    def __init__(self, pool: PoolCore) -> None:
        super().__init__(pool)
        self.pool: PoolCore
        self._parts: list[_Part] = []
        self._results: list[GetResult] = []
        self._answer_bytes = 0
        self._gone: list[tuple[_Part, int]] = []  # ephemeral pages that the server no longer has
        self.pages = 0

    @property
    def results(self) -> Sequence[GetResult]:
        return self._results

    @property
    def answer_bytes(self) -> int:
        return self._answer_bytes

    # ---- Asking ----

    def has_room(self, pages: int) -> bool:
        """Whether another extent of so many pages fits, even if it must be asked for page by page."""
        return self.pages + pages <= MAX_BATCH_PAGES and len(self._parts) + pages <= MAX_BATCH_EXTENTS

    def add(self, extent: Extent, destination: memoryview, *, take: bool) -> GetResult:
        """Adds one get; pages that are known to be absent are answered at once.

        Args:
            extent: what to read.
            destination: a flat writable view of extent.pages * 4096 bytes.
            take: whether the result is to be acknowledged.
        """
        result = GetResult(extent, take=take)
        self._results.append(result)
        presence = self.pool.presence
        if presence is None:
            self._ask(_Part(extent, result, 0, destination))
            return result
        block = presence.block(extent)
        every = (1 << extent.pages) - 1
        wanted = 0 if block is None else (block.stored | block.uncertain) >> extent.first & every
        if block is not None and wanted == every:
            self._ask_known(_Part(extent, result, 0, destination), block)
            return result
        for first, end, present in _runs_of_bits(wanted, extent.pages):
            if not present:
                for page in range(first, end):
                    lost = presence.absent_is_lost and not presence.was_removed(extent, extent.first + page)
                    result.pages[page] = Code.LOST if lost and self.pool.persistent else Code.MISS
                continue
            assert block is not None
            run = Extent(extent.object, extent.index + first, end - first)
            self._ask_known(_Part(run, result, first, destination[first * PAGE_BYTES : end * PAGE_BYTES]), block)
        return result

    def _ask_known(self, part: _Part, block: Block) -> None:
        """Asks for pages of which something is known."""
        _, index, pages = part.extent
        first = index % BLOCK_PAGES
        part.stored = (block.stored & ~block.uncertain) >> first & (1 << pages) - 1
        part.with_crc = part.stored & block.with_crc >> first
        part.crcs = block.checksums(first, pages)
        self._ask(part)

    def _ask(self, part: _Part) -> None:
        _, index, pages = part.extent
        self._parts.append(part)
        self.pages += pages
        # Room for the whole chunks around what is asked for; the server expands what does not fit.
        chunk_pages = self.pool.chunk_pages
        index %= BLOCK_PAGES
        first = index - index % chunk_pages
        end = min(-(-(index + pages) // chunk_pages) * chunk_pages, BLOCK_PAGES)
        self._answer_bytes = min(self._answer_bytes + (end - first) * PAGE_BYTES, MAX_ANSWER_BYTES)

    def estimate(self) -> int:
        return HEADER_BYTES + len(self._parts) * EXTENT_BYTES + self._answer_bytes

    def header(self) -> Header:
        header = super().header()
        header.epoch = self.pool.oldest_epoch
        return header

    def build(self) -> None:
        self.message = encode_get(self.header(), [part.extent for part in self._parts])

    def finish_locally(self) -> None:
        """Ends the operation when nothing has to be asked for."""
        assert not self.pages
        for result in self._results:
            result.done = True
        self.done = True

    # ---- Taking the answer ----

    def _decode(self, answer: Answer, codec: Codec) -> None:
        if not isinstance(answer, GetAnswer):
            raise mismatch(answer, self)
        pages = answer.pages
        codes = pages.codes
        runs = pages.runs
        hits = runs[0].pages if len(runs) == 1 else sum(run.pages for run in runs)
        if (self.pages if codes is None else len(codes)) != self.pages or (codes is None and hits != self.pages):
            raise ProtocolError(f"batch {self.batch_id} asked for {self.pages} pages; the answer speaks of others")
        if codes is None:
            if len(runs) > 1 or not self._take_lone(pages, codec):
                self._take_all(pages, codec)
        else:
            self._take_some(pages, codes, codec)
        for result in self._results:
            result.done = True

    def _take_lone(self, pages: Pages, codec: Codec) -> bool:
        """One run is all that was asked for, and is good: the way of a lone page. False leaves the rest to find out what it is."""
        part = self._parts[0]
        position, _, number, offset, generation, sequence = pages.runs[0]
        if position or len(self._parts) > 1 or self._old_pages(part, 0, pages.crcs):
            return False
        encoding, chunk_pages, data = pages.chunks[number]
        if codec.checksums(encoding, data, chunk_pages, offset, part.destination) != list(pages.crcs):
            return False
        result, at, count = part.result, part.offset, part.extent.pages
        result.pages[at : at + count] = [_HIT_CODE] * count
        result.versions[at : at + count] = [Version(generation, sequence)] * count
        return True

    def _take_all(self, pages: Pages, codec: Codec) -> None:
        """Every page is a hit: all chunks are expanded into place, and then the checksums are looked at."""
        begin = number = 0
        chunks = []
        for part in self._parts:
            count = part.extent.pages
            end = begin + count
            if self._old_pages(part, 0, pages.crcs[begin:end]):
                self._take_some(pages, [_HIT] * self.pages, codec)  # rare: page by page
                return
            result, at = part.result, part.offset
            while number < len(pages.runs) and pages.runs[number].position < end:
                position, run_pages, chunk_number, offset, generation, sequence = pages.runs[number]
                first = position - begin
                if first < 0 or first + run_pages > count:
                    raise ProtocolError(f"batch {self.batch_id}: a run of the answer crosses extents")
                encoding, chunk_pages, data = pages.chunks[chunk_number]
                destination = part.destination[first * PAGE_BYTES : (first + run_pages) * PAGE_BYTES]
                chunks.append((encoding, data, chunk_pages, offset, destination))
                version = Version(generation, sequence)
                result.versions[at + first : at + first + run_pages] = [version] * run_pages
                number += 1
            begin = end
        found = list(chain.from_iterable(codec.decode_all(chunks)))
        begin = 0
        for part in self._parts:
            count = part.extent.pages
            expected, got = list(pages.crcs[begin : begin + count]), found[begin : begin + count]
            result, at = part.result, part.offset
            result.pages[at : at + count] = [Code.HIT] * count
            for page in [page for page in range(count) if got[page] != expected[page]] if got != expected else ():
                part.destination[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = bytes(PAGE_BYTES)
                result.pages[at + page] = Code.CORRUPT
                result.versions[at + page] = None
            begin += count

    def _take_some(self, pages: Pages, codes: list[int], codec: Codec) -> None:
        """Some pages are no hits, or are old."""
        reasons = {}
        for first, count, reason in pages.refused:
            reasons.update(dict.fromkeys(range(first, first + count), reason))
        begin = crc_at = number = 0
        for part in self._parts:
            end = begin + part.extent.pages
            for position in range(begin, end):
                if codes[position] != _HIT:
                    self._note(part, position - begin, codes[position], reasons.get(position, 0))
            while number < len(pages.runs) and pages.runs[number].position < end:
                run = pages.runs[number]
                if run.position < begin or run.position + run.pages > end:
                    raise ProtocolError(f"batch {self.batch_id}: a run of the answer crosses extents")
                crcs = pages.crcs[crc_at : crc_at + run.pages]
                self._take(part, run.position - begin, run, pages.chunks[run.chunk], crcs, codec)
                crc_at += run.pages
                number += 1
            begin = end

    def _note(self, part: _Part, page: int, code: int, reason: int) -> None:
        """Takes the code of one page that was not hit."""
        result = part.result
        position = part.offset + page
        if code not in _PAGE_CODES:
            # Refused; so is what a newer server may answer that this client does not know.
            result.refuse(range(position, position + 1), reason)
            return
        if code == Code.MISS and part.stored >> page & 1 and self._still(part, page):
            if self.pool.persistent:
                code = Code.LOST
            else:
                self._gone.append((part, page))
        result.pages[position] = Code(code)

    def _take(self, part: _Part, first: int, run: Run, chunk: Chunk, crcs: Sequence[int], codec: Codec) -> None:
        """Takes one run of hit pages into the caller's buffer; `first` is its first page in the part."""
        count = run.pages
        old = self._old_pages(part, first, crcs)
        version = Version(run.generation, run.sequence)
        result = part.result
        at = part.offset + first
        if not old:
            destination = part.destination[first * PAGE_BYTES : (first + count) * PAGE_BYTES]
            bad = codec.decode(chunk.encoding, chunk.data, chunk.pages, run.offset, destination, crcs)
            result.pages[at : at + count] = [Code.HIT] * count
            result.versions[at : at + count] = [version] * count
            for page in bad:
                result.pages[at + page] = Code.CORRUPT
                result.versions[at + page] = None
            return
        for page in range(count):
            if page in old:
                result.pages[at + page] = Code.LOST if self.pool.persistent else Code.MISS
                continue
            here = first + page
            destination = part.destination[here * PAGE_BYTES : (here + 1) * PAGE_BYTES]
            bad = codec.decode(
                chunk.encoding, chunk.data, chunk.pages, run.offset + page, destination, crcs[page : page + 1]
            )
            result.pages[at + page] = Code.CORRUPT if bad else Code.HIT
            result.versions[at + page] = None if bad else version

    def _old_pages(self, part: _Part, first: int, crcs: Sequence[int]) -> set[int]:
        """Which pages of a run are not what was last STORED."""
        count = len(crcs)
        every = (1 << count) - 1
        known = part.with_crc >> first & every
        if not known or part.crcs is None:
            return set()
        expected = part.crcs[first : first + count]
        if known == every and expected == crcs:
            return set()
        return {
            page
            for page in range(count)
            if known >> page & 1 and expected[page] != crcs[page] and self._still(part, first + page)
        }

    def _still(self, part: _Part, page: int) -> bool:
        """Whether the presence map is as sure of a page as it was when the page was asked for.

        If a write came in between, the answer may be from before or after it: either is right.
        """
        presence = self.pool.presence
        block = None if presence is None else presence.block(part.extent)
        if block is None or part.crcs is None:
            return False
        bit = part.extent.first + page
        if not block.stored >> bit & 1 or block.uncertain >> bit & 1:
            return False
        return not part.with_crc >> page & 1 or block.crcs[bit] == part.crcs[page]

    def settle(self) -> None:
        presence = self.pool.presence
        if presence is not None:
            for part, page in self._gone:
                if self._still(part, page):
                    presence.missing(part.extent, part.extent.first + page)


def _runs_of_bits(bits: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Cuts bits 0 .. count - 1 into runs of equal ones: (first, end, set)."""
    every = (1 << count) - 1
    first = 0
    while first < count:
        rest = bits >> first
        present = bool(rest & 1)
        # The lowest bit that differs from the first.
        other = (~rest if present else rest) & (every >> first)
        end = first + (other & -other).bit_length() - 1 if other else count
        yield first, end, present
        first = end
