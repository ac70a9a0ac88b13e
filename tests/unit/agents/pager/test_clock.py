"""Which units go."""

from tmem.agents.pager.clock import Clock
from tmem.agents.pager.table import State, Table


def resident(count: int) -> Table:
    table = Table(count)
    table.set_states(0, count, State.RESIDENT)
    return table


def test_without_sampling_the_hand_spares_what_came_since_its_last_round() -> None:
    table = resident(64)
    clock = Clock(table, run=16, block=16, probation=0)
    clock.came(8, 4)
    assert clock.victims(64, urgent=False) == (0, 8)
    assert clock.victims(64, urgent=False) == (12, 4)
    assert clock.victims(64, urgent=False) == (16, 16)
    for _ in range(2):
        clock.victims(64, urgent=False)
    table.set_states(0, 8, State.REMOTE)
    assert clock.victims(64, urgent=False) == (8, 8)  # its chance is gone


def test_a_hidden_page_that_is_touched_stays_and_one_that_is_not_goes() -> None:
    table = resident(64)
    clock = Clock(table, run=16, block=16, probation=32)
    for _ in range(2):
        run = clock.sample(64)
        assert run is not None
        clock.hidden(*run)
    assert clock.sample(64) is None  # enough are on probation
    assert clock.used(5)
    assert not clock.used(5)
    assert clock.victims(64, urgent=False) == (0, 5)
    assert clock.victims(64, urgent=True) == (6, 10)
    assert clock.victims(64, urgent=True) == (16, 16)


def test_everything_with_a_chance_goes_in_the_end() -> None:
    table = resident(10_000)
    clock = Clock(table, run=16, block=16, probation=0)
    clock.came(0, 10_000)
    found = [clock.victims(10_000, urgent=True) for _ in range(6)]
    assert any(found)


def test_nothing_is_found_where_nothing_is() -> None:
    clock = Clock(Table(100), run=16, block=16, probation=0)
    assert clock.victims(0, urgent=True) is None
    assert clock.victims(100, urgent=True) is None
