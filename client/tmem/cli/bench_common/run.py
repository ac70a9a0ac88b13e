"""A run of measurements, one after the other, and how what they found is printed.

Owns: what is said meanwhile, and what is noted of each: its seconds, and the machine's load when it ended.
"""

import os
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from tmem.cli.output import console, print_table, progress, talk
from tmem.wire.errors import TmemError

from .figures import Figure, Report, show
from .rig import Rig

__all__ = ["measure", "print_report", "table_row"]

R = TypeVar("R", bound=Rig)


def measure(
    make_rig: Callable[[Callable[[str], None]], R],
    measurements: Mapping[str, Callable[[R], None]],
    *,
    go_on: bool = False,
) -> R:
    """Takes all measurements.

    Args:
        make_rig: makes what they share; it is handed the function to say by what happens now.
        measurements: in order, by name.
        go_on: whether a measurement that fails is noted, and the others are taken all the same.
    """
    with progress() as bars:
        bar = bars.add_task("measuring", total=len(measurements))
        rig = make_rig(lambda what: bars.update(bar, description=what))
        for name, take in measurements.items():
            begun = time.monotonic()
            rig.report.begin(name)
            if not talk.is_terminal:
                talk.print(f"measuring {name} ...")
            try:
                take(rig)
            except (ChildProcessError, TimeoutError, TmemError) as error:
                if not go_on:
                    raise
                rig.report.failed[name] = f"{name} failed: {error}"
            # Other work on this machine shows here, and in spreads.
            rig.report.about[f"{name}_load_average"] = round(os.getloadavg()[0], 2)
            rig.report.about[f"{name}_measured_in_seconds"] = round(time.monotonic() - begun, 1)
            bars.advance(bar)
    return rig


def table_row(figure: Figure) -> list[str]:
    """What it is, its goal, the measured value, its spread, and the verdict."""
    spread = f"{show(min(figure.rounds))} .. {show(max(figure.rounds))}" if figure.rounds else ""
    goal = "" if figure.goal is None else str(figure.goal)
    return [figure.title, goal, show(figure.value), spread, figure.verdict]


def print_report(report: Report) -> None:
    """Every measurement as a table, and how many goals are met."""
    for name, figures in report.figures.items():
        skipped = report.skipped(name)
        skipped += [report.failed[name]] if name in report.failed else []
        if not figures:
            console.print(f"{name}: {'; '.join(skipped)}")
            continue
        seconds = report.about[f"{name}_measured_in_seconds"]
        print_table(
            f"{name}, measured in {seconds:.0f} s",
            ["", "goal", "measured", "spread", ""],
            [table_row(figure) for figure in figures if not figure.detail],
            notes=skipped,
        )
    with_goal = report.with_goal
    console.print(f"{sum(1 for figure in with_goal if figure.ok)} of {len(with_goal)} goals are met.")
