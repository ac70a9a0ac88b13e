"""Pools that a command makes for itself.

Owns: that none outlives the command, however it ends: a server keeps the pools of a client that went away, for its return.
"""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from tmem.client import Client, Pool, aio

__all__ = ["scratch_pool", "scratch_pool_aio"]


def _unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(4)}"


@contextmanager
def scratch_pool(client: Client, name: str, chunk_pages: int) -> Iterator[Pool]:
    """A pool with a name like this that nobody else has; destroyed with the block."""
    pool = client.create_pool(_unique(name), chunk_pages=chunk_pages)
    try:
        yield pool
    finally:
        pool.destroy()


@asynccontextmanager
async def scratch_pool_aio(client: aio.Client, name: str, chunk_pages: int) -> AsyncIterator[aio.Pool]:
    """The same, with the asyncio face."""
    pool = await client.create_pool(_unique(name), chunk_pages=chunk_pages)
    try:
        yield pool
    finally:
        await pool.destroy()
