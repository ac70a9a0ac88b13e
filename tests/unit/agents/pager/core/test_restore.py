"""How units come back: once for all who wait, within a deadline, or as SIGBUS and never as other bytes.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

import pytest
from tests.pagers import Bus, Crash
from tests.unit.agents.pager.core.bench import Bench, refuse

from tmem.agents.pager.ports import Got
from tmem.agents.pager.settings import Pages
from tmem.agents.pager.table import Flag, State


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
