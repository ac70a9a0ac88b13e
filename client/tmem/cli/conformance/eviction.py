"""Statements about ephemeral pages in a full memory: who gives, in what order, and what nobody ever sees."""

from tmem.client import Pool
from tmem.v1 import pools_pb2
from tmem.v1.common_pb2 import ObjectId
from tmem.wire.results import Code

from .expect import expect, same
from .kit import statement
from .plain import Plain, get_message, ref_of
from .samples import PAGE_BYTES, noise, stamped
from .stage import Stage, fetch

_LIMIT = ("--memory-limit", "4MiB")
_PAGES = 1 << 10  # of noise that fill this


def _put_numbered(pool: Pool, numbers: range, obj: int = 7) -> None:
    """Each page alone, in order; raises what a put raises."""
    with pool.batch() as batch:
        puts = []
        for number in numbers:
            puts.append(batch.put(obj, number, stamped(number)))
            batch.submit()
    for number, put in zip(numbers, puts, strict=True):
        expect(put.stored, f"page {number}, of an ephemeral pool, was not stored: {put.error}")


def _present(pool: Pool, numbers: range, obj: int = 7) -> list[int]:
    """Which numbered pages are held; every one that is must be what was put."""
    held = []
    for first in range(numbers.start, numbers.stop, 512):
        count = min(512 - first % 512, numbers.stop - first)
        for number, seen in enumerate(fetch(pool, obj, first, count, take=False), first):
            if seen != Code.MISS:
                same(seen, stamped(number), f"page {number}")
                held.append(number)
    return held


@statement(40, "Ephemeral puts do not fail for want of memory while ephemeral pages can go.")
def ephemeral_puts_do_not_fail(stage: Stage) -> None:
    own = stage.own(*_LIMIT)
    for kind in ("ephemeral", "shared"):
        pool = own.pool(kind)
        _put_numbered(pool, range(3 * _PAGES))
        expect(pool.stat().evicted > _PAGES, "three times the memory was put, and little was evicted")
        same(pool.stat().puts_refused, 0, "refused puts")
        pool.destroy()


@statement(41, "Only ephemeral pages go: under any pressure every stored persistent page stays readable.")
def persistent_pages_never_go(stage: Stage) -> None:
    own = stage.own(*_LIMIT)
    client = own.client()
    kept = own.pool(client=client)
    caches = [own.pool("ephemeral", client=client), own.pool("shared", client=client)]
    for number in range(300):
        kept.put(7, number, noise(number))
        if number % 30 == 29:
            for cache in caches:
                _put_numbered(cache, range(_PAGES // 2))
    expect(all(cache.stat().evicted for cache in caches), "there was no pressure")
    for number in range(300):
        same(fetch(kept, 7, number), [noise(number)], f"persistent page {number}")
    same(kept.stat().evicted, 0, "evicted persistent pages")


@statement(42, "The oldest go first: with equal weights and no gets the earliest ephemeral pages vanish first.")
def the_oldest_go_first(stage: Stage) -> None:
    own = stage.own(*_LIMIT)
    pool = own.pool("ephemeral", take=False)
    _put_numbered(pool, range(2 * _PAGES))
    held = _present(pool, range(2 * _PAGES))
    expect(_PAGES // 2 < len(held) < 2 * _PAGES, f"{len(held)} of {2 * _PAGES} pages are held")
    same(held, list(range(2 * _PAGES - len(held), 2 * _PAGES)), "the pages that are held")


@statement(43, "A get makes a shared page young: older pages that nobody touched go before it.")
def gets_make_shared_pages_young(stage: Stage) -> None:
    own = stage.own(*_LIMIT)
    pool = own.pool("shared")
    _put_numbered(pool, range(600))
    touched = range(100, 110)
    for number in touched:
        same(fetch(pool, 7, number), [stamped(number)], f"page {number}")
    # Until some of the untouched that are younger have gone.
    for first in range(600, 4000, 50):
        _put_numbered(pool, range(first, first + 50))
        if not pool.explain(7, 300).held:  # a get would touch it
            break
    same([stage.held(pool, 7, number) for number in (0, 99, 110, 200)], [Code.MISS] * 4, "untouched older pages")
    same([stage.held(pool, 7, n) for n in touched], [stamped(n) for n in touched], "the pages that were touched")


def _shares(pools: tuple[Pool, Pool]) -> float:
    """How memory is divided after both have put without end, one over the other."""
    for turn in range(24):
        for pool in pools:
            _put_numbered(pool, range(turn * 128, turn * 128 + 128))
    used = [pool.stat().payload_bytes + pool.stat().index_bytes for pool in pools]
    expect(all(used), "one of them has nothing left")
    return used[0] / used[1]


@statement(44, "With weights of 3 and 1, both putting without end, their shares of memory tend to 3 to 1.")
def shares_follow_weights(stage: Stage) -> None:
    own = stage.own(*_LIMIT, tenants={"first": 3, "second": 1})
    heavy, light = own.client("first"), own.client("second")
    ratio = _shares((own.pool("ephemeral", client=heavy), own.pool("ephemeral", client=light)))
    expect(2.6 <= ratio <= 3.4, f"tenants of weights 3 and 1 hold {ratio:.2f} to 1")
    alone = stage.own(*_LIMIT)
    client = alone.client()
    pools = alone.pool("ephemeral", client=client, weight=3), alone.pool("ephemeral", client=client, weight=1)
    ratio = _shares(pools)
    expect(2.6 <= ratio <= 3.4, f"pools of weights 3 and 1 hold {ratio:.2f} to 1")


@statement(45, "Where nobody has a weight the oldest page of all goes, whoever put it.")
def without_weights_the_oldest_of_all_goes(stage: Stage) -> None:
    own = stage.own(*_LIMIT, tenants=True)
    pools = [own.pool("ephemeral", client=own.client(name), take=False) for name in ("first", "second")]
    # One puts three times as much as the other, in turn; page n of either is younger than all before.
    total = 2 * _PAGES
    for first in range(0, total, 64):
        _put_numbered(pools[0], range(first, first + 48))
        _put_numbered(pools[1], range(first + 48, first + 64))
    oldest = []
    for pool, begin, end in zip(pools, (0, 48), (48, 64), strict=True):
        held = _present(pool, range(total))
        put = [number for number in range(total) if begin <= number % 64 < end]
        same(held, put[len(put) - len(held) :], "the pages of one that are held")
        expect(held, "one of them has nothing left")
        oldest.append(held[0])
    # Ages are noted for every few pages together, so the two ends meet but nearly.
    expect(abs(oldest[0] - oldest[1]) <= 128, f"one's oldest page is {oldest[0]}, the other's {oldest[1]}")


@statement(46, "What was evicted can be read by nobody, by no call.")
def evicted_bytes_are_seen_by_nobody(stage: Stage) -> None:
    own = stage.own(*_LIMIT, tenants=True)
    marker = noise(46)[:64]
    secret = marker * (PAGE_BYTES // 64 - 1) + b"\x00" * 64
    theirs = own.pool("ephemeral", client=own.client("first"))
    for number in range(64):
        theirs.put(7, number, secret[:-8] + number.to_bytes(8, "little"))
    ours = own.pool("ephemeral", client=own.client("second"), take=False)
    _put_numbered(ours, range(2 * _PAGES))
    same(theirs.stat().pages, 0, "pages of the one who was evicted")
    plain = stage.plain_at(own, "second")
    for number in (0, 1, 63):
        for name, answer in _every_answer(plain, ours, number):
            expect(marker not in answer, f"a {name} answers another tenant's bytes")
    held = _present(ours, range(2 * _PAGES))
    expect(held, "nothing is held")


def _every_answer(plain: Plain, pool: Pool, number: int) -> list[tuple[str, bytes]]:
    """The bytes of every answer that may have pages in it."""
    ref = ref_of(pool)
    stream = plain.exchange()
    listing = plain.pools.ListPages(
        pools_pb2.ListPagesRequest(pool=ref, with_crc32c=True), metadata=plain.metadata, timeout=20
    )
    explain = pools_pb2.ExplainPageRequest(pool=ref, object=ObjectId(low=7), index=number)
    answers = [
        ("get", plain.get(ref, 7, number).SerializeToString()),
        ("get of an object that is not there", plain.get(ref, 8, number).SerializeToString()),
        ("streamed get", stream.ask(get_message(ref, 7, 0, 512)).SerializeToString()),
        ("listing", b"".join(part.SerializeToString() for part in listing)),
        ("explanation", plain.call(plain.pools.ExplainPage, explain).SerializeToString()),
        ("stat", plain.call(plain.pools.StatPool, pools_pb2.StatPoolRequest(pool=ref)).SerializeToString()),
    ]
    stream.close()
    return answers
