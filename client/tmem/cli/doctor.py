"""`tmem doctor`: what this machine and this server can do, and what is missing.

Owns: the probes. Each looks at one thing at run time and says what follows from its absence; none changes anything.
"""

import ctypes
import os
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import click

from tmem.wire.errors import TmemError

from .memory import read_memory
from .options import Server, server_options
from .output import print_json, print_table

__all__ = ["Finding", "doctor"]


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


def _device(path: str, advice: str) -> Callable[[], Finding]:
    def probe() -> Finding:
        if not Path(path).exists():
            return Finding(path, good=False, found="is not there", needed=False, advice=advice)
        usable = os.access(path, os.R_OK | os.W_OK)
        return Finding(
            path, usable, "usable" if usable else "no right to open it", needed=False, advice="" if usable else advice
        )

    return probe


def _cgroup() -> Finding:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        controllers = Path("/sys/fs/cgroup/cgroup.controllers").read_text("ascii").split()
        good, found = "memory" in controllers, "v2"
    else:
        good, found = Path("/sys/fs/cgroup/memory").is_dir(), "v1"
    found = f"{found}, memory controller" if good else "no memory controller"
    return Finding("cgroups", good, found, needed=False, advice="" if good else "local limits can't be set")


def _memlock() -> Finding:
    _, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    good = hard == resource.RLIM_INFINITY or os.geteuid() == 0
    found = "unlimited" if good else f"{hard} bytes"
    return Finding(
        "locked memory", good, found, needed=False, advice="" if good else "agents lock theirs: raise LimitMEMLOCK"
    )


_PROBES: tuple[Callable[[], Finding], ...] = (
    _python,
    _kernel,
    *(
        lambda name=name, needed=needed, advice=advice: _package(name, needed=needed, advice=advice)
        for name, needed, advice in (
            ("grpcio", True, "pip install tmem"),
            ("lz4", True, "pip install tmem"),
            ("cramjam", True, "pip install tmem"),
            ("crc32c", True, "pip install tmem"),
            ("hpack", False, "agents need it: pip install tmem[agents]"),
            ("uvloop", False, "the daemon needs it: pip install tmem[server]"),
            ("prometheus-client", False, "the daemon needs it: pip install tmem[server]"),
        )
    ),
    _read_own_memory,
    _device("/dev/userfaultfd", "the pager needs it: root, or access to the device"),
    _device("/dev/fuse", "the swap agent needs it"),
    _device("/dev/loop-control", "the swap agent needs it"),
    _cgroup,
    _memlock,
)


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
    findings = [probe() for probe in _PROBES] + [_server(server)]
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
