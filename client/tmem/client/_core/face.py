"""What both faces of a pool and of a batch do before and after they wait.

Owns: the checks of what callers hand in, and the grouping of items into operations.
"""

from collections.abc import Iterable, Iterator

from tmem.wire.codec import Codec, Plain, plain_view
from tmem.wire.errors import InvalidBuffer
from tmem.wire.handles import Extent, check_extent, check_object
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .gets import GetOperation
from .operations import FlushObjectOperation, FlushOperation, Operation, PutOperation
from .pool import PoolCore
from .results import FlushResult, GetResult, PutResult, describe

__all__ = ["BatchCore", "PoolFace", "absent_flush", "acknowledgement", "buffer_extent", "flush_extents"]


def buffer_extent(obj: int, index: int, buffer: Plain, *, writable: bool) -> tuple[Extent, memoryview]:
    """The extent that a buffer is for, and the buffer as a flat view.

    Raises:
        InvalidBuffer, InvalidHandle: why it can't be.
    """
    view = plain_view(buffer, writable=writable)
    pages = len(view) // PAGE_BYTES
    if pages > BLOCK_PAGES:
        raise InvalidBuffer(f"the buffer has {pages} pages; an extent has {BLOCK_PAGES} at most: put it in pieces")
    check_extent(obj, index, pages)
    return Extent(obj, index, pages), view


def acknowledgement(pool: PoolCore, results: Iterable[GetResult]) -> FlushOperation | None:
    """The conditional flush that removes what gets returned; None when they hit nothing."""
    operation = FlushOperation(pool)
    for result in results:
        extent = result.extent
        first = 0
        versions = result.versions
        while first < extent.pages:
            version = versions[first]
            end = first + 1
            while end < extent.pages and versions[end] == version:
                end += 1
            if version is not None:
                operation.add(Extent(extent.object, extent.index + first, end - first), version)
            first = end
    return operation if operation.results else None


def absent_flush(extent: Extent) -> FlushResult:
    """The result of a flush of what is not there."""
    result = FlushResult(describe(extent))
    result.settle(0, 0)
    return result


def flush_extents(obj: int, index: int, count: int) -> Iterator[Extent]:
    """Pages index .. index + count - 1 of an object, cut at the ends of blocks."""
    check_object(obj)
    if count < 1:
        check_extent(obj, index, count)
    end = index + count
    while index < end:
        pages = min(BLOCK_PAGES - index % BLOCK_PAGES, end - index)
        check_extent(obj, index, pages)
        yield Extent(obj, index, pages)
        index += pages


class PoolFace:
    """What a pool shows of itself, whichever face it has."""

    def __init__(self, core: PoolCore, codec: Codec) -> None:
        self._core = core
        self._codec = codec

    @property
    def name(self) -> str:
        """Its name, unique within the tenant."""
        return self._core.name

    @property
    def kind(self) -> str:
        """Its kind: persistent, ephemeral or shared."""
        return self._core.kind.name.lower()

    @property
    def token(self) -> bytes:
        """The secret that `open_pool` asks for; keep it where the next process finds it."""
        return self._core.token

    @property
    def uuid(self) -> bytes:
        """What others join a shared pool by; empty for a private one."""
        return self._core.uuid

    @property
    def pool_id(self) -> int:
        """Its number within the tenant."""
        return self._core.pool_id

    @property
    def generation(self) -> int:
        """The writer's generation."""
        return self._core.generation

    @property
    def epoch(self) -> int:
        """Its incarnation; keep it beside the token."""
        return self._core.epoch

    @property
    def epochs(self) -> tuple[int, ...]:
        """The same, for each shard of the server."""
        return (self.epoch,)

    @property
    def incomplete(self) -> bool:
        """Whether the server lost it once: pages stored before that are lost."""
        return self._core.incomplete

    def holds_none(self, obj: int, index: int, count: int = 1) -> bool:
        """Whether nothing is stored there for certain, so that a get or flush would ask nobody (private pools).

        Args:
            obj: the object.
            index: the first page.
            count: how many, in one block.
        """
        check_extent(obj, index, count)
        return self._core.known_absent(Extent(obj, index, count))

    @property
    def pages_stored(self) -> int:
        """How many pages this client knows to be stored (private pools)."""
        presence = self._core.presence
        return 0 if presence is None else presence.counts()[0]

    def _put_operation(self, obj: int, index: int, buffer: Plain) -> tuple[PutOperation, PutResult]:
        extent, view = buffer_extent(obj, index, buffer, writable=False)
        operation = PutOperation(self._core)
        return operation, operation.add(self._codec, extent, view)

    def _get_operation(
        self, obj: int, index: int, buffer: Plain, *, take: bool | None
    ) -> tuple[GetOperation, GetResult]:
        extent, view = buffer_extent(obj, index, buffer, writable=True)
        operation = GetOperation(self._core)
        return operation, operation.add(extent, view, take=self._core.takes(take))

    def _flush_operations(self, obj: int, index: int, count: int) -> list[FlushOperation]:
        """As many as it takes; none if nothing is stored there."""
        operations: list[FlushOperation] = []
        for extent in flush_extents(obj, index, count):
            if self._core.known_absent(extent):
                continue
            if not operations or not operations[-1].has_room(extent.pages):
                operations.append(FlushOperation(self._core))
            operations[-1].add(extent)
        return operations

    def _flush_object_operation(self, obj: int) -> FlushObjectOperation | None:
        check_object(obj)
        if self._core.knows_nothing_of(obj):
            return None
        return FlushObjectOperation(self._core, obj)


class BatchCore:
    """Groups items into operations: a face submits each once it is full, or when the kind changes.

    Before an item is added its face calls `make_room` and submits what that answers: so an item sees what the items before
    it have begun.

    Args:
        pool: what they are for.
        codec: encodes puts.
    """

    def __init__(self, pool: PoolCore, codec: Codec) -> None:
        self._pool = pool
        self._codec = codec
        self._open: PutOperation | GetOperation | FlushOperation | None = None

    def take_open(self) -> Operation | None:
        """The operation that is not full yet, to be submitted."""
        operation, self._open = self._open, None
        return operation

    def make_room(self, kind: type[PutOperation | GetOperation | FlushOperation], pages: int) -> Operation | None:
        """Makes sure that an item fits; answers the operation that must be submitted before it is added."""
        operation = self._open
        if isinstance(operation, kind) and operation.has_room(pages):
            return None
        self._open = kind(self._pool)
        return operation

    def put(self, extent: Extent, view: memoryview) -> PutResult:
        """Adds a put."""
        assert isinstance(self._open, PutOperation)
        return self._open.add(self._codec, extent, view)

    def get_into(self, extent: Extent, view: memoryview, *, take: bool | None) -> GetResult:
        """Adds a get."""
        assert isinstance(self._open, GetOperation)
        return self._open.add(extent, view, take=self._pool.takes(take))

    def flush(self, extent: Extent) -> FlushResult:
        """Adds a flush."""
        assert isinstance(self._open, FlushOperation)
        if self._pool.known_absent(extent):
            return absent_flush(extent)
        return self._open.add(extent)
