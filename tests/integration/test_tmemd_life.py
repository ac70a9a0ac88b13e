"""The daemon's life as its user meets it: with a command, on a Unix socket, and what signals do."""

import contextlib
import json
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.wire import PlainClient
from tests.pages import PAGE, random_page
from tests.processes import Tmemd, run_tmemd
from tests.waiting import wait_until

import tmem.client
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors

Start = Callable[..., CaptiveDaemon]
BOTH = ("--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0")
A = random_page(1)
PUT_AND_GET = """
import os, urllib.request, tmem.client
with tmem.client.connect(os.environ["TMEM_TARGET"]) as client:
    pool = client.create_pool("p")
    pool.put(7, 0, b"x" * 4096)
    buffer = bytearray(4096)
    assert pool.get_into(7, 0, buffer).hit and buffer == b"x" * 4096
    assert b"tmem_pages" in urllib.request.urlopen(os.environ["TMEM_METRICS"]).read()
print("served")
"""


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """For sockets, whose paths may have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tmem-") as directory:
        yield Path(directory)


class TestRun:
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_a_command_is_served_and_the_daemon_ends_with_it(self, tmp_path: Path, loop: str) -> None:
        script = tmp_path / "script.py"
        script.write_text(PUT_AND_GET, "utf-8")

        done = run_tmemd(*BOTH, "--loop", loop, "--log-level", "warning", "--run", f"{sys.executable} {script}")

        assert (done.returncode, done.stdout, done.stderr) == (0, "served\n", "")

    @pytest.mark.parametrize(
        ("command", "status"),
        [("exit 7", 7), ("false", 1), ("kill -KILL $$", 137), ("kill -TERM $$", 143), ("/nonexistent/command", 127)],
    )
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_its_exit_status_is_the_daemons(self, command: str, status: int, loop: str) -> None:
        assert run_tmemd(*BOTH, "--loop", loop, "--run", command).returncode == status

    def test_without_metrics_it_is_told_of_none(self) -> None:
        flags = ("--listen", "127.0.0.1:0", "--metrics-listen", "none")
        done = run_tmemd(*flags, "--run", "echo ${TMEM_METRICS-none}", TMEM_METRICS="http://another.invalid/metrics")

        assert done.stdout == "none\n"

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    def test_a_signal_ends_the_command_and_what_it_started(self, number: signal.Signals, loop: str) -> None:
        # The shell waits for a process of its own. That one holds standard output, too: `end` waits for it.
        script = """python3 -c 'import os, signal, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
print(os.getpid(), flush=True)
time.sleep(600)'; echo not reached"""
        with Tmemd(*BOTH, "--loop", loop, "--run", script) as daemon:
            started = os.pidfd_open(int(daemon.line()))
            try:
                daemon.process.send_signal(number)
                status, rest, _ = daemon.end()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(started, signal.SIGKILL)
                os.close(started)

        assert (status, rest) == (128 + number, "")

    def test_a_command_may_answer_a_signal_with_a_status_of_its_own(self) -> None:
        command = 'trap "echo caught; exit 5" TERM; echo up; while :; do sleep 0.05; done'
        with Tmemd(*BOTH, "--run", command) as daemon:
            assert daemon.line() == "up"
            daemon.process.send_signal(signal.SIGTERM)
            status, rest, _ = daemon.end()

        assert (status, rest) == (5, "caught\n")

    def test_on_a_terminal_the_command_can_read_from_it(self) -> None:
        ours, theirs = os.openpty()
        try:
            with Tmemd(*BOTH, "--run", "echo up; read line; echo read $line; test -t 0", stdin=theirs) as daemon:
                assert daemon.line() == "up"
                os.write(ours, b"this\n")
                status, rest, _ = daemon.end()
        finally:
            os.close(ours)
            os.close(theirs)

        assert (status, rest) == (0, "read this\n")


class TestUnixSocket:
    def test_pages_go_through_it_and_it_goes_with_the_daemon(self, start_daemon: Start, run_directory: Path) -> None:
        path = run_directory / "s"
        daemon = start_daemon(listen=f"unix:{path}")

        assert daemon.target == f"unix:{path}"
        assert stat.S_ISSOCK(path.stat().st_mode)
        with tmem.client.connect(daemon.target) as client:
            pool = client.create_pool("p")
            pool.put(7, 0, A)
            buffer = bytearray(PAGE)
            assert pool.get_into(7, 0, buffer).hit
            assert buffer == A
            assert pool.get_page_sync(7, 0, buffer).hit
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert not path.exists()

    def test_a_captive_daemon_takes_its_socket_away_too(self, run_directory: Path) -> None:
        path = run_directory / "s"
        done = run_tmemd("--listen", f"unix:{path}", "--metrics-listen", "none", "--run", "echo $TMEM_TARGET")

        assert (done.returncode, done.stdout) == (0, f"unix:{path}\n")
        assert not path.exists()

    def test_what_a_killed_daemon_left_is_taken_over(self, start_daemon: Start, run_directory: Path) -> None:
        path = run_directory / "s"
        first = start_daemon(listen=f"unix:{path}")
        first.kill()
        assert path.exists()

        second = start_daemon(listen=f"unix:{path}")

        with tmem.client.connect(second.target) as client:
            assert client.echo(b"hello") == b"hello"

    def test_that_of_a_living_daemon_is_not(self, start_daemon: Start, run_directory: Path) -> None:
        target = f"unix:{run_directory}/s"
        first = start_daemon(listen=target)

        done = run_tmemd("--listen", target, "--metrics-listen", "none", "--run", "true")

        assert done.returncode == 2
        assert done.stderr == f"tmemd: can't listen on {target}: another process does\n"
        with tmem.client.connect(first.target) as client:
            assert client.echo(b"still there") == b"still there"


class TestSignals:
    @pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_daemon_that_nobody_uses_ends_at_once_and_well(
        self, start_daemon: Start, number: signal.Signals, loop: str
    ) -> None:
        daemon = start_daemon("--loop", loop, "--drain-timeout-seconds", "600")
        daemon.signal(number)

        assert daemon.wait() == 0
        events = [json.loads(line)["event"] for line in daemon.log().splitlines()]
        assert events == ["daemon.ready", "daemon.draining", "daemon.stopped"]

    def test_sigint_drains_as_sigterm_does(self, start_daemon: Start) -> None:
        daemon = start_daemon("--drain-timeout-seconds", "600")
        with PlainClient(daemon.target) as plain:
            stream = plain.exchange()
            daemon.signal(signal.SIGINT)

            assert stream.receive().drain.grace_ms == 600_000
            assert daemon.process.poll() is None
            stream.half_close()
            assert list(stream.call) == []
        assert daemon.wait() == 0

    def test_while_it_drains_nobody_new_is_let_in_and_pools_can_still_be_looked_at(self, start_daemon: Start) -> None:
        daemon = start_daemon("--drain-timeout-seconds", "600")
        with PlainClient(daemon.target) as plain:
            stream = plain.exchange()
            daemon.signal(signal.SIGTERM)
            assert stream.receive().HasField("drain")
            with tmem.client.connect(daemon.target, read_timeout=0.5) as late:
                assert late.pools() == []
                with pytest.raises(errors.Unavailable, match="shutting down"):
                    late.echo(b"let me in")
            stream.half_close()
        assert daemon.wait() == 0

    def test_sighup_without_a_token_file_changes_nothing(self, start_daemon: Start) -> None:
        daemon = start_daemon()
        with tmem.client.connect(daemon.target) as client:
            pool = client.create_pool("p")
            pool.put(7, 0, A)
            daemon.signal(signal.SIGHUP)
            wait_until(lambda: "daemon.reload" in daemon.log())

            assert pool.get_into(7, 0, bytearray(PAGE)).hit
            assert client.counters.reconnects == 0


class TestOutput:
    def test_standard_output_has_the_ready_line_and_nothing_else(self) -> None:
        with Tmemd(*BOTH) as daemon:
            first = daemon.line()
            daemon.process.send_signal(signal.SIGTERM)
            status, rest, errors_ = daemon.end()

        assert first.startswith("tmemd ready target=127.0.0.1:")
        assert (status, rest) == (0, "")
        assert [json.loads(line)["level"] for line in errors_.splitlines()] == ["info"] * 3

    def test_without_metrics_the_ready_line_says_none(self) -> None:
        with Tmemd("--listen", "127.0.0.1:0", "--metrics-listen", "none") as daemon:
            assert daemon.line().endswith(" metrics=none")

    def test_warnings_only_means_silence(self, start_daemon: Start) -> None:
        daemon = start_daemon("--log-level", "warning")
        with tmem.client.connect(daemon.target) as client:
            client.create_pool("p").put(7, 0, A)
        daemon.signal(signal.SIGTERM)

        assert daemon.wait() == 0
        assert daemon.log() == ""

    @pytest.mark.parametrize(("listen", "warned"), [("0.0.0.0:0", True), ("127.0.0.1:0", False)])
    def test_a_daemon_that_the_network_reaches_without_tokens_says_so(
        self, start_daemon: Start, listen: str, warned: bool
    ) -> None:
        assert ("daemon.open" in start_daemon(listen=listen).log()) is warned

    def test_ipv6_addresses_are_written_with_brackets(self) -> None:
        try:
            with socket.create_server(("::1", 0), family=socket.AF_INET6):
                pass
        except OSError:
            pytest.skip("this machine has no IPv6")
        done = run_tmemd(
            *("--listen", "[::1]:0", "--metrics-listen", "[::1]:0", "--run", "echo $TMEM_TARGET $TMEM_METRICS")
        )

        target, metrics = done.stdout.split()
        assert target.startswith("[::1]:")
        assert metrics.startswith("http://[::1]:")
