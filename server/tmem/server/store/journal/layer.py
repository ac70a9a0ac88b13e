"""A layer that writes down what is done to pools of durability `disk`, and answers when it is written.

Owns: what becomes an entry, and what follows when one can't be written. What a batch does, it does at once and in order, as the Store
interface demands; the answer waits for the entry. A put that can't be written is undone: its pages go, the removal is written in
the room that is kept for that, and the answer is IO; where even that fails it is UNSETTLED.

The journal is one log of operations. When it is much longer than what it says, the store's pages are written into it again, block by
block, between other operations; then every file from before that pass can go, with all the removals in them.

Must not know: files, threads. A `Sink` takes entries and says when they are written.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tmem.server.store.interface import Flushed, PoolPolicy, Store, Stored
from tmem.server.store.layers.base import Layer
from tmem.server.store.pending import Pending
from tmem.wire.answers import Pages
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_ANSWER_BYTES, PAGE_BYTES
from tmem.wire.requests import Header, Put, encode_flush, encode_flush_object, encode_put
from tmem.wire.results import Durability, Encoding, Reason
from tmem.wire.splice import BytesLike

from .entries import Kind, encode_entry

__all__ = ["JournalLayer", "Sink"]

Done = Callable[[OSError | None], None]

# The journal is written anew when it is so much longer than what the pools hold.
_REWRITE_FACTOR = 2.0
_REWRITE_BYTES = 64 << 20
# A block is written anew only when so much is not waiting to be written already.
_REWRITE_QUEUE_BYTES = 8 << 20


class Sink(Protocol):
    """Where entries go."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        ...

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        ...

    def append(self, entry: Sequence[BytesLike], done: Done, *, urgent: bool = False) -> None:
        """Writes an entry behind all others; an urgent one may use the room that is kept for removals.

        `done` is called later, on the store's thread, in the order of the calls.
        """
        ...

    def append_now(self, entry: Sequence[BytesLike]) -> None:
        """The same, and waits for it; raises OSError."""
        ...

    def begin_file(self) -> int:
        """Begins a new file for what is appended from now on; answers its number. Raises OSError."""
        ...

    def drop_before(self, number: int) -> None:
        """Deletes the files before the one of this number, once everything appended so far is written."""
        ...


class JournalLayer(Layer):
    """Keeps a journal.

    Args:
        below: the store.
        sink: where entries go.
        describe: every durable pool there is, as the payload of a POOL entry.
    """

    def __init__(self, below: Store, sink: Sink, describe: Callable[[], Iterator[bytes]]) -> None:
        super().__init__(below)
        self._sink = sink
        self._describe = describe
        self._policies: dict[int, PoolPolicy] = {}
        self._codec = Codec(CopyCounter())
        self._pass: Iterator[None] | None = None
        self._pass_failed = False

    @property
    def durabilities(self) -> Sequence[Durability]:
        return (*self.below.durabilities, Durability.DISK)

    # ---- Pools ----

    def add_pool(self, policy: PoolPolicy) -> None:
        self.below.add_pool(policy)
        if policy.durability == Durability.DISK:
            self._policies[policy.key] = policy

    def drop_pool(self, key: int) -> int:
        self._policies.pop(key, None)
        return self.below.drop_pool(key)

    # ---- Pages ----

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        result = self.below.put(key, version, put, user)
        if key not in self._policies:
            return result
        assert isinstance(result, Stored)
        kept = _kept_part(put, result.reasons)
        gone = _removed_part(put, result.reasons) if result.dropped else []
        if kept is None and not gone:
            return result
        later: Pending[Stored] = Pending()
        stored = result

        def removed(error: OSError | None) -> None:
            later.settle(_unsettle(stored) if error else stored)

        def written(error: OSError | None) -> None:
            nonlocal stored
            if error is not None and kept is not None:
                if key in self._policies:
                    self.below.flush(key, version, kept.extents, [version] * len(kept.extents))
                reasons = stored.reasons or [0] * len(put.extents)
                stored = Stored([reason or int(Reason.IO) for reason in reasons], 0, stored.dropped + stored.replaced)
                self._append_flush(key, version, kept.extents, removed)
            elif not gone:
                removed(None)

        header = Header(0, key, version.generation, version.sequence)
        if kept is not None:
            chunks = EncodedChunks(
                kept.sizes, kept.pages, kept.encodings, kept.crcs.tolist(), [kept.body], len(kept.body)
            )
            entry = encode_entry(Kind.BATCH, encode_put(header, kept.extents, chunks))
            self._sink.append(entry, written)
        if gone:
            self._append_flush(key, version, gone, removed)
        return later

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored | Pending[Stored]:
        result = self.below.refuse(key, version, extents, reason)
        assert isinstance(result, Stored)
        if key not in self._policies or not result.dropped:
            return result
        later: Pending[Stored] = Pending()
        self._append_flush(key, version, extents, lambda error: later.settle(_unsettle(result) if error else result))
        return later

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        result = self.below.flush(key, version, extents, conditions)
        header = Header(0, key, version.generation, version.sequence)
        return self._after(key, result, lambda: encode_flush(header, extents, conditions))

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        result = self.below.flush_object(key, version, objects)
        header = Header(0, key, version.generation, version.sequence)
        return self._after(key, result, lambda: encode_flush_object(header, objects))

    def _after(
        self, key: int, result: Flushed | Pending[Flushed], message: Callable[[], bytes]
    ) -> Flushed | Pending[Flushed]:
        assert isinstance(result, Flushed)
        if key not in self._policies or not any(result.found):
            return result
        later: Pending[Flushed] = Pending()

        def written(error: OSError | None) -> None:
            # The pages are gone from memory, but a restart would bring them back.
            reasons = [int(Reason.IO)] * len(result.found) if error else result.reasons
            later.settle(result._replace(reasons=reasons))

        self._sink.append(encode_entry(Kind.BATCH, message()), written, urgent=True)
        return later

    def _append_flush(self, key: int, version: Version, extents: Sequence[Extent], done: Done) -> None:
        message = encode_flush(Header(0, key, version.generation, version.sequence), extents)
        self._sink.append(encode_entry(Kind.BATCH, message), done, urgent=True)

    # ---- Writing it anew ----

    def step(self) -> bool:
        return self._rewrite_some() or self.below.step()

    def _rewrite_some(self) -> bool:
        """Writes one more block anew, if the journal is long; answers whether there is more to do now."""
        if self._pass is None:
            live = sum(self.below.counts(key).payload_bytes for key in self._policies)
            if self._sink.size <= _REWRITE_FACTOR * live + _REWRITE_BYTES:
                return False
            self._pass = self._rewrite()
        if self._sink.queued > _REWRITE_QUEUE_BYTES:
            return False
        try:
            next(self._pass)
        except (StopIteration, OSError):
            self._pass = None
            return False
        return True

    def _rewrite(self) -> Iterator[None]:
        """A pass: everything that the pools hold goes into a new file, and then the old ones go."""
        first = self._sink.begin_file()
        self._pass_failed = False
        for description in self._describe():
            self._sink.append(encode_entry(Kind.POOL, description), self._pass_wrote)
        for key in list(self._policies):
            if key not in self._policies:
                continue
            for listing in self.below.blocks(key):
                if key not in self._policies or self._pass_failed:
                    break
                for entry in self._block(key, Extent(listing.object, listing.block * BLOCK_PAGES, BLOCK_PAGES)):
                    self._sink.append(entry, self._pass_wrote)
                yield
        # The last of these says whether all of them were written.
        self._sink.append(encode_entry(Kind.MARK, b""), lambda error: self._end_pass(first, error))

    def _pass_wrote(self, error: OSError | None) -> None:
        self._pass_failed = self._pass_failed or error is not None

    def _end_pass(self, first: int, error: OSError | None) -> None:
        if error is None and not self._pass_failed:
            self._sink.drop_before(first)

    def _block(self, key: int, extent: Extent) -> list[list[BytesLike]]:
        """Entries that put the pages of a block as they are now."""
        entries = []
        for first in range(extent.index, extent.index + BLOCK_PAGES, BLOCK_PAGES // 2):
            # Half a block at a time: its chunks always fit into an answer, so that they come as they are held.
            asked = Extent(extent.object, first, BLOCK_PAGES // 2)
            pages = self.below.get(key, [asked], MAX_ANSWER_BYTES, 0)
            assert isinstance(pages, Pages)
            by_version: dict[Version, tuple[list[Extent], EncodedChunks]] = {}
            at = 0
            for run in pages.runs:
                crcs = list(pages.crcs[at : at + run.pages])
                at += run.pages
                chunk = pages.chunks[run.chunk]
                extents, chunks = by_version.setdefault(Version(run.generation, run.sequence), ([], EncodedChunks()))
                extents.append(Extent(extent.object, first + run.position, run.pages))
                if run.pages == chunk.pages:
                    chunks.add(chunk.encoding, chunk.pages, chunk.data)
                    chunks.crcs.extend(crcs)
                    continue
                plain = memoryview(bytearray(run.pages * PAGE_BYTES))
                if self._codec.expand(chunk.encoding, chunk.data, chunk.pages, run.offset, plain):
                    own = EncodedChunks()
                    self._codec.encode(plain, (first + run.position) % BLOCK_PAGES, chunk.pages, own)
                    for size, count, encoding, piece in zip(
                        own.sizes, own.pages, own.encodings, own.pieces, strict=True
                    ):
                        assert size == len(piece)
                        chunks.add(encoding, count, bytes(piece))
                else:
                    # Its bytes went bad, and stay so: zeros whose checksums are not theirs.
                    chunks.add(int(Encoding.RAW), run.pages, bytes(len(plain)))
                chunks.crcs.extend(crcs)
            for version, (extents, chunks) in by_version.items():
                header = Header(0, key, version.generation, version.sequence)
                entries.append(encode_entry(Kind.BATCH, encode_put(header, extents, chunks)))
        return entries


def _drops(reason: int) -> bool:
    """Whether a put refused so has removed what was there."""
    return reason not in {0, Reason.STALE}


def _unsettle(stored: Stored) -> Stored:
    """The same, where removals could not be written: what was refused may be back after a restart, and its caller owes the flush."""
    reasons = [int(Reason.UNSETTLED) if _drops(reason) else reason for reason in stored.reasons or ()]
    return stored._replace(reasons=reasons)


def _removed_part(put: Put, reasons: Sequence[int] | None) -> list[Extent]:
    """The extents of a put that were refused, and hold nothing now."""
    if reasons is None:
        return []
    return [extent for extent, reason in zip(put.extents, reasons, strict=True) if _drops(reason)]


def _kept_part(put: Put, reasons: Sequence[int] | None) -> Put | None:
    """The extents of a put that were stored, with their chunks; None if there are none."""
    if reasons is None:
        return put
    if all(reasons):
        return None
    kept = Put(put.header, [], [], [], [], array("I"), memoryview(b""))
    pieces: list[memoryview] = []
    chunk = page = body = 0
    for extent, reason in zip(put.extents, reasons, strict=True):
        covered, begin = 0, body
        first = chunk
        while covered < extent.pages:
            covered += put.pages[chunk]
            body += put.sizes[chunk]
            chunk += 1
        if not reason:
            kept.extents.append(extent)
            kept.sizes += put.sizes[first:chunk]
            kept.pages += put.pages[first:chunk]
            kept.encodings += put.encodings[first:chunk]
            kept.crcs.extend(put.crcs[page : page + extent.pages])
            pieces.append(put.body[begin:body])
        page += extent.pages
    kept.body = memoryview(b"".join(pieces))
    return kept
