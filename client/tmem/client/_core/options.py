"""What a client can be told about itself."""

import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from tmem.wire.errors import InvalidOption
from tmem.wire.limits import MAX_MESSAGE_BYTES

__all__ = ["Options"]


MAX_CODEC_THREADS = 4


def _default_name() -> str:
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    return f"{program}[{os.getpid()}]@{socket.gethostname()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of one client.

    Attributes:
        token: the tenant's bearer token, if the server wants one.
        name: what the server calls this client in its logs.
        read_timeout: seconds until a get gives up; write_timeout: until a put or flush does.
        call_timeout: seconds until a call about pools gives up; connect_timeout: until `connect` does.
        window_bytes, window_batches: what to ask for to have in flight; the server may grant less.
        codec_threads: threads that compress and expand one large extent together, the caller's included; 0 = two where the
            process has two processors or more. A link has one unless this says more, and several only compress.
        tls_ca: path of the authorities (PEM) of which one must have signed the server's certificate; None: no TLS.
        tls_cert, tls_key: paths of this client's own certificate and its key (PEM), if the server wants one.
        tls_name: the name that the server's certificate must be for; "" = the target's host.

    Raises:
        InvalidOption: a time-out that is not positive, a window too small for one message, a token that no header can
            carry, or half of what TLS needs.
    """

    token: str | None = None
    name: str = ""
    read_timeout: float = 30.0
    write_timeout: float = 10.0
    call_timeout: float = 10.0
    connect_timeout: float = 10.0
    # Two answers of 2 MiB. Measured on the loopback: with four in flight their bytes have left the caches when it comes to them, and gets
    # of extents are a tenth to a fifth slower. On a way of 2 ms there and back it still is 2 GB/s.
    window_bytes: int = 6 << 20
    window_batches: int = 1024
    codec_threads: int = 0
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _default_name())
        if self.token is not None and not (self.token.isascii() and self.token.isprintable()):
            raise InvalidOption("token has characters that no header can carry: only printable ASCII can be")
        for setting in ("read_timeout", "write_timeout", "call_timeout", "connect_timeout"):
            if not getattr(self, setting) > 0:
                raise InvalidOption(f"{setting} is {getattr(self, setting)}, and must be more than 0 seconds")
        if self.window_bytes < MAX_MESSAGE_BYTES:
            raise InvalidOption(f"window_bytes is {self.window_bytes}; one message may have {MAX_MESSAGE_BYTES}")
        if not 0 <= self.codec_threads <= MAX_CODEC_THREADS:
            raise InvalidOption(f"codec_threads is {self.codec_threads}, and must be 0..{MAX_CODEC_THREADS}")
        if self.window_batches < 1:
            raise InvalidOption(f"window_batches is {self.window_batches}, and must be 1 or more")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidOption("tls_cert and tls_key belong together")
        if self.tls_ca is None and (self.tls_cert is not None or self.tls_name):
            raise InvalidOption("tls_cert and tls_name mean nothing without tls_ca, which turns TLS on")
