"""The pager's core over a simulated kernel and simulated targets: whatever is killed, refused, late or reordered, the program
reads what it wrote, or gets SIGBUS where a loss was planted. Never anything else, and it always goes on.
"""

import random
from typing import Any

import pytest
from tests.pagers import PAGE, Bus, Crash, FakeKernel, FakeRemote, Killer, MortalTable

from tmem.agents.pager.core import Pager
from tmem.agents.pager.ports import Got, Put
from tmem.agents.pager.settings import Pages, Settings, Target
from tmem.agents.pager.table import Flag, State

THREADS = 3


class World:
    """One program, one region, agents one after the other."""

    def __init__(
        self,
        seed: int,
        *,
        units: int = 96,
        limit: int = 64,
        targets: int = 1,
        pages: Pages = Pages.BASE,
        frees: float = 0.4,
        **settings: object,
    ) -> None:
        self.chance = random.Random(seed)
        self.now = 100.0
        self.killer = Killer()
        self.unit_pages = pages.unit_pages
        unit = self.unit_pages * PAGE
        self.kernel = FakeKernel(units, self.killer, self.unit_pages)
        self.remote = FakeRemote(self.kernel, targets)
        self.table = MortalTable(units, self.killer)
        options = {"prefetch": 8 * unit, "inertia": 2.0, "deadline": 5.0, "pages": pages} | settings
        self.settings = Settings(
            size=units * unit,
            resident=limit * unit,
            targets=tuple(Target(f"fake{number}:1") for number in range(targets)),
            name="sim",
            **options,  # type: ignore[arg-type]
        )
        self.units = units
        self.frees = frees  # of ten accesses: how often the program gives units up
        self.written = [0] * units  # what the program wrote last; 0 = zeros
        self.doing: dict[str, tuple[str, int, int]] = {}
        self.freeing: set[int] = set()
        self.expected_losses: set[int] = set()  # units that were lost and not given up since
        self.ever_lost: set[int] = set()
        self.bus = 0
        self.version = 0
        self.crashes = 0
        self.evicted_before = 0
        self.dead_for = 0  # turns until the next agent starts; the program goes on with what it can see
        self.agent: Pager
        self.start()

    def start(self) -> None:
        self.agent = Pager(self.settings, self.table, self.kernel, self.remote, self.now)
        self.agent.take_over(self.now)

    # ---- The program ----

    def program(self, thread: str) -> None:
        """The thread does its next bit, if it can."""
        if thread in self.kernel.threads:
            return
        if thread not in self.doing:
            unit = self.pick()
            kind = self.chance.choices(("read", "write", "free"), (5, 5, self.frees))[0]
            count = self.chance.choice((1, 1, 3, 12)) if kind == "free" else 1
            span = range(unit, min(unit + count, self.units))
            if any(each in self.busy() for each in span):
                return
            self.doing[thread] = (kind, unit, len(span))
            if kind == "free":
                self.freeing.update(span)
                for each in span:
                    self.table.freed.store(each, 1)
                self.kernel.remove(unit, len(span))
                self.doing[thread] = ("wait", unit, len(span))
            return
        kind, unit, count = self.doing[thread]
        if kind == "wait":
            if ("remove", unit * self.unit_pages, count * self.unit_pages) not in self.kernel.queue:
                self.kernel.remove_on()
                self.doing[thread] = ("punch", unit, count)
        elif kind == "punch":
            self.kernel.remove_end(unit, count)
            for each in range(unit, unit + count):
                self.freeing.discard(each)
                self.written[each] = 0
                self.expected_losses.discard(each)  # what was lost of it nobody wants any more
            del self.doing[thread]
        else:
            self.touch(thread, unit, write=kind == "write")

    def busy(self) -> set[int]:
        """Units that another thread is in the middle of touching, or of giving up."""
        return self.freeing | {unit for kind, unit, _ in self.doing.values() if kind in {"read", "write"}}

    def pick(self) -> int:
        if self.chance.random() < 0.4:
            self.sequence = (getattr(self, "sequence", 0) + 1) % self.units
            return self.sequence
        return self.chance.randrange(self.units)

    def touch(self, thread: str, unit: int, *, write: bool) -> None:
        try:
            page = self.kernel.access(thread, unit, write=write)
        except Bus:
            self.bus += 1
            if unit in self.expected_losses:
                del self.doing[thread]
                return
            # Refused for a while, or given up and the agent has not come to it yet: the thread tries again, and must get on.
            refused = self.table.flags[unit] & Flag.POISONED or self.table.freed[unit]
            assert refused, f"SIGBUS for unit {unit}, which nobody lost"
            return
        if page is None:
            return
        seen = int.from_bytes(page[:8], "little")
        assert seen == self.written[unit], f"unit {unit} reads {seen}, and {self.written[unit]} was written"
        assert page[8:16] == page[:8]
        assert page[-8:] == page[:8]
        if write:
            self.version += 1
            page[:] = self.version.to_bytes(8, "little") * (len(page) // 8)
            self.written[unit] = self.version
        del self.doing[thread]

    # ---- The agent ----

    def turn(self) -> None:
        """The agent's loop, once round."""
        if self.dead_for:
            self.dead_for -= 1
            if not self.dead_for:
                self.start_again()
            return
        try:
            messages = self.kernel.read(self.chance.choice((1, 4, 16)))
            removals = [(unit, count) for kind, unit, count in messages if kind == "remove"]
            touches = [(unit, flags) for kind, unit, flags in messages if kind == "touch"]
            self.agent.deliver(removals, touches, self.now)
            self.agent.step(self.now)
        except Crash:
            self.dies()

    def answer(self, *, refusals: float, losses: float) -> None:
        """A target answers something."""
        choices = [] if self.dead_for else self.remote.choices()
        if not choices:
            return
        each = self.chance.choice(choices)
        answer: Any = None
        trouble = self.chance.random() < refusals
        if trouble and each.kind == "put":
            answer = self.chance.choice((Put.REFUSED, Put.UNKNOWN))
            if answer is Put.UNKNOWN and self.chance.random() < 0.5:
                self.remote.apply(each)
        elif trouble and each.kind == "flush":
            answer = False
        elif trouble:
            answer = [Got.LATER] * each.count
        elif each.kind == "get" and self.chance.random() < losses:
            answer = [self.chance.choice((Got.HIT, Got.LOST, Got.CORRUPT)) for _ in range(each.count)]
            lost = {(each.page + at) // self.unit_pages for at, code in enumerate(answer) if code > Got.LATER}
            self.expected_losses |= lost
            self.ever_lost |= lost
        try:
            self.remote.answer(each, answer)
        except Crash:
            self.dies()

    def dies(self) -> None:
        """The agent is dead; another one will take over."""
        self.crashes += 1
        self.evicted_before += self.agent.figures.evicted
        self.remote.forget_agent(self.chance)
        self.killer.left = None
        self.dead_for = self.chance.randrange(1, 12)

    def start_again(self) -> None:
        """Another agent takes over; it may be killed while it does."""
        if self.crashes % 3 == 0:
            self.killer.left = self.chance.randrange(400)
        try:
            self.start()
        except Crash:
            self.dies()

    # ---- A run ----

    def record(self) -> None:
        """The recording of a working set begins, or ends."""
        try:
            if self.chance.random() < 0.5:
                self.agent.record(lambda: None, self.now)
            else:
                self.agent.recorded(self.now)
        except Crash:
            self.dies()

    def run(
        self, turns: int, *, kills: float = 0.0, refusals: float = 0.0, losses: float = 0.0, records: float = 0.0
    ) -> None:
        for _ in range(turns):
            self.now += self.chance.choice((0.0, 0.0005, 0.002))
            if kills and not self.dead_for and self.killer.left is None and self.chance.random() < kills:
                self.killer.left = self.chance.randrange(120)
            if refusals and self.chance.random() < 0.01:
                target = self.chance.randrange(self.remote.targets)
                self.remote.up[target] = not self.remote.up[target]
            if records and not self.dead_for and self.chance.random() < records:
                self.record()
            act = self.chance.random()
            if act < 0.45:
                self.program(f"thread{self.chance.randrange(THREADS)}")
            elif act < 0.75:
                self.turn()
            else:
                self.answer(refusals=refusals, losses=losses)
            self.check()

    def check(self) -> None:
        assert self.agent.ledger.resident >= 0
        assert self.agent.ledger.remote >= 0

    def settle(self) -> None:
        """No more trouble: everybody who waits gets on, and what is owed is paid."""
        self.killer.left = None
        while self.dead_for:
            self.turn()
            self.killer.left = None
        self.remote.up = [True] * self.remote.targets
        for _ in range(20_000):
            self.now += 0.002
            for thread in [*self.doing]:
                self.program(thread)
            self.turn()
            self.answer(refusals=0.0, losses=0.0)
            if not self.doing and not self.kernel.queue and not self.remote.pending and self.agent.quiet:
                break
        else:
            raise AssertionError(f"does not come to rest: {self.doing} {self.agent.ledger}")

    def verify(self) -> None:
        """Every unit reads what was written last, and no target holds a page in vain."""
        for unit in range(self.units):
            if unit not in self.expected_losses:
                self.doing["last"] = ("read", unit, 1)
                for _ in range(2000):
                    self.program("last")
                    if "last" not in self.doing:
                        break
                    self.now += 0.002
                    self.turn()
                    self.answer(refusals=0.0, losses=0.0)
                else:
                    raise AssertionError(f"unit {unit} never comes: {self.table.state(unit)}")
        self.settle()
        for target, pages in enumerate(self.remote.pages):
            for page in pages:
                unit = page // self.unit_pages
                if unit not in self.ever_lost:  # what is corrupt is left for who looks into it
                    assert self.table.states[unit] == State.REMOTE, (page, self.table.state(unit))
                    assert self.table.targets[unit] == target
        for unit in range(self.units):
            here = self.table.states[unit] in {State.RESIDENT, State.EVICTING}
            assert here or not self.kernel.present[unit], f"unit {unit} takes memory: {self.table.state(unit)}"
            lost = self.table.states[unit] == State.LOST
            assert lost or not self.kernel.poisoned[unit], f"unit {unit} stays poisoned: {self.table.state(unit)}"
            assert lost or not self.table.flags[unit] & Flag.POISONED, f"unit {unit} is taken for poisoned"
        ledger = self.agent.ledger
        counted = (ledger.resident, ledger.remote, ledger.evicting)
        ledger.count_again()
        assert counted == (ledger.resident, ledger.remote, ledger.evicting)


SHORT = range(6)


@pytest.mark.parametrize("seed", SHORT)
@pytest.mark.parametrize("sampling", [True, False], ids=["sampling", "chances"])
def test_the_program_reads_what_it_wrote(seed: int, sampling: bool) -> None:
    world = World(seed, sampling=sampling)
    world.run(4000)
    world.settle()
    assert world.agent.figures.evicted > 50
    assert world.agent.figures.peak <= world.agent.ledger.limit
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_whatever_an_agent_is_killed_at_the_next_one_goes_on(seed: int) -> None:
    world = World(seed)
    world.run(5000, kills=0.02)
    world.settle()
    assert world.crashes > 20
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_refusals_and_silence_cost_no_page(seed: int) -> None:
    world = World(seed, targets=3)
    world.run(4000, refusals=0.2)
    world.settle()
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_lost_and_corrupt_pages_are_sigbus_and_no_others(seed: int) -> None:
    world = World(seed, targets=2)
    world.run(4000, losses=0.1)
    world.settle()
    assert world.expected_losses
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_what_was_lost_or_refused_and_is_given_up_is_ordinary_memory_again(seed: int) -> None:
    """A program that survives SIGBUS: poison stays nowhere but where something is lost."""
    world = World(seed, targets=2, frees=2.0, deadline=0.05)
    world.run(4000, kills=0.01 * (seed % 2), refusals=0.3, losses=0.1, records=0.01)
    world.settle()
    assert world.bus
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_everything_at_once(seed: int) -> None:
    world = World(seed, targets=2)
    world.run(5000, kills=0.02, refusals=0.15, losses=0.005)
    world.settle()
    world.verify()


@pytest.mark.parametrize("seed", SHORT)
def test_a_program_that_gives_much_up_never_sees_what_it_gave_up(seed: int) -> None:
    """Streams of first touches run into ranges whose removal has been read and not been done yet."""
    world = World(seed, frees=3.0)
    world.run(4000)
    world.settle()
    assert world.agent.figures.zeroed > 200
    world.verify()


@pytest.mark.parametrize("seed", range(2))
def test_huge_pages_and_a_pool_of_them_that_runs_empty(seed: int) -> None:
    world = World(seed, units=10, limit=6, pages=Pages.HUGETLB, sampling=False)
    world.kernel.room = 5  # less than the limit
    world.run(3000, kills=0.005)
    world.settle()
    assert world.evicted_before + world.agent.figures.evicted > 5
    world.verify()


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_everything_at_once_with_hundreds_of_seeds(first: int) -> None:
    for seed in range(first, first + 100):
        world = World(seed, targets=1 + seed % 3, sampling=bool(seed % 2))
        try:
            world.run(3000, kills=0.03, refusals=0.1 * (seed % 2), losses=0.005 * (seed % 3))
            world.settle()
            world.verify()
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
