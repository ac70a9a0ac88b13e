"""Clients that are connected and do nothing.

Owns: the program behind `clients`, run as `python -m tmem.cli.bench_peers.idlers`: so many clients of the asyncio face, each with a connection, a session and a
pool with one page of its own. Its first line is {"target": ..., "count": ...}; it answers {"connected": ...} when all are there, and keeps them, with
their heartbeats, until its input ends.
"""

import asyncio
import json
import os
import secrets
import sys
import time

from tmem.client import aio
from tmem.wire.errors import TmemError, Unavailable
from tmem.wire.limits import PAGE_BYTES

__all__ = ["main"]

_AT_ONCE = 4
_TIMEOUT_SECONDS = 60.0
_TIMEOUTS = dict.fromkeys(("connect_timeout", "call_timeout", "write_timeout"), _TIMEOUT_SECONDS)
_PAUSE_SECONDS = 0.2


async def _reach(target: str) -> aio.Client:
    """Connects; a server that is busy with others may take longer than gRPC gives one attempt."""
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        try:
            return await aio.connect(target, **_TIMEOUTS)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


async def _connect(target: str, turn: asyncio.Semaphore) -> aio.Client:
    async with turn:
        client = await _reach(target)
        pool = await client.create_pool(f"idle-{secrets.token_hex(8)}")
        await pool.put(1, 0, secrets.token_bytes(PAGE_BYTES // 2) * 2)
        return client


async def _run(target: str, count: int) -> None:
    turn = asyncio.Semaphore(_AT_ONCE)
    try:
        clients = await asyncio.gather(*(_connect(target, turn) for _ in range(count)))
    except TmemError as error:
        # At once: what is half connected would be waited for.
        print(f"idle clients can't connect: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    print(json.dumps({"connected": len(clients)}), flush=True)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


def main() -> None:
    """Connects, and waits until its input ends."""
    settings = json.loads(sys.stdin.readline())
    asyncio.run(_run(settings["target"], settings["count"]))


if __name__ == "__main__":
    main()
