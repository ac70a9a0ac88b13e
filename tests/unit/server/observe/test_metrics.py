import random

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.pages import extent, random_page, same_filled_page, text_page
from tests.sim import PureClient, PureServer

from tmem.server.observe.metrics import Metrics, Sources
from tmem.server.store.lifecycle import Lifecycle
from tmem.server.store.pools import Pool, PoolRequest


def attach(server: PureServer) -> Metrics:
    service = server.service
    metrics = service.metrics

    def retire(pool: Pool) -> None:
        metrics.retire(pool, server.store.counts(pool.key))

    service.lifecycle._on_gone = retire
    metrics.sources = Sources(
        pools=lambda: service.lifecycle.table,
        unbound=service.engine.unbound,
        store=server.store,
        copies=service.copies,
        memory_limit_bytes=1 << 30,
        sessions=lambda: len(service.sessions),
        streams=lambda: 1,
        load_permille=lambda: 250,
        recovering=lambda: False,
    )
    return metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    text = generate_latest(metrics.registry).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return samples(metrics)[name, tuple(sorted(labels.items()))]


@pytest.fixture
def server() -> PureServer:
    return PureServer(random.Random(1))


@pytest.fixture
def metrics(server: PureServer) -> Metrics:
    return attach(server)


def test_what_happened_is_what_is_reported(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    pool = client.create_pool("swap0")
    client.put(pool, 1, 0, bytes(extent(0, 512)))
    client.put(pool, 1, 600, text_page())
    client.put(pool, 1, 601, random_page())
    client.put(pool, 1, 602, same_filled_page())
    client.settle()
    client.get(pool, 1, 0, 512)
    client.flush(pool, 1, 600, 4)
    client.settle()

    name = "local/swap0"
    assert value(metrics, "tmem_put_pages_total", pool=name, result="stored", reason="") == 515
    assert value(metrics, "tmem_get_pages_total", pool=name, result="hit", reason="") == 512
    assert value(metrics, "tmem_flush_pages_total", pool=name, result="found", reason="") == 3
    assert value(metrics, "tmem_flush_pages_total", pool=name, result="absent", reason="") == 1
    assert value(metrics, "tmem_pages", pool=name) == 512
    assert value(metrics, "tmem_extents_total", pool=name, shape="whole") == 1
    assert value(metrics, "tmem_extents_total", pool=name, shape="single") == 3
    assert value(metrics, "tmem_exchange_batches_total", op="put") == 4
    assert value(metrics, "tmem_exchange_batch_duration_seconds_count", op="put") == 4
    assert value(metrics, "tmem_pools", kind="persistent") == 1
    assert value(metrics, "tmem_sessions") == 1
    assert value(metrics, "tmem_load_ratio") == 0.25
    assert value(metrics, "tmem_tenant_pages_max") == 512
    assert value(metrics, "tmem_resident_bytes") == sum(
        value(metrics, f"tmem_{part}_bytes", pool=name) for part in ("payload", "dead", "index")
    )


def test_refusals_are_told_by_reason(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    pool = client.create_pool("swap0")
    server.service.lifecycle.table.owned("local", pool.pool_id).frozen = True
    client.put(pool, 1, 0, bytes(extent(0, 4)))
    client.settle()

    name = "local/swap0"
    assert value(metrics, "tmem_put_pages_total", pool=name, result="refused", reason="frozen") == 4
    assert value(metrics, "tmem_put_pages_total", pool=name, result="refused", reason="quota") == 0


def test_pools_are_told_by_kind_and_by_whether_anybody_works_on_them(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    pool = client.create_pool("a")
    client.put(pool, 1, 0, random_page())
    client.settle()
    server.service.lifecycle.create("local", PoolRequest("b", 2), 0.0)
    server.service.lifecycle.create("local", PoolRequest("c", 1), 0.0)

    assert [value(metrics, "tmem_pools", kind=kind) for kind in ("persistent", "ephemeral", "shared")] == [2, 1, 0]
    assert [value(metrics, "tmem_parked_pools", kind=kind) for kind in ("persistent", "ephemeral")] == [1, 1]
    assert value(metrics, "tmem_held_bytes", kind="persistent") > 4096
    assert value(metrics, "tmem_held_bytes", kind="ephemeral") == 0


def test_a_pool_that_goes_while_somebody_scrapes_is_counted_once(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    pool = client.create_pool("a")
    client.put(pool, 1, 0, random_page())
    client.settle()
    living = server.service.lifecycle.table.owned("local", pool.pool_id)
    assert metrics.sources is not None
    metrics.sources.pools = lambda: [living]  # as a scrape that began before the pool went

    server.service.lifecycle.destroy(living)

    assert value(metrics, "tmem_put_pages_total", pool="local/a", result="stored", reason="") == 1


def test_no_counter_falls_and_all_gauges_are_zero_when_every_pool_is_gone(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    pools = [client.create_pool(name) for name in ("a", "b")]
    for pool in pools:
        client.put(pool, 1, 0, bytes(extent(0, 40)))
    client.settle()
    before = samples(metrics)
    lifecycle: Lifecycle = server.service.lifecycle
    for held in list(lifecycle.table):
        lifecycle.destroy(held)
    after = samples(metrics)

    for (name, labels), number in before.items():
        if name.startswith("tmem_") and name.endswith(("_total", "_count")):
            assert after[name, labels] >= number, name
    gauges = (
        *("tmem_pages", "tmem_objects", "tmem_blocks", "tmem_payload_bytes", "tmem_index_bytes", "tmem_dead_bytes"),
        *("tmem_same_filled_pages", "tmem_raw_pages", "tmem_pools", "tmem_resident_bytes", "tmem_tenant_pages_max"),
        *("tmem_parked_pools", "tmem_held_bytes", "tmem_reserved_bytes"),
    )
    for (name, _), number in after.items():
        if name in gauges:
            assert number == 0, name


def test_a_pool_made_again_goes_on_counting(server: PureServer, metrics: Metrics) -> None:
    for _ in range(2):
        client = PureClient(server)
        pool = client.create_pool("a")
        client.put(pool, 1, 0, text_page())
        client.settle()
        server.service.lifecycle.destroy(server.service.lifecycle.table.owned("local", pool.pool_id))

    assert value(metrics, "tmem_put_pages_total", pool="local/a", result="stored", reason="") == 2


def test_beyond_a_hundred_pools_the_rest_share_a_label(server: PureServer, metrics: Metrics) -> None:
    client = PureClient(server)
    for number in range(105):
        client.create_pool(f"p{number}")
    client.settle()

    labels = {dict(labels)["pool"] for name, labels in samples(metrics) if name == "tmem_pages"}

    assert len(labels) == 102
    assert {"other", "none"} < labels


def test_what_named_no_pool_counts_apart(server: PureServer, metrics: Metrics) -> None:
    from tmem.wire.handles import Extent
    from tmem.wire.requests import Get, Header

    server.service.engine.execute(Get(Header(1), [Extent(1, 0, 3)]), None)

    assert value(metrics, "tmem_get_pages_total", pool="none", result="refused", reason="no_such_pool") == 3


def test_names_are_prefixed_and_counters_are_totals(metrics: Metrics) -> None:
    for family in metrics.registry.collect():
        assert family.name.startswith(("tmem_", "process_", "python_")), family.name
        if family.type == "counter":
            assert all(sample.name.endswith("_total") for sample in family.samples)
        assert family.documentation


def test_without_sources_durations_are_reported_all_the_same() -> None:
    metrics = Metrics("1")
    metrics.batch("put", 0.001)
    metrics.rpc("PagesService/Put")("OK", 0.001)
    metrics.rpc("PagesService/Put")("NOT_FOUND", 0.001)

    assert value(metrics, "tmem_exchange_batches_total", op="put") == 1
    assert value(metrics, "tmem_rpc_requests_total", method="PagesService/Put", code="NOT_FOUND") == 1
