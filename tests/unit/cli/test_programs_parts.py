"""The parts of `tmem bench programs` that need no root: inputs, outputs, the order of runs, the guard, tables, plots and the page."""

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.waiting import wait_until

from tmem.agents.host.machine import Machine
from tmem.agents.host.processes import Identity
from tmem.cli.bench_common.figures import Report
from tmem.cli.bench_programs import areas, keyvalue, plots, slowdown, tables, touch_work
from tmem.cli.bench_programs.guard import Guard
from tmem.cli.bench_programs.machine import check
from tmem.cli.bench_programs.page import page
from tmem.cli.bench_programs.programs import (
    TOO_LONG,
    Done,
    Failed,
    NoMemory,
    Wanted,
    describe_status,
    missing_command,
    run_to_end,
)
from tmem.cli.bench_programs.rig import Series, Sizes
from tmem.cli.bench_programs.sorting import Sort
from tmem.cli.bench_programs.sqlite_work import rows
from tmem.cli.bench_programs.undo import undo
from tmem.cli.bench_programs.ways import Memory, Paged
from tmem.wire.errors import MachineUnfit

MIB = 1 << 20


# ---- Programs ----


class Process:
    """A program that runs without any limit: what a way hands to it."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        self.pid = self._process.pid

    def wait(self, seconds: float) -> int | None:
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        return 128 - status if status < 0 else status

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


@contextmanager
def start(command: list[str]) -> Iterator[Process]:
    process = Process(command)
    try:
        yield process
    finally:
        process.end()


def test_the_digest_is_of_all_that_came_out_however_much_it_is():
    done = run_to_end(start, ["head", "-c", "3000000", "/dev/zero"], 20)

    assert done.digest == hashlib.sha256(bytes(3_000_000)).hexdigest()
    assert done.seconds > 0


@pytest.mark.parametrize(
    ("command", "seconds", "words"),
    [
        (["sh", "-c", "exit 3"], 20, "ended with status 3"),
        (["sh", "-c", "kill -SEGV $$"], 20, "killed by SIGSEGV"),
        (["sleep", "100"], 0.1, TOO_LONG),
    ],
)
def test_a_run_that_comes_to_nothing_says_how(command, seconds, words):
    with pytest.raises(Failed, match=f"^{words}$"):
        run_to_end(start, command, seconds)


def test_statuses_and_missing_commands_in_words():
    assert describe_status(1) == "ended with status 1"
    assert describe_status(128 + signal.SIGBUS) == "killed by SIGBUS"
    assert missing_command("sh", "dash") == ""
    assert missing_command("no-such-command", "package") == "no-such-command is not installed (apt install package)"


def test_sort_is_given_lines_and_what_must_come_out_is_known_without_it():
    sort = Sort()
    with sort.prepared(Wanted(MIB, 0)):
        assert sort.run(start, 20).digest == sort.expected
        # Twice, from the start of its input each time.
        assert sort.run(start, 20).digest == sort.expected
        assert sort.expected


def test_inputs_are_the_same_every_time_and_no_two_values_are():
    values = list(keyvalue._values(500))
    assert values == list(keyvalue._values(500))
    assert len(set(values)) == 500
    # A request that writes the first character anew changes nothing.
    assert {(len(value), value[:1]) for value in values} == {(1024, keyvalue._FIRST)}
    assert list(rows(200)) == list(rows(200))
    assert len({name for _, name, _ in rows(200)}) == 200
    pages = [touch_work.page(number) for number in range(50)]
    assert len(set(pages)) == 50
    assert {len(each) for each in pages} == {touch_work.PAGE_BYTES}
    assert touch_work.page(7) == pages[7]


# ---- Sizes and shares ----


def test_shrunk_sizes_stay_large_enough_to_measure_at_all():
    sizes = Sizes.quick().shrunk(10_000)
    assert (sizes.work, sizes.touched) == (24 * MIB, 16 * MIB)
    assert min(sizes.queries, sizes.touches, sizes.gets) >= 100
    assert min(sizes.rounds, sizes.touch_rounds) == 1
    assert Sizes().shrunk(1) == Sizes()


def test_what_the_pager_may_keep_is_the_share_less_what_it_can_not_take():
    way = Paged.__new__(Paged)
    assert way.limit_for(64 * MIB, working_set=128 * MIB, far=120 * MIB) == 56 * MIB
    with pytest.raises(Failed, match="small allocations alone"):
        way.limit_for(32 * MIB, working_set=128 * MIB, far=90 * MIB)


# ---- The order of runs ----


class Way:
    """A way whose runs a test tells: each is a digest, or what is raised."""

    title = words = "a way"

    def __init__(self, name: str, told: dict[int | None, list[str | Exception]]) -> None:
        self.name = name
        self.told = told
        self.limits: list[int | None] = []

    def obstacle(self, program: Any) -> str:
        return ""

    @contextmanager
    def ready(self) -> Iterator[None]:
        yield

    def run(self, program: Any, limit: int | None, seconds: float) -> tuple[Done, Memory]:
        self.limits.append(limit)
        told = self.told[limit]
        found = told.pop(0) if len(told) > 1 else told[0]
        if isinstance(found, Exception):
            raise found
        return Done(2.0 if limit else 1.0, found), Memory(100 * MIB, 3, 2, 1)


class Program:
    """A program whose right output is known."""

    name = title = "program"
    expected = "right"

    def obstacle(self) -> str:
        return ""

    @contextmanager
    def prepared(self, wanted: Wanted) -> Iterator[None]:
        yield


def measure(monkeypatch: pytest.MonkeyPatch, way: Way, **sizes: Any) -> Any:
    rig = SimpleNamespace(
        sizes=Sizes(**({"rounds": 1} | sizes)), report=Report(), series=Series(), say=lambda what: None
    )
    rig.report.begin("program")
    monkeypatch.setattr(slowdown, "plain", lambda rig: Way("alone", {None: ["right"]}))
    slowdown.measure(rig, Program(), [way])  # type: ignore[arg-type, list-item]
    return rig


def limit(share: int) -> int:
    return 100 * MIB * share // 100 // 4096 * 4096


def test_each_share_of_the_working_set_is_run_and_compared_with_alone(monkeypatch):
    way = Way("w", {limit(share): ["right"] for share in (100, 75, 50, 25)})
    rig = measure(monkeypatch, way, rounds=2)
    found = rig.report.json()

    assert way.limits == 2 * [limit(100), limit(75), limit(50), limit(25)]
    assert rig.series.slowdowns == {"program": {"w": {share: [2.0, 2.0] for share in (100, 75, 50, 25)}}}
    assert (found["program_working_set_bytes"], found["program_alone_seconds"]) == (100 * MIB, 1)
    assert (found["program_w_50_faults"], found["program_w_50_pages_in"], found["program_w_50_pages_out"]) == (3, 2, 1)
    # Alone once to warm up, and three times in each round.
    assert (found["program_runs"], found["program_wrong_outputs"]) == (7 + 8, 0)
    assert not rig.report.broken


def test_an_output_that_differs_is_a_broken_goal(monkeypatch):
    rig = measure(monkeypatch, Way("w", {limit(50): ["wrong"]}), shares=(50,))
    assert rig.report.json()["program_wrong_outputs"] == 1
    assert [str(figure) for figure in rig.report.broken] == [
        "program: outputs that differ, of 5: goal = 0, measured 1, MISSED"
    ]


def test_a_run_killed_for_want_of_memory_is_tried_again_and_told(monkeypatch):
    rig = measure(monkeypatch, Way("w", {limit(50): [NoMemory("x"), NoMemory("x"), "right"]}), shares=(50,))
    found = rig.report.json()
    assert (found["program_w_50_kills"], found["program_w_50_slowdown"], found["not_run"]) == (2, 2, {})
    (table,) = tables.program_tables(rig)
    assert "a way, 50 %, runs killed for want of memory and tried again: 2." in table.notes


def test_after_a_share_that_can_not_be_run_less_is_not_tried_and_later_rounds_keep_to_it(monkeypatch):
    told: dict[int | None, list[str | Exception]] = {limit(75): ["right"], limit(50): [Failed("broke")]}
    way = Way("w", told)
    rig = measure(monkeypatch, way, shares=(25, 50, 75), rounds=2)
    found = rig.report.json()

    assert way.limits == [limit(75), limit(50), limit(75)]
    assert found["not_run"] == {"program_w_50": "not run: program, a way, 50 %: broke"}
    assert "program_w_75_slowdown" in found
    assert "program_w_25_slowdown" not in found


def test_a_program_that_does_not_even_run_alone_is_not_run(monkeypatch):
    rig = SimpleNamespace(sizes=Sizes(), report=Report(), series=Series(), say=lambda what: None)
    rig.report.begin("program")
    monkeypatch.setattr(slowdown, "plain", lambda rig: Way("alone", {None: [Failed(TOO_LONG)]}))
    slowdown.measure(rig, Program(), [])  # type: ignore[arg-type]
    assert rig.report.not_run == {"program": f"not run: program, alone with all the memory that it wants: {TOO_LONG}"}


# ---- The machine ----


def test_without_root_and_with_swap_areas_of_its_own_it_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(MachineUnfit, match="takes root"):
        check(Machine(capabilities=0))
    table = tmp_path / "swaps"
    table.write_text("Filename Type Size Used Priority\n/dev/sda2 partition 1024 0 -2\n", "ascii")
    machine = Machine(capabilities=-1)
    if machine.hierarchy() is not None:
        with pytest.raises(MachineUnfit, match=r"swaps to /dev/sda2.*swapoff"):
            check(machine, table)


def test_a_disk_is_named_and_memory_is_no_disk(tmp_path):
    device = tmp_path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(f"1 0 0:1 / /proc rw - proc proc rw\n2 0 {number} / / rw shared:1 - ext4 /dev/sda1 rw\n", "ascii")
    queue = tmp_path / "dev" / "block" / number / "queue"
    queue.mkdir(parents=True)
    (queue / "rotational").write_text("0\n", "ascii")
    assert areas.describe_disk(tmp_path, table, tmp_path) == (
        "ext4",
        "ext4 on /dev/sda1 (one that does not turn, it says)",
    )
    assert areas.describe_disk(tmp_path, table, tmp_path / "nothing") == ("ext4", "ext4 on /dev/sda1")
    assert "name a directory on a disk with --disk" in areas.disk_obstacle(Path("/dev/shm"))


def test_zswap_is_put_back_as_it_was(tmp_path):
    (tmp_path / "enabled").write_text("N\n", "ascii")
    (tmp_path / "compressor").write_text("lzo\n", "ascii")
    with Guard() as guard:
        with areas.zswap_set(guard, on=True, parameters=tmp_path) as words:
            assert words == "zswap with lz4"
            assert areas.zswap_on(tmp_path)
        assert not areas.zswap_on(tmp_path)
        assert (tmp_path / "compressor").read_text("ascii") == "lzo"
    assert areas.zswap_obstacle(tmp_path / "nothing") == "the kernel has no zswap"


# ---- The guard ----

_RUN = """
import sys, time
from tmem.cli.bench_programs.guard import Guard
with Guard() as guard, guard.made("tree", sys.argv[1]), guard.made("file", sys.argv[2]), guard.made("setting", sys.argv[3], "before"):
    print("made", flush=True)
    time.sleep(100)
"""


def test_what_a_killed_run_has_made_is_taken_back_the_last_first(tmp_path):
    tree, file, setting = tmp_path / "tree", tmp_path / "tree" / "file", tmp_path / "setting"
    tree.mkdir()
    file.touch()
    setting.write_text("after", "ascii")
    command = [sys.executable, "-c", _RUN, str(tree), str(file), str(setting)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "made\n"
        process.kill()
    wait_until(lambda: not tree.exists())
    assert setting.read_text("ascii") == "before"


def test_what_is_gone_or_is_another_s_by_now_is_left_alone(tmp_path):
    undo("file", str(tmp_path / "nothing"))
    undo("tree", str(tmp_path / "nothing"))
    undo("area", "/dev/nothing", "")
    undo("device", str(tmp_path), "nothing")
    undo("zram", 4_000_000)
    identity = Identity.of(os.getpid())
    # Another process with the same number.
    undo("process", identity.pid, identity.started + 1)


# ---- The report ----


def rig_with_figures() -> Any:
    report = Report()
    series = Series(
        slowdowns={
            "sort": {"swap": {75: [2.0, 2.2, 2.4], 50: [4.0, 4.4, 4.2]}, "disk": {75: [3.0] * 3, 50: [8.0, 8.8, 8.4]}},
            "redis": {"swap": {50: [1.5, 1.6, 1.7]}},
        },
        latencies={"tmem, swap agent": [80.0, 90.0, 200.0], "a bare exchange": [30.0, 31.0, 60.0]},
    )
    for name in series.slowdowns:
        report.begin(name)
        report.add(f"{name}_working_set_bytes", "working set", 128 * MIB)
        report.add_rounds(f"{name}_alone_seconds", "alone", [1.0, 1.1, 1.2])
        report.add(f"{name}_runs", "runs", 12)
        report.add(f"{name}_wrong_outputs", "outputs that differ", 0)
    report.skip("redis-server takes <small> pieces", "pager")
    report.begin("faults")
    for key in (
        *("fault_floor_p50_us", "exchange_p50_us", "fault_rest_us", "fault_swap_p50_us", "agent_in_hand_us"),
        *("agent_exchange_us", "messages_per_mib_random", "messages_per_mib_sequential", "messages_per_mib_out"),
    ):
        report.add(key, key, len(key))
    machine = {"cpu": "a CPU", "cores": 2, "kernel": "Linux 9", "load_average_at_start": [0.1, 0.2, 0.3]}
    report.about |= {"machine": machine, "quick": True, "shrink": 1, "swap_is": "/dev/loop9 over FUSE"}
    report.about |= {"program_cpu": 1, "agent_cpu": 0, "server_cpu": 0}
    for name in report.figures:
        report.about |= {f"{name}_load_average": 0.5, f"{name}_measured_in_seconds": 3.0}
    return SimpleNamespace(report=report, series=series, program_cpu=1, agent_cpu=0, server_cpu=0)


def test_half_of_the_working_set_is_one_table_with_the_disk_beside_the_agent():
    table = tables.half_table(rig_with_figures())
    assert table.columns == ["", "tmem, swap agent", "swap file on disk", "swap agent / disk"]
    assert table.rows == [
        ["sort", "4.20 (4 .. 4.40)", "8.40 (8 .. 8.80)", "0.5 (0.5 .. 0.5)"],
        ["redis", "1.60 (1.50 .. 1.70)", "-", "-"],
    ]


def test_the_page_has_everything_and_needs_nothing():
    text = page(rig_with_figures())

    assert "http" not in text
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import|xmlns|data:", text)
    assert not re.findall(r"url\((?!#)", text)
    assert text.count("<svg") == text.count("</svg>") == 2
    for words in (
        *("Figures are of this run on this machine", "a quick run, so figures are rough", "/dev/loop9 over FUSE"),
        *("swap agent / disk", "sort: needs 128 MiB", plots.SLOWDOWN_TITLE, plots.WAITS_TITLE, "The sum"),
        *("takes &lt;small&gt; pieces", "a CPU, 2 cores, Linux 9"),
    ):
        assert words in text, words


def test_a_page_of_a_run_that_found_little_has_no_empty_tables_and_plots():
    rig = rig_with_figures()
    rig.series = Series()
    rig.report.figures = {"faults": []}
    text = page(rig)

    assert "<svg" not in text
    assert "The sum" not in text
    assert tables.program_tables(rig) == []
    assert not tables.half_table(rig).rows


def test_the_same_series_has_the_same_plots():
    series = rig_with_figures().series
    assert plots.draw_slowdowns(series) == plots.draw_slowdowns(series)
    ((title, drawn),) = plots.draw_slowdowns(series)
    assert title == plots.SLOWDOWN_TITLE
    for words in ("sort", "redis", "tmem, swap agent", "swap file on disk"):
        assert f">{words}<" in drawn
    assert ">zram<" not in drawn
