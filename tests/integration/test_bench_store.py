"""`tmem bench store` as its user meets it: every promised figure is there and sane, and nothing is left behind."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import wait_until

from tmem.cli.bench_common.servers import Memcached, Redis, Rival

# Sizes at which figures say nothing, but everything runs.
SMALLEST = ("--quick", "--shrink", "1000")


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")} | more


def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tmem.cli", "bench", "store", *arguments],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run of everything."""
    files = tmp_path_factory.mktemp("files")
    done = run(*SMALLEST, "--json", TMPDIR=str(files))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    assert not list(files.iterdir())
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class TestFigures:
    def test_index_bytes_from_the_accounts_and_from_the_process(self, report: dict[str, Any]) -> None:
        for pattern in ("dense_extents", "dense_in_order", "dense_page_by_page", "dense_random_order"):
            assert 8 < report[f"index_{pattern}_bytes"] <= 32, pattern
            assert report[f"index_{pattern}_resident_bytes"] < 200, pattern
        for pattern in ("lone_blocks", "lone_objects"):
            assert 32 < report[f"index_{pattern}_bytes"] <= 256, pattern
            assert report[f"index_{pattern}_resident_bytes"] < 1000, pattern
        assert report["index_dense_extents_bytes"] < report["index_dense_in_order_bytes"]

    def test_growth_has_rates_at_both_sizes_and_their_ratio(self, report: dict[str, Any]) -> None:
        assert report["growth_few_pages"] < report["growth_many_pages"]
        for what in ("put", "get"):
            assert report[f"growth_{what}_few_pages_s"] > 0
            assert report[f"growth_{what}_many_pages_s"] > 0
            low, high = report[f"growth_{what}_ratio_spread"]
            assert 0 < low <= report[f"growth_{what}_ratio"] <= high

    def test_rivals_hold_the_same_pages(self, report: dict[str, Any], require_tool: Callable[[str], str]) -> None:
        require_tool("memcached")
        require_tool("redis-server")
        assert 0 < report["rivals_pages"] <= 1024
        lz4 = report["rivals_lz4_page_bytes"]
        for name in ("memcached", "redis", "tmem_4k"):
            assert report[f"rivals_{name}_page_bytes"] > 0.9 * lz4, name
        best = min(report["rivals_memcached_page_bytes"], report["rivals_redis_page_bytes"])
        assert report["rivals_4k_ratio"] == pytest.approx(report["rivals_tmem_4k_page_bytes"] / best, rel=1e-3)
        assert report["rivals_extent_ratio"] == pytest.approx(report["rivals_tmem_extent_page_bytes"] / best, rel=1e-3)

    def test_residency_is_over_live_payload(self, report: dict[str, Any]) -> None:
        assert 0 < report["residency_payload_bytes"] < report["residency_plain_bytes"]
        for moment in ("worst", "settled"):
            parts = [report[f"residency_{moment}_{part}_ratio"] for part in ("index", "dead", "unaccounted")]
            assert report[f"residency_{moment}_ratio"] == pytest.approx(1 + sum(parts), abs=1e-3)
        assert report["residency_settled_ratio"] <= report["residency_worst_ratio"]

    def test_latencies_while_cleaning_and_refusing(self, report: dict[str, Any]) -> None:
        for name in ("cleaning_puts_get", "refusal_get"):
            assert report[f"{name}_p99_ratio"] > 0, name
            assert report[f"{name}_p99_us"] > 0, name
        assert "cleaning_idle_get_p99_ratio" in report or "cleaning_idle" in report["not_run"]
        for size in ("page", "extent", "block"):
            assert report[f"refusal_put_{size}_p99_us"] > 0, size
            assert report[f"refusal_put_{size}_refused"] >= 10, size
        assert report["refusal_full_share"] == 1

    def test_weights_are_kept(self, report: dict[str, Any]) -> None:
        for between in ("tenants", "pools"):
            assert 2.5 < report[f"weights_{between}_ratio"] < 3.5, between
            assert 0.5 < report[f"weights_{between}_filled_ratio"] <= 1, between

    def test_nothing_acknowledged_is_lost_in_a_crash(self, report: dict[str, Any]) -> None:
        assert (report["crashes_lost_pages"], report["crashes_wrong_pages"], report["crashes_revived_pages"]) == (
            0,
            0,
            0,
        )
        assert report["crashes_rounds"] >= 2
        assert report["crashes_acknowledged_pages"] > 0
        assert report["crashes_checked_pages"] == (report["crashes_rounds"] + 1) * 8 * 512
        assert (report["recovery_missing_pages"], report["recovery_bad_blocks"]) == (0, 0)
        assert report["recovery_payload_bytes"] >= 2 << 20
        assert 0 < report["recovery_replay_seconds"] < report["recovery_seconds"]

    def test_every_goal_stands_beside_what_was_measured(self, report: dict[str, Any]) -> None:
        goals = report["goals"]
        measured = ("index", "growth", "residency", "cleaning", "refusal", "weights", "crashes", "recovery")
        assert all(any(key.startswith(name) for key in goals) for name in measured)
        for key, goal in goals.items():
            assert goal["measured"] == report[key]
            assert goal["ok"] is ("MISSED" not in goal["text"])
            assert f"goal {goal['goal']}, measured " in goal["text"]


class TestCommand:
    def test_without_json_it_is_tables_with_goals_and_without_escape_codes(self) -> None:
        done = run(*SMALLEST, "--only", "index", "--only", "growth")

        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "<= 32" in done.stdout
        assert ">= 0.9" in done.stdout
        assert "residency" not in done.stdout
        assert "goals are met" in done.stdout

    def test_a_rival_that_is_not_installed_is_said_to_be(self, tmp_path: Path) -> None:
        done = run(*SMALLEST, "--only", "rivals", "--json", PATH=str(tmp_path))

        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert report["not_run"] == {
            "rivals_memcached": "not run: memcached is not installed",
            "rivals_redis": "not run: redis-server is not installed",
        }
        assert report["rivals_tmem_4k_page_bytes"] > 0
        assert "rivals_4k_ratio" not in report

    @pytest.mark.parametrize("arguments", [("--only", "bogus"), ("--shrink", "0"), ("--target", "127.0.0.1:1")])
    def test_wrong_usage_is_status_2(self, arguments: tuple[str, ...]) -> None:
        done = run(*arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr

    def test_help_names_every_measurement(self) -> None:
        done = run("--help")

        assert (done.returncode, done.stderr) == (0, "")
        for name in ("index", "growth", "rivals", "residency", "cleaning", "refusal", "weights", "crashes", "recovery"):
            assert name in done.stdout

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("measurement", ["weights", "growth", "residency"])
    def test_interrupted_it_leaves_no_process_and_no_file(
        self, number: signal.Signals, measurement: str, tmp_path: Path
    ) -> None:
        with subprocess.Popen(
            [sys.executable, "-m", "tmem.cli", "bench", "store", "--quick", "--only", measurement],
            env=environment(TMPDIR=str(tmp_path)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            wait_until(lambda: children(process.pid))
            started = children(process.pid)
            process.send_signal(number)
            output, errors = process.communicate(timeout=60)

        assert (process.returncode, output) == (130, "")
        assert "Traceback" not in errors
        assert errors.endswith("tmem: interrupted\n")
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
        assert not list(tmp_path.iterdir())


def children(pid: int) -> set[int]:
    """The helpers and daemons that a process has started, and that are there."""
    found = set()
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, task.read_text("ascii").split()):
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{child}/cmdline").read_bytes()
                # Not what loading a library runs, nor a fork that is still us.
                if b"tmem." in command and b"tmem.cli\0bench" not in command:
                    found.add(child)
    return found


@pytest.mark.parametrize("kind", [Memcached, Redis])
def test_a_rival_takes_values_of_every_length_and_ends(
    kind: type[Rival], tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str], tmp_path: Path
) -> None:
    if kind is Memcached:
        require_tool("memcached")
    else:
        require_tool("redis-server")
    directory = tmp_path if len(str(tmp_path)) < 70 else tmp_path_factory.mktemp("r")
    with kind(directory, 64) as rival:
        pid = rival.pid
        rival.set((b"7:%d" % number, bytes(number)) for number in range(1, 1000))
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}").exists()
    assert shutil.which(kind.command) is not None
