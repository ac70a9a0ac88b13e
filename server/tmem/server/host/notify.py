"""Telling systemd how the daemon is.

Owns: the sd_notify protocol: datagrams to the socket that NOTIFY_SOCKET names. Without it, nothing happens.
"""

import os
import socket

__all__ = ["notify"]


def notify(**states: str) -> None:
    """Sends states such as READY="1" or STATUS="serving"."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    message = "\n".join(f"{name}={value}" for name, value in states.items())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        try:
            sock.connect(address)
            sock.sendall(message.encode())
        except OSError:
            return  # whoever wanted to know is gone
