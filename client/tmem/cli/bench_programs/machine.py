"""The machine that programs are measured on.

Owns: whether it can be measured at all, and what of its settings decides what swapping costs.
"""

from pathlib import Path
from typing import Any

from tmem.agents.host import swaps
from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.host.machine import CAP_SYS_ADMIN, Machine
from tmem.cli.bench_common.machine import describe_machine
from tmem.wire.errors import InvalidOption, MachineUnfit

__all__ = ["check", "describe"]

_SETTINGS = {
    "thp_enabled": "/sys/kernel/mm/transparent_hugepage/enabled",
    "vm_page_cluster": "/proc/sys/vm/page-cluster",
    "vm_swappiness": "/proc/sys/vm/swappiness",
    "zswap_enabled": "/sys/module/zswap/parameters/enabled",
}


def check(machine: Machine | None = None, swap_table: Path = Path("/proc/swaps")) -> None:
    """Whether programs can be given less memory here, and it is known where the rest goes.

    Raises:
        MachineUnfit: no; the message says what to do.
    """
    machine = machine or Machine()
    if not machine.can(CAP_SYS_ADMIN):
        raise MachineUnfit("this takes root: swap areas, control groups and FUSE are for root alone")
    if machine.hierarchy() is None:
        raise MachineUnfit("this kernel has no memory controller for control groups: memory can't be limited")
    try:
        theirs = swaps.list_areas(swap_table)
    except OSError as error:
        raise MachineUnfit(f"this kernel does not swap: {error}") from error
    if theirs:
        names = ", ".join(area.path for area in theirs)
        raise MachineUnfit(
            f"this machine swaps to {names}, so that nobody could say where the programs' memory went: give that up for the time of the "
            "run (swapoff), or measure on another machine"
        )


def describe() -> dict[str, Any]:
    """The machine, its load at this moment, and settings; plain values."""
    settings = {name: _selected(Path(path)) for name, path in _SETTINGS.items()}
    try:
        groups = f"version {Hierarchy.find().version}"
    except InvalidOption:
        groups = "none"
    return {
        "machine": {
            **describe_machine(),
            "memory_control_groups": groups,
            **settings,
        }
    }


def _selected(path: Path) -> str:
    """The value of a setting; of "a [b] c" the b."""
    try:
        text = path.read_text("ascii").strip()
    except OSError:
        return "-"
    return text.partition("[")[2].partition("]")[0] or text
