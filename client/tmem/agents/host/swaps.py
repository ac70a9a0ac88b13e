"""Swap areas of the kernel.

Owns: /proc/swaps, and how an area is made, taken into use and given up. Units: bytes.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .kernel import swapon as _swapon

__all__ = ["MAX_PRIORITY", "SwapArea", "find_area", "format_area", "list_areas", "swapon"]

MAX_PRIORITY = 32767
_PREFER, _DISCARD = 0x8000, 0x10000
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class SwapArea:
    """One area in use."""

    path: str
    size: int
    used: int
    priority: int


def list_areas(swaps: Path = Path("/proc/swaps")) -> list[SwapArea]:
    """The areas that the kernel uses now."""
    found = []
    for line in swaps.read_text("utf-8").splitlines()[1:]:
        name, _, size, used, priority = line.split()
        path = _OCTAL.sub(lambda match: chr(int(match[1], 8)), name)
        found.append(SwapArea(path, int(size) * 1024, int(used) * 1024, int(priority)))
    return found


def find_area(path: str, swaps: Path = Path("/proc/swaps")) -> SwapArea | None:
    """One area, if the kernel uses it."""
    return next((area for area in list_areas(swaps) if area.path == path), None)


def format_area(path: str, label: str) -> None:
    """Writes the header of a swap area.

    Raises:
        OSError: mkswap is missing, or failed.
    """
    command = ["mkswap", "--quiet", "--label", label[:15], path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  the system's own
    if done.returncode:
        raise OSError(f"mkswap {path} failed: {done.stderr.strip() or f'status {done.returncode}'}")


def swapon(path: str, priority: int | None, *, discard: bool = True) -> None:
    """Lets the kernel swap there.

    Args:
        path: a block device, or a file, with the header of a swap area.
        priority: 0..32767, higher first; None: after all that are in use.
        discard: the device is told what is no longer needed.
    """
    flags = _DISCARD if discard else 0
    _swapon(path, flags if priority is None else flags | _PREFER | priority)
