"""What an agent leaves that was killed at whatever instruction, and the next one goes on with.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

from tests.pagers import PAGE, Crash
from tests.unit.agents.pager.core.bench import Bench

from tmem.agents.pager.table import Flag, State


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
