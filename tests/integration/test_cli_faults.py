"""The command `tmem` where things go wrong, or stand in an odd place: one line, its status, and nothing left behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.waiting import wait_until

import tmem.client
from tmem.client.testing import CaptiveDaemon

TMEM = [sys.executable, "-m", "tmem.cli"]
_TIMEOUT_SECONDS = 60.0


def environment(**more: str) -> dict[str, str]:
    """This one, without settings of tmem, and with standard output buffered as a user's is."""
    mine = {name: value for name, value in os.environ.items() if not name.startswith(("TMEM_", "PYTHONUNBUFFERED"))}
    return mine | more


def run(*arguments: str, stdout: int = subprocess.PIPE, **more: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TMEM, *arguments],
        env=environment(**more),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )


def assert_one_line(done: "subprocess.CompletedProcess[str]", status: int, *words: str) -> None:
    assert (done.returncode, done.stdout) == (status, ""), done.stderr
    (line,) = done.stderr.splitlines()
    for word in words:
        assert word in line


@pytest.fixture(scope="module")
def server() -> Iterator[CaptiveDaemon]:
    """A daemon that this module's commands look at."""
    with CaptiveDaemon() as daemon:
        yield daemon


# ---- What is printed ----


def test_a_table_in_a_pipe_is_whole(server: CaptiveDaemon, pool_name: Callable[[], str]) -> None:
    name = pool_name() + "-with-a-name-that-takes-more-than-half-of-a-line-of-eighty-characters"
    with tmem.client.connect(server.target) as client:
        pool = client.create_pool(name)
        epoch = str(pool.epoch)
        listed, stat = run("pools", "--target", server.target), run("stat", "--target", server.target)
        pool.destroy()

    assert "…" not in listed.stdout + stat.stdout
    (row,) = [line for line in listed.stdout.splitlines() if name in line]
    assert {"persistent", "durability", epoch} <= set(listed.stdout.split())
    assert epoch in row
    assert {"refused", "evicted"} <= set(stat.stdout.split())
    assert "\x1b" not in listed.stdout + stat.stdout


def test_names_and_addresses_are_no_markup(server: CaptiveDaemon, tmp_path: Path) -> None:
    # As [bold] a table would swallow it, and :cat: would be a picture.
    path = tmp_path / "[bold]:cat:"
    done = run("doctor", "--target", f"unix:{path}")
    assert f"unix:{path} can't be reached" in done.stdout
    assert str(path) in run("ping", "--target", f"unix:{path}").stderr


@pytest.mark.parametrize("arguments", [("pools", "--json"), ("pools",), ("--help",)])
def test_a_full_disk_is_one_line(server: CaptiveDaemon, arguments: tuple[str, ...]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = run(*arguments, stdout=full.fileno(), TMEM_TARGET=server.target)
    assert (done.returncode, done.stderr) == (1, "tmem: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("arguments", [("pools", "--json"), ("pools",), ("--help",)])
def test_a_reader_that_goes_away_is_silence(server: CaptiveDaemon, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = run(*arguments, stdout=writing, TMEM_TARGET=server.target)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# ---- The way there ----


@pytest.mark.parametrize(
    "target", ["nowhere", "127.0.0.1:99999", "127.0.0.1:0", "127.0.0.1:", ":8636", "::1:8636", "unix:", "a:b:c"]
)
def test_what_is_no_address_is_refused_and_never_guessed_at(target: str) -> None:
    done = run("ping", "--target", target)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{target!r} is neither HOST:PORT" in done.stderr


def test_every_form_of_address_leads_there(start_daemon: Callable[..., CaptiveDaemon], tmp_path: Path) -> None:
    daemon = start_daemon(listen=f"unix:{tmp_path / 'socket'}")
    assert run("ping", "--target", f"unix:{tmp_path / 'socket'}").returncode == 0
    daemon = start_daemon()
    port = daemon.target.rpartition(":")[2]
    assert run("ping", "--target", f"localhost:{port}").returncode == 0
    assert run("ping", "--target", f"dns:///localhost:{port}").returncode == 0


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run("doctor", "--target", f"127.0.0.1:{silent.getsockname()[1]}")
    assert done.returncode == 0
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("│ server")]
    assert "missing" in row


def test_a_token_that_no_header_can_carry_is_one_line(server: CaptiveDaemon) -> None:
    assert_one_line(run("ping", TMEM_TARGET=server.target, TMEM_TOKEN="two\nlines"), 2, "token")


def test_a_token_file_that_is_no_text_is_wrong_usage(server: CaptiveDaemon, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"\xff\xfe")
    done = run("ping", "--token-file", str(file), TMEM_TARGET=server.target)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{file} can't be read" in done.stderr


@pytest.mark.parametrize("where", ["nonsense", "http://127.0.0.1:1/metrics", "http://{target}/metrics"])
def test_metrics_that_are_not_there_are_one_line(server: CaptiveDaemon, where: str) -> None:
    url = where.format(target=server.target)
    done = run("demo", "--size", "8", "--sample", "8", "--metrics-url", url, "--json", TMEM_TARGET=server.target)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines()[-1].startswith(f"tmem: no metrics at {url}")
    assert "Traceback" not in done.stderr


# ---- Ends in the middle ----


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def state(pid: int) -> str:
    """The letter that the kernel gives a process; nothing when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * 4096


@pytest.fixture
def start_tmem() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts commands, in a group of their own as a shell at a terminal does, or in ours as a script does."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, process_group: int | None = 0, **more: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [*TMEM, *arguments],
            env=environment(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=process_group,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.wait(_TIMEOUT_SECONDS)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def interrupted(process: "subprocess.Popen[str]") -> None:
    """Ctrl-C, which a terminal sends to the whole group."""
    os.killpg(process.pid, signal.SIGINT)
    out, errors = process.communicate(timeout=_TIMEOUT_SECONDS)
    assert (process.returncode, out) == (130, ""), errors
    assert errors.splitlines()[-1] == "tmem: interrupted"
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [("demo", "--size", "16"), ("bench", "--size", "4")])
def test_interrupted_at_work_it_takes_its_pools_and_its_process_along(
    start_daemon: Callable[..., CaptiveDaemon],
    start_tmem: Callable[..., "subprocess.Popen[str]"],
    command: tuple[str, ...],
) -> None:
    daemon = start_daemon("--layer", "delayed:seconds=0.2")
    with tmem.client.connect(daemon.target) as client:
        process = start_tmem(*command, TMEM_TARGET=daemon.target)
        wait_until(lambda: any(client.stat_pool(pool.pool_id).pages for pool in client.pools()))
        workers = children(process.pid)
        interrupted(process)
        assert client.pools() == []
    assert all(state(worker) == "" for worker in workers)


def test_interrupted_while_its_process_still_builds_it_does_not_wait_for_that(
    server: CaptiveDaemon, start_tmem: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = start_tmem("demo", "--size", "65536", TMEM_TARGET=server.target)
    assert process.stderr is not None
    assert "builds 65536 MiB" in process.stderr.readline()
    (worker,) = children(process.pid)
    wait_until(lambda: resident_bytes(worker) > 32 << 20)
    interrupted(process)
    assert state(worker) == ""


def test_killed_while_its_process_is_stopped_it_leaves_none_behind(
    start_daemon: Callable[..., CaptiveDaemon], start_tmem: Callable[..., "subprocess.Popen[str]"]
) -> None:
    daemon = start_daemon("--layer", "delayed:seconds=0.2")
    process = start_tmem("demo", "--size", "8", process_group=None, TMEM_TARGET=daemon.target)
    assert process.stderr is not None
    assert "builds" in process.stderr.readline()
    (worker,) = children(process.pid)
    handle = os.pidfd_open(worker)
    try:
        wait_until(lambda: state(worker) == "T")
        process.kill()
        process.wait(_TIMEOUT_SECONDS)
        wait_until(lambda: state(worker) in {"", "Z"})  # a zombie until whoever inherits it looks
    finally:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        os.close(handle)
