"""Statements about single pages: put, get, take, flush."""

from tmem.wire.results import Code

from .expect import expect, same
from .kit import statement
from .plain import flush_message, get_message, pages_of, ref_of
from .samples import page, stamped, text
from .stage import Stage, fetch

A, B, C = page(1), page(4), page(3)


@statement(14, "A page of a persistent pool is there after a get, and after the next.")
def persistent_pages_stay(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, A)
    for turn in range(3):
        same(fetch(pool, 7, 0), [A], f"get {turn + 1}")
        same(stage.held(pool, 7, 0), A, f"what the server holds after get {turn + 1}")


@statement(15, "A get of an ephemeral pool takes the page: the next one misses.")
def ephemeral_gets_take(stage: Stage) -> None:
    pool = stage.pool("ephemeral")
    pool.put(7, 0, A)
    same(fetch(pool, 7, 0), [A], "the first get")
    same(stage.held(pool, 7, 0), Code.MISS, "what the server holds after it")
    same(fetch(pool, 7, 0), [Code.MISS], "the second get")
    same(pool.stat().pages, 0, "pages held")


@statement(16, "A page of a shared pool is got by every member, and stays.")
def shared_pages_stay(stage: Stage) -> None:
    ours = stage.pool("shared")
    theirs = stage.another().join_pool(ours.uuid)
    ours.put(7, 0, A)
    for name, pool in (("the other member", theirs), ("its writer", ours), ("the other member again", theirs)):
        same(fetch(pool, 7, 0), [A], f"a get by {name}")
    theirs.leave()


@statement(17, "A persistent pool whose gets take gives each page once.")
def persistent_gets_can_take(stage: Stage) -> None:
    taking = stage.pool(take=True)
    taking.put(7, 0, A)
    same(fetch(taking, 7, 0), [A], "the first get of a pool whose gets take")
    same(stage.held(taking, 7, 0), Code.MISS, "what the server holds after it")
    same(fetch(taking, 7, 0), [Code.MISS], "the second")
    keeping = stage.pool()
    keeping.put(7, 0, A)
    same(fetch(keeping, 7, 0, take=True), [A], "a get that takes")
    same(stage.held(keeping, 7, 0), Code.MISS, "what the server holds after it")
    same(fetch(keeping, 7, 0), [Code.MISS], "the next")


@statement(18, "An ephemeral pool whose gets keep gives a page until it is evicted.")
def ephemeral_gets_can_keep(stage: Stage) -> None:
    pool = stage.pool("ephemeral", take=False)
    pool.put(7, 0, A)
    for turn in range(3):
        same(fetch(pool, 7, 0), [A], f"get {turn + 1}")
    same(stage.held(pool, 7, 0), A, "what the server holds")
    other = stage.pool("ephemeral")
    other.put(7, 0, B)
    same(fetch(other, 7, 0, take=False), [B], "a get that keeps")
    same(stage.held(other, 7, 0), B, "what the server holds after it")


@statement(19, "A get of what was never stored misses, makes no object, and changes no count of what is held.")
def gets_of_nothing_make_nothing(stage: Stage) -> None:
    for kind in ("persistent", "ephemeral", "shared"):
        pool = stage.pool(kind)
        pool.put(7, 0, A)
        before = pool.stat()
        same(fetch(pool, 9, 5), [Code.MISS], f"a get of nothing in a {kind} pool")
        for obj, index in ((9, 5), (7, 1), (7, 4096)):
            same(stage.held(pool, obj, index), Code.MISS, f"the server, asked for page {index} of object {obj}")
        after = pool.stat()
        for name in ("pages", "objects", "blocks", "payload_bytes", "index_bytes", "dead_bytes"):
            same(getattr(after, name), getattr(before, name), f"{name} of a {kind} pool after gets of nothing")


@statement(20, "A page put at one index is not found at another of the same object.")
def indices_do_not_run_together(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 1, A)
    for index in (0, 2, 513, 1 + (1 << 16), 1 + (1 << 31)):
        same(fetch(pool, 7, index), [Code.MISS], f"page {index}")
        same(stage.held(pool, 7, index), Code.MISS, f"page {index} on the server")
    same(fetch(pool, 7, 0, 3), [Code.MISS, A, Code.MISS], "the page between its neighbours")


@statement(21, "After a flush of a page its get misses, and its neighbours are untouched.")
def a_flush_removes_one_page(stage: Stage) -> None:
    for kind in ("persistent", "ephemeral"):
        pool = stage.pool(kind)
        for index in range(3):
            pool.put(7, index, page(index))
        same(pool.flush(7, 1), 1, "pages found by the flush")
        same(stage.held(pool, 7, 1), Code.MISS, "the flushed page on the server")
        same(fetch(pool, 7, 0, 3, take=False), [page(0), Code.MISS, page(2)], "the page between its neighbours")


@statement(22, "A flush of what is not there has no effect, and says that it found nothing.", added=True)
def flushes_of_nothing_find_nothing(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, A)
    same(pool.flush(7, 1), 0, "found by a flush of what was never stored")
    same(pool.flush(7, 0), 1, "found by the first flush")
    same(pool.flush(7, 0), 0, "found by the second flush")
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    for index in (0, 5, (1 << 32) - 1):
        answer = plain.flush(ref, 7, index, 1 + index)
        same((Code(answer.code), answer.found), (Code.FLUSHED, 0), "the server's answer to a flush of nothing")
    stream = plain.exchange(ref)
    flushed = stream.ask(flush_message(ref, 7, 0, 1 << 40, pages=512)).flush
    same((list(flushed.codes), list(flushed.found)), ([], [0]), "the answer to a streamed flush of nothing")
    stream.close()


@statement(23, "A flush of an object removes every index of it and nothing of others; a later put makes it again.")
def a_flush_of_an_object_removes_all_of_it(stage: Stage) -> None:
    pool = stage.pool()
    indices = (0, 1, 511, 512, 70_000, (1 << 32) - 1)
    for obj in (7, 8, 7 | 1 << 64):
        for index in indices:
            pool.put(obj, index, page(obj % 100 + index % 10))
    same(pool.flush_object(7), len(indices), "pages found")
    for index in indices:
        same(stage.held(pool, 7, index), Code.MISS, f"page {index} of the flushed object")
        same(fetch(pool, 7, index), [Code.MISS], f"page {index} of the flushed object")
        for obj in (8, 7 | 1 << 64):
            same(fetch(pool, obj, index), [page(obj % 100 + index % 10)], "a page of another object")
    pool.put(7, 1, B)
    same(fetch(pool, 7, 0, 2), [Code.MISS, B], "the object made again")


@statement(24, "A flush of an object that is not there has no effect, and says that it found nothing.")
def flushes_of_no_object_find_nothing(stage: Stage) -> None:
    pool = stage.pool()
    pool.put(7, 0, A)
    same(pool.flush_object(9), 0, "found")
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    answer = plain.flush_object(ref, 9, 1)
    same((Code(answer.code), answer.found), (Code.FLUSHED, 0), "the server's answer")
    same(fetch(pool, 7, 0), [A], "a page of another object")


@statement(25, "When the last page of an object goes, by a take, a flush or an eviction, the object is gone.")
def objects_go_with_their_last_page(stage: Stage) -> None:
    pool = stage.pool("ephemeral")
    for obj in range(1, 4):
        pool.put(obj, 0, page(obj))
        pool.put(obj, 600, page(obj))
    same(pool.stat().objects, 3, "objects")
    fetch(pool, 1, 0)
    same(pool.stat().objects, 3, "objects while a page of each is left")
    fetch(pool, 1, 600)
    same(pool.stat().objects, 2, "objects after the last page of one was taken")
    pool.flush(2, 0)
    pool.flush(2, 600)
    same(pool.stat().objects, 1, "objects after the last page of one was flushed")
    pool.flush_object(3)
    stat = pool.stat()
    same((stat.objects, stat.blocks, stat.pages), (0, 0, 0), "objects, blocks and pages at the end")
    if stage.endpoint.named:
        return  # the memory of somebody else's server is not to be filled
    own = stage.own("--memory-limit", "4MiB")
    full = own.pool("ephemeral")
    for obj in range(2000):
        full.put(obj, 0, stamped(obj))
    stat = full.stat()
    expect(stat.evicted, "nothing was evicted")
    same((stat.objects, stat.blocks), (stat.pages, stat.pages), "objects and blocks of one page, after evictions")


@statement(28, "Once a put has returned, changing the caller's buffer changes nothing that a get returns.")
def the_buffer_is_the_callers_again(stage: Stage) -> None:
    pool = stage.pool()
    for number, put in enumerate((pool.put, pool.put_page_sync)):
        buffer = bytearray(A)
        put(number, 0, buffer)
        buffer[:] = B
        same(fetch(pool, number, 0), [A], "the page, after its buffer was changed")
    large = bytearray(b"".join(map(text, range(512))))
    before = bytes(large)
    with pool.batch() as batch:
        put_result = batch.put(9, 0, large)
    large[:] = bytes(len(large))
    expect(put_result.stored, "the extent was not stored")
    same(b"".join(seen for seen in fetch(pool, 9, 0, 512) if isinstance(seen, bytes)), before, "an extent")
    # A get's buffer is the caller's too: what it does to it is no write.
    place = bytearray(len(A))
    pool.get_into(0, 0, place)
    place[:] = C
    same(fetch(pool, 0, 0), [A], "the page, after the buffer of a get was changed")


@statement(31, "After a miss every further get misses, until a put of that handle succeeds.")
def a_miss_stays_a_miss(stage: Stage) -> None:
    for kind in ("persistent", "ephemeral", "shared"):
        pool = stage.pool(kind)
        pool.put(7, 0, A)
        pool.flush(7, 0)
        for turn in range(4):
            same(fetch(pool, 7, 0), [Code.MISS], f"get {turn + 1} of a {kind} pool")
            same(stage.held(pool, 7, 0), Code.MISS, f"the server, asked {turn + 1} times")
        pool.put(7, 0, B)
        same(fetch(pool, 7, 0), [B], "the get after the put")


@statement(32, "Flushes between puts: the newer page is got, and nothing after the last flush.")
def flushes_between_puts(stage: Stage) -> None:
    pool = stage.pool()
    plain = stage.plain()
    pool.put(7, 0, A)
    pool.flush(7, 0)
    pool.put(7, 0, B)
    same(fetch(pool, 7, 0), [B], "the get after put, flush, put")
    same(plain.look(ref_of(pool), 7, 0), B, "what the server holds then")
    pool.flush(7, 0)
    same(fetch(pool, 7, 0), [Code.MISS], "the get after the last flush")
    same(plain.look(ref_of(pool), 7, 0), Code.MISS, "what the server holds then")
    own = stage.plain_pool(plain)
    stream = plain.exchange(own)
    same(pages_of(stream.ask(get_message(own, 7, 0)), 1), [Code.MISS], "a get on a fresh stream")
    stream.close()
