"""A TCP proxy that breaks connections where a test wants it."""

import contextlib
import selectors
import socket
import threading
import time
from types import TracebackType
from typing import Self

__all__ = ["Proxy"]


class _Pair:
    """One proxied connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.swallowed = False

    def close(self) -> None:
        for sock in (self.client, self.server):
            # Reset rather than close: that is what a broken connection looks like.
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            sock.close()


class Proxy:
    """Passes connections on to a target until it is told to break them. Use it in a `with` statement."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._server_address = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.target = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._pairs: set[_Pair] = set()
        self._lock = threading.Lock()
        self._left: int | None = None
        self._blocked = (False, False)
        self._downstream = False
        self._was_cut = threading.Event()
        self._closing = False
        self.passed_up = self.passed_down = 0  # bytes
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._wake_write.send(b"x")
        self._thread.join()
        for sock in (self._listener, self._wake_read, self._wake_write):
            sock.close()
        self._selector.close()

    def cut_after(self, count: int, *, downstream: bool = False) -> None:
        """Breaks all connections once so many bytes more were passed on, up (to the server) or down."""
        with self._lock:
            self._left = count
            self._downstream = downstream
            self._was_cut.clear()

    def await_cut(self) -> None:
        """Waits until that has happened."""
        assert self._was_cut.wait(60)

    def restore(self) -> None:
        """Breaks nothing any more."""
        with self._lock:
            self._left = None

    def swallow(self) -> None:
        """Leaves today's connections open and passes nothing on over them; new ones work."""
        with self._lock:
            for pair in self._pairs:
                pair.swallowed = True

    def block(self, *, up: bool = False, down: bool = False) -> None:
        """Passes nothing on in these directions, over any connection; what comes meanwhile waits, as TCP would have it."""
        with self._lock:
            self._blocked = (up, down)
        self._wake_write.send(b"x")

    def _run(self) -> None:
        while not self._closing:
            ready = self._selector.select()
            blocked = self._blocked
            for key, _ in ready:
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._wake_read:
                    self._wake_read.recv(4096)
                elif key.data is not None and not blocked[key.data[3]]:
                    self._pass_on(*key.data)
            if any(blocked) and all(key.data is not None and blocked[key.data[3]] for key, _ in ready):
                time.sleep(0.005)  # all that is ready is held back: no busy loop
        for pair in list(self._pairs):
            self._drop(pair)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(self._server_address)
        except OSError:
            client.close()
            return
        pair = _Pair(client, server)
        with self._lock:
            self._pairs.add(pair)
        self._selector.register(client, selectors.EVENT_READ, (pair, client, server, False))
        self._selector.register(server, selectors.EVENT_READ, (pair, server, client, True))

    def _pass_on(self, pair: _Pair, source: socket.socket, sink: socket.socket, downstream: bool) -> None:
        if pair not in self._pairs:
            return
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(pair)
            return
        if pair.swallowed:
            return
        if downstream:
            self.passed_down += len(data)
        else:
            self.passed_up += len(data)
        cut = False
        with self._lock:
            if self._left is not None and downstream is self._downstream:
                data = data[: self._left]
                self._left -= len(data)
                cut = self._left == 0
                if cut:
                    self._left = None
        try:
            sink.sendall(data)
        except OSError:
            cut = True
        if cut:
            for other in list(self._pairs):
                self._drop(other)
            self._was_cut.set()

    def _drop(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)
        for sock in (pair.client, pair.server):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(sock)
        pair.close()
