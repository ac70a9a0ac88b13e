"""Fails by chance: for tests of what callers do about it.

Owns: which operations fail. A put refused here drops what its handles held, as a store's own refusal does; a get that fails
is refused IO, or answers a chunk with a flipped bit, or says that its pages are lost.
"""

import random
from collections.abc import Sequence
from dataclasses import replace

from tmem.server.store.interface import Store, Stored
from tmem.server.store.pending import Pending, then
from tmem.wire.answers import Chunk, Pages
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Put
from tmem.wire.results import Code, Reason

from .base import Layer

__all__ = ["FaultyLayer"]


class FaultyLayer(Layer):
    """Fails some puts and gets.

    Args:
        below: the store.
        chance: decides.
        put_refused: how often a put is refused, 0..1.
        reason: why.
        get_refused: how often a get is refused IO.
        get_corrupt: how often the chunks of a get come back with a flipped bit.
        get_lost: how often the hit pages of a get are said to be lost.
    """

    def __init__(
        self,
        below: Store,
        *,
        chance: random.Random,
        put_refused: float = 0.0,
        reason: Reason = Reason.IO,
        get_refused: float = 0.0,
        get_corrupt: float = 0.0,
        get_lost: float = 0.0,
    ) -> None:
        super().__init__(below)
        self._chance = chance
        self._put_refused = put_refused
        self._reason = reason
        self._get_refused = get_refused
        self._get_corrupt = get_corrupt
        self._get_lost = get_lost

    def put(self, key: int, version: Version, put: Put, user: int) -> Stored | Pending[Stored]:
        if self._chance.random() < self._put_refused:
            return self.below.refuse(key, version, put.extents, self._reason)
        return self.below.put(key, version, put, user)

    def get(
        self, key: int, extents: Sequence[Extent], max_bytes: int, user: int, *, alone: bool = False
    ) -> Pages | Pending[Pages]:
        dice = self._chance.random()
        if dice < self._get_refused:
            count = sum(extent.pages for extent in extents)
            return Pages([int(Code.REFUSED)] * count, [(0, count, int(Reason.IO))])
        result = self.below.get(key, extents, max_bytes, user, alone=alone)
        dice -= self._get_refused
        if 0 <= dice < self._get_corrupt:
            return then(result, self._corrupt)
        dice -= self._get_corrupt
        if 0 <= dice < self._get_lost:
            return then(result, lambda pages: _lose(pages, extents))
        return result

    def _corrupt(self, pages: Pages) -> Pages:
        chunks = []
        for chunk in pages.chunks:
            data = bytearray(chunk.data)
            data[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
            chunks.append(Chunk(chunk.encoding, chunk.pages, bytes(data)))
        return replace(pages, chunks=chunks)


def _lose(pages: Pages, extents: Sequence[Extent]) -> Pages:
    codes = pages.codes or [int(Code.HIT)] * sum(extent.pages for extent in extents)
    return Pages([int(Code.LOST) if code == Code.HIT else code for code in codes], pages.refused)
