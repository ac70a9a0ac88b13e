"""A layer that writes down what is done to pools of durability `disk`, and answers when it is written.

Owns: what becomes an entry, and what follows when one can't be written. What a batch does, it does at once and in order, as the Store
interface demands; the answer waits for the entry. A put that can't be written is undone: its pages go, the removal is written in
the room that is kept for that, and the answer is IO; where even that fails it is UNSETTLED. From then on the journal may say of the
pool's pages more than the store holds, so every removal is written, also of what is not there, until the journal has been written anew.

Must not know: files, threads. A `Sink` takes entries and says when they are written.
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from tmem.server.store.interface import Flushed, PoolPolicy, Store, Stored
from tmem.server.store.layers.base import Layer
from tmem.server.store.pending import Pending
from tmem.wire.codec import EncodedChunks
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Header, Put, encode_flush, encode_flush_object, encode_put
from tmem.wire.results import Durability, Reason

from .entries import Kind, encode_entry
from .rewriter import Rewriter
from .sink import Done, Sink

__all__ = ["JournalLayer"]


@dataclass(slots=True, eq=False)
class _Flight:
    """A put whose entries are being written.

    Attributes:
        waiting: how many are not written yet.
        copies: how often pages had been written anew when it began.
        undone: a replay of it could not be written, and took the pages along.
        unsettled: a removal could not be written.
    """

    stored: Stored
    waiting: int
    copies: int
    undone: bool = False
    unsettled: bool = False
    later: Pending[Stored] = field(default_factory=Pending)

    def land(self) -> None:
        """One entry less to wait for."""
        self.waiting -= 1
        if not self.waiting:
            self.later.settle(_unsettle(self.stored) if self.unsettled else self.stored)


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
        self._policies: dict[int, PoolPolicy] = {}
        self._rewriter = Rewriter(below, sink, describe, self._policies)
        self._flights: dict[tuple[int, Version], list[_Flight]] = {}
        self._removing: Counter[int] = Counter()
        # Pools of which the journal may hold a page that is gone, and how often it had been written anew when that began.
        self._owing: dict[int, int] = {}

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
        self._owing.pop(key, None)
        return self.below.drop_pool(key)

    # ---- Put ----

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        result = self.below.put(key, version, put, user)
        if key not in self._policies:
            return result
        assert isinstance(result, Stored)
        kept = _kept_part(put, result.reasons)
        gone = _removed_part(put, result.reasons) if result.dropped or self._owes(key) else []
        if kept is None and not gone:
            return result
        flight = _Flight(result, (kept is not None) + bool(gone), self._rewriter.copies)
        if kept is not None:
            self._flights.setdefault((key, version), []).append(flight)
            chunks = EncodedChunks(
                kept.sizes, kept.pages, kept.encodings, kept.crcs.tolist(), [kept.body], len(kept.body)
            )
            header = Header(0, key, version.generation, version.sequence)
            message = encode_put(header, kept.extents, chunks)
            extents = kept.extents
            self._sink.append(
                encode_entry(Kind.BATCH, message),
                lambda error: self._put_written(key, version, extents, flight, error),
            )
            self._rewriter.pace(len(message))
        if gone:
            self._remove(key, version, gone, flight)
        return flight.later

    def _put_written(
        self, key: int, version: Version, extents: Sequence[Extent], flight: _Flight, error: OSError | None
    ) -> None:
        flights = self._flights[key, version]
        flights.remove(flight)
        if not flights:
            del self._flights[key, version]
        if error is not None or flight.undone:
            for replay in flights:
                replay.undone = True
            self._undo(key, version, extents, flight)
        flight.land()

    def _undo(self, key: int, version: Version, extents: Sequence[Extent], flight: _Flight) -> None:
        """Takes the pages of a put that could not be written away again, where no newer put has."""
        stored = flight.stored
        reasons = stored.reasons or [0] * len(extents)
        flight.stored = Stored([reason or int(Reason.IO) for reason in reasons], 0, stored.dropped + stored.replaced)
        if key not in self._policies:
            return  # the pool is gone, and so are they
        self.below.flush(key, version, extents, [version] * len(extents))
        if flight.undone or stored.replaced or self._owes(key) or flight.copies != self._rewriter.copies:
            # Else the journal says nothing of these pages, and there is nothing to remove.
            absent = [part for extent in extents for part in self._absent(key, extent)]
            if absent:
                flight.waiting += 1
                self._remove(key, version, absent, flight)

    def _absent(self, key: int, extent: Extent) -> list[Extent]:
        """The parts of an extent that hold nothing now; the rest holds newer pages, whose entries stand behind."""
        there = [self.below.find(key, extent.object, extent.index + page) is None for page in range(extent.pages)]
        return _parts(extent, there)

    def _remove(self, key: int, version: Version, extents: Sequence[Extent], flight: _Flight) -> None:
        def removed(error: OSError | None) -> None:
            flight.unsettled = flight.unsettled or error is not None
            flight.land()

        header = Header(0, key, version.generation, version.sequence)
        self._append_removal(key, encode_flush(header, extents), removed)

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored | Pending[Stored]:
        result = self.below.refuse(key, version, extents, reason)
        assert isinstance(result, Stored)
        if key not in self._policies or not (result.dropped or self._owes(key)):
            return result
        flight = _Flight(result, 1, 0)
        self._remove(key, version, extents, flight)
        return flight.later

    # ---- Flush ----

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
        if key not in self._policies or not (any(result.found) or self._owes(key)):
            return result
        later: Pending[Flushed] = Pending()

        def written(error: OSError | None) -> None:
            # The pages are gone from memory, but a restart would bring them back.
            reasons = [int(Reason.IO)] * len(result.found) if error else result.reasons
            later.settle(result._replace(reasons=reasons))

        self._append_removal(key, message(), written)
        return later

    # ---- Removals ----

    def _append_removal(self, key: int, message: bytes, done: Done) -> None:
        def written(error: OSError | None) -> None:
            self._removing[key] -= 1
            if not self._removing[key]:
                del self._removing[key]
            if error is not None and key in self._policies:
                self._owing[key] = self._rewriter.begun
            done(error)

        self._removing[key] += 1
        self._sink.append(encode_entry(Kind.BATCH, message), written, urgent=True)
        self._rewriter.pace(len(message))

    def _owes(self, key: int) -> bool:
        """Whether the journal may hold pages of the pool that the store does not."""
        owed_since = self._owing.get(key)
        if owed_since is not None and owed_since < self._rewriter.succeeded:
            del self._owing[key]
            owed_since = None
        return owed_since is not None or key in self._removing

    # ---- Background ----

    def step(self) -> bool:
        return self._rewriter.step() or self.below.step()


def _drops(reason: int) -> bool:
    """Whether a put refused so has removed what was there."""
    return reason not in {0, Reason.STALE}


def _unsettle(stored: Stored) -> Stored:
    """The same, where removals could not be written: what was refused may be back after a restart, and its caller owes the flush."""
    reasons = [int(Reason.UNSETTLED) if _drops(reason) else reason for reason in stored.reasons or ()]
    return stored._replace(reasons=reasons)


def _removed_part(put: Put, reasons: Sequence[int] | None) -> list[Extent]:
    """The extents of a put that were refused, but what later extents of it put there."""
    gone: list[Extent] = []
    for number, reason in enumerate(reasons or ()):
        if _drops(reason):
            extent = put.extents[number]
            later = [
                other
                for other, kept in zip(put.extents[number + 1 :], (reasons or ())[number + 1 :], strict=True)
                if not kept and other.object == extent.object
            ]
            there = [
                not any(other.index <= page < other.index + other.pages for other in later)
                for page in range(extent.index, extent.index + extent.pages)
            ]
            gone += _parts(extent, there)
    return gone


def _parts(extent: Extent, wanted: Sequence[bool]) -> list[Extent]:
    """The runs of an extent's pages that are wanted."""
    parts = []
    begin = 0
    for want, run in groupby(wanted):
        count = len(list(run))
        if want:
            parts.append(Extent(extent.object, extent.index + begin, count))
        begin += count
    return parts


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
