"""How a link comes to a connection.

Owns: `Dialer`: the endpoints of the server, the attempt at hand, when the next may begin. Nothing here waits but `resolve`, of
a server whose endpoints are not given.

Units: seconds, as told by time.monotonic.
"""

import logging
import socket
import time
from collections.abc import Sequence
from typing import Any

from tmem.client._core.options import Options
from tmem.wire.addresses import split_host_port, unix_path
from tmem.wire.errors import InvalidOption, TmemError, Unavailable

from .connection import Connection, Endpoint

__all__ = ["Dialer", "resolve"]

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.02, 0.5)
# Of one attempt at one endpoint. Short, because a new attempt reaches a machine that is back sooner than the old one's packets,
# which are repeated at ever longer intervals.
_ATTEMPT_SECONDS = 2.0


def resolve(target: str) -> list[Endpoint]:
    """Where a server can be reached. Waits for the resolver if it must, for as long as that likes.

    Args:
        target: "HOST:PORT", "[IPV6]:PORT" or "unix:PATH".

    Raises:
        InvalidOption: the target is no address. Unavailable: its name can't be resolved.
    """
    path = unix_path(target)
    if path is not None:
        return [Endpoint(socket.AF_UNIX, path)]
    try:
        host, port = split_host_port(target)
    except ValueError as error:
        raise InvalidOption(str(error)) from None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise _unreachable(target, error) from error
    return [Endpoint(int(family), address) for family, _, _, _, address in found]


def _unreachable(target: str, error: OSError) -> Unavailable:
    return Unavailable(f"{target} can't be reached: {error.strerror or error}")


class Dialer:
    """Attempts to connect, one after the other.

    Args:
        target: "HOST:PORT", "[IPV6]:PORT" or "unix:PATH".
        options: the client's, for TLS.
        endpoints: what `resolve` found earlier; the name is not looked up then. None: it is, before each wait for a connection.

    Attributes:
        retry_at: when the next attempt, or the next call on a connection that stands, may begin.
        failures: how many rounds through all endpoints failed.
        error: why the last one did.
    """

    def __init__(self, target: str, options: Options, endpoints: Sequence[Endpoint] | None = None) -> None:
        self._target = target
        self._options = options
        self._context: Any = None
        if options.tls_ca is not None:
            from .tls import make_context  # OpenSSL is loaded by those who need it

            self._context = make_context(options)
        self._resolves = endpoints is None
        self._endpoints = list(endpoints or ())
        self._untried = 0
        self._backoff = _BACKOFF_SECONDS[0]
        self.retry_at = 0.0
        self.failures = 0
        self.error: TmemError | None = None

    def resolve(self) -> None:
        """Looks the server's name up, if that is to be done; raises as the function does."""
        self._untried = 0
        if self._resolves:
            self._endpoints = resolve(self._target)

    def translate(self, error: OSError) -> Unavailable:
        """What an error of the socket is called."""
        return _unreachable(self._target, error)

    def attempt(self) -> Connection | None:
        """Begins to connect to the next endpoint; None if none takes even that."""
        if not self._untried:
            self._untried = len(self._endpoints)
        while self._untried:
            endpoint = self._endpoints[-self._untried]
            self._untried -= 1
            try:
                return self._begin(endpoint, time.monotonic() + _ATTEMPT_SECONDS)
            except OSError as error:
                self.error = self.translate(error)
        self.failures += 1
        self.back_off()
        return None

    def _begin(self, endpoint: Endpoint, expires: float) -> Connection:
        if self._context is None:
            return Connection(endpoint, expires)
        from .tls import TlsConnection, server_name

        return TlsConnection(endpoint, expires, self._context, server_name(self._target, self._options))

    def failed(self, error: TmemError) -> Connection | None:
        """The attempt failed; answers the next one at once while there are endpoints that were not tried."""
        self.error = error
        if self._untried:
            return self.attempt()
        self.failures += 1
        self.back_off()
        return None

    def succeeded(self) -> None:
        """The attempt did not fail."""
        self._untried = 0

    def back_off(self) -> None:
        """Waits a little, and longer each time."""
        self.retry_at = time.monotonic() + self._backoff
        self._backoff = min(self._backoff * 2, _BACKOFF_SECONDS[1])

    def reset(self) -> None:
        """The server answers again: the next wait is a short one."""
        self._backoff = _BACKOFF_SECONDS[0]
