from collections import Counter
from typing import Any

import pytest
from tests.pages import PAGE, extent, random_page, text_page
from tests.plain import PlainStore
from tests.stores import make_put

from tmem.server.store.engine import Binding, Engine
from tmem.server.store.history import History
from tmem.server.store.layers.delayed import DelayedLayer
from tmem.server.store.pending import Pending
from tmem.server.store.pools import PoolRequest, PoolTable
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.requests import Echo, Flush, FlushObject, Get, Header
from tmem.wire.results import Code, PoolKind, Reason


class World:
    """An engine with one pool."""

    def __init__(self, kind: PoolKind = PoolKind.PERSISTENT, **request: Any) -> None:
        self.store = PlainStore(1 << 30, CopyCounter())
        self.table = PoolTable(random_bytes=bytes, durabilities=self.store.durabilities, max_pools=9)
        self.pool, self.member, _ = self.table.create("t", PoolRequest("a", int(kind), **request), epoch=100)
        self.store.add_pool(self.pool.policy)
        self.engine = Engine(self.store, History(lambda: 0.0))
        self.binding = Binding(self.pool, self.member)
        self.sequence = 0

    def header(self, **fields: int) -> Header:
        self.sequence += 1
        values = {"generation": 1, "sequence": self.sequence, "answer_bytes": 1 << 20, "epoch": 100} | fields
        return Header(1, 1, **values)

    def execute(self, batch: Any, **options: bool) -> Any:
        return self.engine.execute(batch, self.binding, **options)

    def put(self, obj: int, index: int, plain: bytes, **header: int) -> Any:
        put = make_put([(Extent(obj, index, len(plain) // PAGE), plain)])
        put.header = self.header(**header)
        return self.execute(put)

    def get(self, obj: int, index: int, pages: int = 1, **header: int) -> Any:
        return self.execute(Get(self.header(**header), [Extent(obj, index, pages)]))

    def flush(self, obj: int, index: int, pages: int = 1, condition: Version | None = None, **header: int) -> Any:
        conditions: list[Version | None] | None = None if condition is None else [condition]
        return self.execute(Flush(self.header(**header), [Extent(obj, index, pages)], conditions))


@pytest.fixture
def world() -> World:
    return World()


A, B = text_page(1), text_page(2)


def test_every_answer_carries_batch_sequence_and_epoch(world: World) -> None:
    for number, call in enumerate((lambda: world.put(7, 0, A), lambda: world.get(7, 0), lambda: world.flush(7, 0)), 1):
        header = call().header
        assert (header.batch_id, header.epoch, header.sequence) == (1, 100, number)


def test_what_names_no_pool_is_refused_and_counted_apart(world: World) -> None:
    put = make_put([(Extent(7, 0, 4), bytes(extent(0, 4)))])
    get = Get(world.header(), [Extent(7, 0, 3)])

    assert world.engine.execute(put, None).reasons == [Reason.NO_SUCH_POOL]
    assert world.engine.execute(get, None).pages.refused == [(0, 3, Reason.NO_SUCH_POOL)]
    assert world.engine.execute(Flush(world.header(), [Extent(7, 0, 1)], None), None).reasons == [Reason.NO_SUCH_POOL]
    assert world.engine.execute(FlushObject(world.header(), [7]), None).reasons == [Reason.NO_SUCH_POOL]
    assert world.engine.unbound.puts_refused == Counter({Reason.NO_SUCH_POOL: 4})
    assert world.engine.unbound.gets_refused == Counter({Reason.NO_SUCH_POOL: 3})


@pytest.mark.parametrize(
    ("header", "reason"), [({"generation": 9}, Reason.FENCED), ({"sequence": 3, "floor": 5}, Reason.STALE)]
)
def test_fenced_and_stale_writes_change_nothing(world: World, header: Any, reason: Reason) -> None:
    world.put(7, 0, A)

    assert world.put(7, 0, B, **header).reasons == [reason]
    assert world.flush(7, 0, **header).reasons == [reason]
    assert world.execute(FlushObject(world.header(**header), [7])).reasons == [reason]

    assert world.get(7, 0).pages.codes is None
    assert world.store.counts().pages == 1


def test_a_fenced_reader_reads_nothing(world: World) -> None:
    world.put(7, 0, A)

    pages = world.get(7, 0, 2, generation=2).pages

    assert pages.refused == [(0, 2, Reason.FENCED)]
    assert not pages.chunks


def test_frozen_refuses_puts_and_the_old_page_is_gone(world: World) -> None:
    world.put(7, 0, A)
    world.put(8, 0, A)
    world.pool.frozen = True

    assert world.put(7, 0, B).reasons == [Reason.FROZEN]
    assert world.put(9, 0, B).reasons == [Reason.FROZEN]
    assert world.get(7, 0).pages.codes == [Code.MISS]
    assert world.get(8, 0).pages.codes is None
    assert world.flush(8, 0).found == [1]

    world.pool.frozen = False
    assert world.put(7, 0, B).reasons is None


def test_draining_refuses_puts_and_serves_the_rest(world: World) -> None:
    world.put(7, 0, A)
    world.engine.draining = True

    assert world.put(7, 1, B).reasons == [Reason.DRAINING]
    assert world.get(7, 0).pages.codes is None
    assert world.flush(7, 0).found == [1]


def test_chunks_longer_than_the_pools_are_invalid_and_change_nothing() -> None:
    world = World(chunk_pages=4)
    world.put(7, 0, A)

    assert world.put(7, 0, b"".join(map(text_page, range(16)))).reasons == [Reason.INVALID]
    assert world.get(7, 0).pages.codes is None


def test_same_filled_chunks_may_be_longer_than_the_pools() -> None:
    world = World(chunk_pages=4)

    assert world.put(7, 0, bytes(512 * PAGE)).reasons is None


def test_absent_persistent_pages_of_an_older_epoch_are_lost(world: World) -> None:
    world.put(7, 0, A)

    assert world.get(7, 0, 3, epoch=99).pages.codes == [Code.HIT, Code.LOST, Code.LOST]
    assert world.get(7, 0, 3, epoch=100).pages.codes == [Code.HIT, Code.MISS, Code.MISS]
    assert world.get(7, 0, 3, epoch=0).pages.codes == [Code.HIT, Code.MISS, Code.MISS]


def test_absent_ephemeral_pages_are_misses_whatever_the_epoch() -> None:
    world = World(PoolKind.EPHEMERAL)

    assert world.get(7, 0, epoch=99).pages.codes == [Code.MISS]


def test_a_get_never_destroys(world: World) -> None:
    world.put(7, 0, A)
    run = world.get(7, 0).pages.runs[0]

    assert world.get(7, 0).pages.codes is None
    assert world.flush(7, 0, condition=Version(run.generation, run.sequence)).found == [1]
    assert world.flush(7, 0, condition=Version(run.generation, run.sequence)).found == [0]


def test_a_lone_reader_gets_its_page_alone(world: World) -> None:
    world.put(7, 0, b"".join(map(text_page, range(16))))

    pages = world.execute(Get(world.header(), [Extent(7, 5, 1)]), alone=True).pages

    assert [chunk.pages for chunk in pages.chunks] == [1]


def test_echo_answers_the_body_or_so_many_zeros(world: World) -> None:
    assert bytes(world.execute(Echo(world.header(), memoryview(b"abc"))).body) == b"abc"
    assert bytes(world.execute(Echo(world.header(), memoryview(b"abc"), 5)).body) == bytes(5)


def test_the_sum_laws_hold(world: World) -> None:
    world.put(7, 0, bytes(extent(0, 512)))
    world.put(7, 3, random_page())
    world.put(7, 600, A)
    world.get(7, 0, 20)
    world.get(9, 0, 20)
    world.flush(7, 0, 10)
    world.flush(7, 0, 10)
    world.pool.frozen = True
    world.put(7, 100, bytes(extent(0, 50)))
    world.pool.frozen = False
    world.put(7, 0, A, generation=4)
    world.get(7, 0, 5, generation=4)
    world.execute(FlushObject(world.header(), [7, 8]))
    world.put(5, 0, A)

    counters = world.pool.counters
    assert counters.puts == counters.puts_stored + sum(counters.puts_refused.values())
    assert counters.gets == (
        counters.gets_hit
        + counters.gets_missed
        + counters.gets_lost
        + counters.gets_corrupt
        + sum(counters.gets_refused.values())
    )
    held = (
        counters.puts_stored
        - counters.puts_replaced
        - counters.puts_dropped
        - counters.flushes_found
        - counters.object_flush_pages
    )
    assert held == world.store.counts(world.pool.key).pages == 1
    assert (counters.extents_whole, counters.extents_partial, counters.extents_single) == (1, 0, 3)
    assert (counters.object_flushes_asked, counters.object_flushes_found) == (2, 1)
    assert (counters.flushes_asked, counters.flushes_found) == (20, 10)


def test_a_late_answer_is_a_late_answer_and_its_effect_is_not_late(world: World) -> None:
    import random

    calls: list[Any] = []
    world.engine.store = DelayedLayer(
        world.store, lambda seconds, call: calls.append(call), seconds=1.0, chance=random.Random(1)
    )

    put, get = world.put(7, 0, A), world.get(7, 0)

    assert isinstance(put, Pending)
    assert isinstance(get, Pending)
    assert world.store.counts().pages == 1
    answers: list[Any] = []
    put.when_settled(answers.append)
    get.when_settled(answers.append)
    for call in reversed(calls):
        call()
    assert [type(answer).__name__ for answer in answers] == ["GetAnswer", "PutAnswer"]
    assert answers[0].pages.codes is None
    assert world.pool.counters.puts_stored == 1
