"""`tmem bench store`: what the store promises, measured.

Owns: which measurements there are, their order, and how figures are printed.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from tmem.cli.bench_common.options import only_option, shrink_option
from tmem.cli.options import fail, failures_told
from tmem.cli.output import print_json
from tmem.wire.allocator import keep_freed_messages

if TYPE_CHECKING:
    from .rig import Rig, Sizes

__all__ = ["store"]

NAMES = ("index", "growth", "rivals", "residency", "cleaning", "refusal", "weights", "crashes", "recovery")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--quick", is_flag=True, help="Smaller sizes: minutes instead of tens of them.")
@only_option(NAMES)
@shrink_option("goals")
def store(as_json: bool, quick: bool, only: tuple[str, ...], shrink: int) -> None:
    """Measure the store against its goals, with daemons of its own.

    Each figure is a ratio, a bound or a count; those that have a goal are printed with it. Speeds are taken in turn with what they are compared
    with, medians count, spreads are printed. Exit status 1: pages were lost, or bytes differ; a missed goal of speed or size is none.
    """
    if find_spec("tmem.server") is None or find_spec("pydantic") is None:
        fail("this needs the server: pip install 'tmem[cli,server]'", 1)
    # On demand: a client alone has the command too, without a server to measure.
    from tmem.cli.bench_common.rig import ended_by_sigterm, no_process_left
    from tmem.cli.bench_common.run import measure, print_report

    from .rig import Rig, Sizes

    keep_freed_messages()
    sizes = (Sizes.quick() if quick else Sizes()).shrunk(shrink)
    chosen = [name for name in NAMES if not only or name in only]
    measurements = {name: take for name, take in _measurements().items() if name in chosen}
    with failures_told(), no_process_left(), ended_by_sigterm():
        report = measure(lambda say: Rig(sizes, _plain_bytes(sizes, chosen), say), measurements).report
    report.about |= {"quick": quick, "shrink": shrink, "cpus": sorted(os.sched_getaffinity(0))}
    if as_json:
        print_json(report.json())
    else:
        print_report(report)
    if report.broken:
        fail("; ".join(str(figure) for figure in report.broken), 1)


def _measurements() -> "dict[str, Callable[[Rig], None]]":
    from . import cleaning, crashes, growth, index, recovery, refusal, residency, rivals, weights

    modules = (index, growth, rivals, residency, cleaning, refusal, weights, crashes, recovery)
    return dict(zip(NAMES, (module.measure for module in modules), strict=True))


def _plain_bytes(sizes: "Sizes", chosen: list[str]) -> int:
    """How much real memory the chosen measurements want at most."""
    from tmem.cli.bench_common.rig import MIB

    from .crashes import PLAIN_BYTES
    from .recovery import PLAIN_MIB

    wanted = {
        "rivals": sizes.rivals * MIB,
        "residency": sizes.residency * MIB,
        "cleaning": sizes.cleaning * MIB,
        "refusal": sizes.refusal * MIB,
        "crashes": PLAIN_BYTES,
        "recovery": min(PLAIN_MIB, 2 * sizes.recovery) * MIB,
    }
    return max((wanted.get(name, 0) for name in chosen), default=0)
