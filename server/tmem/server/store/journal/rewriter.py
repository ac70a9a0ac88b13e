"""Writing the journal anew, when it is much longer than what it says.

Owns: when that begins, and its pace. Between other operations the store's pages are written into the journal again, block by block;
then every file from before that pass can go, with all the removals in them. A pass goes on whenever there is nothing else to do, and
at twice the rate of puts in any case: so the journal stays below about 3.5 x what the pools hold and what the limits here say besides.
A pass that can't be written to its end changes nothing: the old files stay.

Must not know: files, threads, what waits for an entry. Units: bytes.
"""

from collections.abc import Callable, Collection, Iterator
from typing import Final

from tmem.server.store.interface import Store
from tmem.wire.answers import Pages
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_CHUNK_PAGES, PAGE_BYTES
from tmem.wire.requests import Header, encode_put
from tmem.wire.results import Code, Encoding
from tmem.wire.splice import BytesLike

from .entries import Kind, encode_entry
from .sink import Sink

__all__ = ["Rewriter"]

# The journal is written anew when it is so much longer than it needs to be.
_REWRITE_FACTOR = 2.0
_REWRITE_BYTES = 64 << 20
# Without puts a block is written anew only when so much is not waiting to be written already.
_REWRITE_QUEUE_BYTES = 8 << 20
# How often puts look whether a pass must begin, and how much is copied for each byte that they write while one runs.
_CHECK_BYTES = 8 << 20
_PACE = 2
# What a page takes in the journal beside its payload, until a pass has measured it.
_PAGE_OVERHEAD = 8.0
# A pass that failed is not tried again at the next occasion, nor at the one after that...
_MOST_PAUSES = 256
# Half a block at a time, with every chunk as it is held, however few of its pages live.
_PART_PAGES = BLOCK_PAGES // 2
_PART_BYTES: Final = _PART_PAGES * (MAX_CHUNK_PAGES + 1) * PAGE_BYTES


class Rewriter:
    """Writes the journal anew.

    Args:
        store: what holds the pages.
        sink: where entries go.
        describe: every durable pool there is, as the payload of a POOL entry.
        keys: the pools whose pages are in the journal; its owner changes it.

    Attributes:
        copies: entries that it has appended so far.
        begun, succeeded: the number of the pass that began last, and of the last one whose old files went.
    """

    def __init__(
        self, store: Store, sink: Sink, describe: Callable[[], Iterator[bytes]], keys: Collection[int]
    ) -> None:
        self._store = store
        self._sink = sink
        self._describe = describe
        self._keys = keys
        self._codec = Codec(CopyCounter())
        self._pass: Iterator[None] | None = None
        self._failed = False
        self._ending = False
        self._failures = self._pauses = 0
        self._page_overhead = _PAGE_OVERHEAD
        self._copied = self._copied_payload = self._copied_pages = 0
        self._unchecked = self._debt = 0
        self.copies = 0
        self.begun = self.succeeded = 0

    # ---- When, and how fast ----

    def step(self) -> bool:
        """Writes one more block anew, if the journal is long; answers whether there is more to do now."""
        if self._pass is None and not self._begin():
            return False
        return self._sink.queued <= _REWRITE_QUEUE_BYTES and self._advance()

    def pace(self, written: int) -> None:
        """Goes on according to what puts have written."""
        if self._pass is None:
            self._unchecked += written
            if self._unchecked < _CHECK_BYTES or not self._begin():
                return
        self._debt += _PACE * written
        while self._debt > 0:
            before = self._copied
            if not self._advance():
                return
            self._debt -= self._copied - before

    def _begin(self) -> bool:
        """Begins a pass if it is time."""
        self._unchecked = 0
        if self._ending:
            return False
        needed = 0.0
        for key in self._keys:
            counts = self._store.counts(key)
            needed += counts.payload_bytes + self._page_overhead * counts.pages
        if self._sink.size <= _REWRITE_FACTOR * needed + _REWRITE_BYTES or self._sink.room < needed:
            return False
        if self._pauses:
            self._pauses -= 1
            return False
        self.begun += 1
        self._failed = False
        self._debt = self._copied = self._copied_payload = self._copied_pages = 0
        self._pass = self._rewrite()
        return True

    def _advance(self) -> bool:
        assert self._pass is not None
        for _ in self._pass:
            return True
        self._pass = None
        return False

    # ---- A pass ----

    def _rewrite(self) -> Iterator[None]:
        """Everything that the pools hold goes into a new file, and then the old ones go."""
        first: list[int | None] = []
        self._sink.begin_file(first.append)
        for description in self._describe():
            self._append(encode_entry(Kind.POOL, description))
        for key in list(self._keys):
            if key not in self._keys:
                continue
            listings = iter(self._store.blocks(key))
            # A pool that goes meanwhile must not be asked for its next block.
            while key in self._keys and not self._failed and (listing := next(listings, None)) is not None:
                for part in (0, _PART_PAGES):
                    self._copy(key, Extent(listing.object, listing.block * BLOCK_PAGES + part, _PART_PAGES))
                yield
        self._ending = True
        # The last of these says whether all of them were written.
        self._sink.append(encode_entry(Kind.MARK, b""), lambda error: self._end(first[0], error))

    def _append(self, entry: list[BytesLike]) -> None:
        self.copies += 1
        self._copied += sum(map(len, entry))
        self._sink.append(entry, self._wrote)

    def _wrote(self, error: OSError | None) -> None:
        self._failed = self._failed or error is not None

    def _end(self, first: int | None, error: OSError | None) -> None:
        self._ending = False
        if error is not None or self._failed or first is None:
            self._failures += 1
            self._pauses = min(2**self._failures, _MOST_PAUSES)
            return
        self._failures = 0
        self._page_overhead = max(self._copied - self._copied_payload, 0) / max(self._copied_pages, 1) or _PAGE_OVERHEAD
        self.succeeded = self.begun
        self._sink.drop_before(first)

    def _copy(self, key: int, extent: Extent) -> None:
        """Appends entries that put some pages as they are now."""
        pages = self._store.get(key, [extent], _PART_BYTES, 0)
        assert isinstance(pages, Pages)
        if pages.codes is not None and not {Code.HIT, Code.MISS}.issuperset(pages.codes):
            self._failed = True  # what can't be read now is still in the old files
            return
        by_version: dict[Version, tuple[list[Extent], EncodedChunks]] = {}
        at = 0
        for run in pages.runs:
            crcs = list(pages.crcs[at : at + run.pages])
            at += run.pages
            chunk = pages.chunks[run.chunk]
            extents, chunks = by_version.setdefault(Version(run.generation, run.sequence), ([], EncodedChunks()))
            extents.append(Extent(extent.object, extent.index + run.position, run.pages))
            self._copied_payload += len(chunk.data) * run.pages // chunk.pages
            self._copied_pages += run.pages
            if run.pages == chunk.pages:
                chunks.add(chunk.encoding, chunk.pages, chunk.data)
                chunks.crcs.extend(crcs)
                continue
            plain = memoryview(bytearray(run.pages * PAGE_BYTES))
            if self._codec.expand(chunk.encoding, chunk.data, chunk.pages, run.offset, plain):
                own = EncodedChunks()
                first = (extent.index + run.position) % BLOCK_PAGES
                self._codec.encode(plain, first, min(chunk.pages, MAX_CHUNK_PAGES), own)
                for count, encoding, piece in zip(own.pages, own.encodings, own.pieces, strict=True):
                    chunks.add(encoding, count, piece)
            else:
                # Its bytes went bad, and stay so: zeros whose checksums are not theirs.
                for begin in range(0, run.pages, MAX_CHUNK_PAGES):
                    count = min(MAX_CHUNK_PAGES, run.pages - begin)
                    chunks.add(int(Encoding.RAW), count, bytes(count * PAGE_BYTES))
            chunks.crcs.extend(crcs)
        for version, (extents, chunks) in by_version.items():
            header = Header(0, key, version.generation, version.sequence)
            self._append(encode_entry(Kind.BATCH, encode_put(header, extents, chunks)))
