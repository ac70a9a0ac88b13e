"""How this process uses memory.

Owns: the settings of Python's garbage collector for a process that holds many objects and makes few cycles; and the lock that
keeps the kernel from swapping the process out.
"""

import ctypes
import gc
import os

__all__ = ["lock_memory", "tame_collector"]

_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

# Young objects are still collected; these keep attempts at a full collection rare.
_THRESHOLDS = (50_000, 50, 100)


def tame_collector() -> None:
    """Takes what exists now out of all collections and makes full ones rare.

    A store of millions of pages is millions of objects that live long; walking them all stops the event loop for seconds,
    and finds nothing: the daemon's hot paths make no cycles.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)


def lock_memory() -> None:
    """Keeps all memory of the process, what it uses now and what it will, from being swapped out.

    A daemon that shares its machine with programs that swap to it must not be swapped out itself: to bring it back, it would
    be needed. Memory is locked as it is used, so that what is only reserved costs nothing.

    Raises:
        OSError: the limit of locked memory (RLIMIT_MEMLOCK) is too low.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
