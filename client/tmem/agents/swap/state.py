"""What is written down of a device, for those who come later: `status`, `detach`, the next `attach`.

Owns: the run directory: `RUN/NAME/` with state.json, the mount point, the log, and a lock that attach and detach take. None of
it is needed to serve the device; all of it is needed to find out what is left when something died.
"""

import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tmem.agents.host.processes import Identity
from tmem.wire.errors import InvalidOption

from .config import WORKER_MODULE, Config, Descriptors
from .shared import Control

__all__ = ["RUN_DIRECTORY", "Record", "Site", "open_control", "sites"]

RUN_DIRECTORY = Path("/run/tmem-swap")

_MOST_CONFIG_BYTES = 1 << 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")


@dataclass(frozen=True, slots=True)
class Record:
    """A device, as far as it has come.

    Attributes:
        size: bytes. target: the server. pool: its pool's name there, pool_id its number.
        holder: its holder; None before it was started. control: the descriptor of the control file, in the holder.
        device: the loop device, such as /dev/loop0; None before it was made.
        attached: the kernel swaps to it.
    """

    name: str
    size: int
    target: str
    pool: str
    pool_id: int
    durability: str
    io_deadline: float
    started: float
    holder: Identity | None = None
    control: int = -1
    device: str | None = None
    attached: bool = False


class Site:
    """The place of one device in the run directory.

    Raises:
        InvalidOption: a name that can't be.
    """

    def __init__(self, run_directory: Path, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidOption(
                f"{name!r} can't be the name of a device: letters, digits, '.', '_' and '-', at most 31, and no '-' first"
            )
        self.name = name
        # As the kernel's tables have it: mounts and loop devices are found there by this path.
        self.path = run_directory.resolve() / name
        self.mount = self.path / "mnt"
        self.log = self.path / "log"
        self._state = self.path / "state.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one process at a time attaches or detaches a device.

        Raises:
            InvalidOption: another one does.
        """
        descriptor = self._lock()
        try:
            yield
        finally:
            os.close(descriptor)

    def _lock(self) -> int:
        while True:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Whoever had it before may have removed the directory, and then this lock keeps nobody out.
                with suppress(FileNotFoundError):
                    if self.path.stat().st_ino == os.fstat(descriptor).st_ino:
                        return descriptor
            except BaseException as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    raise InvalidOption(f"another process is attaching or detaching {self.name!r}") from None
                raise
            os.close(descriptor)

    def read(self) -> Record | None:
        """What is written down; None if nothing is."""
        try:
            found: dict[str, Any] = json.loads(self._state.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        holder = found.pop("holder")
        return Record(**found, holder=Identity(**holder) if holder else None)

    def write(self, record: Record) -> None:
        """Writes it down, all of it or nothing."""
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(asdict(record), indent=2) + "\n", "utf-8")
        new.replace(self._state)

    def update(self, record: Record, **changes: Any) -> Record:
        """Writes down what has changed."""
        changed = replace(record, **changes)
        self.write(changed)
        return changed

    def remove(self) -> None:
        """Forgets the device."""
        shutil.rmtree(self.path, ignore_errors=True)


def sites(run_directory: Path) -> list[Site]:
    """All devices that something is written down of."""
    try:
        entries = sorted(entry.name for entry in run_directory.iterdir() if _NAME.fullmatch(entry.name))
    except FileNotFoundError:
        return []
    return [site for name in entries if (site := Site(run_directory, name)).read() is not None]


def open_control(site: Site, record: Record) -> Control | None:
    """The device's counters, in the memory of its holder, or of a worker that has outlived it; None if all are gone. Close it."""
    if record.holder is not None and record.holder.alive:
        return _open_control(record.holder.pid, record.control)
    for pid, descriptors in _workers(site):
        control = _open_control(pid, descriptors.control)
        if control is not None:
            return control
    return None


def _open_control(pid: int, number: int) -> Control | None:
    try:
        descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        control = Control(descriptor, readonly=True)
    except (OSError, ValueError):
        return None  # another process with its number, by now
    finally:
        os.close(descriptor)
    if not control.valid:
        control.close()
        return None
    return control


def _workers(site: Site) -> Iterator[tuple[int, Descriptors]]:
    """Workers of this device, found by what they were told when they were started.

    Everybody can start a program with such a command line, and a set-user-id one with such files too: only processes that are wholly of
    this user are believed.
    """
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = [word.decode("ascii", "replace") for word in path.read_bytes().split(b"\0")]
            if words[1:3] != ["-m", WORKER_MODULE]:
                continue
            if not _is_wholly_ours(path.parent):
                continue
            descriptors = Descriptors.from_arguments(words[3:-1])
            config = os.open(path.parent / "fd" / str(descriptors.config), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(config)
                if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_CONFIG_BYTES:
                    continue
                directory = Config.from_file(config).directory
            finally:
                os.close(config)
        except (OSError, ValueError, TypeError):
            continue  # it has ended meanwhile, or is something else
        if directory == str(site.path):
            yield int(path.parent.name), descriptors


def _is_wholly_ours(process: Path) -> bool:
    """Whether all user ids of a process (real, effective, saved, of files) are this one's; its folder of /proc is given."""
    for line in (process / "status").read_text("ascii", errors="replace").splitlines():
        key, _, ids = line.partition(":")
        if key == "Uid":
            return {int(each) for each in ids.split()} == {os.geteuid()}
    return False
