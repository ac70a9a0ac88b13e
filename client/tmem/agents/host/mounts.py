"""Mounts of FUSE file systems, and the files by which the kernel lets one be aborted.

Owns: the mount options, the mount table, and the control file system of FUSE. None of it asks the file system itself
anything: whoever serves it may hang.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .kernel import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, umount

__all__ = ["Mount", "control_file", "find_mount", "mount_fuse", "unmount"]

_S_IFDIR = 0o40000


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the mount table.

    Attributes:
        minor: of its device number, which is what FUSE's control file system calls the connection.
    """

    minor: int
    kind: str
    source: str


def find_mount(path: str, table: Path = Path("/proc/self/mountinfo")) -> Mount | None:
    """The mount at a path, the topmost if there are several."""
    found = None
    for line in table.read_text("utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split()
        if _unescape(fields[4]) == path:
            kind, source, *_ = after.split(" ")
            found = Mount(int(fields[2].partition(":")[2]), kind, _unescape(source))
    return found


def _unescape(field: str) -> str:
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        field = field.replace(code, character)
    return field


def mount_fuse(descriptor: int, path: str, source: str, max_read: int) -> None:
    """Mounts a file system that whoever holds the descriptor of /dev/fuse serves.

    Args:
        descriptor: a fresh one.
        path: an existing directory.
        source: what the mount table shows.
        max_read: bytes of the largest read that it is asked for.
    """
    options = (
        f"fd={descriptor},rootmode={_S_IFDIR:o},user_id={os.geteuid()},group_id={os.getegid()},max_read={max_read}"
    )
    mount(source, path, "fuse.tmem", MS_NOSUID | MS_NODEV | MS_NOEXEC, options)


def unmount(path: str, *, lazily: bool = False) -> None:
    """Unmounts; lazily: what still uses it keeps it until it has done."""
    umount(path, MNT_DETACH if lazily else 0)


@contextmanager
def _control() -> Iterator[Path]:
    """FUSE's control file system, mounted for the length of a block where nobody else sees it for long."""
    with tempfile.TemporaryDirectory(prefix="tmem-fusectl-") as directory:
        mount("fusectl", directory, "fusectl", MS_NOSUID | MS_NODEV | MS_NOEXEC, "")
        try:
            yield Path(directory)
        finally:
            umount(directory, MNT_DETACH)


def control_file(minor: int, name: str, flags: int) -> int:
    """Opens a file of a connection: `abort` (write "1": every request fails at once) or `waiting`.

    Opened ahead, it works whatever becomes of mounts, and without allocating anything.
    """
    with _control() as directory:
        return os.open(directory / str(minor) / name, flags | os.O_CLOEXEC)
