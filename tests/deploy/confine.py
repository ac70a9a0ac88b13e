"""Runs a command under the limits of a systemd unit, without systemd: confine.py UNIT COMMAND...

Owns: those of the unit's lines that could break the daemon and that any process can take upon itself: resource limits, the
umask, the filters of system calls and of address families, no memory both writable and executable, few capabilities or none. They
are read from the unit itself, so that a test of the daemon under them is a test of what is shipped.

One difference: systemd answers a forbidden call with an error, which a program may well swallow; here all but the calls that
the unit forbids by name end the process, so that none goes unnoticed.
"""

import ctypes
import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_PR_CAPBSET_DROP = 24
_PR_SET_MDWE = 65
_MDWE_REFUSE_EXEC_GAIN = 1
_PROT_WRITE, _PROT_EXEC = 2, 4
_SHM_EXEC = 0o100000
_MAX_CAPABILITY = 63
_MAX_FAMILY = 64
_CAPABILITIES = {
    "CAP_DAC_OVERRIDE": 1,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_RESOURCE": 24,
}
_LIMITS = {
    "LimitCORE": resource.RLIMIT_CORE,
    "LimitNOFILE": resource.RLIMIT_NOFILE,
    "LimitMEMLOCK": resource.RLIMIT_MEMLOCK,
}

_ALLOW = 0x7FFF0000
_KILL_PROCESS = 0x80000000
_CMP_EQ, _CMP_MASKED_EQ = 4, 7


def _error(number: int) -> int:
    return 0x00050000 | number


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


class Filter:
    """A filter of system calls."""

    def __init__(self, default: int) -> None:
        self._lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._lib.seccomp_init.restype = ctypes.c_void_p
        self._lib.seccomp_init.argtypes = [ctypes.c_uint32]
        self._lib.seccomp_rule_add_array.argtypes = [
            *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
            ctypes.POINTER(_Comparison),
        ]
        self._lib.seccomp_load.argtypes = [ctypes.c_void_p]
        self._context = self._lib.seccomp_init(default)

    def add(self, action: int, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        """Adds a rule; a name that this machine does not know has no number, and so can't be called."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Comparison * max(1, len(comparisons)))(*(_Comparison(*each) for each in comparisons))
        self._check(self._lib.seccomp_rule_add_array(self._context, action, number, len(comparisons), array))

    def load(self) -> None:
        """Puts it in force, for good."""
        self._check(self._lib.seccomp_load(self._context))

    @staticmethod
    def _check(status: int) -> None:
        if status < 0:
            raise OSError(-status, os.strerror(-status))


def directives(unit: Path) -> dict[str, list[str]]:
    """The lines of a unit, by name, in order; a name may come several times."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text("utf-8").splitlines():
        if line and line[0] not in "#;[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def expand(name: str) -> set[str]:
    """The system calls of a group such as @system-service, or the one that is named."""
    if not name.startswith("@"):
        return {name}
    listing = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    members = [line.strip() for line in listing.splitlines()[1:]]
    return set().union(*(expand(member) for member in members if member and not member.startswith("#")))


def _syscalls(lines: list[str]) -> Filter:
    allowed, refused = expand("@default"), set()
    for line in lines:
        names = line.removeprefix("~").split()
        members = set().union(*(expand(name) for name in names))
        if line.startswith("~"):
            allowed -= members
            refused |= {name for name in names if not name.startswith("@")}
        else:
            allowed |= members
    table = Filter(_KILL_PROCESS)
    for name in sorted(allowed):
        table.add(_ALLOW, name)
    for name in sorted(refused):
        table.add(_error(errno.EPERM), name)
    return table


def _families(line: str) -> Filter:
    allowed = {getattr(socket, name) for name in line.split()}
    table = Filter(_ALLOW)
    for family in range(_MAX_FAMILY):
        if family not in allowed:
            table.add(_error(errno.EAFNOSUPPORT), "socket", (0, _CMP_EQ, family, 0))
    return table


def _no_written_code() -> Filter:
    """What systemd forbids for MemoryDenyWriteExecute."""
    table = Filter(_ALLOW)
    both = _PROT_WRITE | _PROT_EXEC
    table.add(_error(errno.EPERM), "mmap", (2, _CMP_MASKED_EQ, both, both))
    for name in ("mprotect", "pkey_mprotect"):
        table.add(_error(errno.EPERM), name, (2, _CMP_MASKED_EQ, _PROT_EXEC, _PROT_EXEC))
    table.add(_error(errno.EPERM), "shmat", (2, _CMP_MASKED_EQ, _SHM_EXEC, _SHM_EXEC))
    return table


def confine(unit: Path) -> None:
    """Puts this process, and all that it will execute, under the unit's limits."""
    lines = directives(unit)
    # Made before the first is in force: they need calls that the last forbids.
    filters = [
        _families(lines["RestrictAddressFamilies"][-1]),
        _no_written_code(),
        _syscalls(lines["SystemCallFilter"]),
    ]
    assert lines["MemoryDenyWriteExecute"] == ["yes"]
    assert lines["NoNewPrivileges"] == ["yes"]
    kept = {_CAPABILITIES[name] for name in lines["CapabilityBoundingSet"][-1].split()}
    if "UMask" in lines:
        os.umask(int(lines["UMask"][-1], 8))
    for name, limit in _LIMITS.items():
        if name not in lines:
            continue
        hard = resource.getrlimit(limit)[1]
        text = lines[name][-1]
        value = resource.RLIM_INFINITY if text == "infinity" else int(text)
        if hard != resource.RLIM_INFINITY:
            value = hard if value == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    for capability in set(range(_MAX_CAPABILITY + 1)) - kept:
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # fails beyond the last one, and without root, who alone has any
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # Later systemds use this too, where the kernel has it (6.3).
    prctl(_PR_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)
    for each in filters:
        each.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
