"""Addresses to listen on: HOST:PORT, [V6]:PORT or unix:PATH.

Owns: the one parser of listening addresses.
"""

from typing import Annotated

from pydantic import BeforeValidator

__all__ = ["ListenAddress", "check_listen_address", "is_loopback", "split_host_port"]

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
    return host, int(port)


def check_listen_address(address: str) -> str:
    """The address, if it is one; raises ValueError as split_host_port does."""
    if address.startswith(_UNIX):
        if address == _UNIX:
            raise ValueError(f"{address!r} names no path; write unix:PATH")
        if len(address) - len(_UNIX) > 107:
            raise ValueError(f"the path in {address!r} is longer than the 107 bytes that Linux allows")
        return address
    split_host_port(address)
    return address


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach the address."""
    if address.startswith(_UNIX):
        return True
    host, _ = split_host_port(address)
    return host in {"localhost", "::1"} or host.startswith("127.")


ListenAddress = Annotated[str, BeforeValidator(check_listen_address)]
"""A setting that is a listening address."""
