"""`tmem bench programs`: real programs with little local memory.

Owns: which measurements there are, their order, the command's options and its exit status.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tmem.cli.bench_common.options import only_option, report_option, shrink_option
from tmem.cli.options import fail, failures_told
from tmem.cli.output import print_json, talk

if TYPE_CHECKING:
    from .rig import Rig

__all__ = ["programs"]

NAMES = ("sort", "numpy", "sqlite", "redis", "faults")
WAYS = ("swap", "pager", "disk", "zram", "zswap", "floor")
_DISK = Path("/var/tmp")  # noqa: S108  the swap file's name is made there with O_EXCL


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_option
@click.option("--quick", is_flag=True, help="Smaller sizes and one round: minutes instead of a quarter of an hour.")
@only_option(NAMES)
@click.option(
    "--way",
    "ways",
    metavar="WAY",
    multiple=True,
    type=click.Choice(WAYS),
    help=f"Only by this way; may be given several times. One of {', '.join(WAYS)}.",
)
@click.option(
    "--share",
    "shares",
    metavar="PERCENT",
    multiple=True,
    type=click.IntRange(5, 100),
    help="Only with so much of the working set in local memory; may be given several times.",
)
@click.option("--rounds", metavar="N", type=click.IntRange(1, 100), help="Rounds of everything.")
@click.option(
    "--disk",
    metavar="DIRECTORY",
    default=_DISK,
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the swap file goes, on the disk that is to be measured.",
)
@shrink_option("figures")
def programs(
    as_json: bool,
    report: Path | None,
    quick: bool,
    only: tuple[str, ...],
    ways: tuple[str, ...],
    shares: tuple[int, ...],
    rounds: int | None,
    disk: Path,
    shrink: int,
) -> None:
    """Measure what little local memory does to real programs: GNU sort, numpy, sqlite3, redis-server.

    Each runs with 100, 75, 50 and 25 % of its working set, the rest on a server by the swap agent or the pager, in a swap file on disk, in compressed
    memory, or on a loop device over memory, which is the floor. Times are ratios to the same program alone, outputs are compared. It takes
    root, and a machine without swap areas of its own.

    Exit status 1: an output differs, or this machine can't; a missed goal of speed is none.
    """
    for module, extra in (("pydantic", "server"), ("hpack", "agents")):
        if find_spec(module) is None:
            fail(f"this needs the server and the agents: pip install 'tmem[cli,server,agents]' (no {extra})", 1)
    if report is not None and find_spec("matplotlib") is None:
        fail("--report draws with matplotlib, which is not installed: pip install 'tmem[bench]'", 1)
    # On demand: a client alone has the command too, without a server to measure.
    from contextlib import ExitStack
    from dataclasses import replace

    from tmem.cli.bench_common.rig import ended_by_sigterm, no_process_left
    from tmem.cli.bench_common.run import measure

    from .machine import check, describe
    from .rig import Rig, Sizes
    from .tables import print_found

    sizes = (Sizes.quick() if quick else Sizes()).shrunk(shrink)
    sizes = replace(sizes, shares=shares or sizes.shares, rounds=rounds or sizes.rounds)
    with failures_told(), no_process_left(), ended_by_sigterm():
        check()
        about = describe()
        with ExitStack() as stack:
            rig = measure(lambda say: stack.enter_context(Rig(sizes, disk, say)), _measurements(only, ways))
        found = rig.report
        found.about |= about | {"quick": quick, "shrink": shrink} | rig.json()
        if report is not None:
            from .page import write_page

            write_page(report, rig)
            talk.print(f"the report is in {report}", soft_wrap=True)
    if as_json:
        print_json(found.json())
    else:
        print_found(rig)
    if found.broken:
        fail("; ".join(str(figure) for figure in found.broken), 1)


def _measurements(only: tuple[str, ...], chosen: tuple[str, ...]) -> "dict[str, Callable[[Rig], None]]":
    """Those that are wanted, in order, by name."""
    from . import faults, slowdown
    from .arrays import Numpy
    from .database import Sqlite
    from .keyvalue import RedisServer
    from .programs import Program
    from .sorting import Sort
    from .ways import all_ways

    def run(program: Program) -> "Callable[[Rig], None]":
        return lambda rig: slowdown.measure(
            rig, program, [way for way in all_ways(rig) if not chosen or way.name in chosen]
        )

    measurements: dict[str, Callable[[Rig], None]] = {
        program.name: run(program) for program in (Sort(), Numpy(), Sqlite(), RedisServer())
    }
    measurements["faults"] = lambda rig: faults.measure(rig, chosen)
    return {name: take for name, take in measurements.items() if not only or name in only}
