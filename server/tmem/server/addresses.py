"""Addresses to listen on: HOST:PORT, [V6]:PORT or unix:PATH.

Owns: what makes an address one that a daemon can listen on.
"""

import os
from typing import Annotated

from pydantic import BeforeValidator

from tmem.wire.addresses import UNIX, split_host_port

__all__ = ["HostPort", "ListenAddress", "check_host_port", "check_listen_address", "is_loopback", "split_host_port"]


def check_listen_address(address: object) -> str:
    """The address, if it is one; raises ValueError as split_host_port does."""
    text = _printable(address)
    if text.startswith(UNIX):
        if text == UNIX:
            raise ValueError(f"{text!r} names no path; write unix:PATH")
        if len(os.fsencode(text)) - len(UNIX) > 107:
            raise ValueError(f"the path in {text!r} is longer than the 107 bytes that Linux allows")
        return text
    split_host_port(text)
    return text


def check_host_port(address: object) -> str:
    """As check_listen_address, for what can't be a Unix socket."""
    text = _printable(address)
    if text.startswith(UNIX):
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
    if address.startswith(UNIX):
        return True
    host, _ = split_host_port(address)
    return host in {"localhost", "::1"} or host.startswith("127.")


ListenAddress = Annotated[str, BeforeValidator(check_listen_address)]
"""A setting that is a listening address."""

HostPort = Annotated[str, BeforeValidator(check_host_port)]
"""A setting that is a listening address of the network."""
