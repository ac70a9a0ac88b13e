"""The way by kernel swap: a memory-limited control group, and a swap device on the server.

Owns: which device is used (one that is attached already and has room, or one of its own, which goes with the run), and the group. They
are taken down in the order of guard.take_down: the program first, so that nobody owns the device's pages by then.
"""

import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

from tmem.agents.host import swaps
from tmem.agents.host.cgroups import Hierarchy, Usage
from tmem.agents.swap.device import Options, attach, detach
from tmem.agents.swap.shared import Latencies, Word
from tmem.agents.swap.state import Record, Site, sites
from tmem.agents.swap.status import Compression, Reading, read_device
from tmem.wire.errors import InvalidOption, NoRoom

from .guard import Guard, take_down
from .program import Program
from .ways import Figures, Order

__all__ = ["Swapping"]

DEFAULT_ROOM = 4 << 30
_LEAST_MEMORY = 4 << 20
_GRACE_SECONDS = 15.0


class Swapping:
    """The way.

    Args:
        run_directory: of swap devices.
        options: asked of the device: fields of swap.device.Options; None = as it comes.
    """

    def __init__(self, run_directory: Path, **options: object) -> None:
        self._run_directory = run_directory
        self._options = {name: value for name, value in options.items() if value is not None}

    def start(self, order: Order) -> "_SwapRun":
        """Starts a program; raises as Way.start."""
        if order.memory < _LEAST_MEMORY:
            raise InvalidOption(f"a program needs {_LEAST_MEMORY >> 20} MiB of memory at least, to move at all")
        hierarchy = Hierarchy.find()
        with ExitStack() as undo:
            run = _SwapRun(hierarchy, self._run_directory, order, self._options, undo)
            undo.pop_all()
        return run


class _SwapRun:
    """One run; it implements ways.Running."""

    def __init__(
        self,
        hierarchy: Hierarchy,
        run_directory: Path,
        order: Order,
        options: dict[str, object],
        undo: ExitStack,
    ) -> None:
        self._down = ExitStack()
        undo.enter_context(self._down)
        shared = _shared_device(run_directory, order, options)
        name = f"run-{os.getpid()}"
        group_name = f"tmem-{name}"
        guard = Guard(group_name, run_directory, None if shared is not None else name)
        self._guard = guard
        self._group = hierarchy.group(group_name)
        self._program: Program | None = None
        self._begun: Reading | None = None
        self._site = shared if shared is not None else Site(run_directory, name)
        self.shared = shared is not None
        self._down.callback(self._take_down)
        if shared is None:
            attach(self._site, _device_options(order, options))
        self._begun = read_device(self._site)
        self._group = hierarchy.create(group_name)
        self._group.set_limit(order.memory)
        self._program = Program(order.command, self._group)
        self._compression = Compression(order.target, order.token)
        self._down.callback(self._compression.close)
        self._remote_peak = 0
        self._last: tuple[Usage, Reading | None] | None = None

    @property
    def pid(self) -> int:
        """The program's process id."""
        assert self._program is not None
        return self._program.pid

    @property
    def record(self) -> Record | None:
        """The device that it swaps to."""
        return None if self._begun is None else self._begun.record

    def wait(self, seconds: float) -> int | None:
        """Waits so long for its end."""
        assert self._program is not None
        status = self._program.wait(seconds)
        self._look()
        if status is None and self._begun is not None:
            self._compression.of(self._begun.record)  # later there is nothing of the program any more
        return status

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        assert self._program is not None
        self._program.signal(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._down.close()

    def _take_down(self) -> None:
        deadline = 0.0 if self._begun is None else self._begun.record.io_deadline
        try:
            take_down(self._group, None if self.shared else self._detach, deadline + _GRACE_SECONDS)
        except BaseException:
            self._guard.leave()
            raise
        if self._program is not None:
            self._program.wait(_GRACE_SECONDS)
        self._guard.dismiss()

    def _detach(self, stuck: bool) -> None:
        # Nothing of the program is out any more. What others have out comes back first; if that can't be had any more,
        # keeping a device that nobody looks after would help nobody.
        if self._site.read() is None:
            return  # it could not be made
        try:
            detach(self._site, force=stuck)
        except (OSError, NoRoom):
            detach(self._site, force=True)

    # ---- How it does ----

    def _look(self) -> None:
        with suppress(FileNotFoundError):
            usage = self._group.usage()
            self._remote_peak = max(self._remote_peak, usage.swapped)
            self._last = usage, read_device(self._site)

    def figures(self) -> Figures:
        """How it does, or did."""
        self._look()
        assert self._last is not None
        usage, reading = self._last
        begun = self._begun

        def grown(word: Word) -> int:
            return 0 if reading is None or begun is None else max(0, reading[word] - begun[word])

        reads = Latencies(())
        if reading is not None and begun is not None and reading.words and begun.words:
            reads = reading.reads.since(begun.reads)
        return Figures(
            resident=usage.resident,
            peak=usage.peak,
            remote=usage.swapped,
            remote_peak=self._remote_peak,
            faults=usage.major_faults,
            fault_p50=reads.quantile(0.5),
            fault_p99=reads.quantile(0.99),
            pages_in=grown(Word.PAGES_READ),
            pages_out=grown(Word.PAGES_WRITTEN),
            messages_in_per_mib=_per_mib(grown(Word.GET_MESSAGES), grown(Word.PAGES_GOT)),
            messages_out_per_mib=_per_mib(grown(Word.PUT_MESSAGES), grown(Word.PAGES_PUT)),
            ratio=self._compression.known,
            trouble="" if reading is None or reading.good else reading.condition,
            more={
                "oom_kills": usage.oom_kills,
                "takeovers": grown(Word.TAKEOVERS),
                "requests_resent": grown(Word.RESENT),
                "reads_failed": grown(Word.READS_FAILED),
                "writes_failed": grown(Word.WRITES_FAILED),
                "puts_refused": grown(Word.PUTS_REFUSED),
                "device": self._site.name,
            },
        )


def _per_mib(messages: int, pages: int) -> float | None:
    return messages / (pages / 256) if pages else None


def _shared_device(run_directory: Path, order: Order, options: dict[str, object]) -> Site | None:
    """A device that is attached already, and where the program's pages would go as they are asked to."""
    for site in sites(run_directory):
        reading = None if site.name.startswith("run-") else read_device(site)
        if reading is not None and _suits(reading, order, options):
            return site
    return None


def _suits(reading: Reading, order: Order, options: dict[str, object]) -> bool:
    """Whether a device is well, of this server, made as is asked for, has room, and is where the kernel swaps first."""
    record, asked = reading.record, dict(options)
    if not reading.good or reading.used is None or reading.priority is None or record.target != order.target:
        return False
    durable = asked.pop("durability", record.durability) in {record.durability, "memory"}
    punctual = asked.pop("io_deadline", record.io_deadline) == record.io_deadline
    # Whatever else is asked for is not written down of it.
    if asked or not durable or not punctual:
        return False
    # Without a word on how much goes out, as much as stays here.
    if record.size - reading.used < (order.memory if order.room is None else order.room):
        return False
    # Areas of the same priority are filled in turn.
    return all(area.priority < reading.priority for area in swaps.list_areas() if area.path != record.device)


def _device_options(order: Order, options: dict[str, object]) -> Options:
    # Before all other areas: what goes out of this run's group is to go to the server.
    priority = max((area.priority for area in swaps.list_areas()), default=-1) + 1
    room = order.room if order.room is not None else DEFAULT_ROOM
    settings = {"priority": max(0, min(priority, swaps.MAX_PRIORITY)), **options}
    return Options(target=order.target, token=order.token, size=room, **settings)  # type: ignore[arg-type]
