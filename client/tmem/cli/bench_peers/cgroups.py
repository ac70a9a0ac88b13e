"""Limits on the CPU that processes may take, by the kernel's cpu controller.

Owns: control groups named for this process, made under the root of the controller, version 1 or 2, and removed with the `with` block; those that a run
before left when it was killed are removed as well. Needs root. Units: shares of one CPU.
"""

import os
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["Capped", "CpuGroups", "NoController", "controller_root"]

_PREFIX = "tmem-bench-"
# Short, so that a capped process runs a little all the time rather than for a third of every tenth of a second.
_PERIOD_US = 10_000
_REMOVE_SECONDS = 5.0


class NoController(Exception):  # noqa: N818  it says what is not here
    """The CPU can't be limited here; the message says why."""


def controller_root(mounts: str) -> tuple[Path, int]:
    """Where groups of the cpu controller are made, and by which version's rules.

    Args:
        mounts: what /proc/self/mounts says.

    Raises:
        NoController: it is mounted nowhere.
    """
    for line in mounts.splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(where), 1
    for line in mounts.splitlines():
        _, where, kind, *_ = line.split()
        controllers = Path(where) / "cgroup.controllers"
        if kind == "cgroup2" and controllers.exists() and "cpu" in controllers.read_text("ascii").split():
            return Path(where), 2
    raise NoController("the kernel's cpu controller is mounted nowhere")


class Capped:
    """One group: its processes may take so much of a CPU together."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def add(self, pid: int) -> None:
        """Puts a process into it, with all its threads."""
        (self._path / "cgroup.procs").write_text(str(pid), "ascii")

    def throttled_share(self) -> tuple[int, int]:
        """How many periods there were in which it wanted to run, and in how many of them it had to wait."""
        counts = dict(line.split() for line in (self._path / "cpu.stat").read_text("ascii").splitlines())
        return int(counts["nr_periods"]), int(counts["nr_throttled"])


class CpuGroups:
    """Makes groups; all are gone at the end of the `with` block.

    Raises:
        NoController: on entering: no controller, or no right to it.
    """

    def __init__(self) -> None:
        self._made: list[Path] = []
        self._root = Path()
        self._version = 0

    def __enter__(self) -> Self:
        self._root, self._version = controller_root(Path("/proc/self/mounts").read_text("ascii", errors="replace"))
        if os.geteuid():
            raise NoController("only root may limit the CPU of processes")
        self._remove_strays()
        return self

    def make(self, name: str, cpus: float) -> Capped:
        """A group whose processes may take so many CPUs together."""
        path = self._root / f"{_PREFIX}{os.getpid()}-{name}"
        quota = int(cpus * _PERIOD_US)
        try:
            if self._version == 2:
                (self._root / "cgroup.subtree_control").write_text("+cpu", "ascii")
            path.mkdir()
            self._made.append(path)
            if self._version == 2:
                (path / "cpu.max").write_text(f"{quota} {_PERIOD_US}", "ascii")
            else:
                (path / "cpu.cfs_period_us").write_text(str(_PERIOD_US), "ascii")
                (path / "cpu.cfs_quota_us").write_text(str(quota), "ascii")
        except OSError as error:
            raise NoController(f"the CPU of processes can't be limited here: {path}: {error.strerror}") from error
        return Capped(path)

    def _remove_strays(self) -> None:
        """Removes what runs that were killed have left."""
        for path in self._root.glob(f"{_PREFIX}*"):
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if not Path(f"/proc/{pid}").exists():
                self._remove(path)

    def _remove(self, path: Path) -> None:
        """Removes a group; a process that is still in it goes back to the root."""
        deadline = time.monotonic() + _REMOVE_SECONDS
        while path.exists():
            with suppress(OSError):
                for pid in (path / "cgroup.procs").read_text("ascii").split():
                    (self._root / "cgroup.procs").write_text(pid, "ascii")
            try:
                path.rmdir()
            except OSError:
                # A process that has just ended is in it for a moment longer.
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._made:
            self._remove(self._made.pop())
