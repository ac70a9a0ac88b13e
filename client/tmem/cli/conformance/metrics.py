"""Statements about accounts: every counter is there and adds up, and nothing is left when nothing is held."""

import time

from tmem.cli.scrape import total
from tmem.client import Client, Pool
from tmem.wire.errors import PoolFrozen, QuotaExceeded
from tmem.wire.limits import BLOCK_PAGES

from .expect import Violation, expect, refused, same
from .gauges import leftovers
from .kit import statement
from .samples import extent_of, noise, page, same_filled, text
from .stage import Own, Stage, fetch

_COUNTERS = (
    *("tmem_put_pages_total", "tmem_put_replaced_pages_total", "tmem_put_dropped_pages_total", "tmem_put_bytes_total"),
    *("tmem_put_raw_pages_total", "tmem_put_same_filled_pages_total", "tmem_get_pages_total", "tmem_get_bytes_total"),
    *("tmem_flush_pages_total", "tmem_flush_objects_total", "tmem_flush_object_pages_total"),
    *("tmem_evicted_pages_total", "tmem_extents_total", "tmem_expanded_pages_total", "tmem_left_pages_total"),
    *("tmem_pages", "tmem_objects", "tmem_payload_bytes", "tmem_tenant_pages_max"),
)
_WAIT_SECONDS = 20.0


def _use(own: Own, client: Client) -> tuple[int, list[Pool]]:
    """A little of everything; answers how many pages are held at the end, and the pools."""
    pool = own.pool(client=client, quota_bytes=4 << 20)
    pool.put(1, 0, extent_of(0, BLOCK_PAGES))
    pool.put(1, 3, page(9))  # over a page
    pool.put(2, 0, noise(1))
    pool.put(2, 1, same_filled(7))
    pool.put_page_sync(2, 2, text(3))
    fetch(pool, 1, 0, BLOCK_PAGES)
    fetch(pool, 1, 5)
    own_held = 512 + 3
    pool.freeze()
    refused(lambda: pool.put(2, 0, noise(2)), PoolFrozen, what="a put into a frozen pool")
    own_held -= 1
    pool.thaw()
    pool.resize(quota_bytes=1)
    refused(lambda: pool.put(3, 0, noise(2)), QuotaExceeded, what="a put over the quota")
    pool.resize(quota_bytes=0)
    same(pool.flush(1, 0, 10), 10, "found by a flush")
    own_held -= 10
    cache = own.pool("ephemeral", client=client)
    cache.put(7, 0, page(1))
    fetch(cache, 7, 0)
    fetch(cache, 7, 0)
    pool.put(9, 0, extent_of(3, 20))
    same(pool.flush_object(9), 20, "found by a flush of an object")
    return own_held, [pool, cache]


@statement(
    95,
    "Every counter is there, and they add up: puts are stored or refused, gets hit, miss or fail, and what is held is what was stored less what went.",
)
def counters_add_up(stage: Stage) -> None:
    own = stage.own("--memory-limit", "16MiB", fresh=True)
    client = own.client()
    held, _ = _use(own, client)
    samples = own.samples()
    for name in _COUNTERS:
        expect(any(sample.partition("{")[0] == name for sample in samples), f"there is no metric {name}")
    for labels in ({"reason": "frozen"}, {"reason": "quota"}):
        same(total(samples, "tmem_put_pages_total", result="refused", **labels), 1, f"puts refused {labels}")
    same(total(samples, "tmem_pages"), held, "pages held")
    same(total(samples, "tmem_tenant_pages_max"), held, "pages of the tenant that has most")
    stored = total(samples, "tmem_put_pages_total", result="stored")
    gone = sum(
        total(samples, name)
        for name in (
            *("tmem_put_replaced_pages_total", "tmem_put_dropped_pages_total", "tmem_flush_object_pages_total"),
            *("tmem_evicted_pages_total", "tmem_left_pages_total"),
        )
    ) + total(samples, "tmem_flush_pages_total", result="found")
    same(stored - gone, held, "pages stored less pages that went")
    # Of each pool by itself, too.
    for info in client.pools():
        stat = client.stat_pool(info.pool_id)
        same(
            total(samples, "tmem_put_pages_total", pool=f"{info.owner}/{info.name}"),
            stat.puts_stored + stat.puts_refused,
            f"puts of {info.kind} pool",
        )
        same(
            total(samples, "tmem_get_pages_total", pool=f"{info.owner}/{info.name}"),
            stat.gets_hit + stat.gets_missed + stat.gets_failed,
            f"gets of {info.kind} pool",
        )
    same(total(samples, "tmem_put_pages_total"), 512 + 1 + 3 + 1 + 1 + 1 + 20, "pages put")
    expect(total(samples, "tmem_put_bytes_total") > 0, "no bytes were counted")
    expect(total(samples, "tmem_put_raw_pages_total") >= 1, "no page that does not shrink was counted")


@statement(96, "When all pools are gone every gauge of pages, objects and bytes is 0.")
def nothing_is_left(stage: Stage) -> None:
    for flags in (("--memory-limit", "4MiB"), ("--memory-limit", "64MiB")):
        own = stage.own(*flags, fresh=True)
        client = own.client()
        _, used = _use(own, client)
        pools = [own.pool(kind, client=client) for kind in ("persistent", "ephemeral", "shared")]
        for pool in pools[1:]:
            for number in range(1500):
                pool.put(7, number, noise(number))
        pools[0].put(7, 0, extent_of(0, BLOCK_PAGES))
        pools[0].flush(7, 0, 100)
        for pool in (*used, *pools):
            pool.destroy()
        # The memory of a pool that has ended comes back in steps.
        deadline = time.monotonic() + _WAIT_SECONDS
        while left := leftovers(own.samples(), sessions=False):
            if time.monotonic() > deadline:
                raise Violation(f"after all pools are gone: {left}")
            time.sleep(0.05)
