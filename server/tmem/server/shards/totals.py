"""What all shards report, added up.

Owns: how the metrics of several processes become those of one server. Pure: texts in, families out. Bytes, pages and counts are sums. What every
shard has for itself although it is one thing to a client (sessions, pools) is the most of any; so are ratios and states.

A count never goes back, whatever becomes of a shard: Prometheus takes a sum that falls for a new server's, and all of what comes after it for new,
and an alert on lost pages would go off for those of last week. So a shard that does not answer counts as it did when it last did, and one that was
started again goes on from there.
"""

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

__all__ = ["Shard", "add_up", "by_shard"]

_MOST = {
    "tmem_build_info",
    "tmem_sessions",
    "tmem_streams",
    "tmem_pools",
    "tmem_parked_pools",
    "tmem_recovering",
    "tmem_load_ratio",
    "python_info",
}
_LEAST = {"process_start_time_seconds"}
_COUNTS = {"counter", "histogram", "summary"}


class Shard:
    """What one shard has reported, by however many processes."""

    def __init__(self) -> None:
        self._life = 0
        self._counts: list[Metric] = []  # as the process last said
        self._before: list[Metric] = []  # what those that have ended had counted

    def take(self, text: str | None, life: int) -> list[Metric]:
        """Its families now.

        Args:
            text: what it says; None: it does not answer.
            life: which of its processes that is.
        """
        others: list[Metric] = []
        if text is not None:
            if life != self._life:
                self._before = list(add_up([self._before, self._counts]))
                self._life = life
            found = list(text_string_to_metric_families(text))
            self._counts = [family for family in found if family.type in _COUNTS]
            others = [family for family in found if family.type not in _COUNTS]
        return [*others, *add_up([self._before, self._counts])]


def add_up(expositions: Iterable[Iterable[Metric]]) -> Iterator[Metric]:
    """The families of several expositions as one."""
    families: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for exposition in expositions:
        for family in exposition:
            families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            held = values.setdefault(family.name, {})
            for sample in family.samples:
                key = (sample.name, tuple(sorted(sample.labels.items())))
                held[key] = _join(sample, held.get(key))
    for name, family in families.items():
        for (sample_name, labels), value in values[name].items():
            family.samples.append(Sample(sample_name, dict(labels), value))
        yield family


def _join(sample: Sample, before: float | None) -> float:
    if before is None:
        return float(sample.value)
    if sample.name in _MOST:
        return max(before, sample.value)
    if sample.name in _LEAST:
        return min(before, sample.value)
    return before + sample.value


def by_shard(name: str, text: str, values: Mapping[int, float], kind: str = "gauge") -> Metric:
    """A metric of the shards themselves."""
    family = Metric(name.removesuffix("_total"), text, kind)
    for shard, value in values.items():
        family.samples.append(Sample(name, {"shard": str(shard)}, value))
    return family
