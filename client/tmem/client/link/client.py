"""A link: a client whose one thread is its caller's.

Owns: the names that an agent sees. What happens is in stream.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Concatenate, ParamSpec, cast

from tmem.client._core.counters import ClientCounters
from tmem.client._core.options import Options
from tmem.client._core.pool import PoolCore
from tmem.client.sync.client import Client as BlockingClient
from tmem.client.sync.pool import Pool as BlockingPool
from tmem.wire.errors import InvalidOption

from .connection import Endpoint
from .pool import Pool
from .stream import Stream

__all__ = ["Client", "connect"]

P = ParamSpec("P")


def connect(
    target: str,
    *,
    endpoints: Sequence[Endpoint] | None = None,
    meanwhile: Callable[[], object] | None = None,
    **options: Any,
) -> "Client":
    """Connects to a tmem server; waits for it.

    Args:
        target: "HOST:PORT", "[IPV6]:PORT" or "unix:PATH". A name is resolved here, and not again by `pump`, which may not wait.
        endpoints: where that is, as `resolve` found; for those who must not wait for a resolver, now or at a later reconnect.
        meanwhile: called again and again while a blocking form waits (this one too), a tenth of a second apart at most; for those
            who have something else to look after. It may submit; what it raises ends the wait.
        options: fields of Options, such as token="..." or read_timeout=5.

    Raises:
        Unavailable: nobody answers there. Unauthenticated: the server wants another token.
        InvalidOption: an option or address that can't be.
    """
    settings = Options(**options)
    counters = ClientCounters()
    client = Client(target, settings, counters, Stream(target, settings, counters, endpoints, meanwhile))
    try:
        client._greet()  # noqa: SLF001
        _check_alone(client)
    except BaseException:
        client.close()
        raise
    return client


def _check_alone(client: "Client") -> None:
    count = len(client.capabilities.shards)
    if count > 1:
        raise InvalidOption(f"{client.target} has {count} shards; a link is for a server of one")


def _ours(
    method: Callable[Concatenate[BlockingClient, P], BlockingPool],
) -> Callable[Concatenate[BlockingClient, P], Pool]:
    """The same method, whose pools are a link's."""
    return cast("Callable[Concatenate[BlockingClient, P], Pool]", method)


class Client(BlockingClient):
    """A connection to a server without threads of its own. Use it from one thread, in a `with` statement, or close it.

    It has everything that `tmem.client.Client` has; blocking forms read the socket in the caller's thread. A loop drives what was
    submitted, until there is an answer:

        poll.register(link, POLLIN | (POLLOUT if link.wants_write else 0))    # again when link.generation has changed
        poll.poll(until link.next_timer())
        link.pump()
    """

    def __init__(self, target: str, options: Options, counters: ClientCounters, stream: Stream) -> None:
        super().__init__(target, options, counters, stream)
        self._link = stream

    create_pool = _ours(BlockingClient.create_pool)
    open_pool = _ours(BlockingClient.open_pool)
    join_pool = _ours(BlockingClient.join_pool)

    def _adopt(self, core: PoolCore) -> Pool:
        self._link.send(self._link.core.add_pool(core))
        return Pool(core, self._link, self.options, self.counters, self)

    # ---- Driving it ----

    def fileno(self) -> int:
        """The socket's descriptor, to wait on; -1 while there is no connection. Another one after each reconnect."""
        return self._link.transport.fileno()

    @property
    def generation(self) -> int:
        """How many connections there were: when it has changed, so has the descriptor."""
        return self._link.transport.generation

    @property
    def wants_write(self) -> bool:
        """Whether to wait for the descriptor to become writable too."""
        return self._link.transport.wants_write

    @property
    def waiting(self) -> int:
        """How many operations wait for credit or a free handle; each holds what it will send."""
        return self._link.waiting

    def next_timer(self) -> float | None:
        """When `pump` must be called at the latest, by time.monotonic: heartbeats, deadlines, the next attempt to connect."""
        return self._link.next_timer()

    def pump(self) -> None:
        """Takes what has arrived, writes what can be written, reconnects, expires deadlines, calls `done`s. Never waits.

        What a `done` raises comes out here; the others are called by the next `pump`.
        """
        self._link.pump()
