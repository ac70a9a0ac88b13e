"""Statements about batches and extents: each item has a result of its own, and a page is a page however it was put."""

import grpc

from tmem.cli.scrape import total
from tmem.client import GetResult
from tmem.wire.errors import OutOfCapacity, PoolFrozen, QuotaExceeded
from tmem.wire.limits import BLOCK_PAGES
from tmem.wire.results import Code, Reason

from .expect import Seen, expect, refused, same
from .kit import statement
from .plain import get_message, pages_of, put_message, refusals_of
from .samples import extent_of, noise, page, stamped, text
from .stage import Stage, fetch


@statement(
    85,
    "A batch of puts leaves what the same puts leave one by one; each item has its own result, and one refusal fails no other.",
    added=True,
)
def a_batch_is_its_puts(stage: Stage) -> None:
    items = [(obj, index, page(obj * 10 + index)) for obj in range(5) for index in (0, 1, 511, 512)]
    items += [(1, 1, page(90)), (2, 512, page(91))]  # over pages of the same batch
    one_by_one, batched = stage.pool(), stage.pool()
    for item in items:
        one_by_one.put(*item)
    with batched.batch() as batch:
        puts = [batch.put(*item) for item in items]
    expect(all(put.stored for put in puts), "an item was not stored")
    for obj, index, _ in items:
        same(fetch(batched, obj, index), fetch(one_by_one, obj, index), f"page {index} of object {obj}")
    for name in ("pages", "objects", "blocks"):
        same(getattr(batched.stat(), name), getattr(one_by_one.stat(), name), name)
    # One message, one item too large for the quota.
    plain = stage.plain()
    ref = stage.plain_pool(plain, quota_bytes=128 << 10)
    extents = [(1, 0, noise(1)), (2, 0, b"".join(map(noise, range(64)))), (3, 0, noise(3)), (4, 0, noise(4) + noise(5))]
    stream = plain.exchange(ref)
    answer = stream.ask(put_message(ref, extents, 1)).put
    same([Code(code) for code in answer.codes], [Code.STORED, Code.REFUSED, Code.STORED, Code.STORED], "the results")
    same(refusals_of(answer, 4)[1], Reason.QUOTA, "why the second was refused")
    for obj, index, wanted in ((1, 0, noise(1)), (2, 0, Code.MISS), (3, 0, noise(3)), (4, 1, noise(5))):
        same(plain.look(ref, obj, index), wanted, f"page {index} of item {obj}")
    stream.close()


@statement(86, "Of two puts of one handle in a batch the later wins.", added=True)
def the_later_item_wins(stage: Stage) -> None:
    pool = stage.pool()
    with pool.batch() as batch:
        puts = [batch.put(7, 0, page(seed)) for seed in range(6)]
        puts.append(batch.put(8, 0, extent_of(0, 16)))
        puts.append(batch.put(8, 3, page(50)))
    expect(all(put.stored for put in puts), "an item was not stored")
    same(fetch(pool, 7, 0), [page(5)], "the page put six times")
    same(stage.held(pool, 7, 0), page(5), "the page put six times, on the server")
    wanted = [page(seed) for seed in range(16)]
    wanted[3] = page(50)
    same(fetch(pool, 8, 0, 16), list(wanted), "the extent, one page of which was put again")
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    stream = plain.exchange(ref)
    answer = stream.ask(put_message(ref, [(7, 0, noise(1)), (7, 0, noise(2)), (7, 0, noise(3))], 1)).put
    same(list(answer.codes), [], "the results of one message")
    same(plain.look(ref, 7, 0), noise(3), "the page put three times in one message")
    stream.close()


@statement(
    87,
    "A page put as part of an extent is got alone, and pages put alone as an extent, which says which of them are absent.",
    added=True,
)
def extents_are_pages(stage: Stage) -> None:
    pool = stage.pool()
    pages = [page(seed) for seed in range(BLOCK_PAGES)]
    pool.put(1, 0, b"".join(pages))
    for index in range(BLOCK_PAGES):
        same(fetch(pool, 1, index), [pages[index]], f"page {index} of an extent, got alone")
    with pool.batch() as batch:
        puts = [batch.put(2, index, pages[index]) for index in range(BLOCK_PAGES)]
    expect(all(put.stored for put in puts), "a page was not stored")
    same(fetch(pool, 2, 0, BLOCK_PAGES), list(pages), "pages put alone, got as an extent")
    wanted: list[Seen] = list(pages)
    for index in (0, 5, 6, 17, 511):
        pool.flush(2, index)
        wanted[index] = Code.MISS
    same(fetch(pool, 2, 0, BLOCK_PAGES), wanted, "the same with some absent")
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    stream = plain.exchange(ref)
    stream.ask(put_message(ref, [(7, 1, noise(1)), (7, 4, noise(4) + noise(5))], 1))
    seen = pages_of(stream.ask(get_message(ref, 7, 0, 7)), 7)
    miss = Code.MISS
    same(seen, [miss, noise(1), miss, miss, noise(4), noise(5), miss], "an extent with holes, on the wire")
    stream.close()


@statement(88, "A flush or an overwrite of one page inside an extent changes that page alone.", added=True)
def one_page_of_an_extent_changes_alone(stage: Stage) -> None:
    pool = stage.pool()
    wanted: list[Seen] = [page(seed) for seed in range(BLOCK_PAGES)]
    pool.put(7, 0, extent_of(0, BLOCK_PAGES))
    for turn, index in enumerate((3, 100, 511, 0, 16, 15, 3)):
        if turn % 2:
            pool.flush(7, index)
            wanted[index] = Code.MISS
        else:
            pool.put(7, index, stamped(turn))
            wanted[index] = stamped(turn)
        same(fetch(pool, 7, 0, BLOCK_PAGES), wanted, f"the extent after page {index} was changed")
    same(pool.stat().pages, sum(isinstance(seen, bytes) for seen in wanted), "pages")


@statement(89, "Of an extent whose put was refused no page is readable, old or new.", added=True)
def a_refused_extent_leaves_no_page(stage: Stage) -> None:
    old, new = extent_of(0, 64), b"".join(map(noise, range(100, 196)))
    pools = [stage.pool(), stage.pool()]
    for pool in pools:
        pool.put(7, 20, old)
        pool.put(7, 300, page(1))
    pools[0].freeze()
    refused(lambda: pools[0].put(7, 0, new), PoolFrozen, what="an extent into a frozen pool")
    pools[1].resize(quota_bytes=64 << 10)
    refused(lambda: pools[1].put(7, 0, new), QuotaExceeded, what="an extent over the quota")
    if not stage.endpoint.named:
        own = stage.own("--memory-limit", "4MiB")
        full = own.pool()
        full.put(7, 20, old)
        full.put(7, 300, page(1))
        for number in range(1 << 12):
            try:
                full.put(9, number * 32, b"".join(noise(number * 32 + n) for n in range(32)))
            except OutOfCapacity:
                break
        refused(lambda: full.put(7, 0, new), OutOfCapacity, what="an extent into a full memory")
        pools.append(full)
    for pool in pools:
        same(fetch(pool, 7, 0, 96), [Code.MISS] * 96, "the refused extent")
        for index in (0, 20, 50, 83, 95):
            same(stage.held(pool, 7, index), Code.MISS, f"page {index} of the refused extent, on the server")
        same(fetch(pool, 7, 300), [page(1)], "a page outside")


@statement(90, "A take of one page of an ephemeral extent removes that page alone.", added=True)
def a_take_removes_one_page(stage: Stage) -> None:
    pool = stage.pool("ephemeral")
    pool.put(7, 0, extent_of(0, 64))
    same(fetch(pool, 7, 20), [page(20)], "the page that is taken")
    wanted: list[Seen] = [page(seed) for seed in range(64)]
    wanted[20] = Code.MISS
    same(stage.held(pool, 7, 20), Code.MISS, "the page that was taken, on the server")
    same(fetch(pool, 7, 0, 64, take=False), wanted, "the rest")
    same(pool.stat().pages, 63, "pages")


@statement(
    91,
    "A client that knows only single pages reads every page of an extent, and each time that is counted.",
    added=True,
)
def single_pages_are_a_fallback(stage: Stage) -> None:
    before = stage.samples()
    pool = stage.pool()
    pages = [text(seed) for seed in range(BLOCK_PAGES)]
    pool.put(7, 0, b"".join(pages))
    chunk = pool.explain(7, 0).chunk_pages
    for index in range(BLOCK_PAGES):
        same(stage.held(pool, 7, index), pages[index], f"page {index} by the unary call")
    expanded = total(stage.samples(), "tmem_expanded_pages_total") - total(before, "tmem_expanded_pages_total")
    expect(chunk == 1 or expanded >= BLOCK_PAGES, f"{expanded:.0f} of {BLOCK_PAGES} fallbacks were counted")


@statement(
    92,
    "After a stream broke, items whose answer said that they were stored are readable; those without an answer are there whole, or not at all.",
    added=True,
)
def a_broken_stream_tears_nothing(stage: Stage) -> None:
    plain = stage.plain()
    for turn in range(6):
        ref = stage.plain_pool(plain)
        stream = plain.exchange(ref)
        count, pages = 40, 8
        extents = [b"".join(stamped(number * 100 + page) for page in range(pages)) for number in range(count)]
        for number, extent in enumerate(extents):
            stream.send(put_message(ref, [(number, 0, extent)], number + 1, batch_id=number + 1))
        answered = set()
        for _ in range(turn * 4):
            answer = stream.receive().put
            same(list(answer.codes), [], "the result of a put")
            answered.add(answer.header.batch_id - 1)
        stream.cancel()
        after = plain.exchange(
            ref, session_id=stream.session_id
        )  # its granting ends whatever was left of the one before
        absent = 0
        for number, extent in enumerate(extents):
            seen = pages_of(after.ask(get_message(ref, number, 0, pages)), pages)
            if seen == [Code.MISS] * pages and number not in answered:
                absent += 1
                continue
            wanted = [extent[at : at + 4096] for at in range(0, len(extent), 4096)]
            same(seen, wanted, f"item {number}, {'answered' if number in answered else 'unanswered'}")
        expect(absent <= count - len(answered), "more is absent than was unanswered")
        try:
            after.close()
        except grpc.RpcError:
            continue


@statement(
    93,
    "Taking is a get and then a flush of exactly what it returned: without the flush the page is there; the flush twice, late, or after a newer put is harmless.",
    added=True,
)
def takes_are_acknowledged(stage: Stage) -> None:
    pool = stage.pool("ephemeral")

    def take(obj: int, wanted: bytes) -> GetResult:
        place = bytearray(len(wanted))
        with pool.batch() as batch:
            result = batch.get_into(obj, 0, place, True)
        same((result.hit, bytes(place)), (True, wanted), "what a take returns")
        return result

    for obj in range(3):
        pool.put(obj, 0, page(obj))
    first = take(0, page(0))
    same(stage.held(pool, 0, 0), page(0), "the page before the acknowledgement")
    again = take(0, page(0))
    first.ack()
    same(stage.held(pool, 0, 0), Code.MISS, "the page after it")
    first.ack()
    again.ack()
    same(stage.held(pool, 0, 0), Code.MISS, "the page after it was acknowledged three times")
    older = take(1, page(1))
    pool.put(1, 0, page(9))
    older.ack()
    same(stage.held(pool, 1, 0), page(9), "a page put between take and acknowledgement")
    late = take(2, page(2))
    for obj in range(10, 60):
        pool.put(obj, 0, page(obj))
    late.ack()
    same(stage.held(pool, 2, 0), Code.MISS, "a page acknowledged late")
    same(pool.stat().pages, 51, "pages at the end")


@statement(94, "Stored bytes that went bad are CORRUPT: never other bytes, never a miss.", added=True)
def bad_bytes_are_corrupt(stage: Stage) -> None:
    own = stage.own("--layer", "faulty:get_corrupt=1,seed=3")
    for kind in ("persistent", "ephemeral"):
        pool = own.pool(kind)
        for obj, plain in enumerate((noise(1), text(2), b"".join(map(text, range(16))), bytes(4096))):
            pool.put(obj, 0, plain)
            pages = len(plain) // 4096
            for _ in range(3):
                seen = fetch(pool, obj, 0, pages, take=False)
                wanted = [plain[at : at + 4096] for at in range(0, len(plain), 4096)]
                expect(Code.CORRUPT in seen, f"{seen} of a chunk with a flipped bit")
                for found, good in zip(seen, wanted, strict=True):
                    expect(found in (Code.CORRUPT, good), "other bytes were answered than were put")
            if pages == 1:
                place = bytearray(b"\xee" * 4096)
                result = pool.get_page_sync(obj, 0, place)
                same((result.pages, bytes(place)), ([Code.CORRUPT], bytes(4096)), "the unary call")
        same(pool.stat().pages, 19, "pages: what is corrupt is not removed for that")
