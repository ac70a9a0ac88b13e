from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tmem.server.shards.totals import Shard, add_up, by_shard


def exposition(puts: float, sessions: float, seconds: float, started: float) -> str:
    registry = CollectorRegistry()
    Counter("tmem_put_pages_total", "Pages.", ["pool", "result"], registry=registry).labels("a", "stored").inc(puts)
    Gauge("tmem_sessions", "Sessions.", registry=registry).set(sessions)
    Gauge("process_start_time_seconds", "Start.", registry=registry).set(started)
    Histogram("tmem_rpc_duration_seconds", "Calls.", buckets=(0.001, 1.0), registry=registry).observe(seconds)
    return generate_latest(registry).decode()


def flat(families: Iterable[Metric]) -> dict[str, float]:
    return {
        sample.name + "".join(f",{label}" for label in sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def values(*texts: str) -> dict[str, float]:
    return flat(add_up(map(text_string_to_metric_families, texts)))


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
            families = text_string_to_metric_families(exposition(1, 1, 1, 1))
            return [*add_up([families]), by_shard("tmem_shard_restarts_total", "R.", {0: 2.0}, "counter")]

    registry = CollectorRegistry()
    registry.register(Source())  # type: ignore[arg-type]
    text = generate_latest(registry).decode()

    assert "# TYPE tmem_put_pages_total counter" in text
    assert 'tmem_shard_restarts_total{shard="0"} 2.0' in text


def test_a_shard_that_does_not_answer_counts_as_when_it_last_did_and_has_no_sessions() -> None:
    shard = Shard()
    shard.take(exposition(3, 2, 0.5, 100.0), 0)

    found = flat(shard.take(None, 0))

    assert found["tmem_put_pages_total,a,stored"] == 3
    assert found["tmem_rpc_duration_seconds_count"] == 1
    assert "tmem_sessions" not in found
    assert flat(shard.take(exposition(5, 1, 0.5, 100.0), 0))["tmem_put_pages_total,a,stored"] == 5


def test_the_counts_of_a_shard_that_was_started_again_never_go_back() -> None:
    shard = Shard()
    seen = [
        flat(shard.take(text, life))
        for text, life in (
            (exposition(7, 2, 0.5, 100.0), 0),
            (None, 1),
            (exposition(1, 4, 0.5, 200.0), 1),
            (exposition(2, 4, 0.5, 200.0), 1),
            (None, 2),
            (exposition(0, 4, 0.5, 300.0), 3),  # the one in between never answered
            (exposition(1, 4, 0.5, 300.0), 3),
        )
    ]

    assert [each["tmem_put_pages_total,a,stored"] for each in seen] == [7, 7, 8, 9, 9, 9, 10]
    assert seen[-1]["tmem_rpc_duration_seconds_bucket,+Inf"] == 3
    assert (seen[-1]["tmem_sessions"], seen[-1]["process_start_time_seconds"]) == (4, 300)
