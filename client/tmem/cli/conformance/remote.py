"""Statements about servers that are far away: where a page lives, and what becomes of clients when a server hangs, vanishes or forgets.

Those about agents, which keep some pages at home, are held against the agents' own cores (see `adapters`).
"""

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from tmem.cli.scrape import total
from tmem.client import Client, Pool
from tmem.wire.errors import DeadlineExceeded, OutOfCapacity, TmemError, Unavailable
from tmem.wire.results import Code

from .expect import Seen, expect, refused, same
from .kit import statement
from .samples import extent_of, noise, page, stamped
from .stage import Stage, fetch

T = TypeVar("T")

A, B = page(1), page(4)
_DEADLINE = 1.5
# What a call may take beyond its deadline on a busy machine: a guard against hangs, not a measurement.
_SLACK = 10.0


@statement(68, "Where a page is kept, in memory or on disk, here or there, changes nothing of what a get returns.")
def places_change_nothing(stage: Stage) -> None:
    directory = stage.directory()
    own = stage.own("--memory-limit", "4MiB", "--spill", str(directory), "--spill-limit", "64MiB", fresh=True)
    pool = own.pool()
    count = 2000
    for first in range(0, count, 16):
        plain = b"".join(noise(number) for number in range(first, first + 16))
        _patiently(partial(pool.put, 7, first, plain), (OutOfCapacity,))  # the disk takes its time
    tiers = {pool.explain(7, number).tier for number in range(0, count, 16)}
    same(tiers, {"memory", "disk"}, "where pages are")
    for number in (0, 1, 777, count - 1):
        before = pool.explain(7, number).tier
        same(fetch(pool, 7, number), [noise(number)], f"page {number}, in {before}")
        same(stage.held(pool, 7, number), noise(number), f"page {number}, in {before}, by the unary call")
    for first in range(0, count, 512):
        pages = min(512, count - first)
        same(fetch(pool, 7, first, pages), [noise(number) for number in range(first, first + pages)], "a block")
    pool.put(7, 0, A)
    pool.flush(7, 1)
    same(
        fetch(pool, 7, 0, 3),
        [A, Code.MISS, noise(2)],
        "pages on the disk, of which one was overwritten and one flushed",
    )


@statement(69, "A flush of a page reaches the server that holds it: it holds one page less.")
def flushes_reach_the_holder(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, extent_of(0, 100))
    for number in range(5):
        same(pool.flush(7, 20 * number), 1, "found")
        same(pool.stat().pages, 99 - number, "pages on the server")
        same(stage.held(pool, 7, 20 * number), Code.MISS, "the flushed page")
    again = stage.another()
    opened = again.open_pool(pool.name, pool.token, pool.epoch)
    same(opened.pages_stored, 95, "pages that a listing shows")
    opened.destroy()


@statement(
    70,
    "Flushing an object, or ending a pool, leaves no page of it on any server, ephemeral pages included.",
    added=True,
)
def nothing_is_left_behind(stage: Stage) -> None:
    own = stage.own(fresh=True)
    client = own.client()
    for kind in ("persistent", "ephemeral", "shared"):
        pool = own.pool(kind, client=client)
        for obj in (7, 8):
            pool.put(obj, 0, extent_of(obj, 200))
            pool.put(obj, 100_000, page(obj))
        same(total(own.samples(), "tmem_pages"), 402, f"pages of a {kind} pool")
        same(pool.flush_object(7), 201, f"found by a flush of an object of a {kind} pool")
        same(total(own.samples(), "tmem_pages"), 201, "pages after the object was flushed")
        same(total(own.samples(), "tmem_objects"), 1, "objects")
        same(pool.destroy(), 201, "pages that went with the pool")
        same(total(own.samples(), "tmem_pages"), 0, "pages after the pool was destroyed")


@statement(
    72,
    "While the server can't be reached a get of a persistent page fails as unavailable within its deadline: no miss, no zeros, no hang; it works again when the "
    "server is back with its data.",
)
def an_unreachable_server_is_said_to_be(stage: Stage) -> None:
    journal = stage.directory() / "journal"
    own = stage.own("--journal", str(journal), fresh=True)
    pool = own.pool(client=own.client(read_timeout=_DEADLINE, write_timeout=_DEADLINE), durability="disk")
    pool.put(7, 0, extent_of(0, 20))

    def fails(kind: type[TmemError], what: str) -> None:
        place = bytearray(b"\xee" * 4096)
        begun = time.monotonic()
        refused(lambda: pool.get_into(7, 3, place), kind, what=f"a get {what}")
        expect(time.monotonic() - begun < _DEADLINE + _SLACK, f"a get {what} outlived its deadline")
        same(bytes(place), b"\xee" * 4096, f"the buffer of a get {what}")

    with stage.stopped(own):
        fails(DeadlineExceeded, "while the server hangs")
    same(_patiently(lambda: fetch(pool, 7, 3)), [page(3)], "a get after the server goes on")
    own.kill()
    fails(Unavailable, "while there is no server")
    fails(Unavailable, "while there still is none")
    own.restart()
    same(_patiently(lambda: fetch(pool, 7, 0, 20)), [page(number) for number in range(20)], "the pages afterwards")


def _patiently(call: Callable[[], T], early: tuple[type[TmemError], ...] = (Unavailable, DeadlineExceeded)) -> T:
    """A call that may come too early, such as for a client that is just reconnecting."""
    deadline = time.monotonic() + _SLACK
    while True:
        try:
            return call()
        except early:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


@statement(73, "After a restart without data persistent pages are lost, ephemeral ones miss, and puts work at once.")
def an_empty_server_says_so(stage: Stage) -> None:
    own = stage.own(fresh=True)
    client = own.client()
    kept, cache = own.pool(client=client), own.pool("ephemeral", client=client)
    kept.put(7, 0, extent_of(0, 40))
    cache.put(7, 0, extent_of(0, 40))
    token, epoch = kept.token, kept.epoch
    own.restart()
    same(_patiently(lambda: fetch(kept, 7, 0, 40)), [Code.LOST] * 40, "persistent pages")
    same(fetch(cache, 7, 0, 40), [Code.MISS] * 40, "ephemeral pages")
    same(fetch(kept, 8, 0), [Code.MISS], "a page that was never stored")
    expect(kept.incomplete, "the pool does not say that it is incomplete")
    kept.put(7, 0, A)
    cache.put(7, 0, B)
    same(fetch(kept, 7, 0, 2), [A, Code.LOST], "pages after a put of the first")
    same(fetch(cache, 7, 0), [B], "an ephemeral page put anew")
    expect(kept.epoch > epoch, "the pool that was made again has an epoch that is not higher")
    opened = own.client().open_pool(kept.name, token, epoch)
    same(fetch(opened, 7, 1), [Code.LOST], "a get of a successor that knew the pool before")
    opened.destroy()


@statement(74, "An ephemeral page that the server no longer has misses, and is not asked for again.")
def a_miss_is_remembered(stage: Stage) -> None:
    own = stage.own("--memory-limit", "4MiB")
    client = own.client()
    pool = own.pool("ephemeral", client=client)
    pool.put(7, 0, A)
    other = own.pool("ephemeral")
    for number in range(2000):
        other.put(8, number, stamped(number))
    before = client.counters.messages_sent
    same(fetch(pool, 7, 0), [Code.MISS], "a page that was evicted")
    asked = client.counters.messages_sent - before
    expect(asked >= 1, "the server was not asked, so nothing was shown")
    before = client.counters.messages_sent
    calls = client.counters.unary_calls
    for _ in range(3):
        same(fetch(pool, 7, 0), [Code.MISS], "the same page again")
        expect(pool.get_page_sync(7, 0, bytearray(4096)).miss, "the same page by the unary call")
    # Signs of life are sent in between; batches are not.
    expect(client.counters.messages_sent - before <= 1, "the server was asked again")
    same(client.counters.unary_calls, calls, "unary calls")
    same(client.in_flight, 0, "batches in flight")


@statement(75, "Two gets of one page at the same time both answer it, and counts stay right.")
def two_gets_at_once(stage: Stage) -> None:
    pool = stage.pool()
    shared = stage.pool("shared")
    for turn in range(10):
        plain = noise(turn)
        for one in (pool, shared):
            one.put(turn, 0, plain)
            seen: list[Seen] = []
            threads = [threading.Thread(target=_fetch_into, args=(seen, one, turn)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            same(seen, [plain] * 4, "four gets at once")
    for one in (pool, shared):
        stat = one.stat()
        same((stat.pages, stat.objects, stat.gets_hit), (10, 10, 40), "pages, objects and hits")
        same(one.destroy(), 10, "pages that went with the pool")


def _fetch_into(seen: list[Seen], pool: Pool, obj: int) -> None:
    seen += fetch(pool, obj, 0)


@statement(
    78, "A client with pages on the server, and with work in flight, ends in a bounded time, whatever the server does."
)
def clients_end_in_time(stage: Stage) -> None:
    for state in ("well", "hung", "dead"):
        own = stage.own(fresh=True)
        client = own.client()
        pool = own.pool(client=client)
        pool.put(7, 0, extent_of(0, 100))
        if state == "dead":
            own.kill()
        errors: list[BaseException] = []

        def work(pool: Pool = pool, errors: list[BaseException] = errors) -> None:
            try:
                with pool.batch() as batch:
                    for number in range(4):
                        batch.get_into(7, 0, bytearray(100 * 4096))
                        batch.put(8, number * 16, extent_of(number, 16))
            except TmemError as error:
                errors.append(error)

        worker = threading.Thread(target=work)
        if state == "hung":
            with stage.stopped(own):
                worker.start()
                _close_in_time(client, state)
                worker.join(_SLACK)
        else:
            worker.start()
            _close_in_time(client, state)
            worker.join(_SLACK)
        expect(not worker.is_alive(), f"whoever waits for a {state} server waits on after its client was closed")


def _close_in_time(client: Client, state: str) -> None:
    begun = time.monotonic()
    client.close()
    expect(time.monotonic() - begun < _SLACK, f"closing takes too long while the server is {state}")
