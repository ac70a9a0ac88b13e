"""System calls of the pager that Python's library lacks.

Owns: the C library's prototypes and the numbers of linux/mman.h and linux/falloc.h; errno becomes OSError. What the calls are for,
their callers know.

Units: bytes.
"""

import ctypes
import errno
import os
from typing import Any

from tmem.agents.host.kernel import MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT, mlockall

__all__ = [
    "MADV_DONTFORK",
    "MADV_HUGEPAGE",
    "MAP_NORESERVE",
    "MFD_HUGE_2MB",
    "address_of",
    "allocate",
    "lock_all_but",
    "page_out",
    "punch",
    "reserve_addresses",
]

MADV_DONTFORK = 10
MADV_HUGEPAGE = 14
_MADV_PAGEOUT = 21
MAP_NORESERVE = 0x4000
MFD_HUGE_2MB = 21 << 26

_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
_PROT_NONE, _MAP_PRIVATE, _MAP_ANONYMOUS, _MAP_FIXED_NOREPLACE = 0, 2, 0x20, 0x100000
_FAILED = ctypes.c_void_p(-1).value


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
_libc.munlock.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)
_libc.mmap.restype = ctypes.c_void_p
_process_madvise: Any = getattr(_libc, "process_madvise", None)  # glibc 2.36
if _process_madvise is not None:
    _process_madvise.argtypes = (
        *(ctypes.c_int, ctypes.POINTER(_IoVec), ctypes.c_size_t),
        *(ctypes.c_int, ctypes.c_uint),
    )
    _process_madvise.restype = ctypes.c_ssize_t


def _check(status: int, what: str) -> None:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def address_of(buffer: Any) -> int:
    """Where a writable buffer begins in this process. Nothing is kept of the buffer."""
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def punch(descriptor: int, offset: int, length: int) -> None:
    """Takes a range out of a file, in memory and out of every mapping; nothing happens where nothing is."""
    status = _libc.fallocate(descriptor, _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, offset, length)
    _check(status, "can't give memory back")


def allocate(descriptor: int, offset: int, length: int) -> None:
    """Makes sure that a range of a file has memory; what is there already stays.

    Raises:
        OSError: ENOSPC: the pool of huge pages is empty.
    """
    _check(_libc.fallocate(descriptor, _FALLOC_KEEP_SIZE, offset, length), "can't get memory")


def page_out(pidfd: int, address: int, length: int) -> None:
    """Unmaps a range of another process; without an active swap area its pages of shared memory stay where they are.

    Raises:
        OSError: EPERM: no right to; EINVAL: not pages of this kind; ENOSYS.
    """
    if _process_madvise is None:
        raise OSError(errno.ENOSYS, "the C library has no process_madvise")
    vector = _IoVec(address, length)
    _check(_process_madvise(pidfd, ctypes.byref(vector), 1, _MADV_PAGEOUT, 0), "can't unmap pages of the program")


def lock_all_but(*sparse: tuple[int, int]) -> None:
    """Locks this process's memory, now and as it grows, except for mappings of which most is never touched.

    Args:
        sparse: their addresses and lengths.

    Raises:
        OSError: the limit of locked memory is too low.
    """
    # ONFAULT: what is not there yet is locked when it comes; without it the whole of every sparse mapping would come now.
    mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT)
    for address, length in sparse:
        _check(_libc.munlock(address, length), "can't unlock the region")


def reserve_addresses(address: int, length: int) -> None:
    """Keeps a range of addresses from being used again in this process: touching it is SIGSEGV."""
    found = _libc.mmap(
        address, length, _PROT_NONE, _MAP_PRIVATE | _MAP_ANONYMOUS | MAP_NORESERVE | _MAP_FIXED_NOREPLACE, -1, 0
    )
    if found == _FAILED:
        _check(-1, "can't keep the addresses of a region")
