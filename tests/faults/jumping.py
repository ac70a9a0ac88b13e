"""tmemd with a clock that a test moves: the machine's own is left alone.

Run as `python -m tests.faults.jumping FILE FLAGS...`: FILE holds two numbers of 8 bytes, seconds by which the wall clock and the
monotonic one are ahead. Everything in the daemon that asks for the time gets it with that added; the event loop's own timers do not.
"""

import mmap
import os
import struct
import sys
import time
import types
from typing import Any

import tmem.server.daemon
from tmem.server.cli import main

_OFFSETS = struct.Struct("<dd")


def _jumping(file: str) -> Any:
    """A module `time` whose clocks are moved."""
    descriptor = os.open(file, os.O_RDONLY)
    offsets = mmap.mmap(descriptor, _OFFSETS.size, access=mmap.ACCESS_READ)
    moved = types.SimpleNamespace(**{name: getattr(time, name) for name in dir(time) if not name.startswith("_")})
    moved.time_ns = lambda: time.time_ns() + int(_OFFSETS.unpack_from(offsets)[0] * 1e9)
    moved.time = lambda: time.time() + _OFFSETS.unpack_from(offsets)[0]
    moved.monotonic = lambda: time.monotonic() + _OFFSETS.unpack_from(offsets)[1]
    return moved


def run() -> None:
    """Starts the daemon."""
    moved = _jumping(sys.argv.pop(1))
    daemon: Any = tmem.server.daemon
    service = daemon.Service
    daemon.time = moved
    daemon.Service = lambda **parts: service(**parts, clock=moved.monotonic)
    main()


if __name__ == "__main__":
    run()
