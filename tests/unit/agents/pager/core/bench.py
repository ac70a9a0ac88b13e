"""A region with its pager between doubles, for the tests beside this: driven by hand, step by step."""

from typing import Any

import pytest
from tests.pagers import PAGE, Bus, FakeKernel, FakeRemote, Killer, MortalTable

from tmem.agents.pager.core import Pager
from tmem.agents.pager.ports import Got
from tmem.agents.pager.settings import Pages, Settings, Target
from tmem.agents.pager.table import State

__all__ = ["Bench", "lose", "refuse", "remove"]


class Bench:
    """A region with its pager, driven by hand."""

    def __init__(self, *, units: int = 256, limit: int = 64, targets: int = 1, **settings: Any) -> None:
        self.now = 1000.0
        self.killer = Killer()
        pages = settings.get("pages", Pages.BASE)
        self.unit = PAGE * pages.unit_pages
        self.kernel = FakeKernel(units, self.killer, pages.unit_pages)
        self.remote = FakeRemote(self.kernel, targets)
        self.table = MortalTable(units, self.killer)
        options = {"prefetch": 0, "inertia": 10.0, "deadline": 5.0, "sampling": False} | settings
        self.settings = Settings(
            size=units * self.unit,
            resident=limit * self.unit,
            targets=tuple(Target(f"fake{number}:1") for number in range(targets)),
            name="bench",
            **options,
        )
        self.pager = Pager(self.settings, self.table, self.kernel, self.remote, self.now)

    # ---- The agent ----

    def read(self) -> None:
        """The agent reads everything that the program has told."""
        messages = self.kernel.read(1000)
        removals = [(page, count) for kind, page, count in messages if kind == "remove"]
        touches = [(unit, flags) for kind, unit, flags in messages if kind == "touch"]
        self.pager.deliver(removals, touches, self.now)

    def steps(self, count: int = 50) -> None:
        for _ in range(count):
            self.pager.step(self.now)

    def answer(self, answer: Any = None, kind: str | None = None) -> int:
        """Answers all that is pending now; answers how many that were."""
        self.pager.note_time(self.now)
        chosen = [each for each in self.remote.choices() if kind in {None, each.kind}]
        for each in chosen:
            codes = [answer] * each.count if isinstance(answer, Got) else answer
            self.remote.answer(each, codes)
        return len(chosen)

    def settle(self) -> None:
        for _ in range(200):
            self.now += 0.02
            self.read()
            self.steps(5)
            if not self.answer() and self.pager.quiet:
                return
        raise AssertionError(f"does not come to rest: {self.pager.ledger}")

    def next_agent(self) -> None:
        """The agent was killed: what it had asked is forgotten, and another takes over."""
        self.remote.pending.clear()
        self.pager = Pager(self.settings, self.table, self.kernel, self.remote, self.now)
        self.pager.take_over(self.now)

    # ---- The program ----

    def touch(self, unit: int, *, write: bool = False, thread: str = "main") -> memoryview | None:
        page = self.kernel.access(thread, unit, write=write)
        self.read()
        return page

    def write(self, unit: int, value: int) -> None:
        for _ in range(100):
            page = self.kernel.access("main", unit, write=True)
            if page is not None:
                page[:] = value.to_bytes(8, "little") * (self.unit // 8)
                return
            self.settle()
        raise AssertionError(f"unit {unit} never comes")

    def see(self, unit: int) -> int:
        for _ in range(100):
            page = self.kernel.access("main", unit, write=False)
            if page is not None:
                assert bytes(page) == bytes(page[:8]) * (self.unit // 8)
                return int.from_bytes(page[:8], "little")
            self.settle()
        raise AssertionError(f"unit {unit} never comes")

    def fill(self, count: int = 200) -> None:
        """Writes more than there is room for: the first units go away."""
        for unit in range(count):
            self.write(unit, unit + 1)
        self.settle()

    def away(self) -> int:
        return next(unit for unit in range(self.table.units) if self.table.states[unit] == State.REMOTE)

    def here(self) -> int:
        return next(unit for unit in range(self.table.units) if self.table.states[unit] == State.RESIDENT)

    def begin_eviction(self) -> int:
        """One unit is EVICTING, its put unanswered."""
        self.pager.ledger.limit = self.pager.ledger.resident  # one too many for the headroom
        self.steps()
        assert self.remote.pending
        return next(unit for unit in range(self.table.units) if self.table.states[unit] == State.EVICTING)


# ---- What befalls a unit ----


def refuse(bench: Bench) -> int:
    """A unit that did not come in time: the program got SIGBUS."""
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.now += bench.settings.deadline + 0.1
    bench.answer(Got.LATER, kind="get")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=False)
    return unit


def remove(bench: Bench, unit: int, count: int = 1) -> None:
    """The program gives units up, as madvise does it."""
    for each in range(unit, unit + count):
        bench.table.freed.store(each, 1)
    bench.kernel.remove(unit, count)
    bench.read()
    bench.kernel.remove_on()
    bench.kernel.remove_end(unit, count)


def lose(bench: Bench, fate: Got) -> int:
    """A unit that the program can't have: LOST, or REMOTE and refused."""
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.now += bench.settings.deadline + 0.1
    bench.answer(fate, kind="get")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=False)
    return unit
