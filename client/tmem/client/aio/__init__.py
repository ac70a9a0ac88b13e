"""The asyncio face of tmem.client.

    async with tmem.client.aio.connect("127.0.0.1:8636") as client:
        pool = await client.create_pool("swap0", kind="persistent")
        await pool.put(7, 0, page)

It is the blocking one with `await`. Every object belongs to the loop that it was made on.
"""

from .batch import Batch
from .client import Client
from .connecting import Connecting, connect
from .pool import Pool

__all__ = ["Batch", "Client", "Connecting", "Pool", "connect"]
