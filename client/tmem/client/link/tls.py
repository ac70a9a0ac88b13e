"""TLS on a link's connection.

Owns: `TlsConnection`, a connection whose bytes go through an SSL object in memory, so that every system call is still the
connection's own; and what the tls_ options mean to it.

Units: bytes. Errors: OSError, of which SSLError is one.
"""

import errno
import ssl
from typing import Any

from tmem.client._core.options import Options
from tmem.wire.addresses import split_host_port, unix_path
from tmem.wire.errors import InvalidOption

from .connection import DONT_WAIT, Connection, Endpoint

__all__ = ["TlsConnection", "make_context", "server_name"]

_CIPHER_BYTES = 128 << 10
# So much is encrypted ahead of what the socket takes.
_AHEAD_BYTES = 256 << 10


def make_context(options: Options) -> ssl.SSLContext | None:
    """How to shake hands with a server; None without TLS. The files are read here, and not again at a reconnect.

    Raises:
        InvalidOption: a file that can't be read, or holds something else.
    """
    if options.tls_ca is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    path = options.tls_ca
    try:
        context.load_verify_locations(path)
        if options.tls_cert is not None:
            path = options.tls_cert
            context.load_cert_chain(options.tls_cert, options.tls_key)
    except OSError as error:
        raise InvalidOption(f"{path} can't be used for TLS: {error.strerror or error}") from None
    return context


def server_name(target: str, options: Options) -> str:
    """The name that the server's certificate must be for."""
    if options.tls_name:
        return options.tls_name
    return "localhost" if unix_path(target) is not None else split_host_port(target)[0]


class TlsConnection(Connection):
    """A connection with TLS, established once hands are shaken.

    Args:
        endpoint, expires: as of Connection.
        context: as `make_context` makes it.
        name: the name that the server's certificate must be for.
    """

    def __init__(self, endpoint: Endpoint, expires: float, context: ssl.SSLContext, name: str) -> None:
        self._incoming, self._encrypted = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._encrypted, server_hostname=name)
        self._cipher = memoryview(bytearray(_CIPHER_BYTES))
        self._unsent = b""
        self._connected = False
        super().__init__(endpoint, expires)

    def _establish(self) -> None:
        self._connected = True
        self._configure()

    @property
    def wants_write(self) -> bool:
        """Whether something happens once the socket can be written to."""
        if not self._connected:
            return True
        return bool(self._unsent or self._encrypted.pending) or (self.established and bool(self.http2.outbox.outgoing))

    @property
    def pending(self) -> bool:
        """Whether something has been received that the socket does not tell of any more."""
        return self.established and bool(self._tls.pending() or self._incoming.pending)

    def advance(self) -> bool:
        """Goes on with connecting and with the handshake; answers whether the connection is established."""
        if not self._connected:
            super().advance()
        while self._connected and not self.established:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._write()
                if not self._read(wait=False):
                    break
            else:
                if self._tls.selected_alpn_protocol() != "h2":
                    raise OSError(errno.EPROTO, "the server does not speak HTTP/2 over TLS")
                self._write()
                self.established = True
        return self.established

    def flush(self) -> None:
        """Encrypts and writes what is outgoing, as far as the socket takes it."""
        outbox = self.http2.outbox
        while outbox.outgoing or self._unsent or self._encrypted.pending:
            while outbox.outgoing and self._encrypted.pending < _AHEAD_BYTES:
                outbox.sent(self._tls.write(outbox.outgoing[0]))
            if not self._write():
                return

    def _write(self) -> bool:
        """Writes what is encrypted; False if the socket does not take all of it."""
        while data := self._unsent or self._encrypted.read():
            try:
                count = self._socket.send(data, DONT_WAIT)
            except BlockingIOError:
                count = 0
            self._unsent = data[count:]
            if self._unsent:
                return False
        return True

    def _read(self, *, wait: bool) -> bool:
        """Receives what is encrypted; False if nothing is there."""
        try:
            count = self._socket.recv_into(self._cipher, 0, 0 if wait else DONT_WAIT)
        except BlockingIOError:
            return False
        if not count:
            raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection")
        self._incoming.write(self._cipher[:count])
        return True

    def receive(self, *, wait: bool) -> bool:
        """As Connection.receive."""
        came = 0
        self.filled = True
        for buffer in self.http2.buffers():
            rest: Any = buffer
            while rest:
                try:
                    count = self._tls.read(len(rest), rest)
                except ssl.SSLWantReadError:
                    if not self._read(wait=wait and not came):
                        self.filled = False
                        break
                    continue
                except ssl.SSLZeroReturnError:
                    if came:
                        break
                    raise ConnectionResetError(errno.ECONNRESET, "the server closed the connection") from None
                assert isinstance(count, int)
                came += count
                rest = rest[count:]
            if rest:
                break
        self.http2.received(came)
        return came > 0
