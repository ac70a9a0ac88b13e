"""The daemon's upkeep: everything in it has its turn, whatever the store has to do."""

import asyncio
from types import SimpleNamespace
from typing import Any

from tmem.server.daemon import Daemon


async def test_silent_clients_are_looked_for_while_the_store_never_runs_out_of_work() -> None:
    """Steady overwriting gives the cleaner a next step for ever."""
    looks = asyncio.Semaphore(0)
    daemon: Any = Daemon.__new__(Daemon)
    daemon._cleaning = False
    daemon._settings = SimpleNamespace(session_timeout_seconds=0.04, stalled_reader_timeout_seconds=0.04)
    daemon._exchange = SimpleNamespace(watch=looks.release)
    daemon._service = SimpleNamespace(
        load_permille=0,
        clock=lambda: 0.0,
        engine=SimpleNamespace(batches=0, store=SimpleNamespace(step=lambda: True)),
        lifecycle=SimpleNamespace(step=lambda: False, expire=lambda _now: ()),
    )
    upkeep = asyncio.create_task(daemon._keep_up())
    try:
        async with asyncio.timeout(20):
            for _ in range(3):
                await looks.acquire()
        assert daemon._cleaning
    finally:
        upkeep.cancel()
        await asyncio.wait([upkeep])
