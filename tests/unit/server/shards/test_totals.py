from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tmem.server.shards.totals import add_up, by_shard


def exposition(puts: float, sessions: float, seconds: float, started: float) -> str:
    registry = CollectorRegistry()
    Counter("tmem_put_pages_total", "Pages.", ["pool", "result"], registry=registry).labels("a", "stored").inc(puts)
    Gauge("tmem_sessions", "Sessions.", registry=registry).set(sessions)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(started)
    Histogram("tmem_rpc_duration_seconds", "Calls.", buckets=(0.001, 1.0), registry=registry).observe(seconds)
    return generate_latest(registry).decode()


def values(*texts: str) -> dict[str, float]:
    return {
        sample.name + "".join(f",{label}" for label in sample.labels.values()): sample.value
        for family in add_up(texts)
        for sample in family.samples
    }


def test_counts_are_added_and_what_is_one_thing_to_clients_is_not() -> None:
    found = values(exposition(3, 2, 0.5, 100.0), exposition(4, 5, 0.0001, 90.0))

    assert found["tmem_put_pages_total,a,stored"] == 7
    assert found["tmem_sessions"] == 5
    assert found["process_start_time_seconds"] == 90
    assert found["tmem_rpc_duration_seconds_count"] == 2
    assert found["tmem_rpc_duration_seconds_bucket,0.001"] == 1
    assert found["tmem_rpc_duration_seconds_bucket,+Inf"] == 2


def test_a_shard_that_knows_other_pools_adds_its_own() -> None:
    registry = CollectorRegistry()
    Counter("tmem_put_pages_total", "Pages.", ["pool", "result"], registry=registry).labels("b", "stored").inc(9)

    found = values(exposition(3, 2, 0.5, 1.0), generate_latest(registry).decode())

    assert (found["tmem_put_pages_total,a,stored"], found["tmem_put_pages_total,b,stored"]) == (3, 9)


def test_the_sum_is_an_exposition_again() -> None:
    class Source:
        def describe(self) -> list[object]:
            return []

        def collect(self) -> list[object]:
            return [*add_up([exposition(1, 1, 1, 1)]), by_shard("tmem_shard_restarts_total", "R.", {0: 2.0}, "counter")]

    registry = CollectorRegistry()
    registry.register(Source())  # type: ignore[arg-type]
    text = generate_latest(registry).decode()

    assert "# TYPE tmem_put_pages_total counter" in text
    assert 'tmem_shard_restarts_total{shard="0"} 2.0' in text
