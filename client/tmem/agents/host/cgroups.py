"""Control groups of memory, v1 and v2 behind one interface.

Owns: the names of the controller's files and what their numbers mean. A hierarchy is found where the machine has it; tests
give a folder that looks like one. Units: bytes; None = no limit, or a figure that the kernel does not have.

Ordering: a process is put into a group before it uses memory: what it used earlier stays charged elsewhere.
"""

import errno
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tmem.wire.errors import InvalidOption

__all__ = ["Group", "Hierarchy", "Usage"]

ROOT = Path("/sys/fs/cgroup")
# v1 says "no limit" by the largest number that its counters hold, in pages.
_UNLIMITED_V1 = 1 << 62
_KILL_SECONDS = 10.0
_POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses.

    Attributes:
        resident: charged now, page cache included. peak: the most that ever was.
        swapped: of its pages that are in a swap area.
        major_faults: how often one of its processes waited for a page to come back.
        oom_kills: how often one was killed because the group had no room.
    """

    resident: int
    peak: int | None
    swapped: int
    major_faults: int
    oom_kills: int


class Group(ABC):
    """One control group.

    Args:
        path: its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"<Group {self.path}>"

    @property
    @abstractmethod
    def limit(self) -> int | None:
        """The most memory that it may have."""

    @abstractmethod
    def set_limit(self, size: int) -> None:
        """Limits its memory; what is over is taken away, by swapping."""

    @abstractmethod
    def forbid_swap(self) -> None:
        """Its own memory is never swapped out, as far as the kernel can be told."""

    @abstractmethod
    def usage(self) -> Usage:
        """What it uses."""

    def droppable(self) -> int:
        """Of what it uses, cached pages of files, which the kernel drops when it needs room."""
        stat = self._table("memory.stat")
        return sum(
            stat.get(f"total_{name}", stat.get(name, 0)) for name in ("inactive_file", "active_file")
        ) - stat.get("total_mapped_file", stat.get("file_mapped", 0))

    @property
    @abstractmethod
    def swap_forbidden(self) -> bool:
        """Whether its memory is kept from being swapped out."""

    def add(self, pid: int) -> None:
        """Moves a process into it."""
        self._write("cgroup.procs", str(pid))

    def processes(self) -> list[int]:
        """Who is in it."""
        return [int(pid) for pid in self._read("cgroup.procs").split()]

    def kill(self, seconds: float = _KILL_SECONDS) -> int:
        """Ends every process in it, and waits until they are gone; answers how many there were.

        Raises:
            TimeoutError: one is not gone after so long. It goes when the kernel has done what it does for it.
        """
        killed = set()
        deadline = time.monotonic() + seconds
        while pids := self.processes():
            for pid in pids:
                killed.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes of {self.path} do not end: {pids}")
            time.sleep(_POLL_SECONDS)
        return len(killed)

    def end(self, seconds: float = _KILL_SECONDS) -> None:
        """Ends every process in it, and removes it; one that is gone is fine.

        Raises:
            OSError: TimeoutError: a process does not end; EBUSY: another one came.
        """
        with suppress(FileNotFoundError):
            self.kill(seconds)
        self.remove()

    def remove(self) -> None:
        """Removes it; one that is gone is fine.

        Raises:
            OSError: EBUSY: a process is still in it.
        """
        deadline = time.monotonic() + _KILL_SECONDS
        while True:
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return
            except OSError as error:
                # A process that has just ended is still counted for a moment.
                if error.errno != errno.EBUSY or self.processes() or time.monotonic() > deadline:
                    raise
                time.sleep(_POLL_SECONDS)
            else:
                return

    def _read(self, name: str) -> str:
        return (self.path / name).read_text("ascii")

    def _write(self, name: str, value: str) -> None:
        try:
            (self.path / name).write_text(value, "ascii")
        except OSError as error:
            raise OSError(error.errno, f"{self.path / name} can't be set to {value}: {error.strerror}") from error

    def _table(self, name: str) -> dict[str, int]:
        """A file of lines `name value`; empty if there is none."""
        try:
            lines = self._read(name).splitlines()
        except FileNotFoundError:
            return {}
        pairs = (line.split() for line in lines)
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


class _GroupV1(Group):
    @property
    def limit(self) -> int | None:
        size = int(self._read("memory.limit_in_bytes"))
        return None if size >= _UNLIMITED_V1 else size

    def set_limit(self, size: int) -> None:
        self._write("memory.limit_in_bytes", str(size))

    def forbid_swap(self) -> None:
        # v1 has no limit of swap alone. Without swappiness anonymous pages go only when nothing else is left at all.
        self._write("memory.swappiness", "0")

    @property
    def swap_forbidden(self) -> bool:
        return int(self._read("memory.swappiness")) == 0

    def usage(self) -> Usage:
        stat = self._table("memory.stat")
        return Usage(
            resident=int(self._read("memory.usage_in_bytes")),
            peak=int(self._read("memory.max_usage_in_bytes")),
            swapped=stat.get("total_swap", stat.get("swap", 0)),
            major_faults=stat.get("total_pgmajfault", stat.get("pgmajfault", 0)),
            oom_kills=self._table("memory.oom_control").get("oom_kill", 0),
        )


class _GroupV2(Group):
    @property
    def limit(self) -> int | None:
        try:
            text = self._read("memory.max").strip()
        except FileNotFoundError:
            return None  # the root has none
        return None if text == "max" else int(text)

    def set_limit(self, size: int) -> None:
        self._write("memory.max", str(size))

    def forbid_swap(self) -> None:
        self._write("memory.swap.max", "0")

    @property
    def swap_forbidden(self) -> bool:
        try:
            return self._read("memory.swap.max").strip() == "0"
        except FileNotFoundError:
            return False

    def usage(self) -> Usage:
        peak = None
        with suppress(FileNotFoundError):  # Linux 5.19
            peak = int(self._read("memory.peak"))
        swapped = 0
        with suppress(FileNotFoundError):
            swapped = int(self._read("memory.swap.current"))
        return Usage(
            resident=int(self._read("memory.current")),
            peak=peak,
            swapped=swapped,
            major_faults=self._table("memory.stat").get("pgmajfault", 0),
            oom_kills=self._table("memory.events").get("oom_kill", 0),
        )


class Hierarchy:
    """All groups of the memory controller.

    Args:
        root: the folder of the top group. version: 1 or 2. proc: /proc.
    """

    def __init__(self, root: Path, version: int, proc: Path = Path("/proc")) -> None:
        self.root = root
        self.version = version
        self._proc = proc
        self._kind: type[Group] = _GroupV1 if version == 1 else _GroupV2

    @classmethod
    def find(cls, mounted: Path = ROOT, proc: Path = Path("/proc")) -> "Hierarchy":
        """The machine's.

        Raises:
            InvalidOption: it has none with a memory controller.
        """
        controllers = mounted / "cgroup.controllers"
        if controllers.exists() and "memory" in controllers.read_text("ascii").split():
            return cls(mounted, 2, proc)
        if (mounted / "memory" / "memory.limit_in_bytes").exists():
            return cls(mounted / "memory", 1, proc)
        raise InvalidOption(
            f"no memory controller under {mounted}: local memory can't be limited. Mount one (v2: "
            f"mount -t cgroup2 none {mounted}), or start the kernel without cgroup_disable=memory"
        )

    def create(self, name: str) -> Group:
        """Makes a group below the top one; one that is there already is taken as it is."""
        if self.version == 2:
            with suppress(OSError):  # on already, or refused: then its files are not there, and the next step says so
                (self.root / "cgroup.subtree_control").write_text("+memory", "ascii")
        path = self.root / name
        path.mkdir(exist_ok=True)
        return self._kind(path)

    def group(self, name: str) -> Group:
        """A group below the top one, by its path from there."""
        return self._kind(self.root / name.strip("/"))

    def of(self, pid: int | str = "self") -> Group:
        """The group of a process."""
        for line in (self._proc / str(pid) / "cgroup").read_text("utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            if (self.version == 2 and not controllers) or (self.version == 1 and "memory" in controllers.split(",")):
                return self.group(path)
        raise ProcessLookupError(f"process {pid} is in no group of {self.root}")

    def up_from(self, group: Group) -> Iterator[Group]:
        """The group and those above it."""
        path = group.path
        while True:
            yield self._kind(path)
            if path in (self.root, path.parent):
                return
            path = path.parent

    def limited(self, group: Group) -> Group | None:
        """The nearest of the group and those above it that has a limit; None if none has."""
        return next((each for each in self.up_from(group) if _has_limit(each)), None)

    def keeps_swap_out(self, group: Group) -> bool:
        """Whether memory of the group is never swapped out."""
        if self.version == 1:
            return group.swap_forbidden  # inherited when a group is made, not afterwards
        return any(each.swap_forbidden for each in self.up_from(group))

    def shelter(self, name: str) -> Group | None:
        """Takes this process out of reach of every limit, and of swap: into a group of its own where it must.

        Args:
            name: of that group.

        Returns:
            The group that was made; None if the process is well where it is.

        Raises:
            OSError: it is in a limited group, and can't leave it.
        """
        now = self.of()
        limited = self.limited(now) is not None
        if not limited and self.keeps_swap_out(now):
            return None
        try:
            group = self.create(name)
            group.forbid_swap()
            group.add(os.getpid())
        except OSError:
            if limited:
                raise
            return None  # its memory is locked anyway
        return group

    def all(self) -> Iterator[Group]:
        """Every group, the top one last."""
        for path, _, _ in os.walk(self.root, topdown=False):
            yield self._kind(Path(path))


def _has_limit(group: Group) -> bool:
    try:
        return group.limit is not None
    except FileNotFoundError:
        return False
