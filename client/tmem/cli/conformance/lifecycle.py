"""Statements about freezing, saving, and the end of clients."""

import time
from pathlib import Path

from tmem.cli.scrape import total
from tmem.client import Pool
from tmem.wire.errors import InvalidRequest, PoolFrozen
from tmem.wire.limits import BLOCK_PAGES, MAX_INDEX
from tmem.wire.results import Code

from .expect import CannotRun, Violation, expect, refused, same
from .kit import statement
from .plain import ref_of
from .samples import noise, page, stamped
from .stage import Own, Stage, fetch

A, B = page(1), page(4)
_WAIT_SECONDS = 20.0


def _frozen(stage: Stage) -> Pool:
    """A frozen pool with pages 0 to 9 of object 7."""
    pool = stage.pool()
    pool.put(7, 0, b"".join(map(page, range(10))))
    pool.freeze()
    expect(pool.info().frozen, "the pool does not say that it is frozen")
    return pool


@statement(60, "In a frozen pool a put of a new page is refused, and says why.")
def a_frozen_pool_takes_nothing(stage: Stage) -> None:
    pool = _frozen(stage)
    error = refused(lambda: pool.put(7, 10, A), PoolFrozen, what="a put into a frozen pool")
    expect("FROZEN" in str(error), "the refusal does not name its reason")
    refused(lambda: pool.put_page_sync(8, 0, A), PoolFrozen, what="a unary put into a frozen pool")
    for obj, index in ((7, 10), (8, 0)):
        same(stage.held(pool, obj, index), Code.MISS, "a page whose put was refused")
    same(pool.stat().pages, 10, "pages")


@statement(61, "In a frozen pool a put over a page is refused, and the old page is gone.", added=True)
def a_frozen_pool_gives_up_the_old_page(stage: Stage) -> None:
    pool = _frozen(stage)
    refused(lambda: pool.put(7, 3, A), PoolFrozen, what="a put over a page of a frozen pool")
    same(stage.held(pool, 7, 3), Code.MISS, "the old page")
    same(fetch(pool, 7, 2, 3), [page(2), Code.MISS, page(4)], "the page between its neighbours")


@statement(62, "In a frozen pool gets and flushes work on, and pools can still be made and destroyed.")
def a_frozen_pool_works_on(stage: Stage) -> None:
    pool = _frozen(stage)
    same(fetch(pool, 7, 0, 10), [page(number) for number in range(10)], "the pages of a frozen pool")
    same(pool.flush(7, 0), 1, "found by a flush")
    same(fetch(pool, 7, 1, take=True), [page(1)], "a take")
    same(fetch(pool, 7, 0, 3), [Code.MISS, Code.MISS, page(2)], "the pages after a flush and a take")
    other = stage.pool()
    other.put(7, 0, B)
    same(fetch(other, 7, 0), [B], "a page of another pool, made meanwhile")
    same(other.destroy(), 1, "pages of the other pool")
    same(pool.destroy(), 8, "pages of the frozen pool")


@statement(63, "After the thaw puts are taken again.")
def a_thawed_pool_takes_puts(stage: Stage) -> None:
    pool = _frozen(stage)
    refused(lambda: pool.put(7, 3, A), PoolFrozen, what="a put into a frozen pool")
    pool.thaw()
    expect(not pool.info().frozen, "the pool says that it is frozen")
    pool.put(7, 3, A)
    pool.put(7, 10, B)
    same(fetch(pool, 7, 3), [A], "a page put after the thaw")
    same(fetch(pool, 7, 10), [B], "a page put after the thaw")


@statement(
    64,
    "Saved and restored elsewhere, every persistent page is there with the same bytes, the first and the last too; ephemeral ones are not; pools keep their numbers.",
)
def saved_pools_are_restored(stage: Stage) -> None:
    directory = stage.directory()
    journal = directory / "here"
    own = stage.own("--journal", str(journal), fresh=True)
    client = own.client()
    stage_pools = [own.pool(client=client, durability="disk") for _ in range(3)]
    cache = own.pool("ephemeral", client=client)
    cache.put(7, 0, A)
    kept = stage_pools[1]
    where = [(0, 0), (7, 0), (7, BLOCK_PAGES - 1), (7, BLOCK_PAGES), (7, MAX_INDEX), ((1 << 192) - 1, MAX_INDEX)]
    for number, (obj, index) in enumerate(where):
        kept.put(obj, index, page(number))
    kept.put(9, 0, b"".join(map(page, range(BLOCK_PAGES))))
    kept.put(9, 100, noise(1))
    kept.flush(9, 200)
    numbers = [(pool.name, pool.pool_id) for pool in stage_pools]
    tokens = {pool.name: (pool.token, pool.epoch) for pool in stage_pools}
    _snapshot(stage, own, kept, cache, directory / "pool.tmem", where)
    # Elsewhere: what the server wrote down, moved, under another server at another address.
    client.close()
    own.daemon.close()
    own.spoilt = True
    journal.rename(directory / "there")
    moved = stage.own("--journal", str(directory / "there"), fresh=True)
    other = moved.client()
    same(sorted((pool.name, pool.pool_id) for pool in other.pools()), sorted(numbers), "pools and their numbers")
    back = other.open_pool(kept.name, *tokens[kept.name])
    expect(not back.incomplete, "the pool says that it is incomplete")
    _check_restored(back, where)
    same(back.stat().pages, len(where) + BLOCK_PAGES - 1, "pages restored")


def _check_restored(pool: Pool, where: list[tuple[int, int]]) -> None:
    for number, (obj, index) in enumerate(where):
        same(fetch(pool, obj, index), [page(number)], f"page {index} of object {obj:#x}, restored")
    wanted = [page(number) for number in range(BLOCK_PAGES)]
    wanted[100] = noise(1)
    found = fetch(pool, 9, 0, BLOCK_PAGES)
    same(found[200], Code.MISS, "a page that was flushed before it was saved")
    same(found[:200] + found[201:], [*wanted[:200], *wanted[201:]], "a block, restored")


def _snapshot(stage: Stage, own: Own, kept: Pool, cache: Pool, file: Path, where: list[tuple[int, int]]) -> None:
    """A pool to a file and back on another server: what `tmem snapshot` does."""
    from click.testing import CliRunner

    from tmem.cli.snapshot import snapshot

    runner = CliRunner()
    refused(lambda: list(own.client().export_pool(cache.pool_id)), InvalidRequest, what="saving an ephemeral pool")
    done = runner.invoke(snapshot, ["export", kept.name, str(file), "--target", own.target], catch_exceptions=False)
    same(done.exit_code, 0, f"the exit status of a snapshot ({done.output.strip()})")
    elsewhere = stage.own()
    client = elsewhere.client()
    arguments = ["import", str(file), "--target", elsewhere.target, "--durability", "memory", "--json"]
    done = runner.invoke(snapshot, arguments, catch_exceptions=False)
    same(done.exit_code, 0, f"the exit status of an import ({done.output.strip()})")
    import json

    made = json.loads(done.stdout)
    pool = client.open_pool(made["pool"], bytes.fromhex(made["token"]))
    stage.at_end(pool.destroy)
    _check_restored(pool, where)
    same([info.kind for info in client.pools()], ["persistent"], "kinds of pools on the other server")


@statement(65, "A page flushed after it was copied to another server, and before that one takes over, is not there.")
def flushed_pages_are_not_moved(stage: Stage) -> None:
    raise CannotRun(f"no server moves its pages to another one yet ({type(stage).__name__} has nothing to drain to)")


@statement(66, "A client that is gone gives the memory of all its private pools back, and nobody else is touched.")
def a_client_that_is_gone_leaves_nothing(stage: Stage) -> None:
    own = stage.own(
        *("--session-timeout-seconds", "1", "--heartbeat-interval-seconds", "0.2"),
        *("--persistent-grace-seconds", "0.5", "--ephemeral-grace-seconds", "0.5"),
        fresh=True,
    )
    stays = own.client()
    kept = own.pool(client=stays)
    kept.put(7, 0, A)
    goes = own.client()
    gone = [own.pool(kind, client=goes) for kind in ("persistent", "ephemeral")]
    for pool in gone:
        pool.put(7, 0, b"".join(map(page, range(100))))
    refs = [ref_of(pool) for pool in gone]
    same(total(own.samples(), "tmem_pages"), 201, "pages while both are there")
    goes.close()
    deadline = time.monotonic() + _WAIT_SECONDS
    while len(stays.pools()) > 1:
        if time.monotonic() > deadline:
            raise Violation("the pools of a client that is gone are still there")
        time.sleep(0.05)
    stat = kept.stat()
    samples = own.samples()
    same(total(samples, "tmem_pages"), 1, "pages after the client is gone")
    for name, held in (("payload_bytes", stat.payload_bytes), ("index_bytes", stat.index_bytes)):
        same(total(samples, f"tmem_{name}"), held, f"{name} of all, beside those of the pool that is left")
    same(fetch(kept, 7, 0), [A], "a page of the client that stays")
    plain = stage.plain_at(own)
    for ref in refs:
        same(Code(plain.get(ref, 7, 0).code), Code.REFUSED, "a get in a pool that has ended")


@statement(
    67,
    "Asked to give memory back, the server frees at least the lesser of what it is asked for and what it can spare; persistent pages stay.",
)
def memory_is_given_back_when_asked(stage: Stage) -> None:
    kept, cache, shared = stage.pool(), stage.pool("ephemeral"), stage.pool("shared")
    client = stage.first
    if client.freeable_bytes() and stage.endpoint.named:
        raise CannotRun("this tenant has ephemeral pages of its own there, and they would go")
    for number in range(200):
        kept.put(7, number, noise(number))
        cache.put(7, number, stamped(number))
        shared.put(7, number, stamped(number))

    def used(*pools: Pool) -> int:
        return sum(pool.stat().payload_bytes + pool.stat().index_bytes for pool in pools)

    freeable = client.freeable_bytes()
    same(freeable, used(cache, shared), "what can be spared: payload and index of the ephemeral pools")
    wanted = 300_000
    freed = client.reclaim(wanted)
    left = used(cache, shared)
    expect(freed >= wanted, f"{freed} bytes were freed of {wanted} that were asked for")
    same(freeable - left, freed, "what the pools hold less")
    expect(left, "all went, where a part was asked for")
    same(stage.held(cache, 7, 0), Code.MISS, "the oldest ephemeral page")
    expect(stage.held(cache, 7, 199) == stamped(199) or not cache.stat().pages, "the youngest went before the oldest")
    same(client.reclaim(1 << 40), left, "freed when more is asked for than there is")
    same(client.freeable_bytes(), 0, "what can be spared then")
    same((cache.stat().pages, shared.stat().pages), (0, 0), "ephemeral pages")
    for number in range(200):
        same(fetch(kept, 7, number), [noise(number)], f"persistent page {number}")
    cache.put(7, 0, A)
    same(fetch(cache, 7, 0), [A], "a page put afterwards")
    stranger = stage.own().client() if not stage.endpoint.named else None
    if stranger is not None:
        same(stranger.freeable_bytes(), 0, "what an empty server can spare")
