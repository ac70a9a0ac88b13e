"""What the program gives up: zeros from then on, whatever was on its way; and poison that is lifted.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

import pytest
from tests.pagers import PAGE, Bus
from tests.unit.agents.pager.core.bench import Bench, lose, remove

from tmem.agents.pager.ports import Got
from tmem.agents.pager.settings import Pages
from tmem.agents.pager.table import Flag, State


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
