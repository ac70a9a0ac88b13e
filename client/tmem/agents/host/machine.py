"""The machine as an agent finds it: what it has, and what this process may do.

Owns: where things are looked for, so that tests can have another machine, and the form of what was found: `Need`, with the sentence
that says what to do when it is missing.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tmem.wire.errors import InvalidOption

from .cgroups import Hierarchy

__all__ = ["CAP_IPC_LOCK", "CAP_SYS_ADMIN", "CAP_SYS_RESOURCE", "Machine", "Need", "missing", "own_capabilities"]

CAP_IPC_LOCK, CAP_SYS_ADMIN, CAP_SYS_RESOURCE = 14, 21, 24


def own_capabilities() -> int:
    """The effective capabilities of this process, as bits."""
    for line in Path("/proc/self/status").read_text("ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return int(line.split()[1], 16)
    return 0


@dataclass(frozen=True, slots=True)
class Machine:
    """Where things are looked for.

    Attributes:
        root: the folder that stands for /.
        capabilities: this process's effective ones, as bits.
        which: finds a command.
    """

    root: Path = Path("/")
    capabilities: int = field(default_factory=own_capabilities)
    which: Callable[[str], str | None] = shutil.which

    def can(self, capability: int) -> bool:
        """Whether the process has a capability."""
        return bool(self.capabilities >> capability & 1)

    def read(self, path: str) -> str | None:
        """The text of a file, by its path from the root; None if it can't be read."""
        try:
            return (self.root / path).read_text("utf-8", errors="replace")
        except OSError:
            return None

    def hierarchy(self) -> Hierarchy | None:
        """The memory controller's control groups."""
        try:
            return Hierarchy.find(self.root / "sys/fs/cgroup", self.root / "proc")
        except InvalidOption:
            return None


@dataclass(frozen=True, slots=True)
class Need:
    """One thing that an agent needs.

    Attributes:
        what: its name. met: whether it is there. found: what was seen.
        advice: what to do when it is missing.
    """

    what: str
    met: bool
    found: str
    advice: str


def missing(found: list[Need]) -> list[Need]:
    """Those that are not met."""
    return [need for need in found if not need.met]
