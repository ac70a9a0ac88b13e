"""Flushes that wait."""

import pytest
from tests.pagers import FakeKernel, FakeRemote, Killer

from tmem.agents.pager.owed import Owed
from tmem.agents.pager.table import State, Table


def test_flushes_wait_a_moment_and_go_together_and_what_is_back_owes_nothing() -> None:
    table = Table(2000)
    kernel = FakeKernel(2000, Killer())
    remote = FakeRemote(kernel, 2)
    owed = Owed(table, remote, 1, 512)
    owed.add(0, 510, 4, now=10.0)
    owed.add(0, 3, 1, now=10.0)
    table.states[512], table.targets[512] = State.EVICTING, 0
    table.states[513], table.targets[513] = State.REMOTE, 1
    assert owed.next_time() == pytest.approx(10.01)
    owed.pay(10.005)
    assert not remote.pending
    owed.pay(10.02)
    assert [(each.page, each.count) for each in remote.pending] == [(3, 1), (510, 2), (513, 1)]
    assert owed.pending == 4
    for each in list(remote.pending):
        remote.answer(each, answer=each.page != 3)
    assert owed.pending == 4  # one of them was not confirmed: all of that message are owed again
    owed.pay(11.0)
    for each in list(remote.pending):
        remote.answer(each)
    assert owed.pending == 0
    assert owed.next_time() == float("inf")
