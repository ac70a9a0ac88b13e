"""How what a run does to the machine is taken back.

Owns: one function for each kind of thing that a run makes. They take plain values, so that another process can call them (guard.py); what is
gone already is fine, and what has come to be somebody else's (a device's number that was given anew) is left alone.
"""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tmem.agents.host import kernel, loops, swaps
from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.host.processes import Identity
from tmem.wire.errors import InvalidOption, NoRoom

__all__ = ["KINDS", "ZRAM_CONTROL", "undo"]

ZRAM_CONTROL = Path("/sys/class/zram-control")
_END_SECONDS = 20.0


def undo(kind: str, *arguments: Any) -> None:
    """Takes one thing back.

    Args:
        kind: a key of KINDS.
        *arguments: of its function.

    Raises:
        OSError: it can't be.
    """
    KINDS[kind](*arguments)


def _end_group(name: str) -> None:
    """A control group: its processes are ended, and it is removed."""
    try:
        group = Hierarchy.find().group(name)
    except InvalidOption:
        return
    if group.path.exists():
        group.kill()
        group.remove()


def _end_area(path: str, backing: str) -> None:
    """A swap area, of a file or device; `backing`: of a loop device, the file that shows that it is ours still."""
    if swaps.find_area(path) is None or (backing and loops.backing_of(path) != backing):
        return
    while True:
        with suppress(InterruptedError):
            kernel.swapoff(path)
            return


def _end_device(run_directory: str, name: str) -> None:
    """A swap device of tmem. Nothing of ours is out on it any more; what somebody else has out comes back if it can be had."""
    # On demand: most runs have none when the guard has to do this.
    from tmem.agents.swap.device import detach
    from tmem.agents.swap.state import Site

    site = Site(Path(run_directory), name)
    if site.read() is None:
        return
    try:
        detach(site)
    except (OSError, NoRoom):
        detach(site, force=True)


def _end_zram(number: int) -> None:
    """A zram device that was added; its swap area is off by now."""
    device = Path(f"/sys/block/zram{number}")
    if device.exists():
        (device / "reset").write_text("1", "ascii")
        (ZRAM_CONTROL / "hot_remove").write_text(str(number), "ascii")


def _end_module(name: str) -> None:
    """A module of the kernel that was loaded; one that somebody uses by now stays."""
    subprocess.run(["modprobe", "-r", name], stderr=subprocess.DEVNULL, timeout=_END_SECONDS, check=False)  # noqa: S603, S607


def _put_back(path: str, value: str) -> None:
    """A setting of the kernel."""
    Path(path).write_text(value, "ascii")


def _remove_tree(path: str) -> None:
    """A directory and what is in it."""
    shutil.rmtree(path, ignore_errors=True)


def _remove_file(path: str) -> None:
    """A file."""
    Path(path).unlink(missing_ok=True)


def _end_process(pid: int, started: int) -> None:
    """A process."""
    process = Identity(pid, started)
    process.signal(signal.SIGKILL)
    process.wait(_END_SECONDS)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


KINDS: dict[str, Callable[..., None]] = {
    "group": _end_group,
    "area": _end_area,
    "device": _end_device,
    "zram": _end_zram,
    "module": _end_module,
    "setting": _put_back,
    "tree": _remove_tree,
    "file": _remove_file,
    "process": _end_process,
}
