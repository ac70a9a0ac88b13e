"""Recompression beside the event loop: a thread that gives way to everything else.

Owns: the thread, and when it works. Which pages, and what becomes of them, is tmem.server.store.log.recompressor's business.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from tmem.server.store.log.recompressor import Recompressor

__all__ = ["recompress_when_idle"]

log = structlog.get_logger(__name__)

_LOOK_SECONDS = 1.0
_LEAST_PRIORITY = 19


def _give_way() -> None:
    """Lets every other thread of the machine go first."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LEAST_PRIORITY)


async def recompress_when_idle(recompressor: Recompressor, idle: Callable[[], bool]) -> None:
    """Works piece by piece, for ever, whenever there is something to do and nothing else is.

    Args:
        recompressor: the store's; called on this event loop's thread.
        idle: whether nothing else is to be done.
    """
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, "tmem-recompress", _give_way) as thread:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                while idle() and (work := recompressor.begin()) is not None:
                    await loop.run_in_executor(thread, work.run)
                    recompressor.finish(work)
            except Exception:
                log.exception("daemon.recompression_failed")
