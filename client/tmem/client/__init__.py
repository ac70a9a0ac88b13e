"""The client of tmem: puts pages into a server's memory and gets them back byte for byte.

    import tmem.client

    with tmem.client.connect("127.0.0.1:8636") as client:
        pool = client.create_pool("swap0", kind="persistent")
        pool.put(7, 0, page)                 # any buffer of n * 4096 bytes
        result = pool.get_into(7, 0, buffer)

`tmem.client.aio` is the same for asyncio. Errors are the tree of `tmem.wire.errors`; `tmem.client.testing` starts real
servers for tests.
"""

from tmem.wire.results import Code, Reason

from ._core.calls import PageEvent, PageExplanation, PoolInfo, PoolStat
from ._core.counters import ClientCounters
from ._core.options import Options
from ._core.results import FlushResult, GetResult, PutResult
from ._core.shared_presence import SharedPresence
from .sync import Batch, Client, Pool, connect

__all__ = [
    "Batch",
    "Client",
    "ClientCounters",
    "Code",
    "FlushResult",
    "GetResult",
    "Options",
    "PageEvent",
    "PageExplanation",
    "Pool",
    "PoolInfo",
    "PoolStat",
    "PutResult",
    "Reason",
    "SharedPresence",
    "connect",
]
