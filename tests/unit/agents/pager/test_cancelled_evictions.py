"""Evictions that touches have cancelled: what was touched is not compressed, and an answer says nothing of the eviction after."""

import itertools
import time
from collections.abc import Callable

from tests.pagers import PAGE, FakeKernel, FakeRemote, Killer, MortalTable, Pending

from tmem.agents.pager.core import Pager
from tmem.agents.pager.evictions import Evictions
from tmem.agents.pager.ledger import Ledger
from tmem.agents.pager.owed import Owed
from tmem.agents.pager.ports import Put
from tmem.agents.pager.settings import Settings, Target
from tmem.agents.pager.table import State, Table

UNITS, LIMIT = 400, 64


class Region:
    """A pager between a fake kernel and a fake target whose answers the test gives."""

    def __init__(self) -> None:
        killer = Killer()
        self.kernel = FakeKernel(UNITS, killer)
        self.remote = FakeRemote(self.kernel)
        table = MortalTable(UNITS, killer)
        targets = (Target("fake:1"),)
        size, resident = UNITS * PAGE, LIMIT * PAGE
        settings = Settings(size=size, resident=resident, targets=targets, name="t", prefetch=0, sampling=False)
        self.now = 100.0
        self.pager = Pager(settings, table, self.kernel, self.remote, self.now)
        self.pager.take_over(self.now)
        self.threads = map(str, itertools.count())

    def turn(self) -> None:
        self.now += 0.01
        touches = [(unit, flags) for _, unit, flags in self.kernel.read(16)]
        self.pager.deliver([], touches, self.now)
        self.pager.step(self.now)

    def access(self, unit: int, *, write: bool, meanwhile: Callable[[], object] = lambda: None) -> memoryview:
        deadline = time.monotonic() + 20
        while True:
            found = self.kernel.access(next(self.threads), unit, write=write)
            if found is not None:
                return found
            assert time.monotonic() < deadline, f"unit {unit} is waited for in vain"
            self.turn()
            meanwhile()

    def answer_all(self) -> None:
        for each in self.remote.choices():
            self.remote.answer(each)

    def puts_of(self, unit: int) -> list[Pending]:
        return [
            each for each in self.remote.pending if each.kind == "put" and each.page <= unit < each.page + each.count
        ]


def test_the_answer_to_a_cancelled_eviction_does_not_end_the_next_one_of_the_same_page() -> None:
    region = Region()
    units = iter(range(UNITS))
    for unit in itertools.islice(units, LIMIT):
        region.access(unit, write=True)[:] = bytes([unit % 256]) * PAGE
    region.kernel.access("waits", LIMIT, write=False)  # for whom something has to leave
    while not region.remote.pending:
        region.turn()
    held_back = [each for each in region.remote.pending if each.kind == "put"]
    unit = held_back[0].page
    for each in held_back:
        for other in range(each.page, each.page + each.count):
            region.access(other, write=True)[:] = b"\xaa" * PAGE  # cancels it

    def answer_others() -> None:
        for each in list(region.remote.choices()):
            if each not in held_back and region.puts_of(unit)[1:2] != [each]:
                region.remote.answer(each)

    # Until the same page is on its way out once more, with what it is now.
    while len(region.puts_of(unit)) < 2:
        other = next(units)
        region.access(other, write=True, meanwhile=answer_others)[:] = bytes([other % 256]) * PAGE
        region.turn()
        answer_others()
    first, second = region.puts_of(unit)
    assert (first.plain[:1], second.plain[(unit - second.page) * PAGE :][:1]) == (bytes([unit % 256]), b"\xaa")
    for each in held_back:
        region.remote.answer(each)
    region.turn()
    for each in list(region.remote.pending):
        if each.kind == "put":
            region.remote.answer(each, Put.REFUSED)
    region.turn()

    page = region.access(unit, write=False, meanwhile=answer_others)

    assert bytes(page) == b"\xaa" * PAGE


def test_a_page_that_was_touched_on_its_way_out_is_not_compressed_with_those_beside_it() -> None:
    """The program writes to it at that very moment: a codec that reads changing bytes makes wrong ones of its neighbours."""
    region = Region()
    for unit in range(LIMIT // 2):
        region.access(unit, write=True)[:] = bytes([unit % 256]) * PAGE
    states = region.pager.table.states
    region.pager.resize(LIMIT // 4, region.now)
    while State.EVICTING not in states[:LIMIT]:
        region.pager.step(region.now)
    first = states.find(bytes([State.EVICTING]))
    run = range(first, region.pager.table.end_of_run(first, LIMIT, State.EVICTING))
    assert len(run) > 4
    assert not region.remote.pending
    hot = run[2]
    region.access(hot, write=True)[:] = b"\xaa" * PAGE

    while not region.remote.pending:
        region.turn()

    others = [unit for unit in run if unit != hot]
    assert [len(region.puts_of(unit)) for unit in others] == [1] * len(others)
    assert not region.puts_of(hot)
    region.answer_all()
    assert [states[unit] for unit in others] == [State.REMOTE] * len(others)
    for unit in others:
        assert bytes(region.access(unit, write=False, meanwhile=region.answer_all)) == bytes([unit]) * PAGE
    assert bytes(region.access(hot, write=False, meanwhile=region.answer_all)) == b"\xaa" * PAGE


def test_a_copy_whose_flush_made_way_for_a_put_that_was_never_sent_is_flushed_all_the_same() -> None:
    table = Table(UNITS)
    kernel = FakeKernel(UNITS, Killer())
    remote = FakeRemote(kernel)
    settings = Settings(size=UNITS * PAGE, resident=LIMIT * PAGE, targets=(Target("fake:1"),), name="t")
    owed = Owed(table, remote, 1, 512)
    evictions = Evictions(Ledger(table, kernel, remote, settings, limit=LIMIT, resident=16), owed)
    table.set_states(0, 16, State.RESIDENT)
    owed.add(0, 0, 16, now=10.0)  # they have come home, and the target still has them
    assert evictions.begin(0, 16)
    owed.pay(11.0)  # they are on their way there again
    assert not remote.pending
    for unit in range(16):
        evictions.cancel(unit)
    evictions.advance(12.0)

    evictions.compress()
    owed.pay(13.0)

    assert [(each.kind, each.page, each.count) for each in remote.pending] == [("flush", 0, 16)]
