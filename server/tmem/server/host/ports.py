"""Whether an address is free.

Owns: the checks that gRPC does not make. gRPC removes a Unix socket that is in its way, even one on which another daemon
listens; and its own error for a port in use is long.
"""

import errno
import os
import socket
from pathlib import Path

from tmem.server.addresses import split_host_port

__all__ = ["AddressInUseError", "check_free"]


class AddressInUseError(OSError):
    """Somebody listens there already, or nobody may; the message is one line that says which."""


def check_free(address: str) -> None:
    """Raises AddressInUseError if the address can't be listened on now."""
    if address.startswith("unix:"):
        _check_unix(address, address.removeprefix("unix:"))
        return
    host, port = split_host_port(address)
    try:
        family, kind, proto, _, sockaddr = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except socket.gaierror as error:
        raise AddressInUseError(f"can't listen on {address}: {error.strerror}") from error
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(sockaddr)
        except OSError as error:
            raise AddressInUseError(f"can't listen on {address}: {_text(error)}") from error


def _check_unix(address: str, path: str) -> None:
    directory = Path(path).parent
    if Path(path).exists() and not Path(path).is_socket():
        raise AddressInUseError(f"can't listen on {address}: there is something else, which is no socket")
    if not directory.is_dir():
        raise AddressInUseError(f"can't listen on {address}: there is no directory {directory}")
    if not os.access(directory, os.W_OK):
        raise AddressInUseError(f"can't listen on {address}: no right to make a socket in {directory}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            return  # nothing there, or a socket that its owner left behind
        except OSError as error:
            raise AddressInUseError(f"can't listen on {address}: {_text(error)}") from error
    raise AddressInUseError(f"can't listen on {address}: another process does")


def _text(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another process does"
    return error.strerror or str(error)
