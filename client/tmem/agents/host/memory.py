"""The memory of an agent's own process.

Owns: how a process keeps the kernel from ever taking its memory away, because what would bring it back may be the process
itself: pages are locked, and where the kernel lets it, the process is marked as one that others' memory depends on.

Ordering: `lock_memory` once, when everything that the process will need is loaded; `map_sparse` whenever a mapping is to be
locked only where it is touched.
"""

import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .kernel import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, mlockall, prctl

__all__ = ["Standing", "lock_memory", "map_sparse", "read_field", "take_standing", "touch_data"]

_PR_SET_IO_FLUSHER = 57
_OOM_SCORE_MIN = -1000


@dataclass(frozen=True, slots=True)
class Standing:
    """What the kernel granted a process that others' memory depends on; both want CAP_SYS_RESOURCE.

    Attributes:
        io_flusher: allocations of this process never wait for writes that it would have to serve itself.
        oom_exempt: it is not killed for want of memory.
    """

    io_flusher: bool
    oom_exempt: bool


def take_standing() -> Standing:
    """Asks for what the kernel will grant."""
    flusher = exempt = False
    with suppress(OSError):
        prctl(_PR_SET_IO_FLUSHER, 1)
        flusher = True
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_MIN), "ascii")
        exempt = True
    return Standing(flusher, exempt)


def lock_memory() -> None:
    """Locks all memory that the process has and will have; new mappings are filled at once.

    Raises:
        OSError: the limit of locked memory is too low (RLIMIT_MEMLOCK, without CAP_IPC_LOCK).
    """
    mlockall(MCL_CURRENT | MCL_FUTURE)


@contextmanager
def _sparsely() -> Iterator[None]:
    """Mappings made within are locked page by page as they are touched; those of before and after are not affected."""
    # Without MCL_CURRENT the call only says how later mappings are to be treated.
    mlockall(MCL_FUTURE | MCL_ONFAULT)
    try:
        yield
    finally:
        mlockall(MCL_FUTURE)


def map_sparse(descriptor: int, length: int) -> mmap.mmap:
    """Maps a file of which most is never touched, in a process whose memory is locked.

    A table of five bytes for each page of a 1 TiB device would otherwise be locked, and so allocated, as a whole.
    """
    with _sparsely():
        return mmap.mmap(descriptor, length)


def touch_data(descriptor: int, mapping: mmap.mmap) -> None:
    """Brings in all of a file that `map_sparse` has mapped, but for its holes: it is locked from then on, and faults no more."""
    view = memoryview(mapping)
    end = 0
    while True:
        try:
            first = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only holes are left
                return
            raise
        end = os.lseek(descriptor, first, os.SEEK_HOLE)
        view[first : min(end, len(view)) : mmap.PAGESIZE].tobytes()


def read_field(path: Path, name: str) -> int | None:
    """A field of a file such as /proc/PID/status or /proc/meminfo, in bytes; None if it has no such field."""
    for line in path.read_text("ascii", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            number, _, unit = value.strip().partition(" ")
            return int(number) * (1024 if unit == "kB" else 1)
    return None
