"""Every program by every way, with less and less local memory.

Owns: the order in which everything is run, what is compared with what, and the keys of the figures. In each round a program runs alone before
and after it runs by the ways, so that a ratio's two sides are minutes apart at most; every other round goes through the ways in the opposite order.

A run that the kernel kills for want of memory is tried again, twice at most; how often that happened is told. One that takes too long, or comes to
nothing each time, is told as such; the same program with still less memory is not tried by that way any more, nor in later rounds.

Keys: PROGRAM_WAY_SHARE_slowdown, with _spread; _seconds, _faults, _pages_in, _pages_out, _kills of the same. PROGRAM_working_set_bytes,
PROGRAM_alone_seconds, PROGRAM_runs, PROGRAM_wrong_outputs.
"""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tmem.cli.bench_common.figures import exactly
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .programs import Done, Failed, Program, Wanted, tried
from .rig import Rig
from .ways import Memory, Paged, Way, plain

__all__ = ["measure"]


@dataclass(slots=True)
class _Cell:
    """One way with one share: every round's run, how often there was none for want of memory, and why there are no more, if there could be."""

    seconds: list[float] = field(default_factory=list)
    slowdowns: list[float] = field(default_factory=list)
    memories: list[Memory] = field(default_factory=list)
    kills: int = 0
    failure: str = ""


def measure(rig: Rig, program: Program, ways: Sequence[Way]) -> None:
    """Runs one program by all ways."""
    reason = program.obstacle()
    if reason:
        rig.report.skip(reason)
        return
    with program.prepared(Wanted(rig.sizes.work, rig.sizes.queries)):
        try:
            _Measurement(rig, program, ways).take()
        except Failed as failure:
            rig.report.skip(f"{program.name}, alone with all the memory that it wants: {failure}")


class _Measurement:
    def __init__(self, rig: Rig, program: Program, ways: Sequence[Way]) -> None:
        self._rig = rig
        self._program = program
        self._alone = plain(rig)
        self._shares = sorted(rig.sizes.shares, reverse=True)
        self._expected = program.expected
        self._runs = self._wrong = 0
        self._working_set = 0
        self._ways = []
        for way in ways:
            reason = way.obstacle(program)
            if reason:
                rig.report.skip(reason, way.name)
            else:
                self._ways.append(way)
        self._cells = {way.name: {share: _Cell() for share in self._shares} for way in self._ways}

    def take(self) -> None:
        """Everything; raises Failed if the program does not even run alone."""
        alone: list[float] = []
        self._run_alone(0)  # loads what is on disk; it does not count
        for number in range(self._rig.sizes.rounds):
            before = [self._run_alone(number), self._run_alone(number)]
            order = self._ways if number % 2 == 0 else list(reversed(self._ways))
            taken = [each for way in order for each in self._run_by(way, number)]
            around = [*before, self._run_alone(number)]
            usual = statistics.median(around)
            alone += around
            for cell, done in taken:
                cell.seconds.append(done.seconds)
                cell.slowdowns.append(done.seconds / usual)
        self._tell(alone)

    def _say(self, number: int, what: str) -> None:
        self._rig.say(f"{self._program.name}, round {number + 1}: {what}")

    def _run(self, way: Way, limit: int | None) -> tuple[Done, Memory]:
        done, memory = way.run(self._program, limit, self._rig.sizes.seconds)
        # The output is known where the program does not make up its own input; else the first run's, which was alone, is taken for right.
        self._expected = self._expected or done.digest
        self._runs += 1
        self._wrong += done.digest != self._expected
        return done, memory

    def _run_alone(self, number: int) -> float:
        """The seconds without a limit."""
        self._say(number, self._alone.title)
        done, memory = self._run(self._alone, None)
        self._working_set = max(self._working_set, memory.peak)
        return done.seconds

    def _run_by(self, way: Way, number: int) -> list[tuple[_Cell, Done]]:
        """Every share by one way, the largest first."""
        taken: list[tuple[_Cell, Done]] = []
        cells = self._cells[way.name]
        trying = next((cell for cell in cells.values() if not cell.failure), None)
        if trying is None or next(iter(cells.values())).failure:
            return taken
        self._say(number, way.title)
        try:
            with way.ready():
                limit = self._limits(way)
                for share, trying in cells.items():
                    if trying.failure:
                        break
                    self._say(number, f"{way.title}, {share} %")
                    done, memory = self._try(way, limit(share), trying)
                    trying.memories.append(memory)
                    taken.append((trying, done))
        except (Failed, OSError, TmemError) as error:
            trying.failure = str(error)
        return taken

    def _try(self, way: Way, limit: int, cell: _Cell) -> tuple[Done, Memory]:
        """A run with little memory."""

        def killed() -> None:
            cell.kills += 1

        return tried(lambda: self._run(way, limit), killed)

    def _limits(self, way: Way) -> Callable[[int], int]:
        """What a share of the working set is for a way."""

        def of_all(share: int) -> int:
            return self._working_set * share // 100 // PAGE_BYTES * PAGE_BYTES

        if not isinstance(way, Paged):
            return of_all
        _, memory = self._run(way, None)  # how much of it the pager can take elsewhere at all
        return lambda share: way.limit_for(of_all(share), self._working_set, memory.peak)

    # ---- What was found ----

    def _tell(self, alone: list[float]) -> None:
        report, name = self._rig.report, self._program.name
        report.add(f"{name}_working_set_bytes", "working set", self._working_set, detail=True)
        report.add_rounds(f"{name}_alone_seconds", "alone, with all of it, seconds", alone, detail=True)
        for way in self._ways:
            report.about[f"{way.name}_is"] = way.words or way.title
            for share, cell in self._cells[way.name].items():
                key = f"{name}_{way.name}_{share}"
                if cell.failure:
                    report.skip(f"{name}, {way.title}, {share} %: {cell.failure}", f"{way.name}_{share}")
                if not cell.slowdowns:
                    continue
                title = f"{way.title}, {share} %"
                report.add(f"{key}_kills", f"{title}, runs killed for want of memory", cell.kills, detail=True)
                report.add_rounds(f"{key}_slowdown", title, cell.slowdowns, detail=True)
                report.add_rounds(f"{key}_seconds", f"{title}, seconds", cell.seconds, detail=True)
                for what in ("faults", "pages_in", "pages_out"):
                    values = [float(getattr(memory, what)) for memory in cell.memories]
                    report.add_rounds(f"{key}_{what}", f"{title}, {what.replace('_', ' ')}", values, detail=True)
        report.add(f"{name}_runs", "runs", self._runs, detail=True)
        report.add(f"{name}_wrong_outputs", f"{name}: outputs that differ, of {self._runs}", self._wrong, exactly(0))
        self._rig.series.slowdowns[name] = {
            way: {share: cell.slowdowns for share, cell in cells.items() if cell.slowdowns}
            for way, cells in self._cells.items()
        }
