"""The command `tmem` as its user meets it: a process, its output, its exit status."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tmem.client
from tmem.client.testing import CaptiveDaemon

COMMANDS = ["ping", "pools", "stat", "explain", "destroy", "demo", "bench", "doctor"]
PAGE = bytes(range(256)) * 16
Run = Callable[..., subprocess.CompletedProcess[str]]


def environment(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")} | more


def run(*arguments: str, target: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tmem.cli", *arguments],
        env=environment(**more) | ({"TMEM_TARGET": target} if target else {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope="module")
def server() -> Iterator[CaptiveDaemon]:
    """A daemon that this module's commands look at."""
    with CaptiveDaemon() as daemon:
        yield daemon


@pytest.fixture
def there(server: CaptiveDaemon) -> Run:
    """Runs a command against it."""
    return lambda *arguments, **more: run(*arguments, target=server.target, TMEM_METRICS=server.metrics_url, **more)


def figures(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON value that a command printed."""
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def closed_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


class TestHelp:
    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, command: str) -> None:
        done = run(command, "--help")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: ")
        assert "--target" in done.stdout
        assert "--json" in done.stdout

    def test_all_commands_are_listed(self) -> None:
        listed = run("--help").stdout
        assert all(f"\n  {command} " in listed for command in COMMANDS)

    @pytest.mark.parametrize(
        "arguments",
        [("bogus",), ("ping", "--bogus"), ("ping", "--count", "0"), ("destroy",), ("ping", "--target", "nowhere")],
    )
    def test_wrong_usage_is_status_2_and_no_traceback(self, arguments: tuple[str, ...]) -> None:
        done = run(*arguments)

        assert (done.returncode, done.stdout) == (2, "")
        assert "Traceback" not in done.stderr


class TestTheWayThere:
    def test_the_flag_wins_over_the_environment(self, server: CaptiveDaemon, closed_port: int) -> None:
        done = run("ping", "--json", "--target", server.target, target=f"127.0.0.1:{closed_port}")
        assert figures(done)["target"] == server.target

    @pytest.mark.parametrize("command", [("ping",), ("pools",), ("stat",), ("destroy", "--yes", "a")])
    def test_a_server_that_is_not_there_is_one_line_and_status_3(
        self, command: tuple[str, ...], closed_port: int
    ) -> None:
        done = run(*command, "--target", f"127.0.0.1:{closed_port}")

        assert (done.returncode, done.stdout) == (3, "")
        assert done.stderr.count("\n") == 1
        assert f"127.0.0.1:{closed_port}" in done.stderr

    def test_a_token_by_file_or_environment(self, start_daemon: Callable[..., CaptiveDaemon], tmp_path: Path) -> None:
        tokens, mine = tmp_path / "tokens.toml", tmp_path / "mine"
        tokens.write_text('[tenants.alice]\ntokens = ["a-token-of-alice-0001"]\n', "utf-8")
        mine.write_text("a-token-of-alice-0001\n", "utf-8")
        target = start_daemon("--tokens", str(tokens)).target

        assert figures(run("ping", "--json", "--token-file", str(mine), target=target))["tenant"] == "alice"
        assert figures(run("ping", "--json", target=target, TMEM_TOKEN="a-token-of-alice-0001"))["tenant"] == "alice"
        stranger = run("ping", target=target)
        assert (stranger.returncode, stranger.stderr.count("\n")) == (3, 1)
        assert "wants a token" in stranger.stderr
        missing = run("ping", "--token-file", str(tmp_path / "absent"), target=target)
        assert missing.returncode == 2


class TestPools:
    def test_pools_stat_and_destroy(self, there: Run, server: CaptiveDaemon) -> None:
        with tmem.client.connect(server.target) as client:
            pool = client.create_pool("looked-at", kind="persistent", quota_bytes=1 << 20)
            pool.put(1, 0, PAGE)
            working = run("destroy", "--yes", "looked-at", target=server.target)
            assert working.returncode == 3  # somebody works on it

        (listed,) = [row for row in figures(there("pools", "--json")) if row["name"] == "looked-at"]
        assert (listed["kind"], listed["quota_bytes"]) == ("persistent", 1 << 20)
        assert "looked-at" in there("pools").stdout
        assert figures(there("stat", "looked-at", "--json"))["pages"] == 1
        assert "looked-at" in there("stat", "looked-at").stdout
        assert figures(there("stat", "--json"))
        gone = there("destroy", "--yes", "looked-at", "--json")
        assert figures(gone)["dropped_pages"] == 1
        again = there("destroy", "--yes", "looked-at")
        assert again.returncode == 3
        assert "looked-at" in again.stderr

    def test_explain_says_where_a_page_is(self, there: Run, server: CaptiveDaemon) -> None:
        with tmem.client.connect(server.target) as client:
            client.create_pool("explained").put(7, 5, PAGE)
        held = figures(there("explain", "explained", "0x7", "5", "--json"))
        assert (held["held"], held["tier"], held["chunk_pages"], held["events"]) == (True, "memory", 1, [])
        assert "held in memory" in there("explain", "explained", "7", "5").stdout
        assert "nothing is remembered of it" in there("explain", "explained", "7", "6").stdout
        assert there("explain", "explained", "seven", "6").returncode == 2
        assert there("explain", "explained", "7", str(1 << 32)).returncode == 2

    def test_destroy_asks_first(self, there: Run, server: CaptiveDaemon) -> None:
        with tmem.client.connect(server.target) as client:
            client.create_pool("asked-about")
        assert there("destroy", "asked-about").returncode == 1  # nobody answers
        assert [row for row in figures(there("pools", "--json")) if row["name"] == "asked-about"]


class TestReports:
    def test_doctor_names_what_it_looked_at(self, there: Run) -> None:
        findings = figures(there("doctor", "--json"))
        assert {"Python", "kernel", "process_vm_readv"} <= {finding["what"] for finding in findings}
        assert all(finding["good"] or finding["advice"] for finding in findings)
        assert "process_vm_readv" in there("doctor").stdout

    def test_demo_gets_every_byte_back_and_counts_exchanges_at_the_server(self, there: Run) -> None:
        report = figures(there("demo", "--size", "16", "--sample", "512", "--json"))

        assert report["identical"] is True
        assert report["unary"]["put_exchanges_per_2mib"] == report["unary"]["get_exchanges_per_2mib"] == 512
        pages = report["stream"]["pages"]
        for way in ("put", "get"):
            # One for each block, of which the last is not full.
            assert round(report["stream"][f"{way}_exchanges_per_2mib"] * pages / 512) == -(-pages // 512), way
        assert (
            report["stream"]["put_full_size_copies_per_page"] == report["stream"]["get_full_size_copies_per_page"] == 0
        )
        assert report["stored_ratio_64k"] > report["stored_ratio_4k"] > 1

    def test_demo_without_json_is_a_table_without_escape_codes(self, there: Run) -> None:
        done = there("demo", "--size", "8", "--sample", "64")
        assert done.returncode == 0, done.stderr
        assert "\x1b" not in done.stdout
        assert "tmem_put_pages_total" in done.stdout

    def test_bench_has_every_promised_figure(self, there: Run) -> None:
        report = figures(there("bench", "--json", "--size", "4", "--rounds", "1", "--calls", "20"))

        for name in (
            "grpc_unary_floor",
            "unary_get",
            "stream_echo",
            "stream_get",
            "link_echo",
            "link_get",
            "redis_get",
        ):
            assert 0 < report[f"{name}_us"]["p50"] <= report[f"{name}_us"]["p99"], name
        for name in ("unary_to_floor", "stream_to_unary", "link_to_unary", "stream_to_link", "link_to_redis"):
            low, high = report[f"{name}_ratio_spread"]
            assert 0 < low <= report[f"{name}_ratio"] <= high, name
        assert "lone_notes" not in report  # what could not be measured
        for name in (
            *("put_extent_mb_s", "get_extent_mb_s", "lz4_compress_mb_s", "lz4_decompress_mb_s"),
            *("stored_ratio_4k", "stored_ratio_64k"),
        ):
            assert report[name] > 0, name
        assert report["stored_ratio_64k"] > report["stored_ratio_4k"]
        assert 1 <= report["messages_per_2mib"] < 1.5  # heartbeats are messages too
        assert (report["full_size_copies_put"], report["full_size_copies_get"]) == (0, 0)

    def test_what_they_leave_behind_is_nothing(self, there: Run) -> None:
        assert not [row for row in figures(there("pools", "--json")) if row["name"].startswith(("demo", "bench"))]


class TestEndings:
    def test_a_reader_that_goes_away_is_no_traceback(self, server: CaptiveDaemon) -> None:
        reading, writing = os.pipe()
        os.close(reading)
        with open(writing, "wb") as nowhere:
            done = subprocess.run(
                [sys.executable, "-m", "tmem.cli", "pools", "--target", server.target],
                stdout=nowhere,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
                env=environment(),
            )
        assert "Traceback" not in done.stderr

    def test_an_interrupt_is_status_130_and_leaves_no_pool(self, there: Run, server: CaptiveDaemon) -> None:
        command = [sys.executable, "-m", "tmem.cli", "bench", "--calls", "1000000", "--size", "4", "--rounds", "1"]
        with subprocess.Popen(
            command, env=environment(TMEM_TARGET=server.target), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        ) as process:
            try:
                with tmem.client.connect(server.target) as client:
                    # It is at work when its pool is there.
                    while not any(pool.name.startswith("bench") for pool in client.pools()):
                        assert process.poll() is None
                process.send_signal(signal.SIGINT)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 130
        assert b"Traceback" not in errors
        assert not [row for row in figures(there("pools", "--json")) if row["name"].startswith("bench")]
