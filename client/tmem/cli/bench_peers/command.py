"""`tmem bench peers`: tmem beside its peers and beside the machine's limits.

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
from tmem.wire.allocator import keep_freed_messages

if TYPE_CHECKING:
    from .rig import Rig

__all__ = ["peers"]

NAMES = ("density", "extents", "batches", "lone", "clients", "shards")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@report_option
@click.option("--quick", is_flag=True, help="Smaller sizes and fewer rounds: minutes instead of a quarter of an hour.")
@only_option(NAMES)
@click.option("--set-size", metavar="MIB", type=click.IntRange(4, 4096), help="MiB of each set of real pages.")
@click.option(
    "--speed-size",
    metavar="MIB",
    type=click.IntRange(4, 1024),
    help="MiB of the mix of them that speeds are taken with.",
)
@click.option("--rounds", metavar="N", type=click.IntRange(1, 1000), help="Rounds of everything taken in pairs.")
@click.option(
    "--shards",
    metavar="N",
    default=2,
    show_default=True,
    type=click.IntRange(2, 64),
    help="Compare so many shards with one.",
)
@click.option("--no-cap", is_flag=True, help="Let shards take all the CPU they can get; for machines with many.")
@shrink_option("goals")
@click.option(
    "--layer",
    "layers",
    metavar="SPEC",
    multiple=True,
    hidden=True,
    help="A layer of the daemons, such as a faulty one.",
)
def peers(
    as_json: bool,
    report: Path | None,
    quick: bool,
    only: tuple[str, ...],
    set_size: int | None,
    speed_size: int | None,
    rounds: int | None,
    shards: int,
    no_cap: bool,
    shrink: int,
    layers: tuple[str, ...],
) -> None:
    """Measure tmem beside memcached, Redis and Valkey doing the same job, and beside LZ4, memcpy and bare exchanges.

    All servers are its own, on the loopback, on one CPU; clients are on another. Everything is taken in turn in one run; medians count, spreads are
    printed. A peer that is not installed is not run, and the report says so: pip install 'tmem[bench]' has their clients.

    Exit status 1: a page was refused, lost or wrong, or a measurement broke off; a missed goal of speed or size is none.
    """
    if find_spec("tmem.server") is None or find_spec("pydantic") is None:
        fail("this needs the server: pip install 'tmem[cli,server]'", 1)
    if find_spec("hpack") is None:
        fail("this needs the agents' link: pip install 'tmem[agents]'", 1)
    if report is not None and find_spec("matplotlib") is None:
        fail("--report draws with matplotlib, which is not installed: pip install 'tmem[bench]'", 1)
    # On demand: a client alone has the command too, without a server to measure.
    from contextlib import ExitStack
    from dataclasses import replace

    from tmem.cli.bench_common.rig import ended_by_sigterm, no_process_left
    from tmem.cli.bench_common.run import measure, print_report

    from .machine import describe
    from .rig import Rig, Sizes, scratch

    keep_freed_messages()
    sizes = (Sizes.quick() if quick else Sizes()).shrunk(shrink)
    sizes = replace(sizes, set=set_size or sizes.set, speed=speed_size or sizes.speed, rounds=rounds or sizes.rounds)
    measurements = {name: take for name, take in _measurements().items() if not only or name in only}
    with failures_told(), no_process_left(), ended_by_sigterm(), ExitStack() as stack:
        directory = stack.enter_context(scratch())
        about = describe()

        def make_rig(say: Callable[[str], None]) -> Rig:
            return Rig(sizes, directory, say, shards=shards, shards_capped=not no_cap, layers=layers)

        rig = measure(make_rig, measurements, go_on=True)
        found = rig.report
        found.about |= about | {"quick": quick, "shrink": shrink, "cpus": rig.cpus}
        found.about |= {"server_cpu": rig.server_cpu, "client_cpu": rig.client_cpu, "sizes": sizes.json()}
        if report is not None:
            from .page import write_page

            write_page(report, rig)
            talk.print(f"the report is in {report}", soft_wrap=True)
    if as_json:
        print_json(found.json())
    else:
        print_report(found)
    wrong = [*found.failed.values(), *map(str, found.broken)]
    if wrong:
        fail("; ".join(wrong), 1)


def _measurements() -> "dict[str, Callable[[Rig], None]]":
    from . import batches, clients, density, extents, lone, shards

    modules = (density, extents, batches, lone, clients, shards)
    return dict(zip(NAMES, (module.measure for module in modules), strict=True))
