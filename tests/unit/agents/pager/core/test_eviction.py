"""How units leave: punched after they are STORED, kept by a touch, kept where nobody takes them.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

import pytest
from tests.pagers import Bus
from tests.unit.agents.pager.core.bench import Bench

from tmem.agents.pager.ports import Put
from tmem.agents.pager.settings import Pages
from tmem.agents.pager.table import State


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
