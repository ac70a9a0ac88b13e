"""Serving /metrics.

Owns: the HTTP server for scrapers, a thread of its own so that a slow scraper never holds the event loop.
"""

from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server

from tmem.server.addresses import split_host_port

__all__ = ["MetricsServer"]


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
        self._server: WSGIServer
        self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        self.port: int = self._server.server_port
        bracketed = f"[{host}]" if ":" in host else host
        self.address = f"{bracketed}:{self.port}"

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
