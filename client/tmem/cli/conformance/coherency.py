"""Statements about order: overwrites, refusals, races, late answers, and messages that are sent again."""

import threading
from collections.abc import Callable
from functools import partial

from tmem.client import Pool
from tmem.v1 import extents_pb2 as pb
from tmem.v1.common_pb2 import PoolRef
from tmem.wire.errors import (
    DeadlineExceeded,
    OutOfCapacity,
    PoolFrozen,
    QuotaExceeded,
    Refused,
    StoreFailed,
    TmemError,
)
from tmem.wire.results import Code, Reason

from .expect import Seen, expect, refused, same
from .kit import statement
from .plain import flush_message, get_message, pages_of, put_message, refusals_of
from .samples import PAGE_BYTES, noise, stamped, text
from .stage import Own, Stage, fetch

A, B, C = text(1), text(2), noise(3)


@statement(29, "A put over a put: the get answers the newer page, never the older.")
def the_newer_page_is_got(stage: Stage) -> None:
    pool = stage.pool()
    puts: tuple[Callable[[int, int, bytes], object], ...] = (pool.put, pool.put_page_sync)
    for number, (first, second) in enumerate([(one, other) for one in puts for other in puts]):
        first(number, 0, A)
        second(number, 0, B)
        same(fetch(pool, number, 0), [B], "the page")
        same(stage.held(pool, number, 0), B, "the page on the server")
    same(pool.stat().pages, 4, "pages")
    for size in (1, 2, 16, 512):
        old = [stamped(seed) for seed in range(512)]
        pool.put(9, 0, b"".join(old))
        new = [stamped(1000 + seed) for seed in range(size)]
        at = 512 - size
        pool.put(9, at, b"".join(new))
        same(fetch(pool, 9, 0, 512), [*old[:at], *new], f"a block after {size} of its pages were overwritten")


def _no_old_page(stage: Stage, pool: Pool, error: type[TmemError], spoil: Callable[[], object], name: str) -> None:
    """Puts, makes the next put of the same handle be refused, and looks at what is left."""
    pool.put(7, 0, A)
    pool.put(8, 0, A * 16)
    pool.put(9, 0, C)
    spoil()
    refused(lambda: pool.put(7, 0, noise(5)), error, what=f"a put that meets {name}")
    refused(lambda: pool.put(8, 2, noise(6) + noise(7)), error, what=f"an extent that meets {name}")
    same(stage.held(pool, 7, 0), Code.MISS, f"the handle after a refusal for {name}")
    same(fetch(pool, 7, 0), [Code.MISS], f"a get after a refusal for {name}")
    same(fetch(pool, 8, 0, 16), [A, A, Code.MISS, Code.MISS, *[A] * 12], f"an extent after a refusal for {name}")
    same(fetch(pool, 9, 0), [C], f"another page after a refusal for {name}")


@statement(
    30,
    "A put over a page is refused (no quota left, no memory, frozen, a failing store): a get misses, it never answers the old page.",
)
def a_refused_put_leaves_no_old_page(stage: Stage) -> None:
    frozen = stage.pool()
    _no_old_page(stage, frozen, PoolFrozen, frozen.freeze, "a frozen pool")
    frozen.thaw()
    same(fetch(frozen, 7, 0), [Code.MISS], "the handle after the thaw")
    small = stage.pool()
    _no_old_page(stage, small, QuotaExceeded, lambda: small.resize(quota_bytes=1), "the quota")
    small.resize(quota_bytes=0)
    same(fetch(small, 7, 0), [Code.MISS], "the handle after the quota was lifted")
    if stage.endpoint.named:
        return  # what follows would harm others there
    full = stage.own("--memory-limit", "4MiB")
    client = full.client()
    pool = full.pool(client=client)
    _no_old_page(stage, pool, OutOfCapacity, lambda: _fill(full, noise), "a full memory")
    # The chance falls for the first time at the puts that shall fail.
    broken = stage.own("--layer", "faulty:put_refused=1,reason=io")
    lame = broken.pool()
    for obj in (7, 8):
        refused(partial(lame.put, obj, 0, A), StoreFailed, what="a put into a store that fails")
        same(stage.held(lame, obj, 0), Code.MISS, "the handle after that")


def _fill(own: Own, make: Callable[[int], bytes]) -> None:
    """Fills a daemon's memory with persistent pages until it takes no more."""
    pool = own.pool()
    for number in range(1 << 14):
        try:
            pool.put(1 << 20, number * 16, b"".join(make(number * 16 + page_number) for page_number in range(16)))
        except Refused:
            break
    for number in range(1 << 14):
        try:
            pool.put(1 << 21, number * 512, make(number))
        except Refused:
            return


@statement(33, "An ephemeral page that was evicted misses; put again, it is got again.")
def evicted_pages_can_be_put_again(stage: Stage) -> None:
    own = stage.own("--memory-limit", "4MiB")
    pool = own.pool("ephemeral", take=False)
    pool.put(7, 0, A)
    for number in range(4000):
        pool.put(8, number, stamped(number))
        if number % 100 == 99 and stage.held(pool, 7, 0) == Code.MISS:
            break
    same(fetch(pool, 7, 0), [Code.MISS], "the oldest page of a full memory")
    pool.put(7, 0, B)
    same(fetch(pool, 7, 0), [B], "the page put again")


@statement(
    34,
    "Two puts of one handle at the same time, both stored: every later get answers the one page or the other, whole, and always the same.",
)
def racing_puts_leave_one_of_them(stage: Stage) -> None:
    ours = stage.pool("shared")
    theirs = stage.another().join_pool(ours.uuid)
    private = stage.pool()
    for turn in range(20):
        pages = (stamped(2 * turn), stamped(2 * turn + 1))
        for first, second, obj in ((ours, theirs, turn), (private, private, turn)):
            _at_once(partial(first.put, obj, 0, pages[0]), partial(second.put, obj, 0, pages[1]))
            (seen,) = fetch(first, obj, 0)
            expect(seen in pages, "what two puts at once left is neither page")
            for _ in range(3):
                same(fetch(second, obj, 0), [seen], "what was got before")
    theirs.leave()


def _at_once(*calls: Callable[[], object]) -> None:
    """Carries out calls in threads of their own, begun together; raises what the first failed with."""
    barrier = threading.Barrier(len(calls))
    errors: list[BaseException] = []

    def carry_out(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:  # noqa: BLE001  raised below
            errors.append(error)

    threads = [threading.Thread(target=carry_out, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


@statement(35, "A get that races a flush answers the page or misses; after both a get misses.")
def a_get_races_a_flush(stage: Stage) -> None:
    ours = stage.pool("shared")
    theirs = stage.another().join_pool(ours.uuid)
    for turn in range(20):
        plain = stamped(turn)
        ours.put(7, 0, plain)
        seen: list[Seen] = []

        def get(seen: list[Seen] = seen) -> None:
            seen += fetch(theirs, 7, 0)

        _at_once(get, partial(ours.flush, 7, 0))
        expect(seen[0] in {plain, Code.MISS}, "a get that raced a flush answered something else")
        same(fetch(theirs, 7, 0), [Code.MISS], "a get after both")
        same(fetch(ours, 7, 0), [Code.MISS], "a get of the other member after both")
    theirs.leave()


@statement(
    36, "An answer that comes after the handle was flushed is thrown away: the get fails, and nothing is made again."
)
def a_late_answer_makes_nothing_again(stage: Stage) -> None:
    own = stage.own("--layer", "delayed:seconds=0.3")
    pool = own.pool()
    pool.put(7, 0, A)
    buffer = bytearray(b"\xee" * PAGE_BYTES)
    refused(lambda: pool.get_into(7, 0, buffer, timeout=0.05), DeadlineExceeded, what="a get that can't wait")
    same(pool.flush(7, 0), 1, "found by the flush")  # its answer comes after that of the get
    same(bytes(buffer), b"\xee" * PAGE_BYTES, "the buffer of the get that was given up")
    same(fetch(pool, 7, 0), [Code.MISS], "a get after the flush")
    same(stage.held(pool, 7, 0), Code.MISS, "what the server holds")
    same(pool.stat().pages, 0, "pages")


@statement(37, "An answer that comes after the handle was overwritten does not take the place of the newer page.")
def a_late_answer_replaces_nothing(stage: Stage) -> None:
    own = stage.own("--layer", "delayed:seconds=0.3")
    pool = own.pool()
    pool.put(7, 0, A)
    buffer = bytearray(b"\xee" * PAGE_BYTES)
    refused(lambda: pool.get_into(7, 0, buffer, timeout=0.05), DeadlineExceeded, what="a get that can't wait")
    pool.put(7, 0, B)
    same(bytes(buffer), b"\xee" * PAGE_BYTES, "the buffer of the get that was given up")
    same(fetch(pool, 7, 0), [B], "a get after the newer put")
    # The same of a put: given up, it is settled before the next put of its handle begins.
    refused(lambda: pool.put(7, 0, C, timeout=0.05), DeadlineExceeded, what="a put that can't wait")
    pool.put(7, 0, A)
    same(fetch(pool, 7, 0), [A], "a get after the put that followed one that was given up")
    same(stage.held(pool, 7, 0), A, "what the server holds")


@statement(
    38,
    "Operations that are sent in order on one stream for one handle take effect in that order, even where answers come in another.",
    added=True,
)
def one_stream_is_in_order(stage: Stage) -> None:
    own = stage.own("--layer", "delayed:seconds=0,jitter_seconds=0.03,seed=7")
    plain = stage.plain_at(own)
    ref = stage.plain_pool(plain)
    stream = plain.exchange(ref)
    expected: dict[int, Seen] = {}
    sent: list[int] = []
    batch = sequence = 0
    for turn in range(12):
        writes: tuple[tuple[Callable[[int, int], pb.ExchangeRequest], Seen], ...] = (
            (partial(_put_in_order, ref, stamped(turn)), stamped(turn)),
            (partial(_flush_in_order, ref), Code.MISS),
            (partial(_put_in_order, ref, stamped(99 + turn)), stamped(99 + turn)),
        )
        for make, after in writes:
            sequence += 1
            batch += 1
            stream.send(make(sequence, batch))
            sent.append(batch)
            batch += 1
            stream.send(get_message(ref, 7, 0, batch_id=batch))
            sent.append(batch)
            expected[batch] = after
    order = []
    for _ in sent:
        answer = stream.receive()
        kind = str(answer.WhichOneof("kind"))
        batch = getattr(answer, kind).header.batch_id
        order.append(batch)
        if kind == "get":
            same(pages_of(answer, 1), [expected[batch]], f"the get sent as batch {batch}")
    expect(order != sent, "no answer overtook another, so nothing was shown")
    stream.close()


def _put_in_order(ref: PoolRef, plain: bytes, sequence: int, batch: int) -> pb.ExchangeRequest:
    return put_message(ref, [(7, 0, plain)], sequence, batch, floor=sequence)


def _flush_in_order(ref: PoolRef, sequence: int, batch: int) -> pb.ExchangeRequest:
    return flush_message(ref, 7, 0, sequence, batch_id=batch, floor=sequence)


@statement(
    39,
    "A put sent again under its sequence after its answer was lost leaves what one put leaves; an old put sent again after a newer one has no effect.",
    added=True,
)
def puts_can_be_sent_again(stage: Stage) -> None:
    plain = stage.plain()
    ref = stage.plain_pool(plain)
    stream = plain.exchange(ref)
    first, second = put_message(ref, [(7, 0, A)], 1), put_message(ref, [(7, 0, B)], 2)
    for _ in range(2):
        same(list(stream.ask(first).put.codes), [], "a put, and the same again")
    same(plain.look(ref, 7, 0), A, "the page")
    # The answer is lost with its stream; the next one carries the put again.
    stream.send(second)
    stream.cancel()
    stream = plain.exchange(ref, session_id=stream.session_id)
    same(list(stream.ask(second).put.codes), [], "a put sent again on the next stream")
    same(plain.look(ref, 7, 0), B, "the page")
    same(refusals_of(stream.ask(first).put, 1), [Reason.STALE], "the old put, sent once more")
    same(plain.look(ref, 7, 0), B, "the page after the old put was sent once more")
    same(plain.put(ref, 7, 0, A, 1).reason, Reason.STALE, "the old put by the unary call")
    flushed = stream.ask(flush_message(ref, 7, 0, 3)).flush
    same(list(flushed.found), [1], "found by a flush")
    stream.ask(flush_message(ref, 9, 0, 4, floor=4))
    same(refusals_of(stream.ask(second).put, 1), [Reason.STALE], "a put below the floor")
    same(plain.look(ref, 7, 0), Code.MISS, "the handle after a put below the floor")
    stream.close()
