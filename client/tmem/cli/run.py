"""`tmem run`: one unmodified program with a local limit, the rest of its memory on the server.

Owns: the command, the choice of the way, and the report. Ways are in tmem.agents.run; what the program prints is its own affair, so
that everything of ours goes to standard error, also the report, as JSON if that is asked for, and to a file if one is named.
"""

import signal
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from .options import Server, fail, server_options
from .output import format_bytes, talk
from .parameters import DURATION, SIZE
from .swap import run_directory_option

if TYPE_CHECKING:
    from tmem.agents.run.ways import Figures, Order, Running, Way

__all__ = ["run"]

_LOOK_SECONDS = 0.2


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.option("--memory", required=True, type=SIZE, help="The local memory that the program may have, such as 64MiB.")
@click.option(
    "--via",
    type=click.Choice(["swap", "pager"]),
    default="swap",
    show_default=True,
    help="swap: a control group and a swap device, for any program, as root. pager: a preload shim for large allocations.",
)
@click.option(
    "--size",
    type=SIZE,
    help="How much may go out. swap: kept free on the server; pager: of each process, and nothing is kept.  "
    "[default: 4GiB; pager: 16GiB]",
)
@click.option(
    "--overcommit", type=click.FloatRange(1.0, 100.0), help="As of swap attach; not of the pager.  [default: 1.0]"
)
@click.option(
    "--durability",
    type=click.Choice(["memory", "disk"]),
    help="As of swap attach; not of the pager.  [default: memory]",
)
@click.option("--io-deadline", type=DURATION, help="How long the program waits for a page at most.  [default: 30s]")
@click.option("--live/--no-live", default=None, help="Draw how it does while it runs.  [default: on a terminal]")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path), help="Write the report to a file, as JSON.")
@run_directory_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@server_options
def run(
    server: Server,
    command: tuple[str, ...],
    memory: int,
    size: int | None,
    via: str,
    *,
    live: bool | None,
    report: Path | None,
    run_directory: Path,
    **options: Any,
) -> None:
    """Run COMMAND with little local memory, and the rest of it on the server.

        tmem run --memory 64MiB -- sort big.txt

    A swap device that is attached already is used if it is made as is asked for here, has room, and is where the kernel swaps first;
    else one is made, which goes with the program.

    The exit status is the program's own (128 + n for signal n), or as of all commands if it could not be started.
    """
    from tmem.agents.run.ways import Order

    order = Order(list(command), memory, size, server.target, server.token)
    try:
        running = _way(via, run_directory, options).start(order)
    except PermissionError as error:
        fail(f"{error}; it takes root", 1)
    with running:
        begun = time.monotonic()
        status = _wait(running, order, drawn=talk.is_terminal if live is None else live)
        figures = running.figures()
        seconds = time.monotonic() - begun
    described = describe(figures, order, status, seconds)
    if report is not None:
        import json

        report.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
    if server.json:
        import json

        talk.print(json.dumps(described), soft_wrap=True)
    else:
        tell(figures, order, status, seconds)
    sys.exit(status)


def _way(via: str, run_directory: Path, options: dict[str, Any]) -> "Way":
    if via == "pager":
        for name in ("overcommit", "durability"):
            if options[name] is not None:
                raise click.UsageError(f"--{name} is of --via swap: the pager has no such choice")
        from tmem.agents.pager.paging import Paging

        deadline = options["io_deadline"]
        return Paging() if deadline is None else Paging(deadline=deadline)
    from tmem.agents.run.swapping import Swapping

    return Swapping(run_directory, **options)


def _wait(running: "Running", order: "Order", *, drawn: bool) -> int:
    """Waits for the program's end; signals are passed on to it, but for Ctrl-C, which a terminal sends to it as well."""
    own_terminal = sys.stdin is not None and sys.stdin.isatty()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGINT or not own_terminal:
            running.signal(number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        if drawn:
            from .live import watch_run

            return watch_run(running, order)
        while (status := running.wait(_LOOK_SECONDS)) is None:
            pass
        return status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def describe(figures: "Figures", order: "Order", status: int, seconds: float) -> dict[str, Any]:
    """The report, for machines."""
    return {
        "command": order.command,
        "status": status,
        "seconds": round(seconds, 3),
        "memory_limit_bytes": order.memory,
        "peak_resident_bytes": figures.peak,
        "peak_remote_bytes": figures.remote_peak,
        "major_faults": figures.faults,
        "fault_p50_us": None if figures.fault_p50 is None else round(figures.fault_p50 * 1e6, 1),
        "fault_p99_us": None if figures.fault_p99 is None else round(figures.fault_p99 * 1e6, 1),
        "pages_in": figures.pages_in,
        "pages_out": figures.pages_out,
        "messages_per_mib_in": figures.messages_in_per_mib,
        "messages_per_mib_out": figures.messages_out_per_mib,
        "ratio": figures.ratio,
        **figures.more,
    }


def tell(figures: "Figures", order: "Order", status: int, seconds: float) -> None:
    """The report, for people."""
    if status == 128 + signal.SIGBUS:
        talk.print(
            "tmem: the program was killed by SIGBUS: memory that it touched could not be had back from the server"
        )
    if figures.more.get("oom_kills"):
        talk.print(
            f"tmem: the kernel killed a process of it for want of memory: {format_bytes(order.memory)} are less than it needs "
            "at one moment, or nothing more could go out (see puts_refused, writes_failed with --json)"
        )

    def microseconds(value: float | None) -> str:
        return "-" if value is None else f"{value * 1e6:,.0f} us"

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.1f}"

    peak = "-" if figures.peak is None else format_bytes(figures.peak)
    ratio = "-" if figures.ratio is None else f"{figures.ratio:.2f}"
    limit = format_bytes(order.memory)
    remote = format_bytes(figures.remote_peak)
    talk.print(
        f"tmem: ran {seconds:.1f} s with {peak} of {limit} here, and up to {remote} on {order.target}", soft_wrap=True
    )
    p50, p99 = microseconds(figures.fault_p50), microseconds(figures.fault_p99)
    talk.print(
        f"tmem: {figures.faults:,} waits for a page: half took less than {p50}, 1 % more than {p99}", soft_wrap=True
    )
    out, back = format_bytes(figures.pages_out * 4096), format_bytes(figures.pages_in * 4096)
    talk.print(
        f"tmem: {out} went out by {number(figures.messages_out_per_mib)} messages per MiB, compressed {ratio} : 1, and {back} "
        f"came in by {number(figures.messages_in_per_mib)}",
        soft_wrap=True,
    )
