"""Mounts of FUSE file systems, the files by which the kernel lets one be aborted, and files that are never swapped out.

Owns: the mount options, the mount table, and the control file system of FUSE. None of it asks the file system itself
anything: whoever serves it may hang.
"""

import mmap
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .kernel import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, mount, umount

__all__ = ["Mount", "control_file", "find_mount", "mount_fuse", "unmount", "unswappable_files"]

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
def _mounted(kind: str, options: str) -> Iterator[Path]:
    """A file system, mounted for the length of a block where nobody else sees it for long."""
    with tempfile.TemporaryDirectory(prefix=f"tmem-{kind}-") as directory:
        mount(kind, directory, kind, MS_NOSUID | MS_NODEV | MS_NOEXEC, options)
        try:
            yield Path(directory)
        finally:
            umount(directory, MNT_DETACH)


def control_file(minor: int, name: str, flags: int) -> int:
    """Opens a file of a connection: `abort` (write "1": every request fails at once) or `waiting`.

    Opened ahead, it works whatever becomes of mounts, and without allocating anything.
    """
    with _mounted("fusectl", "") as directory:
        return os.open(directory / str(minor) / name, flags | os.O_CLOEXEC)


def unswappable_files(sizes: Sequence[int]) -> list[int]:
    """Anonymous files of these sizes in memory, whose pages the kernel never takes away.

    Not even between two processes that lock them, when one has died and the next has not touched them yet. Pages that nobody
    touches cost nothing.

    Raises:
        OSError: EINVAL: Linux before 6.4, or not root's own name space.
    """
    room = sum(size + mmap.PAGESIZE for size in sizes)
    made = []
    with _mounted("tmpfs", f"noswap,mode=700,size={room}") as directory:  # the files keep it
        for size in sizes:
            made.append(os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
            os.ftruncate(made[-1], size)
    return made
