"""Whether what is out would fit back into memory.

Owns: the arithmetic, over the whole machine and over every control group that has a limit: what swapoff brings back is charged
to the group that it came from, and the kernel kills a process of a group that has no room. Units: bytes.
"""

from collections.abc import Iterator
from pathlib import Path

from tmem.agents.host.cgroups import Group, Hierarchy
from tmem.agents.host.memory import read_field
from tmem.wire.errors import InvalidOption

__all__ = ["crowded", "machine_hierarchy", "obstacles"]

# The kernel keeps some memory free of everything, and other programs go on.
_MARGIN_BYTES = 64 << 20
_MARGIN_SHARE = 0.02


def obstacles(
    out: int, hierarchy: Hierarchy | None, meminfo: Path = Path("/proc/meminfo"), *, alone: bool = True
) -> list[str]:
    """Why so many bytes would not fit; empty if they would.

    Args:
        out: what is in the swap area.
        hierarchy: of the memory controller, if there is one.
        meminfo: /proc/meminfo.
        alone: no other swap area is in use, so that what groups have swapped is in this one.
    """
    if not out:
        return []
    found = []
    available, total = read_field(meminfo, "MemAvailable") or 0, read_field(meminfo, "MemTotal") or 0
    margin = min(_MARGIN_BYTES, int(total * _MARGIN_SHARE))
    if out > available - margin:
        found.append(
            f"{_mib(out)} are out, and {_mib(max(0, available - margin))} of this machine's memory are free: end programs, "
            "or add memory or another swap area"
        )
    if hierarchy is not None:
        for group in crowded(out, hierarchy):
            limit, usage = group.limit or 0, group.usage()
            where = "" if alone else " (perhaps in another area)"
            free = _mib(max(0, limit - usage.resident + group.droppable()))
            found.append(
                f"the control group {group.path} has {_mib(usage.swapped)} out{where} and room for {free}: end its programs "
                f"({_who(group)}), or raise its limit of {_mib(limit)}"
            )
    return found


def crowded(out: int, hierarchy: Hierarchy) -> Iterator[Group]:
    """The groups that have more out than they have room for."""
    for group in hierarchy.all():
        try:
            limit, usage = group.limit, group.usage()
        except (FileNotFoundError, OSError):
            continue  # gone meanwhile, or the top one
        if limit is None or not usage.swapped:
            continue
        if min(usage.swapped, out) > limit - usage.resident + group.droppable():
            yield group


def _who(group: Group) -> str:
    names = []
    for pid in group.processes():
        try:
            names.append(f"{Path(f'/proc/{pid}/comm').read_text('utf-8', errors='replace').strip()}[{pid}]")
        except OSError:
            continue
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none is left in it"


def _mib(size: int) -> str:
    return f"{size / (1 << 20):.0f} MiB"


def machine_hierarchy() -> Hierarchy | None:
    """The machine's, if it has one."""
    try:
        return Hierarchy.find()
    except InvalidOption:
        return None
