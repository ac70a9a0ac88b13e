"""System calls that Python's library lacks.

Owns: the C library's prototypes, and the translation of errno into OSError. What the calls are for, their callers know.
"""

import ctypes
import os

__all__ = [
    "MCL_CURRENT",
    "MCL_FUTURE",
    "MCL_ONFAULT",
    "MNT_DETACH",
    "MS_NODEV",
    "MS_NOEXEC",
    "MS_NOSUID",
    "mlockall",
    "mount",
    "prctl",
    "swapoff",
    "swapon",
    "umount",
]

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MNT_DETACH = 2
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.swapon.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.swapoff.argtypes = (ctypes.c_char_p,)
_libc.mlockall.argtypes = (ctypes.c_int,)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)


def _check(status: int, what: str) -> int:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return status


def mount(source: str, target: str, kind: str, flags: int, options: str) -> None:
    """Mounts a file system (mount(2))."""
    status = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    _check(status, f"can't mount {kind} at {target}")


def umount(target: str, flags: int = 0) -> None:
    """Unmounts one (umount2(2))."""
    _check(_libc.umount2(os.fsencode(target), flags), f"can't unmount {target}")


def swapon(path: str, flags: int) -> None:
    """Takes a swap area into use (swapon(2))."""
    _check(_libc.swapon(os.fsencode(path), flags), f"can't swap to {path}")


def swapoff(path: str) -> None:
    """Gives a swap area up; returns when all that was out is back in memory (swapoff(2)).

    Raises:
        OSError: ENOMEM: it does not fit; EINTR: a signal came. The kernel goes on using the area in both cases.
    """
    _check(_libc.swapoff(os.fsencode(path)), f"can't stop swapping to {path}")


def mlockall(flags: int) -> None:
    """Locks the memory of this process (mlockall(2))."""
    _check(_libc.mlockall(flags), "can't lock this process's memory")


def prctl(option: int, argument: int) -> int:
    """Changes something about this process, by one argument (prctl(2))."""
    return _check(_libc.prctl(option, argument, 0, 0, 0), f"prctl {option} was refused")
