"""The pool of a device: all use of the client is here.

Owns: the connection, the way to the pool by its token, and the translation between the core's pieces and the client's
operations.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import tmem.client
from tmem.client import FlushResult, GetResult, PutResult
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .config import Config
from .ports import Piece
from .shared import Control, Identity, Word

__all__ = ["OBJECT", "Pool"]

OBJECT = 0
"""All pages of a device are of this object; a page's index is its place on the device."""


class Pool:
    """The pool; it implements ports.Remote."""

    def __init__(self, config: Config, control: Control, presence: int) -> None:
        self._config = config
        self._control = control
        self._words = control.words
        self._client: Any = None
        self._pool: Any = None
        self.ready = False

    def open(self) -> bool:
        """Tries once to open the pool."""
        config = self._config
        try:
            client = tmem.client.connect(config.target, token=config.token, connect_timeout=config.hang_seconds / 3)
            identity = self._control.identity
            self._pool = client.open_pool(config.pool, identity.token, identity.epoch)
        except TmemError:
            return False
        self._client = client
        self._control.remember(Identity(self._pool.token, self._pool.epoch))
        self._words[Word.CONNECTED_SINCE] = time.monotonic_ns()
        self.ready = True
        return True

    def fileno(self) -> int:
        return -1

    def get(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[GetResult]], None]) -> None:
        self._words[Word.GET_MESSAGES] += 1
        self._words[Word.PAGES_GOT] += sum(len(p[1]) for p in pieces) // PAGE_BYTES
        if len(pieces) == 1:
            try:
                done([self._pool.get_into(OBJECT, pieces[0][0], pieces[0][1], timeout=seconds)])
                return
            except TmemError as error:
                r = GetResult(tmem.client._core.face.Extent(0, pieces[0][0], len(pieces[0][1]) // PAGE_BYTES), take=False)
                r.fail(error)
                done([r])
                return
        with self._pool.batch() as batch:
            results = [batch.get_into(OBJECT, index, memory) for index, memory in pieces]
        done(results)

    def put(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[PutResult]], None]) -> None:
        self._words[Word.PUT_MESSAGES] += 1
        self._words[Word.PAGES_PUT] += sum(len(p[1]) for p in pieces) // PAGE_BYTES
        with self._pool.batch() as batch:
            results = [batch.put(OBJECT, index, memory) for index, memory in pieces]
        done(results)

    def flush(self, index: int, count: int, done: Callable[[FlushResult], None]) -> None:
        result = FlushResult("x")
        try:
            result.settle(self._pool.flush(OBJECT, index, count), 0)
        except TmemError as error:
            result.fail(error)
        self._words[Word.FLUSH_MESSAGES] += 1
        done(result)

    def absent(self, index: int, count: int) -> bool:
        from tmem.wire.handles import Extent
        return self._pool._core.known_absent(Extent(0, index, count))

    def destroy(self) -> None:
        self._pool.destroy()
        self._client.close()
