"""Addresses, as both sides write them: HOST:PORT, [IPV6]:PORT or unix:PATH.

Owns: the one parser of addresses. It resolves nothing.
"""

__all__ = ["UNIX", "split_host_port", "unix_path"]

UNIX = "unix:"


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


def unix_path(address: str) -> str | None:
    """The path of unix:PATH (or unix:///PATH, as gRPC writes it too); None for an address of the network."""
    if not address.startswith(UNIX):
        return None
    path = address.removeprefix(UNIX)
    return path[2:] if path.startswith("///") else path
