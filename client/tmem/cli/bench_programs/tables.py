"""What was found, as tables.

Owns: their rows: programs by ways at half of the working set, one program by ways and shares, the sum that a fault is made of. The terminal and
the page show the same ones. Must not know: how either is drawn.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from tmem.cli.bench_common.figures import ratios, show
from tmem.cli.bench_common.rig import MIB
from tmem.cli.bench_common.run import table_row
from tmem.cli.output import console, print_table

from .rig import Rig
from .ways import TITLES

__all__ = ["Table", "faults_table", "half_table", "print_found", "program_tables"]

HALF = 50


@dataclass(frozen=True, slots=True)
class Table:
    """One table; the first column is text."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


def print_found(rig: Rig) -> None:
    """On standard output."""
    for table in (half_table(rig), *program_tables(rig), faults_table(rig)):
        if table.rows:
            print_table(table.title, table.columns, table.rows, notes=table.notes)
    for name in rig.report.figures:
        if not rig.report.figures[name]:
            console.print(f"{name}: {'; '.join(rig.report.skipped(name))}")
    goals = rig.report.with_goal
    console.print(f"{sum(1 for figure in goals if figure.ok)} of {len(goals)} goals are met.")
    console.print("Figures are of this run on this machine.")


def _cell(rounds: Sequence[float] | None) -> str:
    """The median and the spread of slowdowns."""
    if not rounds:
        return "-"
    median = show(statistics.median(rounds))
    return median if len(rounds) == 1 else f"{median} ({show(min(rounds))} .. {show(max(rounds))})"


def _ways(rig: Rig) -> list[str]:
    """Those that anything was measured by."""
    return [way for way in TITLES if any(ways.get(way) for ways in rig.series.slowdowns.values())]


def half_table(rig: Rig) -> Table:
    """Every program at half of its working set, by every way."""
    ways = _ways(rig)
    rows = []
    for name, slowdowns in rig.series.slowdowns.items():
        at_half = {way: slowdowns.get(way, {}).get(HALF) for way in ways}
        ours, disk = at_half.get("swap"), at_half.get("disk")
        beside = _cell(ratios(ours, disk)) if ours and disk and len(ours) == len(disk) else "-"
        rows.append([name, *(_cell(rounds) for rounds in at_half.values()), beside])
    return Table(
        f"{HALF} % of the working set in local memory: how many times as long as alone",
        ["", *(TITLES[way] for way in ways), "swap agent / disk"],
        rows if any(HALF in shares for ways in rig.series.slowdowns.values() for shares in ways.values()) else [],
        [
            "A cell: the median of the rounds, and their spread. The pager serves programs that allocate in large pieces."
        ],
    )


def program_tables(rig: Rig) -> list[Table]:
    """One for each program that was measured."""
    return [_program(rig, name) for name in rig.series.slowdowns]


def _program(rig: Rig, name: str) -> Table:
    """One program: what is left of its working set across, ways down."""
    report = rig.report
    values = {figure.key: figure for figure in report.figures[name]}
    slowdowns = rig.series.slowdowns[name]
    shares = sorted({share for way in slowdowns.values() for share in way}, reverse=True)
    working_set = values[f"{name}_working_set_bytes"].value
    alone = values[f"{name}_alone_seconds"]
    wrong, runs = values[f"{name}_wrong_outputs"].value, values[f"{name}_runs"].value
    killed = [
        f"{figure.title} and tried again: {figure.value:.0f}."
        for key, figure in values.items()
        if key.endswith("_kills") and figure.value
    ]
    return Table(
        f"{name}: needs {working_set / MIB:.0f} MiB, and alone {_cell(alone.rounds)} s",
        ["times as long as alone, with", *(f"{share} %" for share in shares)],
        [
            [TITLES[way], *(_cell(slowdowns[way].get(share)) for share in shares)]
            for way in TITLES
            if slowdowns.get(way)
        ],
        [f"Outputs that differ: {wrong:.0f} of {runs:.0f}.", *killed, *report.skipped(name)],
    )


def faults_table(rig: Rig) -> Table:
    """Faults: what they take, and the sum."""
    figures = rig.report.figures.get("faults", [])
    return Table(
        "Faults, by a program that touches pages of which half are here",
        ["", "goal", "measured", "spread", ""],
        [table_row(figure) for figure in figures if not figure.detail],
        rig.report.skipped("faults"),
    )
