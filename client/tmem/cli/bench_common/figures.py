"""Measured values, and the goals that stand beside them.

Owns: `Figure` and `Report`: how a value is compared with its goal, how both are printed, and which keys the JSON has. Must not know: how
anything is measured.

Keys: a figure's own, such as "index_dense_in_order_bytes"; with `_spread` behind it the least and the greatest of several rounds. Units are in
the keys: `_bytes`, `_us`, `_seconds`, `_ratio`.
"""

import operator
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Figure", "Goal", "Report", "at_least", "at_most", "exactly", "percentile", "ratios", "within"]

_COMPARE = {"<=": operator.le, ">=": operator.ge, "=": operator.eq}


@dataclass(frozen=True, slots=True)
class Goal:
    """What a value is to be.

    Attributes:
        limits: all must hold: (comparison, bound).
        strict: missing it is an error of the program, not of the machine or the day.
    """

    limits: tuple[tuple[str, float], ...]
    strict: bool = False

    def met(self, value: float) -> bool:
        """Whether a value is what it is to be."""
        return all(_COMPARE[sign](value, bound) for sign, bound in self.limits)

    def __str__(self) -> str:
        return " and ".join(f"{sign} {bound:g}" for sign, bound in self.limits)


def at_most(bound: float) -> Goal:
    """A value of at most so much."""
    return Goal((("<=", bound),))


def at_least(bound: float) -> Goal:
    """A value of at least so much."""
    return Goal(((">=", bound),))


def within(low: float, high: float) -> Goal:
    """A value between two bounds."""
    return Goal(((">=", low), ("<=", high)))


def exactly(value: float) -> Goal:
    """This value and no other; anything else is a bug."""
    return Goal((("=", value),), strict=True)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def ratios(these: Sequence[float], those: Sequence[float]) -> list[float]:
    """What was measured over what was measured beside it, round by round."""
    return [this / that for this, that in zip(these, those, strict=True)]


@dataclass(slots=True)
class Figure:
    """One measured value.

    Attributes:
        key: its name in the JSON. title: what people read.
        rounds: every round's value, where there were several; the median counts.
        detail: whether it is left out of what is printed; the JSON has it.
    """

    key: str
    title: str
    value: float
    goal: Goal | None = None
    rounds: list[float] = field(default_factory=list)
    detail: bool = False

    @property
    def ok(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.goal.met(self.value)

    @property
    def verdict(self) -> str:
        """For a table."""
        return {None: "", True: "ok", False: "MISSED"}[self.ok]

    def __str__(self) -> str:
        if self.goal is None:
            return f"{self.title}: measured {show(self.value)}"
        return f"{self.title}: goal {self.goal}, measured {show(self.value)}, {self.verdict}"


def show(value: float) -> str:
    """A number for people: whole ones grouped, others with as many digits as say something."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"


class Report:
    """All figures of a run, in order.

    Attributes:
        figures: by measurement.
        not_run: measurements, or parts of them, that could not be made, and why. failed: measurements that broke off, and why.
        about: what else the JSON says: sizes, seconds, CPUs.
        measurement: which one is being taken.
    """

    def __init__(self) -> None:
        self.figures: dict[str, list[Figure]] = {}
        self.not_run: dict[str, str] = {}
        self.failed: dict[str, str] = {}
        self.about: dict[str, Any] = {}
        self.measurement = ""

    def begin(self, measurement: str) -> None:
        """What follows belongs to this measurement."""
        self.measurement = measurement
        self.figures[measurement] = []

    def add(self, key: str, title: str, value: float, goal: Goal | None = None, *, detail: bool = False) -> None:
        """A value."""
        self.figures[self.measurement].append(Figure(key, title, value, goal, detail=detail))

    def add_rounds(
        self, key: str, title: str, rounds: list[float], goal: Goal | None = None, *, detail: bool = False
    ) -> None:
        """The median of several rounds."""
        value = statistics.median(rounds)
        self.figures[self.measurement].append(Figure(key, title, value, goal, rounds, detail))

    def skip(self, reason: str, part: str = "") -> None:
        """The measurement, or a part of it, can't be made here."""
        self.not_run[f"{self.measurement}_{part}" if part else self.measurement] = f"not run: {reason}"

    def skipped(self, measurement: str) -> list[str]:
        """What of a measurement could not be made."""
        return [reason for part, reason in self.not_run.items() if part.partition("_")[0] == measurement]

    @property
    def with_goal(self) -> list[Figure]:
        """Figures that are to be something."""
        return [figure for figures in self.figures.values() for figure in figures if figure.goal is not None]

    @property
    def broken(self) -> list[Figure]:
        """Figures that show a bug."""
        return [figure for figure in self.with_goal if figure.goal is not None and figure.goal.strict and not figure.ok]

    def json(self) -> dict[str, Any]:
        """One object with plain keys."""
        result: dict[str, Any] = dict(self.about)
        goals = {}
        for figure in (figure for figures in self.figures.values() for figure in figures):
            result[figure.key] = _rounded(figure.value)
            if figure.rounds:
                result[f"{figure.key}_spread"] = [_rounded(min(figure.rounds)), _rounded(max(figure.rounds))]
            if figure.goal is not None:
                goals[figure.key] = {
                    "goal": str(figure.goal),
                    "measured": _rounded(figure.value),
                    "ok": figure.ok,
                    "text": str(figure),
                }
        return result | {"goals": goals, "not_run": self.not_run, "failed": self.failed}


def _rounded(value: float) -> float:
    return value if isinstance(value, int) else float(f"{value:.6g}")
