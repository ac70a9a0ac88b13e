"""The lean transport, for agents: one thread, one socket, no gRPC library.

    link = tmem.client.link.connect("127.0.0.1:8636")
    pool = link.create_pool("swap0", kind="persistent")
    pool.put(7, 0, page)                                  # waits, reading the socket itself
    pool.submit_put(7, 1, page, lambda result: print(result.stored))
    link.pump()                                           # never waits

It speaks the same calls to the same server as `tmem.client`, through the same core. Every object belongs to the thread that
made it. Needs the extra `tmem[agents]`.
"""

from tmem.client.sync.batch import Batch

from .client import Client, connect
from .connection import Endpoint
from .dialing import resolve
from .pool import Pool, Puts

__all__ = ["Batch", "Client", "Endpoint", "Pool", "Puts", "connect", "resolve"]
