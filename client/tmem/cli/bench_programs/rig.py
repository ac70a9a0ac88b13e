"""What a run shares: sizes, CPUs, the daemon, the guard.

Owns: how much is measured, and which CPU everything is put on. Units: bytes, seconds; a share is a percentage of a program's working set.

On two CPUs the program and its agents are on one, as on a machine that borrows memory, and the daemon is on the other, as on the machine that lends it.
Measured: with the agents on the daemon's CPU a fault takes a tenth longer, because every answer waits for what the daemon still does behind it.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.host.processes import Identity
from tmem.cli.bench_common import rig
from tmem.cli.bench_common.rig import MIB

from . import areas
from .guard import Guard

__all__ = ["Rig", "Series", "Sizes"]

_LEAST_WORK = 24 * MIB
_LEAST_TOUCHED = 16 * MIB


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much each measurement takes.

    Attributes:
        work: bytes that each program shall need, about. queries: to ask of those that are asked.
        shares: of the working set that is left in local memory, in percent.
        rounds: of every program. seconds: after which a run has failed.
        touched: bytes that are touched when faults are measured. touches: in each of `touch_rounds` rounds. gets: lone exchanges in each.
    """

    work: int = 96 * MIB
    queries: int = 10_000
    shares: tuple[int, ...] = (100, 75, 50, 25)
    rounds: int = 3
    seconds: float = 120.0
    touched: int = 128 * MIB
    touches: int = 12_000
    touch_rounds: int = 5
    gets: int = 4_000

    @classmethod
    def quick(cls) -> "Sizes":
        """For `make bench`: minutes, not a quarter of an hour."""
        return cls(
            work=64 * MIB,
            queries=2_000,
            rounds=1,
            seconds=60.0,
            touched=64 * MIB,
            touches=4_000,
            touch_rounds=3,
            gets=1_500,
        )

    def shrunk(self, divisor: int) -> "Sizes":
        """These, divided; for trying the command out. Nothing becomes less than what can be measured at all."""
        if divisor == 1:
            return self
        return replace(
            self,
            work=max(self.work // divisor, _LEAST_WORK),
            queries=max(self.queries // divisor, 100),
            rounds=max(self.rounds // divisor, 1),
            touched=max(self.touched // divisor, _LEAST_TOUCHED),
            touches=max(self.touches // divisor, 300),
            touch_rounds=max(self.touch_rounds // divisor, 1),
            gets=max(self.gets // divisor, 100),
        )


@dataclass(slots=True)
class Series:
    """What plots are drawn of.

    Attributes:
        slowdowns: of each program, by way and share: every round's.
        latencies: seconds of each fault, by way; and of bare exchanges.
    """

    slowdowns: dict[str, dict[str, dict[int, list[float]]]] = field(default_factory=dict)
    latencies: dict[str, list[float]] = field(default_factory=dict)


class Rig(rig.Rig):
    """What one run shares. Use it in a `with` statement.

    Args:
        sizes: of everything.
        disk: a directory on the disk that is measured.
        say: told what happens now.

    Attributes:
        program_cpu: where programs run; agent_cpu: where the agents do.
        area_bytes: of every swap area.
        guard: takes everything back.
        run_directory: of tmem's devices.
        series: for plots.
    """

    def __init__(self, sizes: Sizes, disk: Path, say: Callable[[str], None]) -> None:
        super().__init__(say)
        self.sizes = sizes
        self.disk = disk
        self.program_cpu = self.client_cpu
        self.agent_cpu = self.program_cpu
        # The kernel keeps what it has read in the area only while that is less than half full.
        self.area_bytes = max(3 * sizes.work, 3 * sizes.touched)
        self.hierarchy = Hierarchy.find()
        self.series = Series()
        self._down = ExitStack()
        self.guard = Guard()
        self.run_directory = Path()
        self._target: str | None = None

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.enter_context(self.guard)
            self.run_directory = Path(tempfile.mkdtemp(prefix="tmem-bench-"))
            undo.enter_context(self.guard.made("tree", str(self.run_directory)))
            if areas.zswap_on():
                # Or every other way would be zswap in front of it.
                undo.enter_context(areas.zswap_set(self.guard, on=False))
            undo.enter_context(self.on_cpu(self.server_cpu))
            self._down = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._down.close()

    @property
    def target(self) -> str:
        """The server: a daemon of this run, which can't be swapped out; started when it is first asked for."""
        if self._target is None:
            limit = 2 * self.area_bytes + 64 * MIB
            captive = self._down.enter_context(
                self.daemon("--lock-memory", "--memory-limit", f"{limit // MIB}MiB", pinned=True)
            )
            identity = Identity.of(captive.pid)
            self._down.enter_context(self.guard.made("process", identity.pid, identity.started))
            self._target = captive.target
        return self._target

    def json(self) -> dict[str, Any]:
        """Its settings, for the report."""
        return {
            "sizes": asdict(self.sizes),
            "swap_area_bytes": self.area_bytes,
            "program_cpu": self.program_cpu,
            "server_cpu": self.server_cpu,
            "agent_cpu": self.agent_cpu,
        }

    @contextmanager
    def agents(self) -> Iterator[None]:
        """Who is started meanwhile is put where agents are."""
        with self.on_cpu(self.agent_cpu):
            yield

    @contextmanager
    def group(self) -> Iterator[str]:
        """The name of a control group that nobody else has, and that is gone after the block."""
        name = f"tmem-bench-{os.getpid()}"
        with self.guard.made("group", name):
            yield name
