"""A layer that changes nothing: what every other one starts from."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from tmem.server.store.interface import BlockListing, Counts, Flushed, Place, PoolPolicy, Store, Stored
from tmem.server.store.pending import Pending
from tmem.wire.answers import Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put
from tmem.wire.results import Durability, Reason

__all__ = ["Layer"]


class Layer:
    """A store that asks the one below. A layer overrides the calls that it has something to say about.

    Args:
        below: the store that this layer wraps.
    """

    def __init__(self, below: Store) -> None:
        self.below = below

    @property
    def name(self) -> str:
        """The name of what holds the pages, under all layers."""
        return self.below.name

    @property
    def durabilities(self) -> Sequence[Durability]:
        """What the store below promises."""
        return self.below.durabilities

    def add_pool(self, policy: PoolPolicy) -> None:
        self.below.add_pool(policy)

    def reserve(self, key: int, size: int) -> None:
        self.below.reserve(key, size)

    def drop_pool(self, key: int) -> int:
        return self.below.drop_pool(key)

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        return self.below.put(key, version, put, user)

    def refuse(self, key: int, version: Version, extents: Sequence[Extent], reason: Reason) -> Stored | Pending[Stored]:
        return self.below.refuse(key, version, extents, reason)

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        return self.below.get(key, extents, max_bytes, user, alone=alone)

    def read_now(self, key: int, extents: Sequence[Extent], max_bytes: int) -> Pages:
        return self.below.read_now(key, extents, max_bytes)

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        return self.below.flush(key, version, extents, conditions)

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        return self.below.flush_object(key, version, objects)

    def leave(self, key: int, user: int) -> Iterator[int]:
        return self.below.leave(key, user)

    def reclaim(self, keys: Collection[int], wanted: int) -> int:
        return self.below.reclaim(keys, wanted)

    def blocks(self, key: int) -> Iterable[BlockListing]:
        return self.below.blocks(key)

    def find(self, key: int, obj: int, index: int) -> Place | None:
        return self.below.find(key, obj, index)

    def counts(self, key: int | None = None) -> Counts:
        return self.below.counts(key)

    def step(self) -> bool:
        return self.below.step()

    def close(self) -> None:
        self.below.close()
