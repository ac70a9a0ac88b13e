"""Tells what is asked of a store and what it answers: for a person chasing a fault. Never page bytes."""

from collections.abc import Callable, Sequence

from tmem.server.store.interface import Flushed, PoolPolicy, Stored
from tmem.server.store.interface import Store as StoreBelow
from tmem.server.store.pending import Pending, then
from tmem.wire.answers import Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put

from .base import Layer

__all__ = ["LoggedLayer"]


class LoggedLayer(Layer):
    """Reports every operation.

    Args:
        below: the store.
        log: takes the operation's name and what is known of it.
    """

    def __init__(self, below: StoreBelow, log: Callable[..., object]) -> None:
        super().__init__(below)
        self._log = log

    def add_pool(self, policy: PoolPolicy) -> None:
        self._log("store.add_pool", pool=policy.key, kind=policy.kind.name, tenant=policy.tenant)
        self.below.add_pool(policy)

    def drop_pool(self, key: int) -> int:
        pages = self.below.drop_pool(key)
        self._log("store.drop_pool", pool=key, pages=pages)
        return pages

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        def done(stored: Stored) -> Stored:
            self._log("store.put", pool=key, version=version, extents=put.extents, reasons=stored.reasons)
            return stored

        return then(self.below.put(key, version, put, user), done)

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        def done(pages: Pages) -> Pages:
            self._log("store.get", pool=key, extents=extents, codes=pages.codes, runs=pages.runs)
            return pages

        return then(self.below.get(key, extents, max_bytes, user, alone=alone), done)

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        def done(flushed: Flushed) -> Flushed:
            self._log(
                "store.flush", pool=key, version=version, extents=extents, conditions=conditions, found=flushed.found
            )
            return flushed

        return then(self.below.flush(key, version, extents, conditions), done)

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        def done(flushed: Flushed) -> Flushed:
            self._log("store.flush_object", pool=key, version=version, objects=objects, found=flushed.found)
            return flushed

        return then(self.below.flush_object(key, version, objects), done)
