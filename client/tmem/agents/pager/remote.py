"""The targets: the core's Remote port over links to tmem servers. All use of the link is here.

Owns: one link and one private pool for each target, the keys of the pools, and the judgement whether a target accepts. A pool is made
once for the life of the region, and opened again by each later agent, which fences the one before it.

Must not know: states, memory, policy.

A target that can't be reached at the start is tried again beside the work, in a thread of its own (`reaching`): one that accepts and never
answers, or whose name is not resolved, holds up nothing else. What is asked of it until then waits for its own deadline.
Once it is reached the link reconnects by itself. A pool that the server has lost is made anew: the region's pages in
it are lost, and the core is told so page by page.

Units: pages; seconds of time.monotonic.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import tmem.client.link
from tmem.client import Code, FlushResult, GetResult, PutResult, SharedPresence
from tmem.wire.errors import TABLE, Fenced, NoSuchPool, OldPage, Refused, TmemError, Unavailable
from tmem.wire.limits import MAX_CHUNK_PAGES, PAGE_BYTES

from .ports import Got, Put
from .reaching import Reached, Reaching
from .region import PoolKey, Region
from .settings import Settings, Target

__all__ = ["Targets"]

log = logging.getLogger(__name__)

_OBJECT = 0
_FULL_SECONDS = (0.25, 5.0)  # how long a target that refused is left alone: first, at most
_TELL_SECONDS = 60.0  # a target that is full is full for long
_SILENT_SECONDS = 1.0  # an answer that takes longer than this makes the next target worth trying
_RETRY_SECONDS = (2.0, 60.0)  # how long a target that can't be reached is left alone: first, at most
_CALL_SECONDS = 5.0
_CONNECT_SECONDS = 3.0
_CHUNK_PAGES = 4  # of a pool of 4 KiB pages: a lone fault expands no more than this

_GOT = {Code.HIT: Got.HIT, Code.MISS: Got.LOST, Code.LOST: Got.LOST, Code.CORRUPT: Got.CORRUPT}


class _Waiting:
    """A get for a target that is not there yet."""

    __slots__ = ("deadline", "done", "runs")

    def __init__(
        self,
        runs: Sequence[tuple[int, memoryview]],
        deadline: float,
        done: Callable[[Sequence[Sequence[Got]]], None],
    ) -> None:
        self.runs = runs
        self.deadline = deadline
        self.done = done


class _Server:
    """One target.

    Attributes:
        link, pool: None until it was reached. reaching: while that is tried.
        retry_at: when it is tried again. retry_after: how long after the next failure.
        full_until: after a refusal. backoff: of the next one.
        asked: when each unanswered exchange was sent, in order.
    """

    def __init__(self, number: int, target: Target, presence: SharedPresence) -> None:
        self.number = number
        self.target = target
        self.presence = presence
        self.link: tmem.client.link.Client | None = None
        self.pool: tmem.client.link.Pool | None = None
        self.reaching: Reaching | None = None
        self.retry_at = 0.0
        self.retry_after = _RETRY_SECONDS[0]
        self.full_until = 0.0
        self.backoff = _FULL_SECONDS[0]
        self.tell_at = 0.0
        self.asked: dict[int, float] = {}
        self.waiting: deque[_Waiting] = deque()


class Poller(Protocol):
    """What the targets' descriptors are registered with."""

    def watch(self, descriptor: int, *, write: bool = False, generation: int = 0) -> None:
        """Wakes the loop when there is something to read, or room to write."""
        ...


class Targets:
    """All targets of a region, in order of preference.

    Args:
        region: where keys and presence maps are kept.
        now: the time.

    Attributes:
        fenced: another agent has opened a pool of this region since: this one must end. closed: after `close`.
    """

    def __init__(self, region: Region, now: float) -> None:
        self._region = region
        self._settings: Settings = region.settings
        self._servers = [
            _Server(number, target, self._presence(number)) for number, target in enumerate(region.settings.targets)
        ]
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)  # rung when an attempt to reach a target is over
        self._number = 0
        self.now = now
        self.fenced = False
        self.closed = False
        self.errors: list[TmemError] = []

    def _presence(self, number: int) -> SharedPresence:
        return SharedPresence(memoryview(self._region.presence(number)), self._settings.size // PAGE_BYTES, _OBJECT)

    # ---- Their life ----

    def open(self) -> int:
        """Reaches all that can be reached now; answers how many. `errors` says why the others can't."""
        for server in self._servers:
            self._begin(server)
        for server in self._servers:
            if server.reaching is not None:
                server.reaching.join(None)
                self._take(server)
        return sum(server.pool is not None for server in self._servers)

    def close(self) -> None:
        """Destroys the pools: their pages are of no use to anybody else. Takes a bounded time.

        What is unanswered is never answered: the region it is about is no more.
        """
        self.closed = True
        under_way = [server for server in self._servers if server.reaching is not None and server.reaching.stop()]
        for server in self._servers:
            if server in under_way:
                assert server.reaching is not None
                server.reaching.join(_CALL_SECONDS)
                if server.reaching.reached is not None:
                    server.link, server.pool = server.reaching.reached
            if server.link is None:
                continue
            if server.pool is not None and server.link.fileno() >= 0:
                with suppress(TmemError):
                    server.pool.destroy()
            server.link.close()
        if self._bell >= 0 and not any(server.reaching and server.reaching.alive for server in self._servers):
            os.close(self._bell)
            self._bell = -1

    # ---- The loop ----

    def register(self, poller: Poller) -> None:
        """Says on what to wait next; call it before each wait."""
        poller.watch(self._bell)
        for server in self._servers:
            link = server.link
            if link is not None and link.fileno() >= 0:
                poller.watch(link.fileno(), write=link.wants_write, generation=link.generation)

    def pump(self) -> None:
        """Takes what has arrived, and does what time asks for."""
        for server in self._servers:
            if server.link is not None:
                server.link.pump()
            elif server.reaching is None:
                if self.now >= server.retry_at:
                    self._begin(server)
            elif server.reaching.over:
                self._take(server)
            while server.waiting and server.waiting[0].deadline <= self.now:
                late = server.waiting.popleft()
                late.done([[Got.LATER] * (len(into) // PAGE_BYTES) for _, into in late.runs])

    def next_timer(self) -> float:
        """When to call `pump` at the latest."""
        times = [float("inf")]
        for server in self._servers:
            if server.link is not None:
                times.append(server.link.next_timer() or float("inf"))
            elif server.reaching is None:
                times.append(server.retry_at)
            times += [each.deadline for each in server.waiting]
        return min(times)

    # ---- Reaching a target ----

    def _begin(self, server: _Server) -> None:
        """Has a target reached, beside everything else."""
        try:
            server.reaching = Reaching(partial(self._reach, server), self._bell)
        except RuntimeError as error:  # no thread can be had
            self._not_reached(server, Unavailable(f"{server.target.address} can't be tried: {error}"))

    def _reach(self, server: _Server, reaching: Reaching) -> Reached:
        """In a thread of its own: touches nothing of the server but what nobody else does before it is reached."""
        settings = self._settings
        link = tmem.client.link.connect(
            server.target.address,
            token=server.target.token,
            name=f"{settings.name}[{os.getpid()}]",
            read_timeout=settings.deadline,
            write_timeout=settings.write_deadline,
            connect_timeout=_CONNECT_SECONDS,
            call_timeout=_CALL_SECONDS,
        )
        try:
            reaching.commit()
            return link, self._open_pool(server, link)
        except BaseException:
            link.close()
            raise

    def _open_pool(self, server: _Server, link: tmem.client.link.Client) -> tmem.client.link.Pool:
        presence = server.presence
        key = self._region.key(server.number)
        if key is not None:
            try:
                return link.open_pool(key.name, key.token, key.epoch, presence)
            except NoSuchPool:
                log.error("%s has lost pool %s: its pages are lost", server.target.address, key.name)
        name = f"{self._settings.name}-{server.number}-{os.urandom(4).hex()}"
        chunk_pages = _CHUNK_PAGES if self._settings.pages.unit_pages == 1 else MAX_CHUNK_PAGES
        presence.reset()  # of a pool that the server has lost, or whose key died with its maker
        pool = link.create_pool(name, "persistent", chunk_pages=chunk_pages, presence=presence)
        self._region.set_key(server.number, PoolKey(name, pool.token, pool.epoch))
        return pool

    def _take(self, server: _Server) -> None:
        """What became of an attempt that is over."""
        reaching = server.reaching
        assert reaching is not None
        server.reaching = None
        with suppress(BlockingIOError):
            os.eventfd_read(self._bell)
        if reaching.reached is None:
            self._not_reached(server, reaching.error)
            return
        server.link, server.pool = reaching.reached
        for each in server.waiting:
            self.get(server.number, each.runs, max(each.deadline - self.now, 0.001), each.done)
        server.waiting.clear()

    def _not_reached(self, server: _Server, error: TmemError) -> None:
        self.errors.append(error)
        del self.errors[: -len(self._servers)]
        now = time.monotonic()  # the attempt has taken its time
        server.retry_at = now + server.retry_after
        server.retry_after = min(2 * server.retry_after, _RETRY_SECONDS[1])
        if now >= server.tell_at:
            log.warning("%s: %s", server.target.address, error)
            server.tell_at = now + _TELL_SECONDS

    # ---- The port ----

    @property
    def targets(self) -> int:
        return len(self._servers)

    def accepting(self, target: int) -> bool:
        server = self._servers[target]
        if server.link is None or server.link.fileno() < 0 or self.now < server.full_until:
            return False
        oldest = next(iter(server.asked.values()), None)
        return oldest is None or self.now - oldest < _SILENT_SECONDS

    def held(self, target: int) -> Iterator[tuple[int, int]]:
        presence = self._servers[target].presence
        if self._servers[target].pool is None:
            return
        for number, block in sorted(presence.blocks_of(_OBJECT)):
            bits = block.stored | block.uncertain
            page = number * 512
            while bits:
                skip = (bits & -bits).bit_length() - 1
                bits >>= skip
                page += skip
                run = (~bits & bits + 1).bit_length() - 1
                yield page, run
                bits >>= run
                page += run

    def gather(self, target: int) -> "_Puts":
        server = self._servers[target]
        assert server.pool is not None  # it accepts
        return _Puts(self, server, server.pool.gather_puts())

    def judge(self, server: _Server, result: PutResult) -> Put:
        """What became of a put, for the core; and what that says of its target."""
        error = result.error
        if result.stored:
            if self.now > server.full_until + _FULL_SECONDS[1]:
                server.backoff = _FULL_SECONDS[0]
            return Put.STORED
        if self.now >= server.full_until:
            if self.now >= server.tell_at:
                log.warning("%s takes no pages for now: %s", server.target.address, error)
                server.tell_at = self.now + _TELL_SECONDS
            server.full_until = self.now + server.backoff
            server.backoff = min(2 * server.backoff, _FULL_SECONDS[1])
        if isinstance(error, Fenced):
            self.fenced = True
        if isinstance(error, Refused) and error.reason in TABLE and TABLE[error.reason].old_page is not OldPage.UNKNOWN:
            return Put.REFUSED
        return Put.UNKNOWN

    def get(
        self,
        target: int,
        runs: Sequence[tuple[int, memoryview]],
        timeout: float,
        done: Callable[[Sequence[Sequence[Got]]], None],
    ) -> None:
        server = self._servers[target]
        if server.pool is None:
            server.waiting.append(_Waiting(runs, self.now + timeout, done))
            server.retry_at = min(server.retry_at, self.now + _RETRY_SECONDS[0])  # somebody waits for it now
            return
        number = self.sent(server)

        def answered(results: list[GetResult]) -> None:
            if self.closed:
                return
            del server.asked[number]
            self.fenced = self.fenced or any(isinstance(result.error, Fenced) for result in results)
            done([[_GOT.get(code, Got.LATER) for code in result.pages] for result in results])

        server.pool.submit_gets([(_OBJECT, page, into) for page, into in runs], answered, timeout)

    def flush(self, target: int, runs: Sequence[tuple[int, int]], done: Callable[[bool], None]) -> None:
        server = self._servers[target]
        if server.pool is None:
            done(False)
            return

        def answered(results: list[FlushResult]) -> None:
            if self.closed:
                return
            self.fenced = self.fenced or any(isinstance(result.error, Fenced) for result in results)
            done(all(result.error is None for result in results))

        server.pool.submit_flushes([(_OBJECT, page, count) for page, count in runs], answered)

    def sent(self, server: _Server) -> int:
        """An exchange is asked from now on; answers its number."""
        self._number += 1
        server.asked[self._number] = self.now
        return self._number


class _Puts:
    """The port's Gathering."""

    def __init__(self, targets: Targets, server: _Server, puts: tmem.client.link.Puts) -> None:
        self._targets = targets
        self._server = server
        self._puts = puts

    def has_room(self, pages: int) -> bool:
        return self._puts.has_room(pages)

    def add(self, page: int, plain: memoryview) -> None:
        self._puts.add(_OBJECT, page, plain)

    def detach(self) -> None:
        self._puts.detach()

    def send(self, done: Callable[[Sequence[Put]], None]) -> None:
        targets, server = self._targets, self._server
        number = targets.sent(server)

        def answered(results: list[PutResult]) -> None:
            if targets.closed:
                return
            del server.asked[number]
            done([targets.judge(server, result) for result in results])

        self._puts.submit(answered)
