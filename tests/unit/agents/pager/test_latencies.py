"""How long touches waited."""

import random

from tmem.agents.pager import latencies


def test_quantiles_are_right_to_a_fifth_at_any_scale() -> None:
    chance = random.Random(1)
    for scale in (3e-6, 1e-4, 0.01, 2.0):
        buckets = [0] * latencies.BUCKETS
        values = sorted(scale * chance.lognormvariate(0, 1) for _ in range(4000))
        for value in values:
            latencies.note(buckets, value)
        for part in (0.5, 0.99):
            found = latencies.quantile(buckets, part)
            assert found is not None
            assert 0.65 < found / values[int(part * 4000)] < 1.5
    assert latencies.quantile([0] * latencies.BUCKETS, 0.5) is None
    buckets = [0] * latencies.BUCKETS
    for value in (0.0, 1e9):
        latencies.note(buckets, value)
    assert sum(buckets) == 2
