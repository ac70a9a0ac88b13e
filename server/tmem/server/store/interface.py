"""The store's interface: what every way of holding pages can do, and what a layer around one can wrap.

Owns: the `Store` protocol and the types that cross it. A store is pure: no gRPC, no event loop, no socket, no clock; time
and randomness are passed in. It belongs to one thread. Every method takes effect before it returns, in the order of the
calls, even where its answer is a Pending that comes later: that is what keeps operations on one handle in order.

Must not know: tenants' rights, generations' fences, sessions. Those are decided before a store is asked.

Units: bytes are encoded bytes unless a name says plain.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tmem.wire.answers import Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put
from tmem.wire.results import Durability, PoolKind, Reason

from .pending import Pending

__all__ = ["BlockListing", "Counts", "Flushed", "Place", "PoolPolicy", "Store", "Stored"]


@dataclass(slots=True)
class PoolPolicy:
    """What a store must know of a pool.

    Attributes:
        key: the pool's number on this server; never used twice.
        tenant: whose share of memory its ephemeral pages count towards.
        tenant_weight: that tenant's share among tenants; weight: this pool's share among the tenant's pools.
        quota_bytes: live payload and its index; 0 = no quota.
        chunk_pages: the most pages of a chunk.
        reserved_bytes: live payload and its index for which there is room whatever others put; of persistent pools.
    """

    key: int
    kind: PoolKind
    tenant: str
    tenant_weight: int = 0
    weight: int = 0
    quota_bytes: int = 0
    chunk_pages: int = 16
    durability: Durability = Durability.MEMORY
    reserved_bytes: int = 0

    @property
    def ephemeral(self) -> bool:
        """Whether the store may evict the pool's pages."""
        return self.kind != PoolKind.PERSISTENT


class Stored(NamedTuple):
    """What became of a put.

    Attributes:
        reasons: for each extent 0 (stored) or the Reason why not; None = all stored.
        replaced: pages of stored extents that took the place of an older page.
        dropped: pages that refused extents held before, and that are gone.
    """

    reasons: list[int] | None
    replaced: int
    dropped: int


class Flushed(NamedTuple):
    """What became of a flush.

    Attributes:
        found: pages removed of each extent or object.
        reasons: for each 0, or the Reason why nothing was done; None = all done.
    """

    found: list[int]
    reasons: list[int] | None = None


class Place(NamedTuple):
    """Where a page is.

    Attributes:
        tier: "memory" or "disk".
        chunk_pages: pages of the chunk that it was stored in.
        encoded_bytes: of that chunk.
    """

    tier: str
    encoding: int
    chunk_pages: int
    encoded_bytes: int
    version: Version


class BlockListing(NamedTuple):
    """The pages that one block holds.

    Attributes:
        bitmap: 64 bytes; bit i % 8 of byte i // 8 is page i.
        crcs: CRC32C of each page, in order.
    """

    object: int
    block: int
    bitmap: bytes
    crcs: Sequence[int]


@dataclass(slots=True)
class Counts:
    """How much a pool, or the whole store, holds. All are gauges but `evicted`.

    Attributes:
        payload_bytes: sum of chunk length * live pages / pages in the chunk.
        index_bytes: what finding these pages takes.
        dead_bytes: held for pages that are gone.
        spilled_bytes: of all these, on the disk; of the whole store only.
        evicted: pages evicted so far.
        expanded: pages answered by expanding their chunk, because the reader could not take it whole, so far.
    """

    pages: int = 0
    objects: int = 0
    blocks: int = 0
    payload_bytes: int = 0
    index_bytes: int = 0
    dead_bytes: int = 0
    spilled_bytes: int = 0
    same_filled_pages: int = 0
    raw_pages: int = 0
    evicted: int = 0
    expanded: int = 0


class Store(Protocol):
    """Holds pages."""

    @property
    def name(self) -> str:
        """What GetCapabilities calls it."""
        ...

    @property
    def durabilities(self) -> Sequence[Durability]:
        """The durability classes that it can promise."""
        ...

    def add_pool(self, policy: PoolPolicy) -> None:
        """Makes an empty pool. The store keeps `policy` and sees later changes to its quota and weights.

        Raises:
            OutOfCapacity, QuotaExceeded: what it reserves can't be promised; there is no such pool then.
        """
        ...

    def reserve(self, key: int, size: int) -> None:
        """Keeps room for so many bytes of a pool from now on: sets its policy's `reserved_bytes`.

        Raises:
            OutOfCapacity, QuotaExceeded: that can't be promised, and nothing has changed.
        """
        ...

    def drop_pool(self, key: int) -> int:
        """Ends a pool; answers how many pages it held. Its memory may come back over several steps."""
        ...

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        """Stores every extent whole, or refuses it and drops what its handles held.

        An extent over a page whose version has the same generation and a higher sequence is refused STALE and changes
        nothing. A later extent of the same put wins over an earlier one.

        Args:
            key: the pool.
            version: of every page put.
            put: checked by tmem.wire; its body is only valid during the call.
            user: who puts, for `leave`.
        """
        ...

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored | Pending[Stored]:
        """Refuses a put that is not to reach `put`: drops what its handles hold, but newer pages.

        Every extent has the reason, or UNSETTLED where the removal can't be confirmed.
        """
        ...

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        """Reads pages.

        The bytes of the answer may be views of the store's memory, valid until the store is called again. Who keeps an answer longer
        copies them; an answer that was Pending is sent at once when it is there.

        Args:
            key: the pool.
            extents: what to read.
            max_bytes: the most bytes of all chunks answered; at least the plain size of all pages.
            user: who reads, for `leave`.
            alone: the reader knows no chunks of several pages: each page comes as a chunk of its own.
        """
        ...

    def read_now(self, key: int, extents: Sequence[Extent], max_bytes: int) -> Pages:
        """As `get`, for copies of a pool; nobody counts as the reader, and it waits for the disk if it must."""
        ...

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        """Removes pages; where an extent has a condition, only pages of exactly that version."""
        ...

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        """Removes every page of each object."""
        ...

    def leave(self, key: int, user: int) -> Iterator[int]:
        """Drops the pages of a shared pool that `user` used last, piece by piece as it is iterated; answers how many with each.

        Between pieces other calls may come, and the pool may end.
        """
        ...

    def reclaim(self, keys: Collection[int], wanted: int) -> int:
        """Evicts from these ephemeral pools, as when memory is short; answers how many bytes of payload and index are free by that.

        At least `wanted`, unless nothing is left in them.
        """
        ...

    def blocks(self, key: int) -> Iterable[BlockListing]:
        """Every block that holds a page, each once; safe against changes while it runs."""
        ...

    def find(self, key: int, obj: int, index: int) -> Place | None:
        """Where a page is; None if it is not held."""
        ...

    def counts(self, key: int | None = None) -> Counts:
        """How much one pool holds, or the whole store."""
        ...

    def step(self) -> bool:
        """Does a bounded piece of background work; answers whether there is more."""
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...
