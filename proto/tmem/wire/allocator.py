"""The C allocator, set for messages of half a megabyte.

Owns: one setting of the process, for programs that are ends of the wire and nothing else: the daemon, the agents, the
benchmarks. A library must not choose for the program that it is linked into, so nothing here happens by itself.
"""

import ctypes

__all__ = ["give_back_freed", "keep_freed_messages"]

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_KEPT_BYTES = 32 << 20
# Each thread of gRPC would have its own, and keep in it what others could use: 2-4 MB each.
_ARENAS = 2


def keep_freed_messages() -> None:
    """Keeps the memory of freed messages for the next ones; call it once, early.

    By default glibc maps every large message afresh and gives it back, and each costs a page fault per 4 KiB. Measured on
    2 MiB gets: 0.15 of the daemon's 0.65 ms, 0.1 of the client's 1.45 ms.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return  # another C library
    mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    mallopt(_M_ARENA_MAX, _ARENAS)


def give_back_freed() -> None:
    """Gives what is kept and not used back to the system; for a process that has nothing to do. Takes milliseconds."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    trim(ctypes.c_size_t(0))
