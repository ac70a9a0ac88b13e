"""The state table."""

from tmem.agents.pager.table import Flag, State, Table


def test_runs_of_a_state_are_found_and_cut() -> None:
    table = Table(100)
    table.set_states(10, 30, State.REMOTE)
    table.set_states(60, 1, State.REMOTE)
    table.set_states(15, 1, State.LOST)
    assert list(table.runs(State.REMOTE)) == [(10, 5), (16, 24), (60, 1)]
    assert list(table.runs(State.REMOTE, 12, 30, 8)) == [(12, 3), (16, 8), (24, 6)]
    assert table.counts()[State.REMOTE] == table.count(State.REMOTE) == 30
    assert table.state(15) is State.LOST
    table.set_flags(5, 3, Flag.USED)
    table.clear_flags(6, 1, Flag.USED)
    assert [table.flags[unit] for unit in range(4, 9)] == [0, Flag.USED, 0, Flag.USED, 0]
    table.close()
