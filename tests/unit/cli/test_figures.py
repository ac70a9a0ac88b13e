"""Measured values against goals."""

import pytest

from tmem.cli.bench_common.figures import Figure, Report, at_least, at_most, exactly, percentile, ratios, within


@pytest.mark.parametrize(
    ("goal", "good", "bad"),
    [
        (at_most(1.15), [0, 1.15], [1.1501]),
        (at_least(0.9), [0.9, 3], [0.8999]),
        (within(2.7, 3.3), [2.7, 3, 3.3], [2.69, 3.31]),
        (exactly(0), [0], [1, -1]),
    ],
)
def test_a_goal_is_met_up_to_its_bounds(goal, good, bad):
    assert all(goal.met(value) for value in good)
    assert not any(goal.met(value) for value in bad)


def test_a_figure_says_goal_value_and_verdict():
    assert str(Figure("a", "a ratio", 1.12, at_most(1.15))) == "a ratio: goal <= 1.15, measured 1.12, ok"
    assert str(Figure("a", "a ratio", 1.2, at_most(1.15))) == "a ratio: goal <= 1.15, measured 1.20, MISSED"
    assert str(Figure("a", "bytes", 12345)) == "bytes: measured 12,345"


def test_a_report_has_plain_keys_medians_and_spreads():
    report = Report()
    report.begin("m")
    report.add_rounds("m_ratio", "rounds", [3.0, 1.0, 2.0], at_most(2))
    report.add("m_lost", "lost", 0, exactly(0))
    report.skip("x is not installed", "x")
    found = report.json()
    assert (found["m_ratio"], found["m_ratio_spread"], found["m_lost"]) == (2.0, [1.0, 3.0], 0)
    assert found["goals"]["m_ratio"]["ok"] is True
    assert found["not_run"] == {"m_x": "not run: x is not installed"}
    assert not report.broken


def test_only_a_missed_strict_goal_is_a_bug():
    report = Report()
    report.begin("m")
    report.add("m_slow", "slow", 9, at_most(1))
    assert not report.broken
    report.add("m_lost", "lost", 1, exactly(0))
    assert [figure.key for figure in report.broken] == ["m_lost"]


def test_percentiles():
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 99), percentile(values, 100)) == (51, 100, 100)
    assert percentile([7.0], 99) == 7


def test_ratios_are_taken_round_by_round():
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]


def test_a_report_says_what_was_not_run_what_failed_and_which_figures_are_details():
    report = Report()
    report.begin("one")
    report.add("one_a", "a", 1, at_least(1), detail=True)
    report.skip("no such server", "server")
    report.begin("two")
    report.failed["two"] = "two failed: it ended"
    assert report.skipped("one") == ["not run: no such server"]
    assert report.skipped("two") == []
    assert [figure.key for figure in report.with_goal] == ["one_a"]
    assert report.figures["one"][0].detail
    found = report.json()
    assert (found["one_a"], found["failed"]) == (1, {"two": "two failed: it ended"})
