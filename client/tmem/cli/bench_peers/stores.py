"""Whatever pages can be put into and got back from, as one interface; and tmem's own faces behind it.

Owns: `Store`, and how each face of tmem's client is driven. The others are in `peers`, the limits in `limits`.

A batch is some consecutive pages: the number of the first, and a view of the caller's memory. Whoever asks hands in an iterator of batches that ends
when it is time to: a store takes the next one as soon as it can do with it, and returns when all are answered.
"""

import asyncio
import secrets
import select
import time
from collections.abc import Callable, Iterable
from typing import Any

import tmem.client
from tmem.client import GetResult, PutResult
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

__all__ = ["AioStore", "Batches", "BlockingStore", "LinkStore", "Store"]

Batches = Iterable[tuple[int, memoryview]]

_OBJECT = 7
# A loaded machine is no failure: batches may wait for long.
_TIMEOUT_SECONDS = 60.0


class Store:
    """Where pages are put.

    Attributes:
        bad: pages that were refused, did not come back, or came back damaged.
        latencies: seconds of each batch, if the store has a say in them; otherwise whoever hands out the batches has.
    """

    def __init__(self) -> None:
        self.bad = 0
        self.latencies: list[float] = []

    def put(self, batches: Batches, unit: int) -> None:
        """Stores batches, in units of so many pages."""
        raise NotImplementedError

    def get(self, batches: Batches, unit: int) -> None:
        """Reads batches into the views, and verifies every page."""
        raise NotImplementedError

    def get_page(self, page: int, into: memoryview) -> None:
        """Reads one page that was put in a unit of one, and verifies it."""
        raise NotImplementedError

    def rest(self, descriptor: int) -> None:
        """Waits until a descriptor can be read from, and sees to its connections meanwhile."""
        select.select([descriptor], [], [])

    def load(self, plain: memoryview) -> None:
        """From now on these are all the pages; for limits, which know them beforehand."""

    def close(self) -> None:
        """Ends it."""


class _TmemStore(Store):
    """What tmem's faces have in common: how results are counted."""

    def _check_puts(self, results: Iterable[PutResult]) -> None:
        self.bad += sum(1 for result in results if not result.stored)

    def _check_gets(self, results: Iterable[GetResult]) -> None:
        for result in results:
            if not result.hit:
                self.bad += sum(1 for code in result.pages if code != tmem.client.Code.HIT)


def _name(unit: int) -> str:
    """The name of a pool with chunks of so many pages; nobody else has it."""
    return f"bench-{unit}-{secrets.token_hex(6)}"


_OPTIONS: dict[str, Any] = {"read_timeout": _TIMEOUT_SECONDS, "write_timeout": _TIMEOUT_SECONDS}


class BlockingStore(_TmemStore):
    """The blocking face.

    Args:
        unary: a lone page is got by the classical call; otherwise by the open stream.
        depth: batches in flight: 1, or 0 for as many as the window has room for.
        scattered: each page of a batch is an extent of its own, as pages are that lie apart.
        codec_threads: as the client's option.
    """

    def __init__(
        self, target: str, *, unary: bool = False, depth: int = 0, scattered: bool = False, codec_threads: int = 0
    ) -> None:
        super().__init__()
        self._options = _OPTIONS | {"codec_threads": codec_threads}
        self._unary = unary
        self._depth = depth
        self._scattered = scattered
        self._client = self._connect(target)
        self._pools: dict[int, Any] = {}

    def _connect(self, target: str) -> tmem.client.Client:
        return tmem.client.connect(target, **self._options)

    def _pool(self, unit: int) -> Any:
        """The pool whose chunks have so many pages; made when it is wanted, as a tenant may have so many and no more."""
        if unit not in self._pools:
            self._pools[unit] = self._client.create_pool(_name(unit), chunk_pages=unit)
        return self._pools[unit]

    def put(self, batches: Batches, unit: int) -> None:
        pool = self._pool(unit)
        if self._depth:
            for first, view in batches:
                self._check_puts([pool.put(_OBJECT, first, view)])
            return
        results: list[PutResult] = []
        with pool.batch() as batch:
            for first, view in batches:
                results += [batch.put(_OBJECT, at, part) for at, part in self._extents(first, view)]
                batch.submit()
        self._check_puts(results)

    def get(self, batches: Batches, unit: int) -> None:
        pool = self._pool(unit)
        if self._depth:
            for first, view in batches:
                self._check_gets([pool.get_into(_OBJECT, first, view)])
            return
        results: list[GetResult] = []
        with pool.batch() as batch:
            for first, view in batches:
                results += [batch.get_into(_OBJECT, at, part) for at, part in self._extents(first, view)]
                batch.submit()
        self._check_gets(results)

    def _extents(self, first: int, view: memoryview) -> Iterable[tuple[int, memoryview]]:
        if not self._scattered:
            return ((first, view),)
        return ((first + at // PAGE_BYTES, view[at : at + PAGE_BYTES]) for at in range(0, len(view), PAGE_BYTES))

    def get_page(self, page: int, into: memoryview) -> None:
        pool = self._pool(1)
        get = pool.get_page_sync if self._unary else pool.get_into
        if not get(_OBJECT, page, into).hit:
            self.bad += 1

    def close(self) -> None:
        for pool in self._pools.values():
            pool.destroy()
        self._client.close()


class LinkStore(BlockingStore):
    """The agents' transport: one thread, one socket. `depth` may be any number: so many batches are kept in flight, and each is timed."""

    def _connect(self, target: str) -> tmem.client.Client:
        import tmem.client.link  # in its own process only: it is there to be light

        self._poll = select.poll()
        self._polled = -1
        self._link = tmem.client.link.connect(target, **self._options)
        return self._link

    def _turn(self) -> None:
        """Waits for the socket, or for the time to do something, and does it."""
        link = self._link
        descriptor = link.fileno()
        if descriptor != self._polled:  # another connection
            if self._polled >= 0:
                self._poll.unregister(self._polled)
            self._polled = descriptor
        if descriptor >= 0:
            self._poll.register(descriptor, select.POLLIN | (select.POLLOUT if link.wants_write else 0))
        timer = link.next_timer()
        self._poll.poll(None if timer is None else max(0.0, (timer - time.monotonic()) * 1000))
        link.pump()

    def put(self, batches: Batches, unit: int) -> None:
        if not self._depth:
            super().put(batches, unit)
            return
        pool = self._pool(unit)
        self._closed_loop(
            batches,
            lambda first, view, done: pool.submit_put(_OBJECT, first, view, done),
            lambda result: self._check_puts([result]),
        )

    def get(self, batches: Batches, unit: int) -> None:
        if not self._depth:
            super().get(batches, unit)
            return
        pool = self._pool(unit)
        self._closed_loop(
            batches,
            lambda first, view, done: pool.submit_get_into(_OBJECT, first, view, done),
            lambda result: self._check_gets([result]),
        )

    def _closed_loop(self, batches: Batches, begin: Callable[..., Any], check: Callable[[Any], None]) -> None:
        """Keeps so many in flight, and notes how long each took."""
        in_flight = 0
        latencies = self.latencies

        for first, view in batches:
            while in_flight >= self._depth:
                self._turn()
            begun = time.perf_counter()

            def done(result: Any, begun: float = begun) -> None:
                nonlocal in_flight
                in_flight -= 1
                latencies.append(time.perf_counter() - begun)
                check(result)

            in_flight += 1
            begin(first, view, done)
        while in_flight:
            self._turn()

    def rest(self, descriptor: int) -> None:
        self._poll.register(descriptor, select.POLLIN)
        try:
            while not select.select([descriptor], [], [], 0)[0]:
                self._turn()
        finally:
            self._poll.unregister(descriptor)


class AioStore(_TmemStore):
    """The asyncio face, with as many batches in flight as the window has room for.

    Args:
        window_batches: the most that it may have; None: as by default.
        apart: each page is in a block of its own, so that they spread evenly over the shards of a server. Batches are of one page.
    """

    def __init__(self, target: str, *, window_batches: int | None = None, apart: bool = False) -> None:
        super().__init__()
        self._stride = BLOCK_PAGES if apart else 1
        self._options = _OPTIONS | ({"window_batches": window_batches} if window_batches else {})
        self._runner = asyncio.Runner()
        self._runner.run(self._connect(target))

    async def _connect(self, target: str) -> None:
        from tmem.client import aio  # in its own process only

        self._client = await aio.connect(target, **self._options)
        self._pools: dict[int, aio.Pool] = {}

    async def _pool(self, unit: int) -> Any:
        if unit not in self._pools:
            self._pools[unit] = await self._client.create_pool(_name(unit), chunk_pages=unit)
        return self._pools[unit]

    def put(self, batches: Batches, unit: int) -> None:
        self._runner.run(self._put(batches, unit))

    async def _put(self, batches: Batches, unit: int) -> None:
        results = []
        async with (await self._pool(unit)).batch() as batch:
            for first, view in batches:
                results.append(await batch.put(_OBJECT, first * self._stride, view))
                await batch.submit()
        self._check_puts(results)

    def get(self, batches: Batches, unit: int) -> None:
        self._runner.run(self._get(batches, unit))

    async def _get(self, batches: Batches, unit: int) -> None:
        results = []
        async with (await self._pool(unit)).batch() as batch:
            for first, view in batches:
                results.append(await batch.get_into(_OBJECT, first * self._stride, view))
                await batch.submit()
        self._check_gets(results)

    def rest(self, descriptor: int) -> None:
        self._runner.run(_readable(descriptor))

    def close(self) -> None:
        self._runner.run(self._end())
        self._runner.close()

    async def _end(self) -> None:
        for pool in self._pools.values():
            await pool.destroy()
        await self._client.close()


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(descriptor)
