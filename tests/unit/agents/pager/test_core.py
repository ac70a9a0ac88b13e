"""The pager's core, case by case: what a touch, a removal, an answer and time lead to.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

from typing import Any

import pytest
from tests.pagers import PAGE, Bus, Crash, FakeKernel, FakeRemote, Killer, MortalTable

from tmem.agents.pager.core import Pager
from tmem.agents.pager.ports import Fault, Got, Put
from tmem.agents.pager.settings import Pages, Settings, Target
from tmem.agents.pager.table import Flag, State


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


# ---- Eviction ----


def test_a_page_is_punched_only_after_its_put_is_stored() -> None:
    bench = Bench()
    bench.fill(40)
    unit = bench.begin_eviction()
    assert bench.kernel.present[unit]
    assert bench.kernel.protected[unit]
    assert bench.touch(unit) is not None  # it can be read meanwhile
    bench.answer(kind="put")
    assert bench.table.states[unit] == State.REMOTE
    assert not bench.kernel.present[unit]


def test_a_write_cancels_an_eviction_and_the_copy_is_flushed() -> None:
    bench = Bench()
    bench.fill(40)
    unit = bench.begin_eviction()
    bench.touch(unit, write=True)
    assert bench.table.states[unit] == State.RESIDENT
    bench.write(unit, 4711)
    bench.answer(kind="put")
    assert bench.kernel.present[unit]
    bench.settle()
    assert unit not in bench.remote.pages[0]
    assert bench.see(unit) == 4711


def test_a_late_answer_of_a_cancelled_eviction_does_not_finish_the_next_one() -> None:
    bench = Bench()
    bench.fill(40)
    unit = bench.begin_eviction()
    bench.touch(unit, write=True)
    bench.write(unit, 4711)
    # Chosen again, with other bytes, while the first put is still unanswered.
    bench.pager._evictions.begin(unit, 1)
    bench.pager._evictions.compress()
    bench.pager._evictions.send()
    first, second = [each for each in bench.remote.pending if each.page <= unit < each.page + each.count][:2]
    bench.remote.answer(first)
    assert bench.table.states[unit] == State.EVICTING
    assert bench.kernel.present[unit]
    bench.remote.answer(second)
    bench.settle()
    assert bench.see(unit) == 4711


def test_what_is_gathered_is_let_go_of_before_the_program_may_write_to_it() -> None:
    bench = Bench()
    bench.fill(60)
    unit = bench.here()
    bench.pager._evictions.begin(unit, 1)
    bench.pager._evictions.compress()
    bench.touch(unit, write=True)
    page = bench.kernel.access("main", unit, write=True)
    assert page is not None
    page[:8] = b"later..."
    bench.pager._evictions.send()
    (put,) = bench.remote.pending
    assert put.plain[:8] == (unit + 1).to_bytes(8, "little")


@pytest.mark.parametrize("outcome", [Put.REFUSED, Put.UNKNOWN])
def test_a_failed_remote_put_leaves_the_page_readable_where_it_was_and_is_tried_again_later(outcome: Put) -> None:
    bench = Bench()
    bench.fill(40)
    unit = bench.begin_eviction()
    put = bench.remote.choices()[0]
    if outcome is Put.UNKNOWN:
        bench.remote.apply(put)
    bench.remote.up[0] = False
    bench.answer(outcome, kind="put")
    assert bench.table.states[unit] == State.RESIDENT
    assert bench.see(unit) == unit + 1
    bench.write(unit, 99)
    bench.settle()
    assert not bench.remote.pages[0]  # what may have been stored is flushed
    bench.remote.up[0] = True
    bench.pager.ledger.limit = 32
    bench.settle()
    assert bench.pager.ledger.resident <= 32
    assert bench.see(unit) == 99


def test_a_huge_page_of_which_a_part_was_refused_stays_and_nothing_of_it_is_left_out() -> None:
    bench = Bench(units=8, limit=4, pages=Pages.THP)
    for unit in range(3):
        bench.write(unit, unit + 1)
    bench.pager._evictions.begin(0, 1)
    while bench.pager._evictions.busy:
        bench.pager._evictions.compress()
    bench.pager._evictions.send()
    puts = list(bench.remote.pending)
    assert len(puts) == 32
    bench.remote.up[0] = False
    for number, put in enumerate(puts):
        bench.remote.answer(put, Put.REFUSED if number == 17 else None)
    assert bench.table.states[0] == State.RESIDENT
    assert bench.see(0) == 1
    bench.settle()
    assert not bench.remote.pages[0]


def test_the_limit_is_kept_by_waiting_and_soft_when_nobody_takes_pages() -> None:
    bench = Bench(limit=64)
    bench.fill(200)
    assert bench.pager.figures.peak <= 64
    assert bench.pager.figures.deferred == 0 or bench.pager.figures.peak == 64
    bench.remote.up[0] = False
    for unit in range(200, 250):
        bench.write(unit, unit)
    assert bench.pager.figures.peak > 64
    bench.remote.up[0] = True
    bench.settle()
    assert bench.pager.ledger.resident <= 64


def test_a_page_that_is_not_where_the_table_says_is_lost_and_never_put_as_zeros() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    assert bench.see(unit) == unit + 1
    bench.kernel._punch(unit, 1)  # by nobody who may
    with pytest.raises(Bus):
        bench.see(unit)
    other = bench.away()
    assert bench.see(other) == other + 1
    bench.kernel._punch(other, 1)
    bench.pager._send_off(other, 1)
    bench.settle()
    assert bench.table.states[other] == State.LOST
    assert other not in bench.remote.pages[0]


# ---- Restore ----


def test_where_a_page_lives_never_changes_what_is_read() -> None:
    bench = Bench(targets=3)
    for round_ in range(3):
        bench.remote.up = [number == round_ for number in range(3)]
        for unit in range(256):
            bench.write(unit, 1000 * round_ + unit)
        bench.settle()
        assert bench.remote.pages[round_]
        bench.remote.up = [True] * 3
        assert [bench.see(unit) for unit in range(256)] == [1000 * round_ + unit for unit in range(256)]


def test_two_touches_of_one_remote_page_are_one_fetch_and_both_see_it() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    gets = bench.pager.figures.gets
    assert bench.touch(unit, thread="one") is None
    assert bench.touch(unit, thread="two") is None
    assert bench.pager.figures.gets == gets + 1
    bench.answer(kind="get")
    assert bench.kernel.woken("one")
    assert bench.kernel.woken("two")
    for thread in ("one", "two"):
        page = bench.kernel.access(thread, unit, write=False)
        assert page is not None
        assert int.from_bytes(page[:8], "little") == unit + 1
    bench.settle()
    ledger = bench.pager.ledger
    counted = ledger.resident, ledger.remote
    ledger.count_again()
    assert counted == (ledger.resident, ledger.remote)


def test_a_page_that_came_home_is_removed_from_its_holder() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    bench.see(unit)
    assert bench.table.states[unit] == State.RESIDENT
    bench.settle()
    away = {each for each in range(256) if bench.table.states[each] == State.REMOTE}
    assert set(bench.remote.pages[0]) == away


def test_nobody_answers_sigbus_within_the_deadline_and_the_page_once_it_is_back() -> None:
    bench = Bench(deadline=5.0)
    bench.fill()
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.now += 4.9
    bench.steps()
    assert not bench.kernel.woken("main")
    bench.now += 0.2
    bench.answer(Got.LATER, kind="get")  # as the link does when the time of a get is over
    bench.steps()
    assert bench.kernel.woken("main")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=False)
    assert unit in bench.remote.pages[0]
    bench.now += 1
    bench.settle()
    assert bench.see(unit) == unit + 1


def test_an_answer_that_comes_to_nothing_is_asked_for_again_until_the_deadline() -> None:
    bench = Bench(deadline=5.0)
    bench.fill()
    unit = bench.away()
    assert bench.touch(unit) is None
    for _ in range(3):
        bench.answer(Got.LATER, kind="get")
        assert not bench.kernel.present[unit]  # nothing half is left in memory
        bench.now += 0.1
        bench.steps()
    bench.answer(kind="get")
    assert bench.kernel.woken("main")
    assert bench.see(unit) == unit + 1


@pytest.mark.parametrize("fate", [Got.LOST, Got.CORRUPT])
def test_a_page_that_is_gone_is_sigbus_and_its_neighbours_are_not(fate: Got) -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.answer(fate, kind="get")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=True)
    assert bench.table.states[unit] == State.LOST
    assert bench.pager.figures.lost == 1
    bench.next_agent()
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=True)
    assert bench.see(unit + 1) == unit + 2


def test_when_local_memory_is_too_short_the_page_is_still_had_and_its_copy_stays_until_then() -> None:
    bench = Bench(units=8, limit=4, pages=Pages.HUGETLB)
    for unit in range(8):
        bench.write(unit, unit + 1)
    bench.settle()
    unit = bench.away()
    bench.kernel.room = 0  # somebody else has all huge pages
    assert bench.touch(unit) is None
    bench.steps(2)
    assert unit * 512 in bench.remote.pages[0]
    assert bench.table.states[unit] == State.REMOTE
    bench.settle()  # another one goes, and makes room
    assert bench.see(unit) == unit + 1


def refuse(bench: Bench) -> int:
    """A unit that did not come in time: the program got SIGBUS."""
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.now += bench.settings.deadline + 0.1
    bench.answer(Got.LATER, kind="get")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=False)
    return unit


def test_a_refused_page_that_comes_home_while_a_working_set_is_recorded_can_be_had() -> None:
    """It is not mapped before it is touched, and a touch of poison is told to nobody."""
    bench = Bench()
    bench.fill()
    unit = refuse(bench)
    bench.pager.record(lambda: None, bench.now)
    bench.now += 1
    bench.settle()
    assert bench.table.states[unit] == State.RESIDENT
    assert bench.see(unit) == unit + 1
    assert not bench.table.flags[unit] & Flag.POISONED


def test_a_refused_page_that_comes_home_while_the_program_changes_its_memory_can_be_had() -> None:
    bench = Bench()
    bench.fill()
    unit = refuse(bench)
    bench.now += 1
    bench.read()
    bench.steps()
    bench.kernel.remove(250, 1)
    bench.answer(kind="get")
    assert bench.table.states[unit] == State.RESIDENT
    assert bench.kernel.poisoned[unit]
    bench.read()
    bench.kernel.remove_on()
    bench.kernel.remove_end(250, 1)
    bench.settle()
    assert bench.see(unit) == unit + 1


def test_an_agent_killed_before_a_refused_page_is_seen_again_leaves_it_to_be_had() -> None:
    for instruction in range(60):
        bench = Bench()
        bench.fill()
        unit = refuse(bench)
        bench.now += 1
        bench.steps()
        bench.killer.left = instruction
        try:
            bench.answer(kind="get")
            bench.steps(1)
            bench.killer.left = None
        except Crash:
            bench.next_agent()
            for _ in range(2):
                bench.now += 1
                bench.settle()
            assert bench.see(unit) == unit + 1
            assert not bench.kernel.poisoned[unit]
            continue
        assert instruction > 5
        return
    raise AssertionError("a restore of sixty instructions")


# ---- Removal ----


def remove(bench: Bench, unit: int, count: int = 1) -> None:
    """The program gives units up, as madvise does it."""
    for each in range(unit, unit + count):
        bench.table.freed.store(each, 1)
    bench.kernel.remove(unit, count)
    bench.read()
    bench.kernel.remove_on()
    bench.kernel.remove_end(unit, count)


@pytest.mark.parametrize("state", [State.RESIDENT, State.EVICTING, State.REMOTE, State.RESTORING])
def test_what_the_program_gives_up_reads_as_zeros_and_no_holder_keeps_it(state: State) -> None:
    bench = Bench()
    bench.fill()
    if state == State.RESIDENT:
        unit = bench.here()
    elif state == State.EVICTING:
        unit = bench.begin_eviction()
    else:
        unit = bench.away()
        if state == State.RESTORING:
            assert bench.touch(unit, thread="other") is None
    assert bench.table.states[unit] == state
    remove(bench, unit)
    bench.settle()
    assert bench.see(unit) == 0
    assert unit not in bench.remote.pages[0]
    assert bench.table.freed[unit] == 0
    bench.write(unit, 5)
    assert bench.see(unit) == 5


def test_bytes_that_arrive_for_a_page_that_was_given_up_meanwhile_are_never_seen() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    assert bench.touch(unit) is None
    remove(bench, unit)
    assert bench.touch(unit, write=True, thread="next") is None
    assert not bench.kernel.woken("next")  # until it is certain that nothing is written there any more
    bench.answer(kind="get")
    bench.settle()
    assert bench.see(unit) == 0


def test_a_removal_is_done_before_a_touch_that_was_told_with_it() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    bench.kernel.access("main", unit, write=False)
    bench.kernel.remove(unit, 1)
    messages = bench.kernel.read(10)
    assert [kind for kind, _, _ in messages] == ["touch", "remove"]
    bench.kernel.remove_on()
    bench.pager.deliver([(unit, 1)], [(unit, 0)], bench.now)
    assert not [each for each in bench.remote.pending if each.kind == "get"]
    bench.settle()
    assert bench.see(unit) == 0


def test_what_lies_in_the_file_of_a_page_that_was_given_up_is_not_seen() -> None:
    bench = Bench()
    bench.kernel.view(7, 1)[:8] = b"leftover"
    bench.kernel.present[7] = True
    assert bench.kernel.access("main", 7, write=False) is None
    assert bench.see(7) == 0


def test_a_page_that_is_being_given_up_is_not_read_ahead_with_its_old_bytes() -> None:
    """Its message was read, its thread has not removed it yet, and another's stream of first touches gets there."""
    bench = Bench(prefetch=32 * PAGE)
    for unit in range(100, 120):
        bench.write(unit, 7)
    bench.kernel.remove(100, 20)
    bench.read()
    bench.kernel.remove_on()
    for unit in range(90, 99):
        bench.write(unit, 1)
    assert bench.table.states[100] == State.RESIDENT  # zeros, ahead of the stream
    bench.pager.resize(16, bench.now)
    bench.settle()
    assert bench.table.states[100] == State.REMOTE
    bench.kernel.remove_end(100, 20)
    assert [bench.see(unit) for unit in range(100, 120)] == [0] * 20


def test_a_touch_that_waited_for_room_does_not_bring_back_what_was_given_up_meanwhile() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    bench.pager.ledger.limit = bench.pager.ledger.resident
    for thread in ("one", "two"):  # both wait for room
        assert bench.touch(unit, thread=thread) is None
    bench.pager.ledger.limit += 1
    bench.steps()
    bench.answer(kind="get")  # it came for the first; the second still stands in the line
    assert bench.table.states[unit] == State.RESIDENT
    bench.kernel.remove(unit, 1)
    bench.read()
    bench.kernel.remove_on()
    bench.steps()
    assert not any(bench.kernel.view(unit, 1))
    bench.kernel.remove_end(unit, 1)
    bench.settle()
    assert bench.see(unit) == 0


def lose(bench: Bench, fate: Got) -> int:
    """A unit that the program can't have: LOST, or REMOTE and refused."""
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.now += bench.settings.deadline + 0.1
    bench.answer(fate, kind="get")
    with pytest.raises(Bus):
        bench.kernel.access("main", unit, write=False)
    return unit


FATES = pytest.mark.parametrize("fate", [Got.LOST, Got.LATER], ids=["lost", "refused"])


@FATES
def test_what_was_lost_or_refused_is_ordinary_memory_once_the_program_gives_it_up(fate: Got) -> None:
    """The kernel's poison outlives the removal: no message would ever come of that unit again."""
    bench = Bench()
    bench.fill()
    unit = lose(bench, fate)
    remove(bench, unit)
    bench.steps()
    assert bench.see(unit) == 0
    bench.write(unit, 5)
    for other in range(100, 200):
        bench.write(other, 1)
    assert bench.table.states[unit] == State.REMOTE
    assert bench.see(unit) == 5
    assert not bench.table.flags[unit] & Flag.POISONED
    bench.settle()
    ledger = bench.pager.ledger
    counted = ledger.resident, ledger.remote
    ledger.count_again()
    assert counted == (ledger.resident, ledger.remote)


@FATES
def test_an_agent_killed_before_it_has_lifted_the_poison_leaves_that_to_the_next(fate: Got) -> None:
    bench = Bench()
    bench.fill(200)
    unit = lose(bench, fate)
    remove(bench, unit)
    assert bench.kernel.poisoned[unit]
    bench.next_agent()
    bench.settle()
    assert bench.see(unit) == 0


def test_what_is_given_up_without_an_agent_is_lifted_too_though_nothing_behind_it_is_used() -> None:
    bench = Bench()
    bench.fill()
    unit = lose(bench, Got.LOST)
    for each in range(unit, 256):
        bench.table.freed.store(each, 1)
    bench.kernel.remove_end(unit, 256 - unit)
    bench.next_agent()
    assert bench.pager.ledger.top <= unit
    bench.next_agent()
    bench.settle()
    assert bench.see(unit) == 0


@FATES
def test_poison_that_the_program_stood_in_the_way_of_does_not_hit_what_it_has_given_up_meanwhile(fate: Got) -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    assert bench.touch(unit) is None
    bench.kernel.remove(250, 1)  # from now on page tables can't be changed
    bench.now += bench.settings.deadline + 0.1
    bench.answer(fate, kind="get")
    bench.table.freed.store(unit, 1)
    bench.kernel.remove(unit, 1)
    bench.read()
    bench.steps(3)
    bench.kernel.remove_on()
    bench.kernel.remove_on()
    bench.kernel.remove_end(unit, 1)
    bench.settle()
    assert bench.see(unit) == 0


def test_poison_of_what_was_given_up_is_lifted_within_the_limit() -> None:
    """Only a page lifts it: a program that gives up much of what it has lost does not get as much memory at once."""
    bench = Bench(limit=64)
    bench.fill()
    lost = [unit for unit in range(200) if bench.table.states[unit] == State.REMOTE][:100]
    for unit in lost:
        bench.touch(unit, thread=str(unit))
    for _ in range(100):
        bench.answer(Got.LOST, kind="get")
        bench.steps(1)
        bench.answer(kind="put")
    assert [bench.table.states[unit] for unit in lost] == [State.LOST] * 100
    for unit in lost:
        remove(bench, unit)
    for _ in range(100):
        bench.now += 0.1
        bench.settle()
    assert not any(bench.kernel.poisoned)
    assert bench.pager.figures.peak <= 64
    assert [bench.see(unit) for unit in lost] == [0] * 100


def test_poison_is_lifted_though_another_page_must_leave_for_that() -> None:
    bench = Bench(units=8, limit=6, pages=Pages.HUGETLB)
    bench.kernel.room = 4  # less than the limit: there is no pressure but by who waits
    for unit in range(8):
        bench.write(unit, unit + 1)
    bench.settle()
    bench.kernel.room = 1
    unit = lose(bench, Got.LOST)
    bench.settle()
    bench.kernel.room = 0
    assert bench.pager.ledger.resident <= 5
    remove(bench, unit)
    bench.settle()
    assert bench.see(unit) == 0


def test_a_first_touch_that_got_sigbus_for_want_of_memory_can_be_had_when_there_is_some() -> None:
    bench = Bench(units=8, limit=4, pages=Pages.HUGETLB)
    bench.kernel.room = 0
    assert bench.touch(3) is None
    bench.now += bench.settings.deadline + 0.1
    bench.steps(2)
    with pytest.raises(Bus):
        bench.kernel.access("main", 3, write=True)
    bench.kernel.room = 4
    bench.now += 1
    bench.settle()
    bench.write(3, 7)
    assert bench.see(3) == 7


def test_a_part_of_a_huge_page_can_be_given_up_at_home_and_nowhere_else() -> None:
    bench = Bench(units=8, limit=4, pages=Pages.THP)
    for unit in range(8):
        bench.write(unit, unit + 1)
    bench.settle()
    here, away = bench.here(), bench.away()
    for unit in (here, away):
        bench.kernel.queue.append(("remove", unit * 512 + 3, 5))
        bench.read()
    assert bench.table.states[here] == State.RESIDENT
    with pytest.raises(Bus):
        bench.kernel.access("main", away, write=False)


# ---- Takeover ----


def test_a_program_that_writes_after_its_agent_died_keeps_what_it_wrote() -> None:
    """The agent is killed at each instruction of a restore; the program writes as soon as it can."""
    for instruction in range(60):
        bench = Bench()
        bench.fill()
        unit = bench.away()
        assert bench.touch(unit) is None
        bench.killer.left = instruction
        try:
            bench.answer(kind="get")
            bench.killer.left = None
        except Crash:
            page = None if "main" in bench.kernel.threads else bench.kernel.access("main", unit, write=True)
            if page is not None:
                page[:] = b"\7" * PAGE
            bench.next_agent()
            bench.settle()
            assert bench.see(unit) == (unit + 1 if page is None else int.from_bytes(b"\7" * 8, "little"))
            continue
        assert instruction > 3
        return
    raise AssertionError("a restore of sixty instructions")


def test_an_agent_killed_at_any_instruction_of_an_eviction_leaves_nothing_out() -> None:
    for instruction in range(200):
        bench = Bench()
        bench.fill(60)
        bench.pager.ledger.limit = 40
        bench.killer.left = instruction
        try:
            for _ in range(3):
                bench.steps()
                bench.answer()
            bench.killer.left = None
        except Crash:
            bench.next_agent()
            bench.settle()
            assert [bench.see(unit) for unit in range(60)] == list(range(1, 61))
            bench.settle()
            for unit in bench.remote.pages[0]:
                assert bench.table.states[unit] == State.REMOTE
            continue
        assert instruction > 30
        return
    raise AssertionError("an eviction of two hundred instructions")


def test_what_died_half_way_through_dropping_does_not_drop_the_next_bytes() -> None:
    bench = Bench()
    bench.fill()
    unit = bench.away()
    bench.table.flags[unit] |= Flag.DROP  # a flag that outlived its state
    assert bench.see(unit) == unit + 1


def test_a_page_that_was_marked_remote_and_not_punched_is_punched_by_the_next_agent() -> None:
    bench = Bench()
    bench.fill(40)
    unit = bench.begin_eviction()
    bench.remote.apply(bench.remote.choices()[0])
    bench.table.states[unit] = State.REMOTE
    assert bench.kernel.present[unit]
    bench.next_agent()
    assert not bench.kernel.present[unit]
    assert bench.see(unit) == unit + 1


def test_a_removal_whose_message_died_with_an_agent_is_done_by_the_next() -> None:
    bench = Bench()
    bench.fill()
    away, here = bench.away(), bench.here()
    for unit in (away, here, 250):
        bench.table.freed.store(unit, 1)
        bench.kernel.remove(unit, 1)
    assert len(bench.kernel.read(10)) == 3  # and there it dies
    for unit in (away, here, 250):
        bench.kernel.remove_on()
        bench.kernel.remove_end(unit, 1)
    bench.next_agent()
    bench.settle()
    assert [bench.see(unit) for unit in (away, here, 250)] == [0, 0, 0]
    assert away not in bench.remote.pages[0]
    bench.write(250, 3)
    bench.next_agent()
    assert bench.see(250) == 3


# ---- Ahead, and home ----


def test_a_stream_of_touches_is_read_ahead_and_its_next_window_asked_for_in_time() -> None:
    bench = Bench(units=512, prefetch=32 * PAGE)
    bench.fill(400)
    gets = bench.pager.figures.gets
    assert [bench.see(unit) for unit in range(200)] == list(range(1, 201))
    assert bench.pager.figures.prefetched > 150
    assert bench.pager.figures.gets - gets < 60


def test_single_touches_far_apart_read_nothing_ahead() -> None:
    bench = Bench(units=2048, prefetch=32 * PAGE)
    bench.fill(2000)
    prefetched = bench.pager.figures.prefetched
    for unit in (5, 900, 300, 1500, 100, 1200, 700):
        bench.see(unit)
    assert bench.pager.figures.prefetched == prefetched


def test_pages_come_home_steadily_once_there_is_room_and_growth_begins_the_wait_anew() -> None:
    bench = Bench(limit=64, inertia=10.0)
    bench.fill(200)
    bench.pager.ledger.limit = 300
    counts = []

    def wait(seconds: float) -> None:
        for _ in range(int(seconds * 20)):
            bench.now += 0.05
            bench.read()
            bench.steps(2)
            bench.answer()
            counts.append(bench.pager.ledger.remote)

    wait(9)
    assert counts[-1] == counts[0] > 100  # not yet
    bench.pager.ledger.limit = 64
    bench.write(210, 1)
    bench.settle()
    bench.pager.ledger.limit = 300
    wait(9)
    assert counts[-1] > 100  # it grew: the wait has begun anew
    counts.clear()
    wait(1)
    assert bench.see(3) == 4  # every page can be read meanwhile
    wait(30)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0
    assert [bench.see(unit) for unit in range(200)] == list(range(1, 201))
    assert not bench.remote.pages[0]


def test_nothing_comes_home_into_memory_that_the_machine_can_t_spare() -> None:
    bench = Bench(limit=64, inertia=1.0)
    bench.fill(200)
    bench.pager.ledger.limit = 300
    bench.pager.machine(0, can_hide=True)
    bench.now += 100
    bench.settle()
    assert bench.pager.ledger.remote > 100
    bench.pager.machine(1000, can_hide=True)
    for _ in range(100):
        bench.now += 0.2
        bench.settle()
    assert bench.pager.ledger.remote == 0


def test_with_several_targets_a_page_goes_to_the_first_that_accepts_and_is_found_wherever_it_went() -> None:
    bench = Bench(targets=3)
    bench.remote.up = [False, True, True]
    bench.fill(60)
    bench.pager.ledger.limit = 8
    bench.steps()
    assert {each.target for each in bench.remote.pending} == {1}
    bench.remote.up[1] = False
    bench.answer(Put.REFUSED, kind="put")
    bench.steps()
    assert {each.target for each in bench.remote.pending if each.kind == "put"} == {2}
    bench.settle()
    bench.remote.up = [True] * 3
    assert len(bench.remote.pages[2]) > 40
    assert [bench.see(unit) for unit in range(60)] == list(range(1, 61))


def test_a_working_set_is_what_was_used_since_its_recording_began() -> None:
    bench = Bench(units=512, limit=128, prefetch=32 * PAGE)
    bench.fill(400)
    begun: list[int] = []
    bench.pager.record(lambda: begun.append(1), bench.now)
    bench.steps()
    assert begun == [1]
    wanted = [*range(100, 140), *(bench.here() + at for at in range(3))]
    for unit in wanted:
        bench.see(unit)
    used = {unit for unit in range(512) if bench.table.flags[unit] & Flag.USED}
    assert used == set(wanted)
    bench.pager.recorded(bench.now)
    bench.fill(400)
    done: list[int] = []
    bench.pager.bring([(100, 40)], lambda: done.append(1), bench.now)
    bench.pager.ledger.limit = 200
    bench.settle()
    assert done == [1]
    assert all(bench.table.states[unit] == State.RESIDENT for unit in range(100, 140))


def test_hot_pages_stay_when_use_can_be_seen() -> None:
    bench = Bench(units=1024, limit=256, sampling=True)
    hot = range(16)
    bench.fill(200)
    for unit in range(200, 1000):
        bench.write(unit, unit + 1)
        for each in hot:
            bench.see(each)
    figures = bench.pager.figures
    assert figures.restored < 100  # of 16 hot pages in 800 rounds
    assert figures.sampled > 0


def test_a_touch_while_the_program_changes_its_memory_is_served_once_it_has() -> None:
    bench = Bench()
    bench.kernel.remove(100, 1)
    bench.kernel.queue.clear()
    assert bench.touch(3) is None
    bench.steps(3)
    assert not bench.kernel.woken("main") or bench.kernel.access("main", 3, write=False) is None
    bench.kernel.remove_on()
    bench.settle()
    assert bench.see(3) == 0


def test_a_stale_message_about_a_page_that_is_here_only_wakes() -> None:
    bench = Bench()
    bench.write(5, 6)
    for flags in (0, Fault.MINOR, Fault.WP, Fault.WP | Fault.WRITE):
        bench.pager.deliver([], [(5, int(flags))], bench.now)
    assert bench.see(5) == 6
    assert bench.pager.ledger.resident == 1
