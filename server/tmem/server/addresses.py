"""Addresses to listen on: HOST:PORT, [V6]:PORT or unix:PATH.

Owns: the one parser of listening addresses.
"""

import os
from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["HostPort", "ListenAddress", "check_host_port", "check_listen_address", "is_loopback", "split_host_port"]

_UNIX = "unix:"


def split_host_port(address: str) -> tuple[str, int]:
    """Host and port of HOST:PORT or [V6]:PORT.

    Raises:
        ValueError: it is no such address; the message says what one looks like.
    """
    host, colon, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""  # a bare IPv6 address: where its port begins can't be told
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{address!r} is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    try:
        host.encode("idna")  # as whoever resolves it will do; a label that is too long is found here
    except UnicodeError as error:
        raise ValueError(f"{address!r} is not an address: no host can be called so") from error
    return host, int(port)


def check_listen_address(address: object) -> str:
    """The address, if it is one; raises ValueError as split_host_port does."""
    text = _printable(address)
    if text.startswith(_UNIX):
        if text == _UNIX:
            raise ValueError(f"{text!r} names no path; write unix:PATH")
        if len(os.fsencode(text)) - len(_UNIX) > 107:
            raise ValueError(f"the path in {text!r} is longer than the 107 bytes that Linux allows")
        return text
    split_host_port(text)
    return text


def check_host_port(address: object) -> str:
    """As check_listen_address, for what can't be a Unix socket."""
    text = _printable(address)
    if text.startswith(_UNIX):
        raise ValueError(f"{text!r} is a Unix socket, which can't be used here; write HOST:PORT")
    split_host_port(text)
    return text


def _printable(address: object) -> str:
    # A NUL would end the address early, in the eyes of the system.
    if not isinstance(address, str) or not address.isprintable():
        raise ValueError(f"{address!r} is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    return address


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith(_UNIX):
        return True
    host, _ = split_host_port(address)
    return host in {"localhost", "::1"} or host.startswith("127.")


ListenAddress = Annotated[str, BeforeValidator(check_listen_address)]
"""A setting that is a listening address."""

HostPort = Annotated[str, BeforeValidator(check_host_port)]
"""A setting that is a listening address of the network."""
