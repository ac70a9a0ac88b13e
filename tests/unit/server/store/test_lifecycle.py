import os
from typing import Any

import pytest
from tests.pages import random_page, text_page
from tests.plain import PlainStore
from tests.stores import StoreUser, make_put

from tmem.server.store.interface import Store
from tmem.server.store.lifecycle import Graces, Lifecycle
from tmem.server.store.log import LogStore
from tmem.server.store.pools import Pool, PoolRequest, PoolTable
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import StoreFailed
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Durability, PoolKind, Reason

P, E, S = (int(kind) for kind in (PoolKind.PERSISTENT, PoolKind.EPHEMERAL, PoolKind.SHARED))


@pytest.fixture
def store() -> PlainStore:
    return PlainStore(1 << 30, CopyCounter())


@pytest.fixture
def gone() -> list[str]:
    return []


@pytest.fixture
def make(store: PlainStore, gone: list[str]) -> Any:
    def build(persistent: float | None = None, ephemeral: float | None = 60.0, store: Store = store) -> Lifecycle:
        table = PoolTable(random_bytes=bytes, durabilities=store.durabilities, max_pools=9)
        numbers = iter(range(1, 100))
        return Lifecycle(
            table,
            store,
            graces=Graces(persistent, ephemeral),
            epoch=lambda: next(numbers),
            on_gone=lambda pool: gone.append(pool.name),
        )

    return build


def fill(store: Store, pool: Pool, obj: int, user: int = 1) -> None:
    store.put(pool.key, Version(1, 1), make_put([(Extent(obj, 0, 1), text_page())]), user)


def test_a_pool_is_in_table_and_store_or_in_neither(make: Any, store: PlainStore, gone: list[str]) -> None:
    lifecycle = make()
    pool, _ = lifecycle.create("t", PoolRequest("a", P), 0.0)
    fill(store, pool, 1)

    assert lifecycle.destroy(pool) == 1

    assert (len(lifecycle.table), store.counts().pages, gone) == (0, 0, ["a"])


def test_a_repeated_create_does_not_make_the_pool_twice(make: Any, store: PlainStore) -> None:
    lifecycle = make()
    first, _ = lifecycle.create("t", PoolRequest("a", P, token=b"s" * 32), 0.0)
    fill(store, first, 1)

    again, _ = lifecycle.create("t", PoolRequest("a", P, token=b"s" * 32), 0.0)

    assert again is first
    assert store.counts(first.key).pages == 1


def test_epochs_rise_with_every_incarnation(make: Any) -> None:
    lifecycle = make()
    first, _ = lifecycle.create("t", PoolRequest("a", P), 0.0)
    lifecycle.destroy(first)
    second, _ = lifecycle.create("t", PoolRequest("a", P), 0.0)

    assert second.epoch > first.epoch


def test_parked_persistent_pools_wait_for_ever_by_default(make: Any, store: PlainStore) -> None:
    lifecycle = make()
    pool, member = lifecycle.create("t", PoolRequest("a", P), 0.0)
    lifecycle.attach(member, b"s")
    lifecycle.park(member, b"s", 10.0)

    assert pool.parked
    assert lifecycle.expire(10.0**9) == []


@pytest.mark.parametrize(("kind", "graces"), [(E, {}), (P, {"persistent": 60.0})])
def test_a_parked_pool_goes_when_its_grace_has_run_out(make: Any, kind: int, graces: dict[str, float]) -> None:
    lifecycle = make(**graces)
    pool, member = lifecycle.create("t", PoolRequest("a", kind), 0.0)
    lifecycle.attach(member, b"s")
    assert lifecycle.expire(1000.0) == []
    lifecycle.park(member, b"s", 1000.0)

    assert lifecycle.expire(1059.0) == []
    assert lifecycle.expire(1060.0) == [pool]
    assert pool.gone


def test_only_the_session_that_works_on_a_pool_parks_it(make: Any) -> None:
    lifecycle = make()
    pool, member = lifecycle.create("t", PoolRequest("a", P), 0.0)
    lifecycle.attach(member, b"new")

    lifecycle.park(member, b"old", 1.0)

    assert not pool.parked


def test_the_last_leaver_of_a_shared_pool_ends_it(make: Any, store: PlainStore) -> None:
    lifecycle = make()
    pool, owner = lifecycle.create("t", PoolRequest("a", S), 0.0)
    _, second = lifecycle.join("t", pool.uuid, 0.0)
    fill(store, pool, 1, owner.generation)
    fill(store, pool, 2, second.generation)

    first = lifecycle.leave(pool, owner)
    assert (first.done, pool.members) == (False, {second.generation: second})
    while lifecycle.step():
        pass
    assert (first.dropped, first.done, first.ended) == (1, True, False)
    assert pool.counters.left == 1
    last = lifecycle.leave(pool, second)
    assert (last.dropped, last.done, last.ended) == (1, True, True)
    assert store.counts().pages == 0


@pytest.mark.parametrize("steps", [0, 1])
def test_a_pool_that_ends_while_a_member_leaves_it_takes_the_rest_along(make: Any, steps: int) -> None:
    store = LogStore(1 << 20, CopyCounter())
    lifecycle = make(store=store)
    pool, owner = lifecycle.create("t", PoolRequest("a", S), 0.0)
    _, second = lifecycle.join("t", pool.uuid, 0.0)
    for obj in (1, 2, 3):
        fill(store, pool, obj, owner.generation)
    departure = lifecycle.leave(pool, owner)
    for _ in range(steps):
        lifecycle.step()

    lifecycle.leave(pool, second)
    while lifecycle.step():
        pass

    assert departure.done
    assert departure.dropped == steps
    assert store.counts().pages == 0


def test_a_dead_member_of_a_shared_pool_leaves_it(make: Any, store: PlainStore) -> None:
    lifecycle = make()
    pool, owner = lifecycle.create("t", PoolRequest("a", S), 0.0)
    _, second = lifecycle.join("t", pool.uuid, 0.0)
    lifecycle.attach(owner, b"alive")
    fill(store, pool, 1, owner.generation)
    fill(store, pool, 2, second.generation)

    assert lifecycle.expire(61.0) == []
    while lifecycle.step():
        pass

    assert list(pool.members.values()) == [owner]
    assert store.counts(pool.key).pages == 1


def test_resizing_reaches_the_store(make: Any) -> None:
    lifecycle = make()
    pool, _ = lifecycle.create("t", PoolRequest("a", P, quota_bytes=5, weight=6), 0.0)

    lifecycle.resize(pool, 77, None)
    assert (pool.policy.quota_bytes, pool.policy.weight) == (77, 6)
    lifecycle.resize(pool, None, 88)
    assert (pool.policy.quota_bytes, pool.policy.weight) == (77, 88)
    lifecycle.resize(pool, 0, 0)
    assert (pool.policy.quota_bytes, pool.policy.weight) == (0, 0)


class FullDisk:
    """Records that can't be written once the disk is full."""

    full = False

    def keep(self, _: Pool) -> None:
        if self.full:
            raise OSError(28, "No space left on device")

    def drop(self, _: int) -> None:
        raise AssertionError


def test_a_reservation_whose_end_can_not_be_written_down_is_still_promised() -> None:
    store = LogStore(8 << 20, CopyCounter(), segment_bytes=256 << 10)
    table = PoolTable(random_bytes=os.urandom, durabilities=[Durability.MEMORY, Durability.DISK], max_pools=9)
    disk = FullDisk()
    lifecycle = Lifecycle(table, store, graces=Graces(), epoch=lambda: 1, records=disk)
    request = PoolRequest("promised", P, durability=Durability.DISK, reserved_bytes=4 << 20)
    pool, _ = lifecycle.create("t", request, 0.0)
    disk.full = True
    with pytest.raises(StoreFailed):
        lifecycle.resize(pool, None, None, 0)
    assert pool.policy.reserved_bytes == 4 << 20

    greedy = StoreUser(store, key=2)
    stored = 0
    while not (reasons := greedy.put(7, stored, random_page(stored)).reasons):
        stored += 1

    assert reasons == [Reason.CAPACITY]
    version = Version(1, 1)
    for number in range(900):
        put = make_put([(Extent(7, number, 1), random_page(number))])
        assert store.put(pool.key, version, put, 1).reasons is None
