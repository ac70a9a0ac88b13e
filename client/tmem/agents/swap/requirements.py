"""What the swap agent needs of a machine, looked at when it is asked for.

Owns: the list, and for each thing the sentence that says what to do when it is missing. `attach` refuses with all that are
missing at once; `tmem doctor` shows them all.
"""

import os
import resource
import select
import tempfile
from collections.abc import Callable
from pathlib import Path

from tmem.agents.host.machine import CAP_IPC_LOCK, CAP_SYS_ADMIN, Machine, Need
from tmem.agents.host.memory import read_field
from tmem.agents.host.mounts import mount_fuse, unmount
from tmem.agents.host.peers import listener
from tmem.wire.errors import ProtocolError
from tmem.wire.limits import PAGE_BYTES

from .protocol import MAX_REQUEST_BYTES, Features, parse_init

__all__ = ["needs", "probe_fuse", "server_swapless"]

_OPEN_SECONDS = 5.0


def probe_fuse() -> Features:
    """Asks the kernel's FUSE what it can do: mounts a file system that is gone before anybody sees it.

    Raises:
        OSError: it can't be mounted. ProtocolError: it speaks another protocol.
    """
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        with tempfile.TemporaryDirectory(prefix="tmem-probe-") as directory:
            mount_fuse(descriptor, directory, "tmem-probe", PAGE_BYTES)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                if not poll.poll(_OPEN_SECONDS * 1000):
                    raise TimeoutError("the kernel does not open the FUSE connection")
                message = bytearray(MAX_REQUEST_BYTES)
                return parse_init(memoryview(message)[: os.readv(descriptor, (message,))])
            finally:
                unmount(directory, lazily=True)
    finally:
        os.close(descriptor)


def needs(machine: Machine, ask_fuse: Callable[[], Features] = probe_fuse) -> list[Need]:
    """Everything that a swap device needs of the machine, but for the server.

    Args:
        machine: which.
        ask_fuse: asks the kernel's FUSE what it can do; raises OSError, ProtocolError.
    """
    return [
        *(probe(machine) for probe in (_rights, _swap, _mkswap)),
        _fuse(machine, ask_fuse),
        *(probe(machine) for probe in (_fusectl, _loop, _memlock, _group)),
    ]


def _rights(machine: Machine) -> Need:
    met = machine.can(CAP_SYS_ADMIN)
    return Need(
        "swap rights",
        met,
        "CAP_SYS_ADMIN" if met else "no CAP_SYS_ADMIN",
        "run it as root: mounting and swapon are for root alone (in a container: with CAP_SYS_ADMIN of the host)",
    )


def _swap(machine: Machine) -> Need:
    met = (machine.root / "proc/swaps").exists()
    return Need(
        "kernel swap",
        met,
        "there" if met else "/proc/swaps is not there",
        "boot a kernel that is built with CONFIG_SWAP",
    )


def _mkswap(machine: Machine) -> Need:
    path = machine.which("mkswap")
    return Need("mkswap", path is not None, path or "not installed", "install util-linux")


def _fuse(machine: Machine, ask: Callable[[], Features]) -> Need:
    device = machine.root / "dev/fuse"
    advice = "load the module (modprobe fuse), or give the container the device (--device /dev/fuse)"
    if not device.exists():
        return Need("FUSE", met=False, found="/dev/fuse is not there", advice=advice)
    if not machine.can(CAP_SYS_ADMIN):
        return Need("FUSE", met=True, found="/dev/fuse is there; what it can do only root can ask", advice="")
    try:
        features = ask()
    except (OSError, ProtocolError) as error:
        return Need("FUSE", met=False, found=str(error), advice=advice)
    version = f"protocol {features.major}.{features.minor}"
    lacking = features.missing
    return Need(
        "FUSE",
        not lacking,
        f"{version}, without {', '.join(lacking)}" if lacking else f"{version} with resend and asynchronous direct I/O",
        "run Linux 6.9 or later: before it, what a worker that died had in hand would be lost",
    )


def _fusectl(machine: Machine) -> Need:
    kinds = (machine.read("proc/filesystems") or "").split()
    met = "fusectl" in kinds
    return Need(
        "fusectl",
        met,
        "there" if met else "the kernel does not know it",
        "load the module (modprobe fuse): without it a device that hangs could not be aborted",
    )


def _loop(machine: Machine) -> Need:
    met = (machine.root / "dev/loop-control").exists()
    return Need(
        "loop devices",
        met,
        "there" if met else "/dev/loop-control is not there",
        "load the module (modprobe loop), or give the container the devices",
    )


def _memlock(machine: Machine) -> Need:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    met = machine.can(CAP_IPC_LOCK) or soft == resource.RLIM_INFINITY
    return Need(
        "locked memory",
        met,
        "unlimited" if met else f"{soft} bytes",
        "raise the limit (ulimit -l unlimited, LimitMEMLOCK=infinity), or give CAP_IPC_LOCK: agents lock their memory",
    )


def _group(machine: Machine) -> Need:
    what = "memory of its own"
    hierarchy = machine.hierarchy()
    if hierarchy is None:
        return Need(what, met=True, found="no memory controller, so no limit", advice="")
    try:
        limited = hierarchy.limited(hierarchy.of())
    except (OSError, ProcessLookupError) as error:
        return Need(what, met=False, found=str(error), advice="mount /proc and the control groups")
    if limited is None:
        return Need(what, met=True, found="in no limited control group", advice="")
    if os.access(hierarchy.root, os.W_OK) and hierarchy.of().path != hierarchy.root:
        return Need(what, met=True, found=f"limited by {limited.path}, which it will leave", advice="")
    return Need(
        what,
        met=False,
        found=f"limited by {limited.path}",
        advice="start it outside that control group: an agent must not wait for memory that only it can free",
    )


def server_swapless(target: str, machine: Machine) -> Need:
    """A server of this machine must not be swapped out to itself; one of another machine is none of our business."""
    what = "server out of swap's reach"
    pid = listener(target)
    if pid is None:
        return Need(what, met=True, found="it is no process of this machine", advice="")
    hierarchy = machine.hierarchy()
    try:
        status = Path(f"/proc/{pid}/status")
        locked, resident = read_field(status, "VmLck") or 0, read_field(status, "VmRSS") or 0
        kept = hierarchy is not None and hierarchy.keeps_swap_out(hierarchy.of(pid))
    except (OSError, ProcessLookupError) as error:
        return Need(what, met=False, found=f"process {pid} can't be looked at: {error}", advice="run it as root")
    if kept or locked >= resident:
        how = "its control group forbids swap" if kept else "its memory is locked"
        return Need(what, met=True, found=f"process {pid} of this machine, and {how}", advice="")
    return Need(
        what,
        met=False,
        found=f"process {pid} of this machine can be swapped out",
        advice="start it with --lock-memory, or as the shipped unit does with MemorySwapMax=0: swapped out to itself, it "
        "could never come back",
    )
