"""Telling systemd how a service is.

Owns: the sd_notify protocol: datagrams to the socket that NOTIFY_SOCKET names. Without it, nothing happens. The daemon has
the same dozen lines: an agent can't import the server, and the contract between the two is no place for it.
"""

import os
import socket
from contextlib import suppress

__all__ = ["notify"]


def notify(**states: str) -> None:
    """Sends states such as READY="1" or STATUS="attached"; of a text of several lines one is made, as the protocol has it."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    message = "\n".join(f"{name}={'; '.join(map(str.strip, value.splitlines()))}" for name, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock, suppress(OSError):
        sock.connect(address)
        sock.sendall(message.encode())
