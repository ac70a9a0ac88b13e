"""Serving /metrics.

Owns: the HTTP server for scrapers, a thread of its own and one for each connection, so that a slow scraper never holds the
event loop, nor another scraper.
"""

import socket
import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from tmem.server.addresses import split_host_port

__all__ = ["MetricsServer"]

_PATH = "/metrics"
# Who has not sent its request or taken its answer by then has gone; its thread and its socket shall not stay.
_TIMEOUT_SECONDS = 30.0

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name for it
        """Says nothing: whoever scrapes every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    # Many scrapers may come at once.
    request_queue_size = 128

    def server_bind(self) -> None:
        """Binds without asking the resolver for this host's own name, as the base does: that may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a scraper that breaks its connection off, or is silent: that is no fault of the daemon."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class MetricsServer:
    """Serves a registry until it is closed.

    Args:
        address: HOST:PORT; port 0 is any free one.
        registry: what is scraped.

    Raises:
        OSError: the address can't be listened on.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        host, port = split_host_port(address)
        family, _, _, _, (host_address, *_) = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]

        class Server(_Server):
            address_family = family

        self._server = Server((str(host_address), port), _Handler)
        self._server.set_app(_application(registry))
        self._thread = threading.Thread(target=self._server.serve_forever, name="tmem-metrics", daemon=True)
        self._thread.start()
        self.port: int = self._server.server_port
        bracketed = f"[{host}]" if ":" in host else host
        self.address = f"{bracketed}:{self.port}"

    def close(self) -> None:
        """Stops serving."""
        # Its loop looks only twice a second whether it shall end, or when there is something to accept: as there is now.
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _application(registry: CollectorRegistry) -> Callable[[dict[str, Any], StartResponse], Iterable[bytes]]:
    """The library's application, for the one path that there is: it would answer every other with the metrics, too."""
    metrics: Any = make_wsgi_app(registry)

    def application(environment: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        if environment["PATH_INFO"] == _PATH:
            answer: Iterable[bytes] = metrics(environment, start_response)
            return answer
        start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"there is only {_PATH}\n".encode()]

    return application
