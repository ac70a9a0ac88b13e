"""The parts of the pager that are small enough to be told in a few lines each."""

import ast
import json
import os
import random
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from tests.pagers import FakeKernel, FakeRemote, Killer

from tmem.agents.pager import control, latencies, shim
from tmem.agents.pager.clock import Clock
from tmem.agents.pager.homecoming import Homecoming
from tmem.agents.pager.launch import Descriptors, read_arguments
from tmem.agents.pager.ledger import Figures
from tmem.agents.pager.owed import Owed
from tmem.agents.pager.region import PoolKey, Region
from tmem.agents.pager.settings import Pages, Settings, Target, default_prefetch
from tmem.agents.pager.stride import Strides
from tmem.agents.pager.table import Flag, State, Table
from tmem.agents.pager.workingset import read_runs, write_runs
from tmem.wire.errors import Closed, DeadlineExceeded, InvalidOption, Unauthenticated

MIB = 1 << 20
CORE = (
    *(
        "ahead",
        "clock",
        "core",
        "evictions",
        "fetches",
        "homecoming",
        "latencies",
        "ledger",
        "owed",
        "ports",
        "recorder",
    ),
    *("settings", "stride", "table", "takeover"),
)


def test_the_core_imports_nothing_that_does_io_or_reads_a_clock() -> None:
    for name in CORE:
        tree = ast.parse(shim.SOURCE.with_name(f"{name}.py").read_text("utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in CORE, f"{name} imports {node.module}"
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            forbidden = {"ctypes", "fcntl", "os", "select", "signal", "socket", "subprocess", "threading", "time"}
            assert not forbidden & {each.partition(".")[0] for each in names}, f"{name}: {names}"


def settings(**changes: Any) -> Settings:
    options: dict[str, Any] = {
        "size": 8 * MIB,
        "resident": MIB,
        "targets": (Target("a:1"), Target("b:2", "t")),
        "name": "n",
    }
    return Settings(**options | changes)


# ---- Table ----


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


def test_what_one_process_writes_into_a_region_s_file_the_next_one_finds() -> None:
    first = Region.create(settings(), 0, 0)
    try:
        first.place(0x7F00_0000_0000, 4711)
        first.table.set_states(7, 2, State.REMOTE)
        first.table.sequences[7] = 0xFFFF_FFFF
        assert first.key(1) is None
        first.set_key(1, PoolKey("far-1", b"t" * 64, 1 << 63))
        first.note_agent(99)
        first.note_beat()
        first.note_accepting(2)
        first.write_figures(Figures(evicted=5, takeovers=3))
        latencies.note(first.latencies, 0.001)
        second = Region(first.descriptor)
        assert second.settings == settings()
        assert (second.base, second.pid, second.agent, second.starts) == (0x7F00_0000_0000, 4711, 99, 1)
        assert (second.beat, second.accepting) == (1, 2)
        assert second.table.states[8] == State.REMOTE
        assert second.key(1) == PoolKey("far-1", b"t" * 64, 1 << 63)
        assert second.key(0) is None
        assert second.read_figures()["evicted"] == 5
        assert sum(second.latencies) == 1
        # `freed` is where who maps it alone is told.
        os.pwrite(first.descriptor, b"\1", first.freed_at + 9)
        assert second.table.freed[9] == 1
        for region in (first, second):
            region.close()
    finally:
        os.close(first.descriptor)


@pytest.mark.parametrize("pages", Pages)
def test_settings_survive_their_encoding_and_know_their_units(pages: Pages) -> None:
    made = settings(pages=pages, resident=8 * MIB)
    assert Settings.decode(made.encode()) == made
    assert made.unit == (4096 if pages is Pages.BASE else 2 * MIB)
    assert made.units * made.unit == made.size
    assert made.kernel_page == (2 * MIB if pages is Pages.HUGETLB else 4096)
    assert default_prefetch(pages) >= made.unit


def test_descriptors_survive_a_command_line() -> None:
    made = Descriptors(3, 4, 5, 6, 7)
    assert read_arguments("agent", made.arguments()) == made
    assert made.numbers() == (3, 4, 5, 6, 7)


# ---- Control ----


def test_a_request_is_asked_again_until_somebody_does_it() -> None:
    ours, agents = control.pair()
    with ours, agents:
        caller = control.Caller(ours)
        with pytest.raises(DeadlineExceeded, match="'record'"):
            caller.call(0.05, do="record")
        assert control.read(agents) == {"do": "record", "id": 1}
        assert control.read(agents) is None
        control.send(agents, {"id": 1})  # too late
        control.send(agents, {"id": 2, "more": 3})
        assert caller.call(5, do="limit", units=7)["more"] == 3
        assert control.read(agents) == {"do": "limit", "units": 7, "id": 2}


def test_who_waits_is_told_that_nobody_is_there_any_more() -> None:
    ours, agents = control.pair()
    with ours:
        agents.close()
        with pytest.raises(Closed):
            control.Caller(ours).call(5, do="record")


def test_the_first_agent_s_failure_is_raised_as_what_it_was() -> None:
    for word, error in (("Unauthenticated", Unauthenticated), ("os", Exception), ("Exception", Exception)):
        ours, agents = control.pair()
        with ours, agents:
            control.send(agents, {"event": "failed", "error": word, "message": "who are you"})
            with pytest.raises(error, match="who are you"):
                control.Caller(ours).await_ready(5)
    ours, agents = control.pair()
    with ours, agents:
        with pytest.raises(DeadlineExceeded):
            control.Caller(ours).await_ready(0.01)
        control.send(agents, {"event": "ready"})
        control.Caller(ours).await_ready(5)


def test_the_most_runs_that_are_sent_at_once_fit_into_a_message() -> None:
    ours, agents = control.pair()
    with ours, agents:
        agents.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        runs = [(4_000_000_000, 4_000_000_000)] * control.MAX_RUNS
        control.send(ours, {"id": 1, "do": "bring", "runs": runs})
        read = control.read(agents)
        assert read is not None
        assert len(read["runs"]) == control.MAX_RUNS
    assert len(json.dumps({"id": 1 << 60, "do": "bring", "runs": runs})) < 1 << 16


# ---- Clock ----


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


# ---- Strides ----


def touches(strides: Strides, *units: int) -> list[int]:
    """What is read ahead of these touches."""
    ahead: list[int] = []
    for unit in units:
        window = strides.note(unit, missed=unit not in ahead)
        ahead += window.units if window is not None else ()
    return ahead


@pytest.mark.parametrize("step", [1, -1, 2, 7, -16])
def test_a_stream_is_seen_whatever_its_step(step: int) -> None:
    begin = 5000
    ahead = touches(Strides(10_000, 32), *(begin + step * at for at in range(30)))
    assert ahead[:3] == sorted(ahead[:3], reverse=step < 0)
    assert {(unit - begin) % step for unit in ahead} == {0}
    assert len(set(ahead)) == len(ahead) > 20


def test_streams_in_between_each_other_are_told_apart() -> None:
    strides = Strides(100_000, 16)
    ahead = touches(strides, *(base + at for at in range(12) for base in (100, 20_000, 50_000, 90_000)))
    assert {unit // 10_000 for unit in ahead} == {0, 2, 5, 9}


def test_a_window_ends_with_the_region_and_grows_to_its_limit() -> None:
    strides = Strides(100, 16)
    ahead = touches(strides, *range(100))
    assert max(ahead) == 99
    assert min(touches(Strides(100, 16), *range(99, -1, -1))) == 0
    windows = []
    strides = Strides(100_000, 16)
    for unit in range(2000):
        window = strides.note(unit, missed=False)
        if window is not None:
            windows.append(window.length)
            assert window.marker in window.units
    assert windows[:3] == [4, 8, 16]
    assert max(windows) == 16


def test_what_wanders_is_no_stream() -> None:
    chance = random.Random(1)
    ahead = touches(Strides(1 << 20, 64), *(chance.randrange(1 << 20) for _ in range(2000)))
    assert len(ahead) < 50
    assert touches(Strides(100, 0), *range(50)) == []
    assert touches(Strides(100, 16), *([7] * 10)) == []


# ---- Owed, home ----


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


def test_home_after_the_inertia_in_portions_that_end() -> None:
    home = Homecoming(10.0, 16, now=0.0)
    assert home.due(1000, 1000, 9.9) == 0
    assert home.due(1000, 1000, 10.0) == 62
    assert home.due(1000, 1000, 10.05) == 0
    assert home.due(938, 5, 10.1) == 5
    assert home.due(20, 1000, 10.2) == 16
    assert home.due(4, 1000, 10.3) == 4
    home.grew(10.3)
    assert home.due(100, 1000, 20.2) == 0
    assert home.due(100, 1000, 20.3) == 16
    assert home.next_time(0) == float("inf")
    assert home.due(100, 0, 40.0) == 0


# ---- Figures on paper ----


def test_a_working_set_is_written_whole_and_read_back_and_nonsense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write_runs(path, [(0, 4096), (1 << 40, 8192)])
    assert list(read_runs(path)) == [(0, 4096), (1 << 40, 8192)]

    def breaks() -> Any:
        yield (0, 1)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_runs(path, breaks())
    assert list(read_runs(path)) == [(0, 4096), (1 << 40, 8192)]
    assert [each.name for each in tmp_path.iterdir()] == ["set"]
    for text in (
        "",
        "something else\n",
        "tmem working set 1\n1 2 3\n",
        "tmem working set 1\n-1 2\n",
        "tmem working set 1\nx y\n",
    ):
        path.write_text(text, "ascii")
        with pytest.raises(InvalidOption):
            list(read_runs(path))


def test_quantiles_are_right_to_a_fifth_at_any_scale() -> None:
    chance = random.Random(1)
    for scale in (3e-6, 1e-4, 0.01, 2.0):
        buckets = [0] * latencies.BUCKETS
        values = sorted(scale * chance.lognormvariate(0, 1) for _ in range(4000))
        for value in values:
            latencies.note(buckets, value)
        for part in (0.5, 0.99):
            found = latencies.quantile(buckets, part)
            assert found is not None
            assert 0.65 < found / values[int(part * 4000)] < 1.5
    assert latencies.quantile([0] * latencies.BUCKETS, 0.5) is None
    buckets = [0] * latencies.BUCKETS
    for value in (0.0, 1e9):
        latencies.note(buckets, value)
    assert sum(buckets) == 2


# ---- The shim ----


def test_the_shim_is_built_once_and_without_a_compiler_the_message_says_what_to_do(
    tmp_path: Path, require_tool: Any
) -> None:
    require_tool("gcc")
    with pytest.raises(InvalidOption, match="install it"):
        shim.build(tmp_path / "one", compiler="no-such-compiler")
    built = shim.build(tmp_path / "one")
    assert built.read_bytes()[:4] == b"\x7fELF"
    before = built.stat().st_mtime_ns
    assert shim.build(tmp_path / "one", compiler="no-such-compiler") == built
    assert built.stat().st_mtime_ns == before
    assert list((tmp_path / "one").iterdir()) == [built]
    with pytest.raises(InvalidOption, match="can't be built"):
        shim.build(tmp_path / "two", compiler="false")


def test_the_shim_and_the_runner_speak_of_the_same_structures() -> None:
    from tmem.agents.pager import paging

    source = shim.SOURCE.read_text("utf-8")
    offer = source[source.index("struct offer {") :]
    fields = offer[offer.index("uint64_t") : offer.index(";")].removeprefix("uint64_t").split(",")
    assert [field.strip() for field in fields] == ["version", "size", "unit", "least", "features", "freed_at"]
    assert paging._OFFER.size == struct.calcsize("=6Q") == 8 * len(fields)
    assert f"VERSION = {paging._VERSION} " in source
