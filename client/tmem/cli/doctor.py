"""`tmem doctor`: what this machine and this server can do, and what is missing.

Owns: the probes. Each looks at one thing at run time and says what follows from its absence; none leaves anything changed. What
agents need is theirs to know (tmem.agents); it is shown under the name of the command or agent that needs it.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

import click

from tmem.agents.host.machine import CAP_SYS_RESOURCE, Machine, Need
from tmem.agents.swap.protocol import Features
from tmem.agents.swap.requirements import needs, probe_fuse, server_swapless
from tmem.wire.errors import TmemError

from .memory import read_memory
from .options import Server, server_options
from .output import print_json, print_table

__all__ = ["Finding", "doctor", "look"]

_CAP_SYS_PTRACE = 19


@dataclass(frozen=True, slots=True)
class Finding:
    """What one probe found.

    Attributes:
        good: the thing is there. needed: without it tmem does not work at all; else something named in `advice` does not.
    """

    what: str
    good: bool
    found: str
    needed: bool
    advice: str = ""


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    return Finding(
        "Python", good, platform.python_version(), needed=True, advice="" if good else "install 3.11 or later"
    )


def _kernel() -> Finding:
    good = platform.system() == "Linux" and int(platform.release().split(".")[0]) >= 6
    return Finding(
        "kernel", good, f"{platform.system()} {platform.release()}", needed=False, advice="the agents want Linux 6"
    )


def _package(name: str, *, needed: bool, advice: str) -> Finding:
    try:
        return Finding(name, good=True, found=version(name), needed=needed)
    except PackageNotFoundError:
        return Finding(name, good=False, found="not installed", needed=needed, advice=advice)


def _read_own_memory() -> Finding:
    value = ctypes.create_string_buffer(b"tmem", 4)
    into = bytearray(4)
    try:
        read_memory(os.getpid(), ctypes.addressof(value), memoryview(into))
        return Finding("process_vm_readv", bytes(into) == b"tmem", "works", needed=False)
    except OSError as error:
        return Finding("process_vm_readv", good=False, found=str(error), needed=False, advice="tmem demo needs it")


def _of(need: Need, what: str) -> Finding:
    """A need of an agent, as a finding."""
    return Finding(f"{what}: {need.what}", need.met, need.found, needed=False, advice="" if need.met else need.advice)


def _cgroup(machine: Machine) -> Finding:
    hierarchy = machine.hierarchy()
    if hierarchy is None:
        advice = "tmem run can't limit local memory: mount the control groups, or boot without cgroup_disable=memory"
        return Finding("run: memory controller", good=False, found="none", needed=False, advice=advice)
    return Finding("run: memory controller", good=True, found=f"v{hierarchy.version}", needed=False)


def _userfaultfd(machine: Machine) -> Finding:
    what = "pager: userfaultfd"
    allowed = (machine.read("proc/sys/vm/unprivileged_userfaultfd") or "").strip() == "1"
    device = machine.root / "dev/userfaultfd"
    if machine.can(_CAP_SYS_PTRACE) or allowed:
        return Finding(what, good=True, found="by system call", needed=False)
    if not device.exists():
        advice = "run as root, or set vm.unprivileged_userfaultfd = 1, or use Linux 6.1, which has /dev/userfaultfd"
        return Finding(what, good=False, found="/dev/userfaultfd is not there", needed=False, advice=advice)
    if not os.access(device, os.R_OK | os.W_OK):
        advice = "run as root, or give this user the right to /dev/userfaultfd"
        return Finding(what, good=False, found="no right to open /dev/userfaultfd", needed=False, advice=advice)
    return Finding(what, good=True, found="/dev/userfaultfd", needed=False)


def _standing(machine: Machine) -> Finding:
    good = machine.can(CAP_SYS_RESOURCE)
    advice = (
        "agents work, but the kernel may kill them for want of memory, or let them wait for it: give CAP_SYS_RESOURCE"
    )
    return Finding(
        "swap: agents exempt from want of memory",
        good,
        "CAP_SYS_RESOURCE" if good else "no CAP_SYS_RESOURCE",
        needed=False,
        advice="" if good else advice,
    )


def _huge_pages(machine: Machine) -> Finding:
    text = machine.read("sys/kernel/mm/transparent_hugepage/enabled") or ""
    chosen = text.partition("[")[2].partition("]")[0] or "none"
    good = chosen in {"always", "madvise"}
    advice = "huge pages go out as one, in few messages: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
    return Finding("swap: transparent huge pages", good, chosen, needed=False, advice="" if good else advice)


def _readahead(machine: Machine) -> Finding:
    text = (machine.read("proc/sys/vm/page-cluster") or "").strip()
    good = text.isdecimal() and int(text) >= 3
    pages = f"{1 << int(text)} pages at once" if text.isdecimal() else "unknown"
    advice = "what is next to each other comes back one by one: sysctl vm.page-cluster=3"
    return Finding("swap: readahead", good, pages, needed=False, advice="" if good else advice)


_BASE: tuple[Callable[[], Finding], ...] = (
    _python,
    _kernel,
    *(
        lambda name=name, needed=needed, advice=advice: _package(name, needed=needed, advice=advice)
        for name, needed, advice in (
            ("grpcio", True, "pip install tmem"),
            ("lz4", True, "pip install tmem"),
            ("cramjam", True, "pip install tmem"),
            ("crc32c", True, "pip install tmem"),
            ("uvloop", False, "the daemon needs it: pip install tmem[server]"),
            ("prometheus-client", False, "the daemon needs it: pip install tmem[server]"),
            ("hpack", False, "the agents need it: pip install tmem[agents]"),
        )
    ),
    _read_own_memory,
)


def look(machine: Machine, ask_fuse: Callable[[], Features] = probe_fuse) -> list[Finding]:
    """What this process finds on a machine.

    Args:
        machine: where to look.
        ask_fuse: asks the kernel's FUSE what it can do.
    """
    return [
        *(probe() for probe in _BASE),
        *(_of(need, "swap") for need in needs(machine, ask_fuse)),
        *(probe(machine) for probe in (_standing, _huge_pages, _readahead, _cgroup, _userfaultfd)),
    ]


def _server(server: Server) -> Finding:
    try:
        with server.connect(connect_timeout=3.0) as client:
            capabilities = client.capabilities
    except TmemError as error:
        return Finding(
            "server", good=False, found=str(error), needed=False, advice="start tmemd, or name another --target"
        )
    found = f"{server.target}: tmemd {capabilities.server_version}, store {capabilities.store}"
    return Finding("server", good=True, found=found, needed=False)


@click.command()
@server_options
def doctor(server: Server) -> None:
    """Say what this machine and the server can do, and what is missing.

    Exit status 1 if something is missing without which tmem does not work at all.
    """
    machine = Machine()
    findings = [*look(machine), _server(server), _of(server_swapless(server.target, machine), "swap")]
    if server.json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_table(
            "tmem doctor",
            ["what", "", "found", "what follows"],
            [
                [
                    finding.what,
                    "ok" if finding.good else ("MISSING" if finding.needed else "missing"),
                    finding.found,
                    "" if finding.good else finding.advice,
                ]
                for finding in findings
            ],
        )
    if any(finding.needed and not finding.good for finding in findings):
        sys.exit(1)
