"""`tmem bench store`: what the store promises, measured.

Owns: which measurements there are, their order, and how figures are printed.
"""

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from tmem.cli.options import fail, failures_told
from tmem.cli.output import console, print_json, print_table, progress, talk
from tmem.wire.allocator import keep_freed_messages

if TYPE_CHECKING:
    from .figures import Figure, Report
    from .rig import Rig, Sizes

__all__ = ["store"]

NAMES = ("index", "growth", "rivals", "residency", "cleaning", "refusal", "weights", "crashes", "recovery")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quick", is_flag=True, help="Smaller sizes: minutes instead of tens of them.")
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    type=click.Choice(NAMES),
    help=f"Measure only this; may be given several times. One of {', '.join(NAMES)}.",
)
@click.option(
    "--shrink",
    metavar="N",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Divide all sizes by N, to try the command; goals mean nothing then.",
)
def store(as_json: bool, quick: bool, only: tuple[str, ...], shrink: int) -> None:
    """Measure the store against its goals, with daemons of its own.

    Each figure is a ratio, a bound or a count; those that have a goal are printed with it. Speeds are taken in turn with what they are compared
    with, medians count, spreads are printed. Exit status 1: pages were lost, or bytes differ; a missed goal of speed or size is none.
    """
    if find_spec("tmem.server") is None or find_spec("pydantic") is None:
        fail("this needs the server: pip install 'tmem[cli,server]'", 1)
    # On demand: a client alone has the command too, without a server to measure.
    from .rig import Sizes, ended_by_sigterm, no_process_left

    keep_freed_messages()
    sizes = (Sizes.quick() if quick else Sizes()).shrunk(shrink)
    chosen = [name for name in NAMES if not only or name in only]
    with failures_told(), no_process_left(), ended_by_sigterm():
        report = _measure(sizes, chosen)
    report.about |= {"quick": quick, "shrink": shrink, "cpus": sorted(os.sched_getaffinity(0))}
    if as_json:
        print_json(report.json())
    else:
        _print(report)
    if report.broken:
        fail("; ".join(str(figure) for figure in report.broken), 1)


def _measurements() -> "dict[str, Callable[[Rig], None]]":
    from . import cleaning, crashes, growth, index, recovery, refusal, residency, rivals, weights

    modules = (index, growth, rivals, residency, cleaning, refusal, weights, crashes, recovery)
    return dict(zip(NAMES, (module.measure for module in modules), strict=True))


def _plain_bytes(sizes: "Sizes", chosen: list[str]) -> int:
    """How much real memory the chosen measurements want at most."""
    from .crashes import PLAIN_BYTES
    from .recovery import PLAIN_MIB
    from .rig import MIB

    wanted = {
        "rivals": sizes.rivals * MIB,
        "residency": sizes.residency * MIB,
        "cleaning": sizes.cleaning * MIB,
        "refusal": sizes.refusal * MIB,
        "crashes": PLAIN_BYTES,
        "recovery": min(PLAIN_MIB, 2 * sizes.recovery) * MIB,
    }
    return max((wanted.get(name, 0) for name in chosen), default=0)


def _measure(sizes: "Sizes", chosen: list[str]) -> "Report":
    from .rig import Rig

    measurements = _measurements()
    with progress() as bars:
        bar = bars.add_task("measuring", total=len(chosen))
        rig = Rig(sizes, _plain_bytes(sizes, chosen), lambda what: bars.update(bar, description=what))
        for name in chosen:
            begun = time.monotonic()
            rig.report.begin(name)
            if not talk.is_terminal:
                talk.print(f"measuring {name} ...")
            measurements[name](rig)
            # Other work on this machine shows here, and in spreads.
            rig.report.about[f"{name}_load_average"] = round(os.getloadavg()[0], 2)
            rig.report.about[f"{name}_measured_in_seconds"] = round(time.monotonic() - begun, 1)
            bars.advance(bar)
    return rig.report


def _print(report: "Report") -> None:
    from .figures import show

    def row(figure: "Figure") -> list[str]:
        spread = f"{show(min(figure.rounds))} .. {show(max(figure.rounds))}" if figure.rounds else ""
        goal = "" if figure.goal is None else str(figure.goal)
        return [figure.title, goal, show(figure.value), spread, figure.verdict]

    for name, figures in report.figures.items():
        skipped = [reason for part, reason in report.not_run.items() if part.partition("_")[0] == name]
        if not figures:
            console.print(f"{name}: {'; '.join(skipped)}")
            continue
        seconds = report.about[f"{name}_measured_in_seconds"]
        print_table(
            f"{name}, measured in {seconds:.0f} s",
            ["", "goal", "measured", "spread", ""],
            map(row, figures),
            notes=skipped,
        )
    with_goal = [figure for figures in report.figures.values() for figure in figures if figure.goal is not None]
    console.print(f"{sum(1 for figure in with_goal if figure.ok)} of {len(with_goal)} goals are met.")
