"""Swap areas on this machine: a file on disk, compressed memory (zram, zswap), a loop device over memory.

Owns: how each is made, and why it can't be; each is a context manager within which the kernel swaps there. Everything is on the guard's list
before the kernel uses it. Units: bytes.

Not discarded: what a device is told that it may forget would be told at moments that differ, and memory that a loop device over it gets back
would have to be allocated anew.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tmem.agents.host import loops, swaps

from .guard import Guard
from .undo import ZRAM_CONTROL

__all__ = [
    "describe_disk",
    "disk_area",
    "disk_obstacle",
    "memory_area",
    "zram_area",
    "zram_obstacle",
    "zswap_obstacle",
    "zswap_on",
    "zswap_set",
]

_BLOCK_BYTES = 4096
_LOAD_SECONDS = 20.0
_ZSWAP = Path("/sys/module/zswap/parameters")
_PREFERRED = "lz4"
# File systems that are in memory themselves.
_IN_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs"})


def _priority() -> int:
    """Before all others that may have come meanwhile."""
    return min(max((area.priority for area in swaps.list_areas()), default=-1) + 1, swaps.MAX_PRIORITY)


@contextmanager
def _in_use(guard: Guard, path: str, backing: str = "") -> Iterator[None]:
    with guard.made("area", path, backing):
        swaps.format_area(path, "tmem-bench")
        swaps.swapon(path, _priority(), discard=False)
        yield


# ---- Over memory: the floor ----


@contextmanager
def memory_area(guard: Guard, size: int) -> Iterator[str]:
    """A loop device over a file that is in memory, all of it allocated: what swapping costs when there is nothing to wait for."""
    file = os.memfd_create("tmem-bench-floor")
    try:
        # Now, and by this process: in control groups of version 2 whoever swaps would pay for it.
        os.posix_fallocate(file, 0, size)
        loop = loops.Loop.over(file, name="tmem-bench", block_bytes=_BLOCK_BYTES)
    finally:
        os.close(file)
    try:
        with _in_use(guard, loop.path, loops.backing_of(loop.path) or ""):
            yield f"{loop.path} over a file of tmpfs"
    finally:
        loop.close()


# ---- On disk ----


def describe_disk(
    directory: Path, table: Path = Path("/proc/self/mountinfo"), sys: Path = Path("/sys")
) -> tuple[str, str]:
    """The file system that a directory is on, and the words for the disk below it."""
    device = directory.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    kind = source = "?"
    for line in table.read_text("utf-8", errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[2] == number:
            kind, source, *_ = after.split()
    queue = sys / "dev" / "block" / number
    # A partition's queue is that of its disk.
    for place in (queue / "queue", queue / ".." / "queue"):
        with suppress(OSError):
            turning = (place / "rotational").read_text("ascii").strip() == "1"
            return kind, f"{kind} on {source} ({'one that turns' if turning else 'one that does not turn'}, it says)"
    return kind, f"{kind} on {source}"


def disk_obstacle(directory: Path) -> str:
    """Why a directory is no place for a swap file on disk; "" if it is one."""
    try:
        kind, words = describe_disk(directory)
    except OSError as error:
        return str(error)
    return f"{directory} is in memory ({words}): name a directory on a disk with --disk" if kind in _IN_MEMORY else ""


@contextmanager
def disk_area(guard: Guard, directory: Path, size: int) -> Iterator[str]:
    """A swap file on the disk that a directory is on; where the file system does not take one, a loop device over it."""
    path = directory / f"tmem-bench-{os.getpid()}.swap"
    with guard.made("file", str(path)), ExitStack() as stack:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(file, 0, size)
            os.fsync(file)
            where = describe_disk(directory)[1]
            try:
                stack.enter_context(_in_use(guard, str(path)))
                found = f"a file of {where}"
            except OSError:
                loop = loops.Loop.over(file, name="tmem-bench", block_bytes=_BLOCK_BYTES)
                stack.callback(loop.close)
                stack.enter_context(_in_use(guard, loop.path, loops.backing_of(loop.path) or ""))
                found = f"{loop.path} over a file of {where}"
        finally:
            os.close(file)
        yield found


# ---- Compressed, in memory ----


def zram_obstacle(control: Path = ZRAM_CONTROL) -> str:
    """Why there can be no zram; "" if there can. Without the module, whether it can be loaded shows when it is."""
    if control.exists():
        return ""
    done = subprocess.run(["modprobe", "--dry-run", "zram"], capture_output=True, check=False, timeout=_LOAD_SECONDS)  # noqa: S607
    return "" if done.returncode == 0 else "the kernel has no zram"


@contextmanager
def zram_area(guard: Guard, size: int) -> Iterator[str]:
    """A zram device of one's own; the module is loaded if it has to be, and unloaded then."""
    with ExitStack() as stack:
        if not ZRAM_CONTROL.exists():
            stack.enter_context(guard.made("module", "zram"))
            subprocess.run(["modprobe", "zram"], check=True, capture_output=True, timeout=_LOAD_SECONDS)  # noqa: S607
        number = int((ZRAM_CONTROL / "hot_add").read_text("ascii"))
        stack.enter_context(guard.made("zram", number))
        device = Path(f"/sys/block/zram{number}")
        with suppress(OSError):  # the kernel was built without it: its default then
            (device / "comp_algorithm").write_text(_PREFERRED, "ascii")
        (device / "disksize").write_text(str(size), "ascii")
        stack.enter_context(_in_use(guard, f"/dev/zram{number}"))
        yield f"/dev/zram{number} with {_chosen((device / 'comp_algorithm').read_text('ascii'))}"


def _chosen(listed: str) -> str:
    """Of "[lzo-rle] lzo lz4", the one in brackets."""
    return listed.partition("[")[2].partition("]")[0] or listed.strip()


def zswap_obstacle(parameters: Path = _ZSWAP) -> str:
    """Why there can be no zswap; "" if there can."""
    return "" if (parameters / "enabled").exists() else "the kernel has no zswap"


def zswap_on(parameters: Path = _ZSWAP) -> bool:
    """Whether the kernel compresses what it swaps, whatever the area."""
    return parameters.exists() and (parameters / "enabled").read_text("ascii").strip() == "Y"


@contextmanager
def zswap_set(guard: Guard, on: bool, parameters: Path = _ZSWAP) -> Iterator[str]:
    """The kernel's zswap is on or off, as it may not have been; says how it compresses."""
    with ExitStack() as stack:
        if zswap_on(parameters) != on:
            stack.enter_context(guard.made("setting", str(parameters / "enabled"), "N" if on else "Y"))
            (parameters / "enabled").write_text("Y" if on else "N", "ascii")
        if on:
            before = (parameters / "compressor").read_text("ascii").strip()
            if before != _PREFERRED:
                stack.enter_context(guard.made("setting", str(parameters / "compressor"), before))
                with suppress(OSError):  # the kernel has no such
                    (parameters / "compressor").write_text(_PREFERRED, "ascii")
        yield f"zswap with {(parameters / 'compressor').read_text('ascii').strip()}" if on else ""
