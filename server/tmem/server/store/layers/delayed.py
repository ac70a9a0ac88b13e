"""Answers late, and out of order if asked: for tests of windows, deadlines and replay.

Owns: when a store's answers to page operations arrive. What they do happens at once and in order, as the Store interface
demands; only the answer waits.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from tmem.server.store.interface import Flushed, Store, Stored
from tmem.server.store.pending import Pending, then
from tmem.wire.answers import Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put

from .base import Layer

__all__ = ["DelayedLayer", "Later"]

T = TypeVar("T")

Later = Callable[[float, Callable[[], None]], object]
"""Calls a function after some seconds, on the store's thread."""


class DelayedLayer(Layer):
    """Delays the answer of every put, get and flush.

    Args:
        below: the store.
        later: how to be called back.
        seconds: the shortest delay.
        jitter_seconds: up to so much more, by chance: answers overtake each other.
        chance: of the delays.
    """

    def __init__(
        self, below: Store, later: Later, *, seconds: float, jitter_seconds: float = 0.0, chance: random.Random
    ) -> None:
        super().__init__(below)
        self._later = later
        self._seconds = seconds
        self._jitter_seconds = jitter_seconds
        self._chance = chance

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        return self._delay(self.below.put(key, version, put, user))

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        return self._delay(then(self.below.get(key, extents, max_bytes, user, alone=alone), _keep))

    def flush(
        self, key: int, version: Version, extents: Sequence[Extent], conditions: Sequence[Version | None] | None
    ) -> Flushed | Pending[Flushed]:
        return self._delay(self.below.flush(key, version, extents, conditions))

    def flush_object(self, key: int, version: Version, objects: Sequence[int]) -> Flushed | Pending[Flushed]:
        return self._delay(self.below.flush_object(key, version, objects))

    def _delay(self, result: T | Pending[T]) -> Pending[T]:
        late: Pending[T] = Pending()
        seconds = self._seconds + self._chance.random() * self._jitter_seconds

        def wait(value: T) -> None:
            self._later(seconds, lambda: late.settle(value))

        if isinstance(result, Pending):
            result.when_settled(wait)
        else:
            wait(result)
        return late


def _keep(pages: Pages) -> Pages:
    """The same with bytes of its own: the store's may be gone when the answer leaves."""
    return replace(pages, chunks=[chunk._replace(data=bytes(chunk.data)) for chunk in pages.chunks])
