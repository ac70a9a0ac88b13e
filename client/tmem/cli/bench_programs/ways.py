"""The ways: where a program's memory is when there is less of it here than the program needs.

Owns: how a program is started under a limit, and what is known of its memory afterwards; swap areas are made in areas.py. With a swap area the
program lives in a control group, whose limit counts all of its memory. The pager has no such group: what it limits is a program's large
allocations, so it is given what the limit leaves to them.

Units: bytes; a limit of None is none.
"""

import select
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tmem.agents.host import swaps
from tmem.agents.host.machine import Machine, missing
from tmem.agents.host.processes import Identity
from tmem.agents.host.watch import Watch
from tmem.agents.pager import shim
from tmem.agents.pager.paging import DEFAULT_ROOM, Paging
from tmem.agents.pager.uffd import check_machine
from tmem.agents.run.program import Program as Process
from tmem.agents.run.ways import Order
from tmem.agents.swap.device import Options, attach
from tmem.agents.swap.requirements import needs
from tmem.agents.swap.state import Site
from tmem.wire.errors import InvalidOption, TmemError

from . import areas
from .programs import Done, Failed, NoMemory, Program, Started
from .rig import Rig

__all__ = [
    "BARE_EXCHANGE",
    "DEVICE",
    "TITLES",
    "Memory",
    "Paged",
    "Swapped",
    "Way",
    "all_ways",
    "no_other_area",
    "plain",
    "swap_ways",
]

TITLES = {
    "swap": "tmem, swap agent",
    "pager": "tmem, pager",
    "disk": "swap file on disk",
    "zram": "zram",
    "zswap": "zswap and disk",
    "floor": "loop on tmpfs",
}
"""The ways, in the order of tables."""
BARE_EXCHANGE = "a bare exchange"
"""What a fault by the swap agent is held beside, and no way."""
_LEAST_RESIDENT = 4 << 20
DEVICE = "bench"
"""What the swap agent's device is called."""
_DEADLINE_SECONDS = 10.0
_SWAPS = Path("/proc/swaps")
# What zswap holds does not come from the area.
_COUNTED_IN = frozenset({"pswpin", "zswpin"})
_COUNTED_OUT = frozenset({"pswpout", "zswpout"})


@dataclass(frozen=True, slots=True)
class Memory:
    """What a run did with memory.

    Attributes:
        peak: the most that it had here. faults: how often it waited for a page.
        pages_in, pages_out: that came back, and that went out; of the whole machine for swap areas.
    """

    peak: int
    faults: int
    pages_in: int
    pages_out: int


class Way(ABC):
    """One way.

    Attributes:
        name: in keys. title: for people.
        words: what exactly it was, such as which disk; known once it was there.
    """

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig = rig
        self.name = name
        self.title = TITLES.get(name, name)
        self.words = ""

    @abstractmethod
    def obstacle(self, program: Program) -> str:
        """Why it can't be had here, for this program; "" if it can."""

    def ready(self) -> AbstractContextManager[object]:
        """It is there, and no other is, for the length of the block."""
        return nullcontext()

    @abstractmethod
    def run(self, program: Program, limit: int | None, seconds: float) -> tuple[Done, Memory]:
        """One run of a program with so much memory.

        Raises:
            Failed: it came to nothing.
            NoMemory: that was for want of memory.
        """

    def command(self, command: list[str]) -> list[str]:
        """A command that runs on the CPU of programs."""
        cpu = self.rig.program_cpu
        return command if cpu is None else ["taskset", "-c", str(cpu), *command]


class Swapped(Way):
    """By the kernel: a control group, and a swap area, or none.

    Args:
        make: makes the area; its value says what it is. obstacle: as Way.obstacle.
    """

    def __init__(
        self,
        rig: Rig,
        name: str,
        make: Callable[[], AbstractContextManager[str]],
        obstacle: Callable[[], str] = str,
    ) -> None:
        super().__init__(rig, name)
        self._make = make
        self._obstacle = obstacle
        self._own: frozenset[str] = frozenset()

    def obstacle(self, program: Program) -> str:  # noqa: ARG002  by swap goes every one
        """Why it can't be had here; "" if it can."""
        return self._obstacle()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """The area is in use."""
        before = _areas()
        with self._make() as words:
            self.words = words
            self._own = _areas() - before
            try:
                yield
            finally:
                self._own = frozenset()

    def run(self, program: Program, limit: int | None, seconds: float) -> tuple[Done, Memory]:
        """One run in a group of its own."""
        with self.rig.group() as name:
            group = self.rig.hierarchy.create(name)
            if limit is not None:
                group.set_limit(limit)

            @contextmanager
            def start(command: list[str]) -> Iterator[Started]:
                process = Process(self.command(command), group)
                try:
                    yield process
                finally:
                    process.end()

            before = _counters()
            with no_other_area(self._own), Watch(group):
                try:
                    done = program.run(start, seconds)
                except Failed as failure:
                    if group.usage().oom_kills:
                        raise NoMemory("killed by the kernel, as no memory was left at one moment") from failure
                    raise
            after = _counters()
            usage = group.usage()
        came, went = (now - then for now, then in zip(after, before, strict=True))
        return done, Memory(usage.peak or usage.resident, usage.major_faults, came, went)


def _areas() -> frozenset[str]:
    return frozenset(area.path for area in swaps.list_areas())


@contextmanager
def no_other_area(own: frozenset[str]) -> Iterator[None]:
    """For the length of the block the kernel swaps to these areas alone: else nobody knows what was measured, nor what became of the pages.

    Raises:
        Failed: another area was in use, or came, or went.
    """
    with _SWAPS.open("rb") as table:
        others = _areas() - own
        if others:
            raise Failed(f"another swap area was in use: {', '.join(sorted(others))}")
        failure: Failed | None = None
        try:
            yield
        except Failed as error:
            failure = error
        changes = select.poll()
        changes.register(table, select.POLLPRI)
        # The kernel tells whoever has the table open that it has changed.
        if any(event & select.POLLPRI for _, event in changes.poll(0)):
            raise Failed("another swap area came into use meanwhile, or went") from failure
        if failure is not None:
            raise failure


def _counters() -> tuple[int, int]:
    """How many pages the machine has swapped in, and out, since it started."""
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text("ascii").splitlines())
    came, went = (sum(int(counters.get(name, 0)) for name in names) for names in (_COUNTED_IN, _COUNTED_OUT))
    return came, went


class Paged(Way):
    """By the pager: its shim in front of the program, and no group."""

    def obstacle(self, program: Program) -> str:
        """Why it can't be had here, or not for this program; "" if it can."""
        if program.small:
            return program.small
        try:
            check_machine(hugetlb=False)
            shim.build()
        except (InvalidOption, OSError) as error:
            return str(error)
        return ""

    def run(self, program: Program, limit: int | None, seconds: float) -> tuple[Done, Memory]:
        """One run; `limit` is of large allocations."""
        memory = Memory(0, 0, 0, 0)

        @contextmanager
        def start(command: list[str]) -> Iterator[Started]:
            nonlocal memory
            order = Order(self.command(command), DEFAULT_ROOM if limit is None else limit, None, self.rig.target, None)
            try:
                with self.rig.agents():
                    running = Paging(deadline=_DEADLINE_SECONDS).start(order)
            except TmemError as error:
                raise Failed(str(error)) from error
            identity = Identity.of(running.pid)
            with self.rig.guard.made("process", identity.pid, identity.started), running:
                yield running
                found = running.figures()
                memory = Memory(found.peak or found.resident, found.faults, found.pages_in, found.pages_out)
                if running.failures:
                    raise Failed(running.failures[-1])

        done = program.run(start, seconds)
        return done, memory

    def limit_for(self, share_of_all: int, working_set: int, far: int) -> int:
        """How much of a program's large allocations may be here, so that all of it has no more than its share.

        Args:
            share_of_all: what it may have.
            working_set: what it needs.
            far: how much of that are large allocations.

        Raises:
            Failed: its small ones alone take as much.
        """
        limit = share_of_all - (working_set - far)
        if limit < _LEAST_RESIDENT:
            raise Failed("its small allocations alone, which the pager leaves where they are, take more than that")
        return limit


def _remote_area(rig: Rig) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def make() -> Iterator[str]:
        target = rig.target
        site = Site(rig.run_directory, DEVICE)
        with rig.guard.made("device", str(rig.run_directory), DEVICE):
            priority = max((area.priority for area in swaps.list_areas()), default=-1) + 1
            options = Options(target, None, rig.area_bytes, priority=priority, io_deadline=_DEADLINE_SECONDS)
            with rig.agents():
                record = attach(site, options)
            yield f"{record.device} over FUSE, to tmemd at {target} of this machine"

    return make


def _remote_obstacle() -> str:
    if find_spec("hpack") is None:
        return "the swap agent is not installed (pip install 'tmem[agents]')"
    return "; ".join(f"{need.what}: {need.found}" for need in missing(needs(Machine())))


def swap_ways(rig: Rig) -> list[Swapped]:
    """Those that are a swap area."""
    guard, size = rig.guard, rig.area_bytes

    @contextmanager
    def zswap() -> Iterator[str]:
        with areas.zswap_set(guard, on=True) as how, areas.disk_area(guard, rig.disk, size) as where:
            yield f"{how} in front of {where}"

    def on_disk() -> str:
        return areas.disk_obstacle(rig.disk)

    return [
        Swapped(rig, "floor", lambda: areas.memory_area(guard, size)),
        Swapped(rig, "swap", _remote_area(rig), _remote_obstacle),
        Swapped(rig, "disk", lambda: areas.disk_area(guard, rig.disk, size), on_disk),
        Swapped(rig, "zram", lambda: areas.zram_area(guard, size), areas.zram_obstacle),
        Swapped(rig, "zswap", zswap, lambda: areas.zswap_obstacle() or on_disk()),
    ]


def all_ways(rig: Rig) -> list[Way]:
    """All of them, in the order of tables."""
    floor, swap, *others = swap_ways(rig)
    return [swap, Paged(rig, "pager"), *others, floor]


def plain(rig: Rig) -> Swapped:
    """The program alone: in a group, which counts its memory, without a limit."""
    return Swapped(rig, "alone", lambda: nullcontext(""))
