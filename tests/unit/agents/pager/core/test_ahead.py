"""What is read ahead, what comes home by itself, which units stay, and where one of several targets has it.

The cases that tmem's conformance asks of a client adapter are here by their sentences; test_simulation has them all at once.
"""

from tests.pagers import PAGE
from tests.unit.agents.pager.core.bench import Bench

from tmem.agents.pager.ports import Fault, Put
from tmem.agents.pager.table import Flag, State


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
