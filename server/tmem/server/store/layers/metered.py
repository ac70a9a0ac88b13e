"""Measures how long a store takes to answer.

Owns: one observation per put, get, flush and flush_object. The clock and what takes the observations are passed in.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

from tmem.server.store.interface import Flushed, Store, Stored
from tmem.server.store.pending import Pending, then
from tmem.wire.answers import Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put

from .base import Layer

__all__ = ["MeteredLayer"]

T = TypeVar("T")


class MeteredLayer(Layer):
    """Observes durations.

    Args:
        below: the store.
        clock: seconds, monotonic.
        observe: takes the operation's name and its seconds.
    """

    def __init__(self, below: Store, clock: Callable[[], float], observe: Callable[[str, float], object]) -> None:
        super().__init__(below)
        self._clock = clock
        self._observe = observe

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        begun = self._clock()
        return self._done("put", begun, self.below.put(key, version, put, user))

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        begun = self._clock()
        return self._done("get", begun, self.below.get(key, extents, max_bytes, user, alone=alone))

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        begun = self._clock()
        return self._done("flush", begun, self.below.flush(key, version, extents, conditions))

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        begun = self._clock()
        return self._done("flush_object", begun, self.below.flush_object(key, version, objects))

    def _done(self, operation: str, begun: float, result: T | Pending[T]) -> T | Pending[T]:
        def observe(value: T) -> T:
            self._observe(operation, self._clock() - begun)
            return value

        return then(result, observe)
