"""Statements about persistent pages: what is refused, what a refusal leaves, and what acceptance promises."""

import signal

from tmem.client import Pool
from tmem.wire.errors import Closed, OutOfCapacity, QuotaExceeded, Refused
from tmem.wire.results import Code

from .expect import expect, refused, same
from .kit import statement
from .samples import noise, page, stamped
from .stage import Stage, fetch

_QUOTA = 128 << 10


def _fill(pool: Pool, obj: int = 7) -> int:
    """Puts pages of noise until one is refused; answers how many were stored."""
    for number in range(1 << 14):
        try:
            pool.put(obj, number, noise(number))
        except Refused:
            return number
    raise AssertionError("nothing is ever refused")


@statement(47, "A put at the quota is refused with its reason, and the pages stored before stay readable.")
def a_put_at_the_quota_is_refused(stage: Stage) -> None:
    pool = stage.pool(quota_bytes=_QUOTA)
    stored = _fill(pool)
    expect(16 <= stored <= _QUOTA // 4096, f"{stored} pages of noise fit into {_QUOTA} bytes")
    error = refused(lambda: pool.put(7, stored, noise(stored)), QuotaExceeded, what="a put at the quota")
    expect("QUOTA" in str(error), "the refusal does not name its reason")
    for number in range(stored):
        same(fetch(pool, 7, number), [noise(number)], f"page {number}, stored before the refusal")
    stat = pool.stat()
    same(stat.pages, stored, "pages")
    expect(stat.payload_bytes + stat.index_bytes <= _QUOTA, "the pool holds more than its quota")


@statement(48, "After a refusal a flush or a take of some pages makes puts succeed again.")
def room_that_was_made_is_used(stage: Stage) -> None:
    pool = stage.pool(quota_bytes=_QUOTA)
    stored = _fill(pool)
    for number in range(4):
        pool.flush(7, number)
    pool.put(8, 0, noise(1000))
    fetch(pool, 7, 4, take=True)
    fetch(pool, 7, 5, take=True)
    pool.put(8, 1, noise(1001))
    same(fetch(pool, 8, 0, 2), [noise(1000), noise(1001)], "the pages put after room was made")
    same(fetch(pool, 7, 6), [noise(6)], "a page from before")
    same(fetch(pool, 7, stored - 1), [noise(stored - 1)], "the last page from before")


@statement(49, "A refusal for one client's quota stops no other client that is below its own.")
def one_quota_is_nobody_elses(stage: Stage) -> None:
    full = stage.pool(quota_bytes=_QUOTA)
    mine = stage.pool(quota_bytes=_QUOTA)
    theirs = stage.pool(client=stage.second, quota_bytes=_QUOTA)
    _fill(full)
    refused(lambda: full.put(9, 0, noise(9)), QuotaExceeded, what="a put at the quota")
    for pool in (mine, theirs):
        pool.put(7, 0, noise(1))
        same(fetch(pool, 7, 0), [noise(1)], "a page of another, who is below its quota")


@statement(50, "A refused put of a new page leaves no object, and no charge.")
def a_refused_put_leaves_nothing(stage: Stage) -> None:
    pool = stage.pool(quota_bytes=_QUOTA)
    _fill(pool)
    before = pool.stat()
    refused(lambda: pool.put(900, 3, noise(1)), QuotaExceeded, what="a put at the quota")
    refused(lambda: pool.put(901, 0, b"".join(map(noise, range(64)))), QuotaExceeded, what="an extent at the quota")
    refused(lambda: pool.put_page_sync(902, 0, noise(2)), QuotaExceeded, what="a unary put at the quota")
    after = pool.stat()
    for name in ("pages", "objects", "blocks", "payload_bytes", "index_bytes"):
        same(getattr(after, name), getattr(before, name), f"{name} after refused puts")
    for obj, index in ((900, 3), (901, 0), (901, 63), (902, 0)):
        same(stage.held(pool, obj, index), Code.MISS, "a page whose put was refused")


@statement(
    51,
    "A put that was accepted is kept: its get succeeds until flush, take, the pool's end or the client's; not only until eviction, a freeze, "
    "a drain, or a restart of a server that writes it down.",
)
def what_was_accepted_is_kept(stage: Stage) -> None:
    journal = stage.directory() / "journal"
    own = stage.own("--memory-limit", "8MiB", "--journal", str(journal), fresh=True)
    client = own.client()
    pool = own.pool(client=client, durability="disk")
    pages = [page(number) for number in range(200)]
    for number in range(0, 200, 20):
        pool.put(7, number, b"".join(pages[number : number + 20]))

    def all_there(when: str) -> None:
        same(fetch(pool, 7, 0, 200), list(pages), f"the pages {when}")

    all_there("at once")
    cache = own.pool("ephemeral", client=client)
    for number in range(3000):
        cache.put(8, number, stamped(number))
    expect(cache.stat().evicted, "nothing was evicted")
    all_there("after others were evicted")
    pool.freeze()
    all_there("while the pool is frozen")
    pool.thaw()
    own.kill()
    own.restart()
    all_there("after kill -9 and a restart")
    own.signal(signal.SIGTERM)
    same(own.daemon.wait(), 0, "the exit status of a drained server")
    own.restart()
    all_there("after a drain and a restart")
    pool.flush(7, 0)
    same(fetch(pool, 7, 0, 2), [Code.MISS, pages[1]], "the pages after a flush of the first")
    fetch(pool, 7, 1, take=True)
    same(fetch(pool, 7, 1, 2), [Code.MISS, pages[2]], "the pages after a take")
    pool.destroy()
    refused(lambda: fetch(pool, 7, 2), Closed, what="a get of a pool that was destroyed")


@statement(52, "A persistent pool shrunk below what it holds loses no page: only new puts are refused.")
def shrinking_drops_nothing(stage: Stage) -> None:
    pool = stage.pool()
    for number in range(40):
        pool.put(7, number, noise(number))
    pool.resize(quota_bytes=8192)
    same(pool.stat().pages, 40, "pages after shrinking")
    refused(lambda: pool.put(7, 99, noise(99)), QuotaExceeded, what="a put into the shrunk pool")
    for number in range(40):
        same(fetch(pool, 7, number), [noise(number)], f"page {number} after shrinking")
    pool.flush(7, 0, 39)
    pool.put(7, 0, page(0))
    same(fetch(pool, 7, 0), [page(0)], "a page put once the pool is below its quota again")
    if not stage.endpoint.named:
        own = stage.own("--memory-limit", "4MiB")
        full = own.pool()
        stored = _fill(full)
        refused(lambda: full.put(9, 0, noise(9)), OutOfCapacity, what="a put into a full memory")
        for number in range(0, stored, 10):
            same(fetch(full, 7, number), [noise(number)], f"page {number} in a full memory")
