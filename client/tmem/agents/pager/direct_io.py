"""Keeping a process from I/O that goes round page faults.

Owns: a seccomp filter. Direct I/O (O_DIRECT), vmsplice and io_uring pin pages and let a device write to them later, when the pager may have
taken them away: what was read is then lost, and nobody can tell. The kernel has no way to ask whether a page is pinned, but
it can refuse the calls: opening with O_DIRECT, or switching it on, is EINVAL, as on a file system that lacks it, and programs
fall back; vmsplice is EINVAL; io_uring_setup is EPERM, as where the administrator has switched it off; openat2, whose flags a filter
can't see, is ENOSYS, as on older kernels.

What was opened before is looked at once the filter is there: O_DIRECT is cleared, and an io_uring is a reason to have no far memory, as
what its rings ask for is no call that a filter sees.

It can't be taken back, and children inherit it. RDMA and VFIO it does not see, nor a descriptor that another process hands over
later, or switches back to O_DIRECT because it shares it: they must not be given far memory.
"""

import ctypes
import errno
import fcntl
import os
import platform
import stat
import struct
from pathlib import Path

from tmem.wire.errors import InvalidOption

__all__ = ["refuse_direct_io"]

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _TSYNC = 1, 1
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_LD, _JEQ, _JSET, _RET = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # of struct seccomp_data
_F_SETFL = 4
_DESCRIPTORS = Path("/proc/self/fd")
_RING = "anon_inode:[io_uring]"

# Of each machine: its audit number, and the numbers of open, openat, fcntl, vmsplice, io_uring_setup, openat2, seccomp; 0 = it has none.
_MACHINES = {
    "x86_64": (0xC000003E, 2, 257, 72, 278, 425, 437, 317),
    "aarch64": (0xC00000B7, 0, 56, 25, 75, 425, 437, 277),
}


_installed = False


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _filter(arch: int, opens: tuple[tuple[int, int], ...], control: int, refused: dict[int, int]) -> bytes:
    """The filter: `opens` are calls with the argument that has their flags; `refused` are calls with their errno."""
    instructions: list[bytes] = []

    def add(code: int, value: int, yes: int = 0, no: int = 0) -> None:
        instructions.append(struct.pack("<HBBI", code, yes, no, value))

    def argument(number: int) -> None:
        add(_LD, _ARGUMENTS + 8 * number)

    add(_LD, _ARCH)
    add(_JEQ, arch, 1)
    add(_RET, _ALLOW)
    add(_LD, _NUMBER)
    for call, number in refused.items():
        add(_JEQ, call, 0, 1)
        add(_RET, _ERRNO | number)
    for call, position in opens:
        add(_JEQ, call, 0, 4)
        argument(position)
        add(_JSET, os.O_DIRECT, 0, 1)
        add(_RET, _ERRNO | errno.EINVAL)
        add(_RET, _ALLOW)
    add(_JEQ, control, 0, 5)
    argument(1)
    add(_JEQ, _F_SETFL, 0, 3)
    argument(2)
    add(_JSET, os.O_DIRECT, 0, 1)
    add(_RET, _ERRNO | errno.EINVAL)
    add(_RET, _ALLOW)
    return b"".join(instructions)


def refuse_direct_io() -> None:
    """Refuses direct I/O and its like to all threads of this process and to what it starts, from now on.

    Raises:
        InvalidOption: this machine or kernel has no such filter, or the process has an io_uring already.
    """
    _install_filter()
    _clear_descriptors()


def _clear_descriptors() -> None:
    """Ends direct I/O by what was opened before the filter."""
    try:
        numbers = [int(each.name) for each in _DESCRIPTORS.iterdir()]
    except OSError as error:
        raise InvalidOption(
            f"open files can't be looked through for direct I/O ({_DESCRIPTORS}: {error.strerror}): mount /proc, or promise that this process does none into far memory, and say allow_direct_io=True"
        ) from error
    for number in numbers:
        try:
            flags = fcntl.fcntl(number, fcntl.F_GETFL)
            # Of a pipe the flag says that it keeps writes apart, and that is as it should be.
            if flags & os.O_DIRECT and not stat.S_ISFIFO(os.fstat(number).st_mode):
                fcntl.fcntl(number, fcntl.F_SETFL, flags & ~os.O_DIRECT)
            ring = (_DESCRIPTORS / str(number)).readlink() == Path(_RING)
        except OSError as error:
            if error.errno in {errno.EBADF, errno.ENOENT}:  # closed meanwhile
                continue
            raise InvalidOption(
                f"direct I/O by descriptor {number} can't be ended ({error.strerror}): close it before far memory is made"
            ) from error
        if ring:
            raise InvalidOption(
                f"descriptor {number} is an io_uring, which writes past far memory: close it before far memory is made, or promise that it does nothing there, and say allow_direct_io=True"
            )


def _install_filter() -> None:
    global _installed  # noqa: PLW0603  the kernel's state, of the whole process
    if _installed:
        return  # another one on top would only cost time, at each call
    numbers = _MACHINES.get(platform.machine())
    if numbers is None:
        raise InvalidOption(
            f"on {platform.machine()} direct I/O can't be refused: promise that this process does none into far memory, and say allow_direct_io=True"
        )
    arch, plain_open, openat, control, vmsplice, io_uring, openat2, seccomp = numbers
    opens = ((openat, 2), *(((plain_open, 1),) if plain_open else ()))
    code = _filter(arch, opens, control, {vmsplice: errno.EINVAL, io_uring: errno.EPERM, openat2: errno.ENOSYS})
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.syscall(seccomp, _SET_MODE_FILTER, _TSYNC, ctypes.byref(program))
    if status < 0 and ctypes.get_errno() == errno.EACCES:
        # Without CAP_SYS_ADMIN a process must first promise not to gain rights by what it starts.
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        status = libc.syscall(seccomp, _SET_MODE_FILTER, _TSYNC, ctypes.byref(program))
    if status:
        raise InvalidOption(
            f"direct I/O can't be refused ({os.strerror(ctypes.get_errno())}): promise that this process does none into far memory, and say allow_direct_io=True"
        )
    _installed = True
