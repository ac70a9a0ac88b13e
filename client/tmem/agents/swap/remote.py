"""The pool of a device: all use of the client is here.

Owns: the connection, the way to the pool by its token, and the translation between the core's pieces and the client's
operations. It has no thread: the worker's loop waits on `fileno` and calls `pump`.

A server that lost the pool gets it made again, so that new pages can go out; pages that were on it are LOST, as the presence
map knows. A pool that somebody else has opened since is not fought for: this worker ends, and its successor opens it.
"""

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import tmem.client.link
from tmem.client import FlushResult, GetResult, PutResult, SharedPresence
from tmem.client.link import Endpoint
from tmem.wire.errors import Fenced, InvalidOption, NoSuchPool, PoolExists, TmemError
from tmem.wire.limits import PAGE_BYTES

from .config import Config
from .ports import Piece
from .shared import Control, Identity, Word

__all__ = ["OBJECT", "NewPool", "Pool", "pool_name", "presence_bytes"]

OBJECT = 0
"""All pages of a device are of this object; a page's index is its place on the device."""

# Deadlines are rounded down to this, so that those of requests that have just come are the same number.
_GRAIN_SECONDS = 0.1
_FLUSH_SECONDS = 10.0
# A terabyte of pages is half a million blocks.
_LISTING_SECONDS = 600.0


def presence_bytes(pages: int) -> int:
    """How much memory the presence map of a device takes."""
    return SharedPresence.size(pages)


def pool_name(device: str) -> str:
    """What the pool of a device of this machine is called."""
    return f"swap/{os.uname().nodename}/{device}"


class NewPool:
    """A pool for a new device; it is destroyed again at the end of a `with` block that fails.

    Attributes:
        endpoints: where the server is. reserved_bytes: what it keeps free for the pool. token, epoch, pool_id: its identity.

    Raises:
        Unavailable, Unauthenticated: the server can't be had. InvalidOption: its address can't be one.
    """

    def __init__(self, target: str, token: str | None, name: str) -> None:
        self.name = name
        self.reserved_bytes = 0
        found = tmem.client.link.resolve(target)
        self.endpoints: list[tuple[int, Any]] = list(found)
        self._client = tmem.client.link.connect(target, endpoints=found, token=token, name=name)
        self._pool: tmem.client.link.Pool | None = None

    def create(self, pages: int, overcommit: float, durability: str, chunk_pages: int) -> None:
        """Makes it, with room for so many pages that compress by so much.

        Raises:
            OutOfCapacity, QuotaExceeded: the server can't promise that room. InvalidOption: its name is taken.
        """
        limits = self._client.capabilities.limits
        self.reserved_bytes = int(pages * (PAGE_BYTES + limits.page_overhead_bytes) / overcommit)
        try:
            self._pool = self._client.create_pool(
                self.name, durability=durability, chunk_pages=chunk_pages, reserved_bytes=self.reserved_bytes
            )
        except PoolExists:
            raise InvalidOption(
                f"the server has a pool {self.name!r} already: a machine of this name swaps to it, or did and was not "
                f"detached. If none does, remove it: tmem destroy {self.name}"
            ) from None
        self.token, self.epoch, self.pool_id = self._pool.token, self._pool.epoch, self._pool.pool_id

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._pool is not None:
            with suppress(TmemError):  # a worker had opened it, and it went with the worker
                self._pool.destroy()
        self._client.close()


class Pool:
    """The pool; it implements ports.Remote.

    Args:
        config: the device's. control: the shared memory. presence: where the presence map is kept.
        lose: told a block and pages of it, as bits, that are lost.
        meanwhile: called again and again while `open` waits: requests come all the time, and are to fail in time.

    Attributes:
        ready: it is open.
    """

    def __init__(
        self,
        config: Config,
        control: Control,
        presence: memoryview,
        lose: Callable[[int, int], None],
        meanwhile: Callable[[], object] = lambda: None,
    ) -> None:
        self._config = config
        self._control = control
        self._words = control.words
        # The kernel says again what was on its way: there is no need to settle it before that.
        self._presence = SharedPresence(presence, config.size // PAGE_BYTES, OBJECT, ask_later=True)
        self._lose = lose
        self._meanwhile = meanwhile
        self._client: tmem.client.link.Client | None = None
        self._pool: tmem.client.link.Pool
        self._epoch = control.identity.epoch
        self._said: str | None = None
        self.ready = False

    # ---- The way there ----

    def open(self) -> str | None:
        """Tries once to open the pool, in a bounded time.

        That is short, but for one case: somebody else has written to the pool, and so all that it holds has to be asked for.

        Returns:
            Why it could not be, if that is news.
        """
        step = self._config.hang_seconds / 5
        try:
            if self._client is None:
                self._client = tmem.client.link.connect(
                    self._config.target,
                    endpoints=[Endpoint(*endpoint) for endpoint in self._config.endpoints],
                    token=self._config.token,
                    name=f"tmem-swap {self._config.name}",
                    meanwhile=self._wait,
                    connect_timeout=step,
                    call_timeout=step,
                )
            self._pool = self._open(self._client)
            self._counters = self._client.counters
        except TmemError as error:
            self._words[Word.UNREACHABLE_SINCE] = self._words[Word.UNREACHABLE_SINCE] or time.monotonic_ns()
            why = f"{self._config.target}: {error}"
            news = why != self._said
            self._said = why
            return why if news else None
        self._said = None
        self.ready = True
        self._note_epoch()
        self._words[Word.REMAKING] = 0
        return None

    def _open(self, client: tmem.client.link.Client) -> tmem.client.link.Pool:
        config, identity = self._config, self._control.identity
        try:
            return client.open_pool(
                config.pool,
                identity.token,
                identity.epoch,
                presence=self._presence,
                listing_timeout=_LISTING_SECONDS,
            )
        except NoSuchPool:
            return self._make_again(client)

    def _make_again(self, client: tmem.client.link.Client) -> tmem.client.link.Pool:
        """The server has lost the pool, or somebody destroyed it: what was in it is gone, and new pages can go out.

        A worker that is killed in here leaves what the next one begins with again: what is lost is written down first, and
        a pool that was made and that nobody knows the token of is removed. One of the same name that this device has not begun
        to make is somebody else's, and stays.
        """
        config = self._config
        for block, known in self._presence.blocks_of(OBJECT):
            self._lose(block, known.stored | known.uncertain)
        self._presence.reset()
        for left in client.pools():
            if left.name == config.pool:
                if not self._words[Word.REMAKING]:
                    raise PoolExists(
                        f"the pool {config.pool!r} is not this device's any more: somebody else has made one"
                    )
                client.destroy_parked(left.pool_id)
        self._words[Word.REMAKING] = 1
        made = client.create_pool(
            config.pool,
            durability=config.durability,
            chunk_pages=config.chunk_pages,
            reserved_bytes=config.reserved_bytes,
            presence=self._presence,
        )
        self._control.remember(Identity(made.token, made.epoch))
        return made

    def _wait(self) -> None:
        if not self.ready:
            self._meanwhile()

    def _note_epoch(self) -> None:
        self._epoch = self._pool.epoch
        self._control.remember(Identity(self._pool.token, self._epoch))

    # ---- Driving it ----

    @property
    def generation(self) -> int:
        """Changes with the descriptor."""
        return 0 if self._client is None else self._client.generation

    def fileno(self) -> int:
        """What to wait on; -1 while there is no connection."""
        return -1 if self._client is None else self._client.fileno()

    @property
    def wants_write(self) -> bool:
        """Whether to wait until it can be written to as well."""
        return self._client is not None and self._client.wants_write

    def next_timer(self) -> float | None:
        """When to call `pump` at the latest, by time.monotonic."""
        return None if self._client is None else self._client.next_timer()

    def pump(self) -> None:
        """Takes and sends what can be; raises Fenced if somebody else has opened the pool since."""
        if self._client is None:
            return
        self._client.pump()
        if self.ready:
            if self._pool.epoch != self._epoch:
                self._note_epoch()
            self._note_connection(connected=self._client.fileno() >= 0)

    def _note_connection(self, *, connected: bool) -> None:
        words = self._words
        if connected != bool(words[Word.CONNECTED_SINCE]):
            moment = time.monotonic_ns()
            words[Word.CONNECTED_SINCE] = moment if connected else 0
            words[Word.UNREACHABLE_SINCE] = 0 if connected else moment
            words[Word.CONNECTIONS] += connected

    def destroy(self) -> None:
        """Ends the pool; raises TmemError."""
        self._meanwhile = lambda: None  # there are no requests any more
        if not self.ready:
            self.open()
        if self.ready:
            assert self._client is not None
            self._pool.destroy()
            self._client.close()

    # ---- Pages ----

    def get(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[GetResult]], None]) -> None:
        """Reads runs of pages, by one message."""
        words, counters = self._words, self._counters
        begun = time.monotonic_ns()
        sent = False

        def answered(results: list[GetResult]) -> None:
            if results[0].error is not None:
                self._look_at(results[0].error)
            elif sent:
                words[Word.REMOTE_GETS] += 1
                words[Word.REMOTE_NANOSECONDS] += time.monotonic_ns() - begun
            done(results)

        local = counters.local_gets
        self._pool.submit_gets([(OBJECT, index, memory) for index, memory in pieces], answered, _coarse(seconds))
        asked = sum(len(memory) for _, memory in pieces) // PAGE_BYTES - (counters.local_gets - local)
        if asked:
            sent = True
            words[Word.GET_MESSAGES] += 1
            words[Word.PAGES_GOT] += asked

    def put(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[PutResult]], None]) -> None:
        """Stores runs of pages, by one message."""

        def answered(results: list[PutResult]) -> None:
            for result in results:
                if result.error is not None:
                    self._look_at(result.error)
            done(results)

        self._words[Word.PUT_MESSAGES] += 1
        self._words[Word.PAGES_PUT] += sum(len(memory) for _, memory in pieces) // PAGE_BYTES
        self._pool.submit_puts([(OBJECT, index, memory) for index, memory in pieces], answered, _coarse(seconds))

    def flush(self, index: int, count: int, done: Callable[[FlushResult], None]) -> None:
        """Removes pages."""

        def answered(results: list[FlushResult]) -> None:
            whole = FlushResult(f"pages {index}..{index + count - 1}")
            whole.settle(sum(result.found for result in results), 0)
            for result in results:
                if result.error is not None:
                    self._look_at(result.error)
                    whole.fail(result.error)
            done(whole)

        self._words[Word.FLUSH_MESSAGES] += 1
        self._pool.submit_flush(OBJECT, index, count, answered, _FLUSH_SECONDS)

    def absent(self, index: int, count: int) -> bool:
        """Whether nothing is stored there for certain."""
        return self._pool.holds_none(OBJECT, index, count)

    def _look_at(self, error: TmemError) -> None:
        """Some errors are about more than the operation that met them."""
        if isinstance(error, Fenced):
            raise error
        if isinstance(error, NoSuchPool):
            self.ready = False  # it is made again, by `open`


def _coarse(seconds: float) -> float:
    return max(_GRAIN_SECONDS, seconds // _GRAIN_SECONDS * _GRAIN_SECONDS)
