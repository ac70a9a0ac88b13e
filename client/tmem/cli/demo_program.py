"""`tmem demo --with program`: a real program with a quarter of the memory that it needs, and the same output.

Owns: the demonstration. A program builds records and writes them down: once as it likes, which tells how much memory that takes,
and once with a quarter of it, the rest being on the server. Both outputs must be the same byte for byte.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.host.machine import Machine, missing
from tmem.agents.swap.requirements import needs, server_swapless
from tmem.wire.errors import InvalidOption

from .options import Server, fail
from .output import format_bytes, print_json, print_table, talk
from .run import describe
from .workload import RECORD_BYTES

__all__ = ["obstacles", "show"]

_MIB = 1 << 20


def obstacles(server: Server) -> list[str]:
    """Why this machine can't show it, a sentence each; empty if it can."""
    machine = Machine()
    found = [f"{need.what}: {need.found}. {need.advice}" for need in missing(needs(machine))]
    if not found:
        try:
            Hierarchy.find()
        except InvalidOption as error:
            found.append(str(error))
        need = server_swapless(server.target, machine)
        if not need.met:
            found.append(f"{need.what}: {need.found}. {need.advice}")
    return found


@dataclass(frozen=True, slots=True)
class _Plain:
    """The program as it likes.

    Attributes:
        peak: the most memory that it had, in bytes. digest: of its output.
    """

    seconds: float
    peak: int
    digest: str


def show(server: Server, size: int, run_directory: Path) -> None:
    """Shows it; `size` is of the program's data, in bytes."""
    with tempfile.TemporaryDirectory(prefix="tmem-demo-") as name:
        directory = Path(name)
        command = [sys.executable, "-m", "tmem.cli.workload", "--write", str(size // RECORD_BYTES)]
        talk.print(f"a program that builds {format_bytes(size)} of records and writes them down, as it likes ...")
        plain = _run_plain([*command, str(directory / "plain")], directory / "plain")
        limit = plain.peak // 4
        talk.print(
            f"it took {format_bytes(plain.peak)} and {plain.seconds:.1f} s. Once more with {format_bytes(limit)}, the rest on "
            f"{server.target}:"
        )
        report = _run_limited(server, [*command, str(directory / "limited")], limit, plain.peak, run_directory)
        if report["status"]:
            fail(f"the program ended with status {report['status']}", 1)
        if _digest(directory / "limited") != plain.digest:
            fail("the outputs differ", 1)
    report |= {"plain_seconds": round(plain.seconds, 3), "plain_peak_bytes": plain.peak, "identical": True}
    if server.json:
        print_json(report)
    else:
        _print(report)


def _run_plain(command: list[str], output: Path) -> _Plain:
    begun = time.monotonic()
    process = subprocess.Popen(command)  # noqa: S603  ours
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        fail(f"{command[0]} ended with status {process.returncode}", 1)
    return _Plain(time.monotonic() - begun, usage.ru_maxrss * 1024, _digest(output))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run_limited(server: Server, command: list[str], limit: int, peak: int, run_directory: Path) -> dict[str, Any]:
    from tmem.agents.run.swapping import Swapping
    from tmem.agents.run.ways import Order

    from .live import watch_run

    room = -(-2 * peak // _MIB) * _MIB
    order = Order(command, limit, room, server.target, server.token)
    begun = time.monotonic()
    with Swapping(run_directory, overcommit=2.0).start(order) as running:
        if talk.is_terminal:
            status = watch_run(running, order)
        else:
            while (ended := running.wait(0.2)) is None:
                pass
            status = ended
        return describe(running.figures(), order, status, time.monotonic() - begun)


def _print(report: dict[str, Any]) -> None:
    def microseconds(key: str) -> str:
        return "-" if report[key] is None else f"{report[key]:,.0f} us"

    def number(key: str) -> str:
        return "-" if report[key] is None else f"{report[key]:.1f}"

    print_table(
        "the same program twice: the outputs are identical, byte for byte",
        ["", "plain", "with a quarter of its memory"],
        [
            ["seconds", f"{report['plain_seconds']:.1f}", f"{report['seconds']:.1f}"],
            [
                "memory here, peak",
                format_bytes(report["plain_peak_bytes"]),
                format_bytes(report["peak_resident_bytes"] or 0),
            ],
            ["memory on the server, peak", "-", format_bytes(report["peak_remote_bytes"])],
            ["compression there", "-", number("ratio")],
            ["waits for a page", "-", f"{report['major_faults']:,}"],
            ["half of them shorter than", "-", microseconds("fault_p50_us")],
            ["1 % of them longer than", "-", microseconds("fault_p99_us")],
            ["out, messages per MiB", "-", number("messages_per_mib_out")],
            ["in, messages per MiB", "-", number("messages_per_mib_in")],
        ],
    )
