"""Who answers at an address of this machine.

Owns: the way from an address to the process that listens there, for processes that this one may look at.
"""

import socket
import struct
from contextlib import closing
from pathlib import Path

from tmem.wire.addresses import split_host_port, unix_path

__all__ = ["listener"]

_LISTEN = "0A"


def listener(target: str, proc: Path = Path("/proc")) -> int | None:
    """The process of this machine that listens at "HOST:PORT" or "unix:PATH".

    Returns:
        Its number; None if the address is another machine's, or nobody's, or the process can't be seen.
    """
    path = unix_path(target)
    if path is not None:
        return _unix_listener(path)
    host, port = split_host_port(target)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return None
    if not any(_is_ours(family, address) for family, _, _, _, address in found):
        return None
    inodes = {inode for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    return _owner(inodes, proc)


def _unix_listener(path: str) -> int | None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as sock:
        try:
            sock.connect(path)
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        except OSError:
            return None
    return int(struct.unpack("3i", credentials)[0]) or None


def _is_ours(family: int, address: tuple[object, ...]) -> bool:
    """Whether it is one of this machine's addresses: only such a one can be bound."""
    with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:
        try:
            sock.bind((address[0], 0, *address[2:]))
        except OSError:
            return False
    return True


def _listening(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text("ascii").splitlines()[1:]
    except OSError:
        return []
    found = []
    for line in lines:
        fields = line.split()
        if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
            found.append(fields[9])
    return found


def _owner(inodes: set[str], proc: Path) -> int | None:
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in proc.iterdir():
        if not process.name.isdecimal():
            continue
        try:
            for descriptor in (process / "fd").iterdir():
                if str(descriptor.readlink()) in wanted:
                    return int(process.name)
        except OSError:
            continue  # it ended, or is none of ours
    return None
