"""Operations: one batch each, from what the caller wants to what became of it.

Owns: how puts, gets and flushes become batches, and what their answers mean for results and presence map.

The life of an operation: it is filled with items; the session admits it (credit, handles free) and gives it a batch id and
a sequence; `build` makes the message, after which the caller's buffers are not read again; `decode` takes the answer, off
the lock, and is where gets write into callers' buffers; `settle` tells the presence map, under the lock.
"""

from collections.abc import Sequence
from typing import Any

from tmem.wire.answers import Answer, EchoAnswer, FlushAnswer, FlushObjectAnswer, Malformed, PutAnswer
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.errors import TABLE, InvalidRequest, OldPage, ProtocolError, TmemError
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_BATCH_EXTENTS, MAX_BATCH_PAGES
from tmem.wire.requests import Header, encode_echo, encode_flush, encode_flush_object, encode_put, readdress
from tmem.wire.results import Reason

from .pool import PoolCore
from .presence import mask_of
from .results import FlushResult, PutResult, Result, describe
from .writer import Footprint, whole_object

__all__ = [
    "EchoOperation",
    "FlushObjectOperation",
    "FlushOperation",
    "Operation",
    "PutOperation",
]

# A generous bound on a batch's columns: what a message costs beyond its body, before it is built.
HEADER_BYTES = 256
EXTENT_BYTES = 40
_CHUNK_BYTES = 12
_CRC_BYTES = 4


class Operation:
    """One batch.

    Attributes:
        pool: what it works on; None for an echo.
        writes: whether it has a sequence, and an order among writes.
        batch_id, sequence, floor: given when it is admitted.
        message: what is sent, and sent again after a reconnect; None until it is built.
        cost: credit that it takes.
        sent: whether it was sent on the stream that is open now; sent_once: on any stream; replayed: on several, perhaps.
        given_up: nobody waits for it any more.
        error: why it failed as a whole.
        latch: what the face waits on; the face's own.
    """

    writes = False
    # What each begins with: of the class, so that making one does not set a dozen attributes.
    batch_id = 0
    sequence = 0
    floor = 0
    message: bytes | None = None
    cost = 0
    sent = False
    sent_once = False
    replayed = False
    given_up = False
    decoding = False
    done = False
    error: TmemError | None = None
    latch: Any = None

    def __init__(self, pool: PoolCore | None) -> None:
        self.pool = pool

    @property
    def results(self) -> Sequence[Result]:
        """The results that it fills."""
        return ()

    @property
    def answer_bytes(self) -> int:
        """The most bytes of body that its answer may have."""
        return 0

    def estimate(self) -> int:
        """An upper bound of the credit that it needs; exact once it is built."""
        raise NotImplementedError

    def footprints(self) -> tuple[Footprint, ...]:
        """What a write touches."""
        return ()

    def begin(self) -> None:
        """It was admitted: the presence map learns what is uncertain from now on."""

    def build(self) -> None:
        """Makes the message from the header fields given by the session."""
        raise NotImplementedError

    def header(self) -> Header:
        """The header under the pool's present identity."""
        pool = self.pool
        if pool is None:
            return Header(self.batch_id, answer_bytes=self.answer_bytes)
        return Header(
            self.batch_id,
            pool.pool_id,
            pool.generation,
            self.sequence,
            self.floor,
            pool.epoch,
            self.answer_bytes,
        )

    def readdress(self) -> None:
        """Makes the message anew for a pool whose identity changed."""
        assert self.message is not None
        self.message = readdress(self.message, self.header())

    def decode(self, answer: Answer, codec: Codec) -> None:
        """Takes the answer; called once, off the lock."""
        if isinstance(answer, Malformed):
            self.fail(InvalidRequest(f"the server calls the batch malformed: {answer.message}"))
        else:
            self._decode(answer, codec)

    def _decode(self, answer: Answer, codec: Codec) -> None:
        raise NotImplementedError

    def settle(self) -> None:
        """Tells the presence map what became of it; called under the lock after `decode` or a failure."""

    def fail(self, error: TmemError) -> None:
        """Ends it, and all its results, with an error."""
        self.error = error
        for result in self.results:
            if not result.done:
                result.fail(error)


def mismatch(answer: Answer, operation: Operation) -> ProtocolError:
    return ProtocolError(f"a {type(answer).__name__} answers batch {operation.batch_id}, a {type(operation).__name__}")


class PutOperation(Operation):
    """Extents to store, up to one block of pages."""

    writes = True

    def __init__(self, pool: PoolCore) -> None:
        super().__init__(pool)
        self.pool: PoolCore
        self._extents: list[Extent] = []
        self._results: list[PutResult] = []
        self._doubted: list[int] = []  # of each extent, what was uncertain before
        self._chunks = EncodedChunks()
        self._crcs: list[int] = []
        self._reasons: list[int] | None = None
        self.pages = 0

    @property
    def results(self) -> Sequence[PutResult]:
        return self._results

    def has_room(self, pages: int) -> bool:
        """Whether another extent of so many pages fits."""
        return self.pages + pages <= MAX_BATCH_PAGES and len(self._extents) < MAX_BATCH_EXTENTS

    def add(self, codec: Codec, extent: Extent, plain: memoryview) -> PutResult:
        """Encodes one more extent; the buffer must stay as it is until the message is built."""
        if self.pool.presence is not None:
            self.pool.presence.check(extent)
        codec.encode(plain, extent.first, self.pool.chunk_pages, self._chunks)
        self._extents.append(extent)
        self.pages += extent.pages
        result = PutResult(extent)
        self._results.append(result)
        return result

    def estimate(self) -> int:
        return (
            self._chunks.body_bytes
            + HEADER_BYTES
            + len(self._extents) * EXTENT_BYTES
            + len(self._chunks.sizes) * _CHUNK_BYTES
            + self.pages * _CRC_BYTES
        )

    def footprints(self) -> tuple[Footprint, ...]:
        return tuple(Footprint(extent.object, extent.block, mask_of(extent)) for extent in self._extents)

    def begin(self) -> None:
        presence = self.pool.presence
        if presence is not None:
            self._doubted = [presence.begin(extent) for extent in self._extents]

    def build(self) -> None:
        self.message = encode_put(self.header(), self._extents, self._chunks)
        self._crcs = self._chunks.crcs
        self._chunks = EncodedChunks()  # the caller's buffers, and the pieces that are now in the message

    def detach(self, codec: Codec) -> None:
        """Gives the caller its buffers back before the message is built: chunks that did not shrink are copied."""
        codec.detach(self._chunks)

    def _decode(self, answer: Answer, codec: Codec) -> None:
        if not isinstance(answer, PutAnswer) or (
            answer.reasons is not None and len(answer.reasons) != len(self._extents)
        ):
            raise mismatch(answer, self)
        self._reasons = answer.reasons or [0] * len(self._extents)
        for result, reason in zip(self._results, self._reasons, strict=True):
            result.settle(reason)

    def settle(self) -> None:
        presence = self.pool.presence
        if presence is None or self._reasons is None:
            return
        at = 0
        for extent, reason, doubted in zip(self._extents, self._reasons, self._doubted, strict=True):
            if not reason:
                presence.stored(extent, self._crcs[at : at + extent.pages])
            elif _old_page(reason) == OldPage.KEPT:
                presence.unchanged(extent, doubted)
            else:
                presence.absent(extent)
            at += extent.pages

    def owed_flushes(self) -> list[Extent]:
        """Extents whose removal a refusal left unconfirmed: the client flushes them later."""
        if self._reasons is None:
            return []
        return [
            extent
            for extent, reason in zip(self._extents, self._reasons, strict=True)
            if reason and _old_page(reason) == OldPage.UNKNOWN
        ]


def _old_page(reason: int) -> OldPage:
    """What a refusal leaves; a reason of a newer server is taken for the worst."""
    try:
        return TABLE[Reason(reason)].old_page
    except (KeyError, ValueError):
        return OldPage.UNKNOWN


class FlushOperation(Operation):
    """Extents to remove, each perhaps only at a version.

    Attributes:
        extents: which.
    """

    writes = True

    def __init__(self, pool: PoolCore) -> None:
        super().__init__(pool)
        self.pool: PoolCore
        self.extents: list[Extent] = []
        self._conditions: list[Version | None] = []
        self._results: list[FlushResult] = []
        self._doubted: list[int] = []  # of each extent, what was uncertain before
        self._reasons: list[int] | None = None

    @property
    def results(self) -> Sequence[FlushResult]:
        return self._results

    def has_room(self, pages: int) -> bool:
        """Whether another extent fits, of however many pages."""
        return pages > 0 and len(self.extents) < MAX_BATCH_EXTENTS

    def add(self, extent: Extent, condition: Version | None = None) -> FlushResult:
        """Adds one extent."""
        if self.pool.presence is not None:
            self.pool.presence.check(extent)
        self.extents.append(extent)
        self._conditions.append(condition)
        result = FlushResult(describe(extent))
        self._results.append(result)
        return result

    def estimate(self) -> int:
        return HEADER_BYTES + 2 * len(self.extents) * EXTENT_BYTES

    def footprints(self) -> tuple[Footprint, ...]:
        return tuple(Footprint(extent.object, extent.block, mask_of(extent)) for extent in self.extents)

    def begin(self) -> None:
        presence = self.pool.presence
        if presence is not None:
            self._doubted = [presence.begin(extent) for extent in self.extents]

    def build(self) -> None:
        conditions = self._conditions if any(self._conditions) else None
        self.message = encode_flush(self.header(), self.extents, conditions)

    def _decode(self, answer: Answer, codec: Codec) -> None:
        count = len(self.extents)
        if not isinstance(answer, FlushAnswer) or len(answer.found) != count:
            raise mismatch(answer, self)
        self._reasons = answer.reasons or [0] * count
        for result, found, reason in zip(self._results, answer.found, self._reasons, strict=True):
            result.settle(found, reason)

    def settle(self) -> None:
        presence = self.pool.presence
        if presence is None or self._reasons is None:
            return
        for extent, reason, condition, result, doubted in zip(
            self.extents, self._reasons, self._conditions, self._results, self._doubted, strict=True
        ):
            if reason or (condition is not None and not result.found and not self.replayed):
                # A condition that was not met: what was known before holds, such as a put that came between a take and this. One
                # that nobody heard of again stays uncertain: it may be why the condition was not met.
                presence.unchanged(extent, doubted)
            elif condition is None or result.found == extent.pages:
                presence.absent(extent)
            # else some of the pages went and nobody says which, or an answer that was lost said so: they stay uncertain, and the
            # server is asked.


class FlushObjectOperation(Operation):
    """One object to remove."""

    writes = True

    def __init__(self, pool: PoolCore, obj: int) -> None:
        super().__init__(pool)
        self.pool: PoolCore
        if pool.presence is not None:
            pool.presence.check(Extent(obj, 0, 1))
        self._object = obj
        self._result = FlushResult(f"object {obj}")
        self._blocks: list[tuple[Extent, int]] = []  # with what was uncertain before
        self._reason: int | None = None

    @property
    def results(self) -> Sequence[FlushResult]:
        return (self._result,)

    def estimate(self) -> int:
        return HEADER_BYTES + EXTENT_BYTES

    def footprints(self) -> tuple[Footprint, ...]:
        return (whole_object(self._object),)

    def begin(self) -> None:
        presence = self.pool.presence
        if presence is None:
            return
        for number, _ in presence.blocks_of(self._object):
            extent = Extent(self._object, number * BLOCK_PAGES, BLOCK_PAGES)
            self._blocks.append((extent, presence.begin(extent)))

    def build(self) -> None:
        self.message = encode_flush_object(self.header(), [self._object])

    def _decode(self, answer: Answer, codec: Codec) -> None:
        if not isinstance(answer, FlushObjectAnswer) or len(answer.found) != 1:
            raise mismatch(answer, self)
        self._reason = answer.reasons[0] if answer.reasons else 0
        self._result.settle(answer.found[0], self._reason)

    def settle(self) -> None:
        presence = self.pool.presence
        if presence is None or self._reason is None:
            return
        for extent, doubted in self._blocks:
            if self._reason:
                presence.unchanged(extent, doubted)
            else:
                presence.absent(extent)


class EchoOperation(Operation):
    """Nothing but the way there and back.

    Attributes:
        body: what came back.
    """

    def __init__(self, body: bytes, zero_bytes: int) -> None:
        super().__init__(None)
        self._body = body
        self._zero_bytes = zero_bytes
        self._result = Result()
        self.body: bytes | memoryview = b""

    @property
    def results(self) -> Sequence[Result]:
        return (self._result,)

    @property
    def answer_bytes(self) -> int:
        return self._zero_bytes or len(self._body)

    def estimate(self) -> int:
        return HEADER_BYTES + len(self._body) + self.answer_bytes

    def build(self) -> None:
        self.message = encode_echo(self.header(), self._body, self._zero_bytes)

    def _decode(self, answer: Answer, codec: Codec) -> None:
        if not isinstance(answer, EchoAnswer):
            raise mismatch(answer, self)
        self.body = answer.body  # type: ignore[assignment]
        self._result.done = True
