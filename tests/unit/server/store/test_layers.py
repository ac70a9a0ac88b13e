import random
from typing import Any

import pytest
from tests.pages import PAGE, extent, random_page, text_page
from tests.plain import PlainStore
from tests.stores import StoreUser, make_put

from tmem.server.store.interface import PoolPolicy, Store, Stored
from tmem.server.store.layers.base import Layer
from tmem.server.store.layers.delayed import DelayedLayer
from tmem.server.store.layers.faulty import FaultyLayer
from tmem.server.store.layers.limited import LimitedLayer
from tmem.server.store.layers.logged import LoggedLayer
from tmem.server.store.layers.metered import MeteredLayer
from tmem.server.store.layers.specs import LayerServices, check_layer, wrap
from tmem.server.store.pending import Pending
from tmem.wire.codec import Codec
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Code, PoolKind, Reason

A = text_page(1)


@pytest.fixture
def plain() -> PlainStore:
    return PlainStore(1 << 30, CopyCounter())


def test_a_bare_layer_is_the_store_below(plain: PlainStore) -> None:
    user = StoreUser(Layer(Layer(plain)))

    user.put(7, 0, A)

    assert user.get(7, 0).page == A
    assert user.store.name == "plain"
    assert user.store.durabilities == plain.durabilities
    assert [block.object for block in user.store.blocks(user.key)] == [7]
    assert user.store.refuse(user.key, Version(2, 1), [Extent(7, 0, 1)], Reason.IO) == Stored([Reason.IO], 0, 1)
    assert user.flush(7, 0) == user.flush_object(7) == sum(user.store.leave(user.key, 1)) == 0
    assert user.store.counts().pages == 0
    assert not user.store.step()
    assert user.store.drop_pool(user.key) == 0
    user.store.close()


class TestDelayed:
    def test_effects_come_in_order_and_answers_when_they_are_let_go(self, plain: PlainStore) -> None:
        waiting: list[tuple[float, Any]] = []
        layer = DelayedLayer(
            plain, lambda seconds, call: waiting.append((seconds, call)), seconds=0.5, chance=random.Random(1)
        )
        layer.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t"))

        put = layer.put(1, Version(1, 1), make_put([(Extent(7, 0, 1), A)]), 1)
        get = layer.get(1, [Extent(7, 0, 1)], 1 << 16, 1)
        flush = layer.flush(1, Version(1, 2), [Extent(7, 0, 1)], None)
        flush_object = layer.flush_object(1, Version(1, 3), [7])

        assert [type(result) for result in (put, get, flush, flush_object)] == [Pending] * 4
        assert plain.counts().pages == 0
        assert [seconds for seconds, _ in waiting] == [0.5] * 4
        seen: list[Any] = []
        get.when_settled(seen.append)  # type: ignore[union-attr]
        for _, call in waiting:
            call()
        assert seen[0].codes is None

    def test_jitter_lets_answers_overtake_each_other(self, plain: PlainStore) -> None:
        delays: list[float] = []
        layer = DelayedLayer(
            plain, lambda seconds, call: delays.append(seconds), seconds=1, jitter_seconds=4, chance=random.Random(1)
        )
        layer.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t"))
        for _ in range(50):
            layer.get(1, [Extent(7, 0, 1)], 1 << 16, 1)

        assert 1 <= min(delays) < 2
        assert 4 < max(delays) <= 5
        assert delays != sorted(delays)

    def test_a_delay_adds_to_one_below(self, plain: PlainStore) -> None:
        waiting: list[Any] = []
        inner = DelayedLayer(plain, lambda _, call: waiting.append(call), seconds=1, chance=random.Random(1))
        outer = DelayedLayer(inner, lambda _, call: waiting.append(call), seconds=1, chance=random.Random(1))
        outer.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t"))
        seen: list[Any] = []

        outer.get(1, [Extent(7, 0, 1)], 1 << 16, 1).when_settled(seen.append)  # type: ignore[union-attr]

        waiting.pop()()
        assert not seen
        waiting.pop()()
        assert len(seen) == 1


class TestFaulty:
    def layer(self, plain: PlainStore, **faults: Any) -> StoreUser:
        return StoreUser(FaultyLayer(plain, chance=random.Random(1), **faults))

    def test_a_refused_put_drops_what_was_there(self, plain: PlainStore) -> None:
        user = self.layer(plain)
        user.put(7, 0, A)
        user.store = FaultyLayer(plain, chance=random.Random(1), put_refused=1.0, reason=Reason.REPLICAS)

        stored = user.put(7, 0, text_page(2))

        assert (stored.reasons, stored.dropped) == ([Reason.REPLICAS], 1)
        assert user.get(7, 0).page is None

    def test_a_refused_get_has_no_pages(self, plain: PlainStore) -> None:
        user = self.layer(plain, get_refused=1.0)
        user.put(7, 0, A)

        got = user.get(7, 0, 2)

        assert got.codes == [Code.REFUSED] * 2
        assert got.raw.refused == [(0, 2, Reason.IO)]

    def test_a_flipped_bit_never_passes_the_checksum(self, plain: PlainStore) -> None:
        user = self.layer(plain, get_corrupt=1.0)
        user.put(7, 0, random_page())

        pages: Any = user.store.get(user.key, [Extent(7, 0, 1)], 1 << 16, 1)

        chunk = pages.chunks[0]
        out = memoryview(bytearray(PAGE))
        assert Codec(CopyCounter()).decode(chunk.encoding, chunk.data, 1, 0, out, pages.crcs) == [0]
        assert plain.get(user.key, [Extent(7, 0, 1)], 1 << 16, 1).chunks[0].data == random_page()

    def test_lost_pages_are_lost_and_misses_stay_misses(self, plain: PlainStore) -> None:
        user = self.layer(plain, get_lost=1.0)
        user.put(7, 0, A)

        assert user.get(7, 0, 2).codes == [Code.LOST, Code.MISS]

    def test_chances_add_up_and_never_is_never(self, plain: PlainStore) -> None:
        user = self.layer(plain, get_refused=0.25, get_lost=0.25)
        user.put(7, 0, A)
        codes = [user.get(7, 0).codes[0] for _ in range(400)]

        assert 60 < codes.count(Code.REFUSED) < 140
        assert 60 < codes.count(Code.LOST) < 140
        assert Code.CORRUPT not in codes


class TestLimited:
    def users(self, plain: PlainStore, quotas: dict[str, int]) -> tuple[StoreUser, StoreUser, StoreUser]:
        layer = LimitedLayer(plain, quotas)
        return (
            StoreUser(layer, key=1, tenant="a"),
            StoreUser(layer, key=2, tenant="a"),
            StoreUser(layer, key=3, tenant="b"),
        )

    def test_a_tenants_pools_count_together_and_no_other_tenants(self, plain: PlainStore) -> None:
        first, second, other = self.users(plain, {"a": 50_000})
        for index in range(9):
            assert first.put(7, index, random_page(index)).reasons is None

        assert second.put(7, 0, bytes(extent(0, 16))).reasons == [Reason.QUOTA]
        assert other.put(7, 0, bytes(extent(0, 16))).reasons is None

    def test_a_refusal_drops_what_was_there_and_an_overwrite_in_place_is_none(self, plain: PlainStore) -> None:
        first, _, _ = self.users(plain, {"a": 20_000})
        while first.put(7, first.pages, random_page(first.pages)).reasons is None:
            pass
        held = first.pages

        again = first.put(7, 0, random_page(99))
        assert (again.reasons, again.replaced) == (None, 1)
        refused = first.put(7, 1, b"".join(map(random_page, range(10))))
        assert refused.reasons == [Reason.QUOTA]
        assert refused.dropped == held - 1
        assert first.pages == 1

    def test_a_quota_that_is_changed_counts_at_once(self, plain: PlainStore) -> None:
        quotas = {"a": 1000}
        first, _, _ = self.users(plain, quotas)
        assert first.put(7, 0, random_page()).reasons == [Reason.QUOTA]

        quotas["a"] = 10_000
        assert first.put(7, 0, random_page()).reasons is None
        del quotas["a"]
        assert first.put(7, 16, b"".join(map(random_page, range(16)))).reasons is None

    def test_a_pool_that_changed_hands_counts_for_its_new_tenant(self, plain: PlainStore) -> None:
        first, second, other = self.users(plain, {"a": 10_000, "b": 10_000})
        first.put(7, 0, random_page(1))
        first.put(7, 1, random_page(2))
        first.policy.tenant = "b"
        assert sum(first.store.leave(first.key, 99)) == 0

        assert second.put(7, 0, random_page(3)).reasons is None
        assert other.put(7, 0, random_page(4)).reasons == [Reason.QUOTA]
        first.store.drop_pool(first.key)
        assert other.put(7, 0, random_page(4)).reasons is None

    def test_pools_that_are_gone_do_not_count(self, plain: PlainStore) -> None:
        first, second, _ = self.users(plain, {"a": 10_000})
        first.put(7, 0, random_page(1))
        first.put(7, 1, random_page(2))
        assert second.put(7, 0, random_page(3)).reasons == [Reason.QUOTA]

        first.store.drop_pool(first.key)

        assert second.put(7, 0, random_page(3)).reasons is None


def test_logged_tells_everything_but_page_bytes(plain: PlainStore) -> None:
    events: list[tuple[str, dict[str, Any]]] = []
    user = StoreUser(LoggedLayer(plain, lambda event, **known: events.append((event, known))))
    user.put(7, 0, A)
    user.get(7, 0)
    user.flush(7, 0)
    user.flush_object(7)
    user.store.drop_pool(user.key)

    names = [event for event, _ in events]
    assert names == [f"store.{name}" for name in ("add_pool", "put", "get", "flush", "flush_object", "drop_pool")]
    assert A[:20] not in repr(events).encode()
    assert events[1][1]["extents"] == [Extent(7, 0, 1)]


def test_metered_observes_every_operation_until_its_answer(plain: PlainStore) -> None:
    observed: list[tuple[str, float]] = []
    clock = iter(range(100))
    waiting: list[Any] = []
    slow = DelayedLayer(plain, lambda _, call: waiting.append(call), seconds=1, chance=random.Random(1))
    layer = MeteredLayer(slow, lambda: float(next(clock)), lambda op, seconds: observed.append((op, seconds)))
    layer.add_pool(PoolPolicy(1, PoolKind.PERSISTENT, "t"))

    layer.put(1, Version(1, 1), make_put([(Extent(7, 0, 1), A)]), 1)
    layer.get(1, [Extent(7, 0, 1)], 1 << 16, 1)
    layer.flush(1, Version(1, 2), [Extent(7, 0, 1)], None)
    layer.flush_object(1, Version(1, 3), [7])
    assert not observed
    for call in reversed(waiting):
        call()

    assert observed == [("flush_object", 1.0), ("flush", 3.0), ("get", 5.0), ("put", 7.0)]


class TestSpecs:
    services = LayerServices(later=lambda seconds, call: None, log=lambda event, **known: None)

    def test_the_first_spec_is_outermost(self, plain: PlainStore) -> None:
        store: Any = wrap(
            plain, ("logged", "faulty:put_refused=0.5,reason=io,seed=3", "delayed:seconds=0.1"), self.services
        )

        assert [type(layer) for layer in (store, store.below, store.below.below)] == [
            LoggedLayer,
            FaultyLayer,
            DelayedLayer,
        ]
        assert store.below.below.below is plain

    def test_without_specs_the_store_stays_bare(self, plain: PlainStore) -> None:
        store: Store = wrap(plain, (), self.services)
        assert store is plain

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            ("slow", "unknown; there are: delayed"),
            ("delayed:minutes=1", "no parameter 'minutes'; it has: seconds"),
            ("delayed:seconds=soon", "seconds"),
            ("delayed:seconds=-1", "not 0..3600 seconds"),
            ("delayed:seconds=inf", "not 0..3600 seconds"),
            ("delayed:seconds=nan", "not 0..3600 seconds"),
            ("faulty:put_refused=7", "no chance: 0..1"),
            ("faulty:reason=because", "no reason"),
            ("logged:x=1", "it has: none"),
        ],
    )
    def test_a_bad_spec_says_what_is_wrong(self, spec: str, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check_layer(spec)

    @pytest.mark.parametrize("spec", ["delayed", "delayed:", "faulty:get_lost=1,seed=4", "logged"])
    def test_a_good_spec_is_itself(self, spec: str) -> None:
        assert check_layer(spec) == spec
