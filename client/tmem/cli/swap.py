"""`tmem swap`: attach and detach swap devices, and look at them.

Owns: the three commands. What they do is in tmem.agents.swap, which is loaded when it is used: the other commands work without
the extra that it needs.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from tmem.wire.errors import InvalidOption, MachineError

from .options import Server, fail, failures_told, server_options
from .output import console, format_bytes, print_json, print_table, progress, talk
from .parameters import DURATION, SIZE

if TYPE_CHECKING:
    from tmem.agents.swap.state import Record, Site
    from tmem.agents.swap.status import Reading

__all__ = ["run_directory_option", "swap"]

_DEFAULT_RUN_DIRECTORY = Path("/run/tmem-swap")
_WATCH_SECONDS = 1.0
_AGAIN_SECONDS = 5.0

run_directory_option = click.option(
    "--run-dir",
    "run_directory",
    envvar="TMEM_RUN_DIR",
    default=_DEFAULT_RUN_DIRECTORY,
    show_default=True,
    show_envvar=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where what is known of attached devices is kept.",
)


@click.group()
def swap() -> None:
    """Let the kernel swap to a server's memory."""


@swap.command()
@click.option("--name", required=True, help="What the device is called.")
@click.option("--size", required=True, type=SIZE, help="How much can go out, such as 4GiB, before compression.")
@click.option("--priority", type=click.IntRange(0, 32767), help="Among swap areas, higher first.  [default: after all]")
@click.option(
    "--durability",
    type=click.Choice(["memory", "disk"]),
    default="memory",
    show_default=True,
    help="Whether what is out outlives a restart of the server; disk needs its --journal.",
)
@click.option(
    "--overcommit",
    default=1.0,
    show_default=True,
    type=click.FloatRange(1.0, 100.0),
    help="Reserve only SIZE / OVERCOMMIT on the server, counting on that compression.",
)
@click.option("--io-deadline", default="30s", show_default=True, type=DURATION, help="A read fails after so long.")
@click.option("--write-deadline", default="10s", show_default=True, type=DURATION, help="A write fails after so long.")
@click.option("--foreground", is_flag=True, help="Stay, and detach at SIGTERM or Ctrl-C: for systemd.")
@run_directory_option
@server_options
def attach(server: Server, name: str, size: int, run_directory: Path, *, foreground: bool, **options: Any) -> None:
    """Make a swap device whose pages are on the server, and let the kernel use it.

    The server keeps room for all of SIZE, or the command refuses. What is missing on this machine is listed; see also
    `tmem doctor`.
    """
    from tmem.agents.swap.device import Options
    from tmem.agents.swap.device import attach as make
    from tmem.agents.swap.state import Site

    size -= size % 4096
    settings = Options(server.target, server.token, size, log=2 if foreground else None, **options)
    site = Site(run_directory, name)
    asked = threading.Event()
    with _ended_by_signals(site, asked):
        record = make(site, settings)
    if server.json:
        print_json(_described(record))
    else:
        console.print(
            f"{record.name}: the kernel swaps to {record.device}, {format_bytes(record.size)} on {record.target}"
        )
    if foreground:
        _stay(site, record, asked)


@contextmanager
def _ended_by_signals(site: "Site", asked: threading.Event) -> Iterator[None]:
    """SIGTERM undoes what is attached in a block, as Ctrl-C does; afterwards both only set the event."""
    attaching = True

    def end(_number: int, _frame: FrameType | None) -> None:
        if attaching:
            raise KeyboardInterrupt
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        yield
        attaching = False
    except KeyboardInterrupt:
        record = site.read()
        if record is not None and record.attached:  # it came when all was done
            from tmem.agents.swap.device import detach as take_down

            take_down(site)
        raise


def _described(record: "Record") -> dict[str, Any]:
    return {
        "name": record.name,
        "device": record.device,
        "size_bytes": record.size,
        "target": record.target,
        "pool": record.pool,
        "holder_pid": record.holder.pid if record.holder is not None else None,
    }


def _stay(site: "Site", record: "Record", asked: threading.Event) -> None:
    """Waits until it is told to detach, and tries until it is: a device that does not fit back stays attached meanwhile.

    Nobody tells a service twice that it is to stop. A signal that comes all the same has it tried at once.
    """
    from tmem.agents.host.notify import notify
    from tmem.agents.swap.device import detach as take_down

    sys.stdout.flush()
    notify(READY="1", STATUS=f"attached: {record.device}, {record.target}")
    assert record.holder is not None
    while not asked.wait(_WATCH_SECONDS):
        if not record.holder.alive:
            fail(f"the holder of {record.name} has ended", 0 if site.read() is None else 1)
    notify(STOPPING="1", STATUS="detaching")
    told = True
    while site.read() is not None:  # another process may take it down meanwhile, by force
        asked.clear()
        try:
            take_down(site)
        except (OSError, MachineError, InvalidOption) as error:
            if told:
                talk.print(f"tmem: {error}; it is tried again every {_AGAIN_SECONDS:.0f} s", soft_wrap=True)
            notify(STATUS=f"still attached, and tried again every {_AGAIN_SECONDS:.0f} s: {error}")
            told = asked.wait(_AGAIN_SECONDS)


@swap.command()
@click.argument("name")
@click.option(
    "--force", is_flag=True, help="Also if what is out can't be had back: programs that it belongs to are killed."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@run_directory_option
def detach(name: str, run_directory: Path, *, force: bool, as_json: bool) -> None:
    """Bring back what is out, and take the device down.

    First it looks whether all of it fits into memory; if it does not, or if you press Ctrl-C, the device stays as it was.
    """
    with failures_told():
        from tmem.agents.swap.device import detach as take_down
        from tmem.agents.swap.state import Site

        begun = time.monotonic()
        most = 0
        with progress() as bars:
            bar = bars.add_task(f"bringing {name} back", total=None)

            def told(left: int, out: int) -> None:
                nonlocal most
                most = max(most, out)
                bars.update(bar, total=out, completed=out - left)

            def stopping() -> None:
                bars.print(
                    "interrupted: it stops when the kernel has brought back what the program has out that it is at ..."
                )

            site = Site(run_directory, name)
            try:
                done = take_down(site, force=force, progress=told, interrupted=stopping)
            except KeyboardInterrupt:
                fail(f"interrupted: {_state_of(site)}", 130)
        seconds = time.monotonic() - begun
        back = max(0, most - done.given_up)
        if as_json:
            report = {"name": name, "brought_back_bytes": back, "given_up_bytes": done.given_up}
            print_json(report | {"seconds": round(seconds, 3), "pool_destroyed": done.pool_gone})
            return
        console.print(f"{name} is detached: {format_bytes(back)} brought back in {seconds:.1f} s")
        if done.given_up:
            talk.print(f"tmem: {format_bytes(done.given_up)} could not be had back, and are lost", soft_wrap=True)
        if not done.pool_gone:
            talk.print(
                f"tmem: the server could not be told: its pool for {name} is left there; `tmem pools` lists it, and "
                "`tmem destroy` removes it",
                soft_wrap=True,
            )


def _state_of(site: "Site") -> str:
    """What an interrupted detach has left."""
    from tmem.agents.swap.device import swapped_to

    record = site.read()
    if record is None:
        return f"{site.name} is detached"
    if swapped_to(site, record) is not None:
        return f"{site.name} stays attached"
    return f"{site.name} is half detached: nothing is out on it any more, and `tmem swap detach {site.name}` takes the rest down"


@swap.command()
@click.argument("name", required=False)
@click.option("--watch", is_flag=True, help="Go on, and draw it.")
@click.option("--interval", default="1s", show_default=True, type=DURATION, help="How often, with --watch.")
@run_directory_option
@server_options
def status(server: Server, name: str | None, run_directory: Path, interval: float, *, watch: bool) -> None:
    """Show swap devices: what is out, how long reads take, and what is wrong.

    It asks no process of theirs, and works whatever hangs. Exit status 1 if something is wrong with one.
    """
    from tmem.agents.swap.state import Site, sites

    places = [Site(run_directory, name)] if name is not None else sites(run_directory)
    if name is not None and places[0].read() is None:
        fail(f"no device is named {name!r}", 1)
    if watch:
        from .live import watch_devices

        watch_devices(places, server, max(interval, 0.1))
        return
    readings = [(place, _read(place)) for place in places]
    found = [reading for _, reading in readings if reading is not None]
    if server.json:
        print_json([reading.to_json() | {"ratio": _ratio(server, reading)} for reading in found])
    elif not found:
        console.print("no device is attached")
    else:
        _print(server, found)
    if not all(reading.good for reading in found):
        sys.exit(1)


def _read(place: "Site") -> "Reading | None":
    from tmem.agents.swap.status import read_device

    return read_device(place)


def _ratio(server: Server, reading: "Reading") -> float | None:
    from tmem.agents.swap.status import Compression

    compression = Compression(reading.record.target, server.token)
    try:
        return compression.of(reading.record)
    finally:
        compression.close()


def _print(server: Server, found: "list[Reading]") -> None:
    from tmem.agents.swap.shared import Word

    def microseconds(seconds: float | None) -> str:
        return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else form.format(value)

    rows: list[list[str]] = [
        ["condition", *(reading.condition for reading in found)],
        ["device", *(reading.record.device or "-" for reading in found)],
        ["server", *(reading.record.target for reading in found)],
        ["size", *(format_bytes(reading.record.size) for reading in found)],
        ["out", *("-" if reading.used is None else format_bytes(reading.used) for reading in found)],
        ["compression", *(number(_ratio(server, reading), "{:.2f}") for reading in found)],
        ["pages read", *(f"{reading[Word.PAGES_READ]:,}" for reading in found)],
        ["pages written", *(f"{reading[Word.PAGES_WRITTEN]:,}" for reading in found)],
        ["read p50", *(microseconds(reading.reads.quantile(0.5)) for reading in found)],
        ["read p99", *(microseconds(reading.reads.quantile(0.99)) for reading in found)],
        ["of which the server, mean", *(microseconds(reading.exchange_seconds) for reading in found)],
        [
            "messages per MiB read",
            *(number(reading.messages_per_mib(Word.GET_MESSAGES, Word.PAGES_GOT), "{:.1f}") for reading in found),
        ],
        [
            "messages per MiB written",
            *(number(reading.messages_per_mib(Word.PUT_MESSAGES, Word.PAGES_PUT), "{:.1f}") for reading in found),
        ],
        [
            "reads, writes failed",
            *(f"{reading[Word.READS_FAILED]}, {reading[Word.WRITES_FAILED]}" for reading in found),
        ],
        ["pages lost, corrupt", *(f"{reading[Word.PAGES_LOST]}, {reading[Word.PAGES_CORRUPT]}" for reading in found)],
        ["workers replaced", *(f"{reading[Word.TAKEOVERS]}" for reading in found)],
    ]
    print_table("Swap devices", ["", *(reading.name for reading in found)], rows)
