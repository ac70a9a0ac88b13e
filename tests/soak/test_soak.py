"""The soak in a few seconds, and its arithmetic."""

import random

import pytest
from tests.soak.figures import picture, slope
from tests.soak.soak import report, soak


def test_a_few_seconds_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    samples, pages = soak(0.07, 1, lambda _: None, every=0.05)
    assert pages > 1000
    assert len(samples.times) >= 40
    report(samples)
    said = capsys.readouterr().out
    for name in ("rss_bytes", "descriptors", "threads", "tasks"):
        assert f"{name}: " in said
    assert "nan" not in said


def test_a_line_has_its_slope() -> None:
    found = slope(range(200), [5 + 0.25 * x for x in range(200)])
    assert found.per_second == pytest.approx(0.25)
    assert found.low == pytest.approx(found.high)


@pytest.mark.parametrize("true", [0.0, 0.02, -0.02])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(true: float) -> None:
    hits = 0
    for seed in range(200):
        chance = random.Random(seed)
        values = [100 + true * x + chance.gauss(0, 5) for x in range(400)]
        found = slope(range(400), values)
        hits += found.low <= true <= found.high
    assert 180 <= hits <= 199


def test_too_few_samples_are_no_slope() -> None:
    with pytest.raises(ValueError, match="too few"):
        slope(range(39), range(39))


def test_a_picture_of_a_rise() -> None:
    assert picture([1, 2, 3, 4, 5, 6, 7, 8]) == "▁▂▃▄▅▆▇█"
    assert picture([7, 7, 7]) == "▁▁▁"
    assert len(picture(list(range(1000)))) == 72
