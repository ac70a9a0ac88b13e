"""Lines for the log of an agent.

Owns: that saying something can neither fail nor wait. Whoever reads the log may be gone, or may be swapped out to the very agent
that speaks; such a line is lost. The same goes for the log's own pages where it is a file of a tmpfs: such a log has its room from
the start, whoever writes to it keeps it locked, and when it is full its older half goes.

A log's file ends with zero bytes, which terminals do not show. All who write to it share one descriptor, and so its position.
"""

import mmap
import os
import select
from contextlib import suppress
from pathlib import Path

__all__ = ["LOG_BYTES", "keep", "make_log", "say"]

LOG_BYTES = 128 << 10
_STANDARD_ERROR = 2
# What a pipe takes as a whole once it says that it takes something.
_MOST_BYTES = 4000

_kept: mmap.mmap | None = None


def make_log(path: Path) -> int:
    """Makes a log; answers a descriptor, to become the standard error of those who keep it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.posix_fallocate(descriptor, 0, LOG_BYTES)
    return descriptor


def keep(path: str) -> bool:
    """Maps the log at a path if it is this process's standard error, to be locked with its other memory; answers whether it is."""
    global _kept  # noqa: PLW0603  a process has one standard error
    with suppress(OSError):
        if os.readlink(f"/proc/self/fd/{_STANDARD_ERROR}") == path:  # noqa: PTH115  pathlib is not loaded by holders
            _kept = mmap.mmap(_STANDARD_ERROR, LOG_BYTES)
    return _kept is not None


def say(who: str, message: str, program: str = "tmem-swap") -> None:
    """Writes a line on standard error, if it can be written this moment."""
    line = f"{program} {who}[{os.getpid()}]: {message}".encode(errors="replace")[:_MOST_BYTES] + b"\n"
    try:
        if _kept is not None:
            _make_room(_kept, len(line))
        else:
            poll = select.poll()
            poll.register(_STANDARD_ERROR, select.POLLOUT)
            if not any(event & select.POLLOUT for _, event in poll.poll(0)):
                return
        os.write(_STANDARD_ERROR, line)
    except OSError:
        return


def _make_room(log: mmap.mmap, size: int) -> None:
    """Drops the older half of a log that has no room for so many bytes more."""
    end = os.lseek(_STANDARD_ERROR, 0, os.SEEK_CUR)
    if end + size <= LOG_BYTES:
        return
    end = min(end, LOG_BYTES)
    first = log.find(b"\n", LOG_BYTES // 2, end) + 1 or LOG_BYTES // 2
    log.move(0, first, end - first)
    log[end - first :] = bytes(LOG_BYTES - end + first)
    os.lseek(_STANDARD_ERROR, end - first, os.SEEK_SET)
