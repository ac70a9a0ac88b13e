"""Carries out batches: the rules of the contract, and then the store.

Owns: the order of checks before a store is asked (is there such a pool, is the writer fenced, is the sequence below the
floor, is the server draining or the pool frozen), what a refusal leaves behind, and the counting of results. Every
transport comes through here, so that unary calls and batches mean the same.

Pure: no gRPC, no event loop, no clock. It belongs to the store's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tmem.wire.answers import (
    Answer,
    AnswerHeader,
    EchoAnswer,
    FlushAnswer,
    FlushObjectAnswer,
    GetAnswer,
    Pages,
    PutAnswer,
)
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES
from tmem.wire.requests import Batch, Echo, Flush, FlushObject, Get, Header, Put
from tmem.wire.results import Code, Encoding, PoolKind, Reason

from .counters import PoolCounters
from .history import Fate, History
from .interface import Flushed, Store, Stored
from .pending import Pending, then
from .pools import Member, Pool

__all__ = ["Binding", "Engine"]

_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)
_REFUSED = int(Code.REFUSED)
_MISS = int(Code.MISS)
_LOST = int(Code.LOST)


@dataclass(slots=True)
class Binding:
    """The right under which a batch comes: a session's, or one that a unary call has just shown."""

    pool: Pool
    member: Member


class Engine:
    """Carries out batches.

    Args:
        store: what holds the pages.
        history: where refusals are remembered.

    Attributes:
        draining: puts are refused from now on.
        unbound: what was asked of pools that the caller has no right to.
        batches: how many it was asked to carry out.
    """

    def __init__(self, store: Store, history: History) -> None:
        self.store = store
        self.history = history
        self.draining = False
        self.unbound = PoolCounters()
        self.batches = 0

    def execute(self, batch: Batch, binding: Binding | None, *, alone: bool = False) -> Answer | Pending[Answer]:
        """Does what a batch asks, in full before it returns; only the answer may come later.

        Args:
            batch: checked by tmem.wire.
            binding: the pool that its header names; None if the caller has no right to it.
            alone: each page of a get must come as a chunk of its own.
        """
        self.batches += 1
        if isinstance(batch, Echo):
            return self._echo(batch)
        if binding is None:
            return self.refuse(batch, Reason.NO_SUCH_POOL)
        if isinstance(batch, Get):
            return self._get(batch, binding.pool, binding.member, alone=alone)
        if isinstance(batch, Put):
            return self._put(batch, binding.pool, binding.member)
        if isinstance(batch, Flush):
            return self._flush(batch, binding.pool, binding.member)
        return self._flush_object(batch, binding.pool, binding.member)

    def refuse(self, batch: Put | Get | Flush | FlushObject, reason: Reason) -> Answer:
        """Answers a batch for which there is no pool: no store is asked."""
        header = _answer_header(batch.header, 0)
        if isinstance(batch, FlushObject):
            count = len(batch.objects)
            return FlushObjectAnswer(header, [0] * count, [int(reason)] * count)
        count = len(batch.extents)
        if isinstance(batch, Flush):
            return FlushAnswer(header, [0] * count, [int(reason)] * count)
        pages = sum(extent.pages for extent in batch.extents)
        if isinstance(batch, Put):
            self.unbound.puts += pages
            self.unbound.puts_refused[reason] += pages
            return PutAnswer(header, [int(reason)] * count)
        self.unbound.gets += pages
        self.unbound.gets_refused[reason] += pages
        return GetAnswer(header, _refuse(batch.extents, reason))

    # ---- Put ----

    def _put(self, put: Put, pool: Pool, member: Member) -> Answer | Pending[Answer]:
        header = put.header
        reason = pool.gate(member, header.generation, header.floor, header.sequence)
        if not reason and max(put.pages) > pool.policy.chunk_pages and self._has_long_chunk(put, pool):
            reason = Reason.INVALID
        version = Version(header.generation, header.sequence)

        def answer(stored: Stored) -> Answer:
            return self._answer_put(pool, put, stored)

        if reason:
            return answer(Stored([int(reason)] * len(put.extents), 0, 0))
        if self.draining or pool.frozen:
            # The caller's page is newer than what is held; leaving that readable would be answering an old page.
            reason = Reason.DRAINING if self.draining else Reason.FROZEN
            return then(self.store.refuse(pool.key, version, put.extents, reason), answer)
        return then(self.store.put(pool.key, version, put, member.generation), answer)

    @staticmethod
    def _has_long_chunk(put: Put, pool: Pool) -> bool:
        limit = pool.policy.chunk_pages
        return any(
            pages > limit and encoding != _SAME_FILLED for pages, encoding in zip(put.pages, put.encodings, strict=True)
        )

    def _answer_put(self, pool: Pool, put: Put, stored: Stored) -> Answer:
        counters = pool.counters
        reasons = stored.reasons
        counters.puts_replaced += stored.replaced
        counters.puts_dropped += stored.dropped
        for number, extent in enumerate(put.extents):
            pages = extent.pages
            counters.puts += pages
            if reasons is not None and reasons[number]:
                counters.puts_refused[reasons[number]] += pages
                self.history.note(pool.key, extent, Fate.REFUSED, reasons[number])
                continue
            counters.puts_stored += pages
            if pages == 1:
                counters.extents_single += 1
            elif pages == BLOCK_PAGES:
                counters.extents_whole += 1
            else:
                counters.extents_partial += 1
        if reasons is None:
            counters.put_bytes += len(put.body)
            if _RAW in put.encodings or _SAME_FILLED in put.encodings:
                for pages, encoding in zip(put.pages, put.encodings, strict=True):
                    if encoding == _RAW:
                        counters.puts_raw += pages
                    elif encoding == _SAME_FILLED:
                        counters.puts_same_filled += pages
        return PutAnswer(_answer_header(put.header, pool.epoch), reasons)

    # ---- Get ----

    def _get(self, get: Get, pool: Pool, member: Member, *, alone: bool) -> Answer | Pending[Answer]:
        header = get.header
        reason = pool.gate(member, header.generation, header.floor, None)
        if reason:
            return self._answer_get(pool, header, _refuse(get.extents, reason))

        def answer(pages: Pages) -> Answer:
            return self._answer_get(pool, header, pages)

        return then(self.store.get(pool.key, get.extents, header.answer_bytes, member.generation, alone=alone), answer)

    @staticmethod
    def _answer_get(pool: Pool, header: Header, pages: Pages) -> Answer:
        counters = pool.counters
        codes = pages.codes
        hits = sum(run.pages for run in pages.runs)
        counters.gets_hit += hits
        if codes is None:
            counters.gets += hits
        else:
            counters.gets += len(codes)
            if _MISS in codes and header.epoch and header.epoch != pool.epoch and pool.kind == PoolKind.PERSISTENT:
                # The caller knows an incarnation that is gone: what is absent here it may have stored there.
                codes = pages.codes = [_LOST if code == _MISS else code for code in codes]
            counters.gets_missed += codes.count(_MISS)
            counters.gets_lost += codes.count(_LOST)
            counters.gets_corrupt += codes.count(int(Code.CORRUPT))
            for _, count, reason in pages.refused:
                counters.gets_refused[reason] += count
        counters.get_bytes += sum(len(chunk.data) for chunk in pages.chunks)
        return GetAnswer(_answer_header(header, pool.epoch), pages)

    # ---- Flush ----

    def _flush(self, flush: Flush, pool: Pool, member: Member) -> Answer | Pending[Answer]:
        header = flush.header
        count = len(flush.extents)
        asked = sum(extent.pages for extent in flush.extents)

        def answer(flushed: Flushed) -> Answer:
            counters = pool.counters
            counters.flushes_asked += asked
            counters.flushes_found += sum(flushed.found)
            if flushed.reasons is not None:
                for extent, reason in zip(flush.extents, flushed.reasons, strict=True):
                    if reason:
                        counters.flushes_refused[reason] += extent.pages
            return FlushAnswer(_answer_header(header, pool.epoch), flushed.found, flushed.reasons)

        reason = pool.gate(member, header.generation, header.floor, header.sequence)
        if reason:
            return answer(Flushed([0] * count, [int(reason)] * count))
        version = Version(header.generation, header.sequence)
        return then(self.store.flush(pool.key, version, flush.extents, flush.conditions), answer)

    def _flush_object(self, flush: FlushObject, pool: Pool, member: Member) -> Answer | Pending[Answer]:
        header = flush.header
        count = len(flush.objects)

        def answer(flushed: Flushed) -> Answer:
            counters = pool.counters
            counters.object_flushes_asked += count
            counters.object_flushes_found += sum(1 for found in flushed.found if found)
            counters.object_flush_pages += sum(flushed.found)
            return FlushObjectAnswer(_answer_header(header, pool.epoch), flushed.found, flushed.reasons)

        reason = pool.gate(member, header.generation, header.floor, header.sequence)
        if reason:
            return answer(Flushed([0] * count, [int(reason)] * count))
        version = Version(header.generation, header.sequence)
        return then(self.store.flush_object(pool.key, version, flush.objects), answer)

    # ---- Echo ----

    @staticmethod
    def _echo(echo: Echo) -> Answer:
        body = bytes(echo.zero_bytes) if echo.zero_bytes else echo.body
        return EchoAnswer(_answer_header(echo.header, 0), body)


def _answer_header(header: Header, epoch: int) -> AnswerHeader:
    return AnswerHeader(header.batch_id, header.sequence, epoch)


def _refuse(extents: Sequence[Extent], reason: Reason) -> Pages:
    count = sum(extent.pages for extent in extents)
    return Pages([_REFUSED] * count, [(0, count, int(reason))])
