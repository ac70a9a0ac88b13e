"""`tmem bench programs` as its user meets it: real programs swap by real ways, wrong output is seen, and nothing is left behind, whatever ends it."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import skip_or_fail
from tests.waiting import wait_until

from tmem.agents.host import loops, swaps
from tmem.agents.host.cgroups import Hierarchy
from tmem.cli.bench_programs.areas import memory_area
from tmem.cli.bench_programs.guard import Guard
from tmem.cli.bench_programs.machine import check
from tmem.cli.bench_programs.programs import Failed
from tmem.cli.bench_programs.ways import no_other_area
from tmem.wire.errors import InvalidOption, MachineUnfit

COMMAND = (sys.executable, "-m", "tmem.cli", "bench", "programs")
# Sizes at which figures say nothing, but everything swaps.
SMALLEST = ("--quick", "--shrink", "1000")
# Ten seconds where nothing else runs; the bound is for where much does.
_RUN_SECONDS = 200.0


@pytest.fixture(scope="module", autouse=True)
def fit() -> None:
    """This machine can be measured, and nobody else swaps."""
    try:
        check()
    except MachineUnfit as error:
        skip_or_fail(str(error))


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Where everything that runs make is, swap files too: a directory with a short name, on the disk if there is one."""
    with tempfile.TemporaryDirectory(prefix="tb-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(autouse=True)
def nothing_left(place: Path) -> Iterator[None]:
    """After every test this machine is as it was."""
    before = things()
    yield
    # Of a run that was killed the guard takes everything back, and nobody waits for it.
    wait_until(lambda: things() == before and not list(place.iterdir()) and not processes(place), 60)


def things() -> dict[str, set[str]]:
    """What runs make of the kernel: swap areas, loop and zram devices, mounts of FUSE, control groups, settings."""
    groups: set[str] = set()
    with suppress(InvalidOption):
        groups = {str(path) for path in Hierarchy.find().root.glob("tmem-bench-*")}
    mounted = Path("/proc/self/mounts").read_text("utf-8").splitlines()
    backings = (loops.backing_of(f"/dev/{path.name}") for path in Path("/sys/block").glob("loop*"))
    return {
        "areas": {area.path for area in swaps.list_areas()},
        "loops": {backing for backing in backings if backing is not None and "tmem-bench" in backing},
        "zram": {path.name for path in Path("/sys/block").glob("zram*")},
        "mounts": {line for line in mounted if "tmem-bench" in line},
        "groups": groups,
        "zswap": {path.read_text("ascii") for path in Path("/sys/module/zswap/parameters").glob("[ce][on]*")},
    }


def processes(place: Path) -> list[str]:
    """Those that were started by runs, directly or not."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"TMPDIR={place}\0".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def environment(place: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")}
    return kept | {"TMPDIR": str(place)} | more


def run(place: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "--disk", str(place), *arguments],
        env=environment(place, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_SECONDS,
        check=False,
    )


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the one large run writes its report."""
    return tmp_path_factory.mktemp("page") / "programs.html"


@pytest.fixture(scope="module")
def report(place: Path, page: Path) -> dict[str, Any]:
    """One run of a program by the agent, the pager and the disk, and of faults."""
    ways = ("--way", "swap", "--way", "pager", "--way", "disk")
    chosen = ("--only", "sort", "--only", "faults", "--share", "80", *ways)
    done = run(place, *SMALLEST, *chosen, "--json", "--report", str(page))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.timeout(_RUN_SECONDS + 60)
class TestFigures:
    def test_a_program_really_swapped_and_all_outputs_are_right(self, report: dict[str, Any]) -> None:
        assert report["not_run"] == {}
        assert report["sort_working_set_bytes"] > 16 << 20
        for way in ("swap", "pager", "disk"):
            assert report[f"sort_{way}_80_pages_in"] > 500, way
            assert report[f"sort_{way}_80_pages_out"] > 1000, way
            assert report[f"sort_{way}_80_faults"] > 20, way
            low, high = report[f"sort_{way}_80_slowdown_spread"]
            assert low <= report[f"sort_{way}_80_slowdown"] <= high
        assert report["sort_wrong_outputs"] == 0
        # Alone: once to load what is on disk, then three times; each way once, the pager twice.
        assert report["sort_runs"] == 8

    def test_faults_are_taken_apart_beside_floor_and_exchange(self, report: dict[str, Any]) -> None:
        for way in ("swap", "disk", "floor"):
            assert 0 < report[f"fault_{way}_p50_us"] <= report[f"fault_{way}_p99_us"]
            assert report[f"fault_{way}_sequential_mib_s"] > 0
        both = report["fault_floor_p50_us"] + report["exchange_p50_us"]
        assert report["fault_rest_us"] == pytest.approx(report["fault_swap_p50_us"] - both, abs=0.01)
        ratio = report["fault_swap_p50_us"] / both
        assert report["fault_to_floor_and_exchange_ratio"] == pytest.approx(ratio, rel=1e-4)
        assert 0 < report["messages_per_mib_sequential"] < report["messages_per_mib_random"] <= 257
        assert report["messages_per_mib_out"] > 0
        assert report["fault_wrong_pages"] == 0

    def test_every_goal_stands_beside_what_was_measured(self, report: dict[str, Any]) -> None:
        assert {key: goal["goal"] for key, goal in report["goals"].items()} == {
            "sort_wrong_outputs": "= 0",
            "fault_wrong_pages": "= 0",
            "fault_to_floor_and_exchange_ratio": "<= 1.25",
            "sequential_to_random_ratio": ">= 3",
        }
        for key, goal in report["goals"].items():
            assert goal["measured"] == report[key]

    def test_it_says_what_it_was_measured_on_and_what_each_way_was(self, report: dict[str, Any], place: Path) -> None:
        assert set(report["machine"]) >= {"cpu", "kernel", "load_average_at_start", "vm_page_cluster", "zswap_enabled"}
        assert "over FUSE" in report["swap_is"]
        assert "a file of" in report["disk_is"]
        assert report["program_cpu"] != report["server_cpu"]

    def test_the_page_needs_nothing_else_and_says_everything(self, report: dict[str, Any], page: Path) -> None:
        text = page.read_text("utf-8")
        assert not re.search(r"http|<(?:script|link|img|iframe|object)\b|@import|xmlns|data:|url\((?!#)", text)
        assert text.count("<svg") == text.count("</svg>") == 2
        for words in ("sort: needs", "The sum", "shrunk to try the command", report["machine"]["kernel"]):
            assert words in text
        assert list(page.parent.iterdir()) == [page]


@pytest.mark.timeout(_RUN_SECONDS + 60)
class TestCommand:
    def test_an_output_that_differs_is_seen_and_is_status_1(self, place: Path, tmp_path: Path) -> None:
        wrong = tmp_path / "sort"
        wrong.write_text('#!/bin/sh\nPATH=${PATH#*:}\nexec sort --reverse "$@"\n', "ascii")
        wrong.chmod(0o755)
        path = f"{tmp_path}:{os.environ['PATH']}"
        done = run(place, *SMALLEST, "--only", "sort", "--way", "floor", "--share", "90", PATH=path)

        assert done.returncode == 1
        assert re.search(r"sort: outputs that differ, of 5: goal = 0, measured 5, MISSED", done.stderr)
        assert "Traceback" not in done.stderr

    def test_what_is_not_installed_is_not_run_and_said_to_be(self, place: Path, tmp_path: Path) -> None:
        done = run(place, *SMALLEST, "--only", "redis", PATH=str(tmp_path))

        assert done.returncode == 0, done.stderr
        assert "redis: not run: redis-server is not installed (apt install redis-server)" in done.stdout
        assert "\x1b" not in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "word"),
        [
            (("--only", "bogus"), "bogus"),
            (("--way", "bogus"), "bogus"),
            (("--share", "101"), "--share"),
            (("--disk", "/nowhere/at/all"), "/nowhere/at/all"),
            (("--report", "/nowhere/at/all/programs.html"), "there is no directory /nowhere/at/all"),
        ],
    )
    def test_wrong_usage_is_status_2(self, place: Path, arguments: tuple[str, ...], word: str) -> None:
        done = run(place, *arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert word in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize(
        ("number", "way"),
        [(signal.SIGINT, "swap"), (signal.SIGTERM, "zram"), (signal.SIGKILL, "swap"), (signal.SIGKILL, "disk")],
    )
    def test_ended_while_a_program_swaps_it_leaves_nothing(
        self, number: signal.Signals, way: str, place: Path, zram_or_skip: Callable[[str], None]
    ) -> None:
        zram_or_skip(way)
        with subprocess.Popen(
            [*COMMAND, "--quick", "--only", "sort", "--way", way, "--share", "50", "--disk", str(place)],
            env=environment(place),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until(lambda: sum(area.used for area in swaps.list_areas()) > 8 << 20, 90)
            process.send_signal(number)
            output, errors = process.communicate(timeout=90)

        assert output == ""
        assert "Traceback" not in errors
        if number == signal.SIGKILL:
            assert process.returncode == -signal.SIGKILL
        else:
            assert process.returncode == 130
            assert errors.endswith("tmem: interrupted\n")
            # It has waited for everything to be gone.
            assert not swaps.list_areas()


def test_an_area_that_comes_or_goes_meanwhile_is_seen() -> None:
    """Pages may have gone there: the figures would be of it, and so would what became of the pages."""
    with Guard() as guard:
        with (
            pytest.raises(Failed, match="came into use meanwhile"),
            no_other_area(frozenset()),
            memory_area(guard, 1 << 20),
        ):
            pass
        with memory_area(guard, 1 << 20):
            own = frozenset(area.path for area in swaps.list_areas())
            with no_other_area(own):
                pass
            with pytest.raises(Failed, match=f"was in use: {next(iter(own))}"), no_other_area(frozenset()):
                pass
            with pytest.raises(Failed, match=r"^broke$"), no_other_area(own):
                raise Failed("broke")


@pytest.fixture
def zram_or_skip() -> Callable[[str], None]:
    from tmem.cli.bench_programs.areas import zram_obstacle

    def look(way: str) -> None:
        if way == "zram" and zram_obstacle():
            skip_or_fail(zram_obstacle())

    return look
