"""`tmem run`: an unmodified program with a local limit, the rest of its memory on the server; and nothing left of it, whatever happens."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.agents.swap.conftest import leftovers
from tests.waiting import wait_until

from tmem.agents.host import swaps
from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.swap.state import Site, sites

MIB = 1 << 20
SMALL = ("--memory", "32MiB", "--size", "192MiB")


@pytest.fixture
def target(start_server):
    return start_server().target


def groups(machine: Hierarchy, pid: int) -> list[Path]:
    return list(machine.root.glob(f"tmem-run-{pid}*"))


def test_a_program_runs_with_a_limit_and_is_reported(tmem, target, hog_binary, machine, run_directory, tmp_path):
    report = tmp_path / "report.json"
    done = tmem(
        *("run", *SMALL, "--target", target, "--report", str(report), "--", str(hog_binary), "96", "2", "rnd", "write")
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])  # standard output is the program's alone
    assert found["bad"] == 0
    assert "came in" in done.stderr
    told = json.loads(report.read_text("utf-8"))
    assert told["status"] == 0
    assert told["peak_resident_bytes"] <= told["memory_limit_bytes"] == 32 * MIB
    assert told["peak_remote_bytes"] > 32 * MIB
    assert told["major_faults"] >= found["major_faults"] > 0
    assert told["fault_p50_us"] > 0
    assert told["fault_p99_us"] >= told["fault_p50_us"]
    assert 1.2 < told["ratio"] < 5
    assert told["messages_per_mib_out"] < 64
    assert not told["reads_failed"] + told["writes_failed"] + told["oom_kills"]
    assert not leftovers(run_directory)
    assert not list(machine.root.glob("tmem-run-*"))


def test_output_is_what_it_is_without_us(tmem, target, tmp_path):
    """GNU sort, told to use as much memory as it likes."""
    import random

    chance = random.Random(11)
    text = "\n".join(f"{chance.getrandbits(64):016x} {number}" for number in range(300_000)).encode() + b"\n"
    (tmp_path / "lines").write_bytes(text)
    plain = subprocess.run(["sort", "-S", "200M", str(tmp_path / "lines")], capture_output=True, check=True).stdout
    done = tmem(
        *("run", "--memory", "16MiB", "--size", "192MiB", "--target", target, "--no-live", "--"),
        *(*("sort", "--parallel=1", "-S", "200M", "-o", str(tmp_path / "sorted"), str(tmp_path / "lines")),),
    )
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256((tmp_path / "sorted").read_bytes()).digest() == hashlib.sha256(plain).digest()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -TERM $$"], 128 + signal.SIGTERM),
        (["true"], 0),
        (["no-such-program-here"], 2),
    ],
)
def test_the_exit_status_is_the_program_s(tmem, target, run_directory, command, status):
    done = tmem("run", *SMALL, "--target", target, "--", *command)
    assert done.returncode == status, done.stderr
    assert not leftovers(run_directory)


def test_arguments_of_the_program_are_its_own(tmem, target):
    done = tmem("run", *SMALL, "--target", target, "--", "echo", "--memory", "--json", "-x", "a b")
    assert done.stdout == "--memory --json -x a b\n"


def test_a_program_with_less_memory_than_it_needs_at_one_moment_is_told(tmem, target):
    script = "import mmap; m = mmap.mmap(-1, 64 << 20); import ctypes; ctypes.CDLL(None).mlockall(1)"
    done = tmem("run", *SMALL, "--target", target, "--", sys.executable, "-c", script)
    assert done.returncode == 128 + signal.SIGKILL
    assert "for want of memory" in done.stderr


def test_a_device_that_is_attached_already_is_used_and_stays(tmem, target, attach_device, hog_binary, run_directory):
    device = attach_device(target, priority=swaps.MAX_PRIORITY)  # whatever else this machine swaps to
    done = tmem("run", "--memory", "32MiB", "--json", "--target", target, "--", str(hog_binary), "64", "1", "rnd")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["device"] == "t0"
    assert device.reading.good
    assert [site.name for site in sites(run_directory)] == ["t0"]


def test_signals_are_passed_on(start_tmem, target, run_directory, tmp_path):
    script = f"trap 'echo term > {tmp_path}/got; exit 5' TERM; touch {tmp_path}/ready; while :; do sleep 0.05; done"
    command = start_tmem("run", *SMALL, "--target", target, "--", "sh", "-c", script)
    wait_until((tmp_path / "ready").exists)
    command.send_signal(signal.SIGTERM)
    assert command.wait(30) == 5
    assert (tmp_path / "got").exists()
    assert not leftovers(run_directory)


def test_what_the_program_leaves_running_goes_with_it(tmem, target, machine, tmp_path):
    script = f"sleep 1000 & echo $! > {tmp_path}/pid; exit 0"
    assert tmem("run", *SMALL, "--target", target, "--", "sh", "-c", script).returncode == 0
    pid = int((tmp_path / "pid").read_text("ascii"))
    state = Path(f"/proc/{pid}/stat")
    assert not state.exists() or ") Z " in state.read_text("ascii"), "ended, whether or not anybody has waited for it"


def test_when_the_command_itself_is_killed_everything_goes(
    start_tmem, target, machine, run_directory, tmp_path, hog_binary
):
    command = start_tmem("run", *SMALL, "--target", target, "--", str(hog_binary), "64", "300", "rnd", "write")
    assert command.stdout is not None
    assert command.stdout.readline() == "filled\n"
    assert groups(machine, command.pid)
    command.kill()
    wait_until(lambda: not groups(machine, command.pid), 60)
    wait_until(lambda: not leftovers(run_directory), 60)
    assert not [area for area in swaps.list_areas() if area.size == 192 * MIB - 4096]


@pytest.mark.long
@pytest.mark.parametrize("killed", ["run", "program"])
def test_a_server_that_stands_still_keeps_nothing_of_a_run(
    start_tmem, start_server, machine, run_directory, hog_binary, killed
):
    """Its program waits for pages, and can't be ended before they have failed."""
    server = start_server()
    command = start_tmem("run", *SMALL, "--target", server.target, "--", str(hog_binary), "96", "300", "rnd", "write")
    assert command.stdout is not None
    line = command.stdout.readline()
    assert line == "filled\n", command.communicate(timeout=60)
    (group,) = groups(machine, command.pid)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        if killed == "run":
            command.kill()
        else:
            for pid in (group / "cgroup.procs").read_text("ascii").split():
                os.kill(int(pid), signal.SIGKILL)
            command.wait(120)
        wait_until(lambda: not groups(machine, command.pid), 90)
        wait_until(lambda: not leftovers(run_directory), 60)
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_a_server_that_is_gone_ends_the_program_and_leaves_nothing(
    start_tmem, start_server, machine, run_directory, hog_binary
):
    server = start_server()
    command = start_tmem(
        *("run", *SMALL, "--io-deadline", "2s", "--target", server.target, "--", str(hog_binary), "96", "300", "rnd")
    )
    assert command.stdout is not None
    assert command.stdout.readline() == "filled\n"
    server.kill()
    begun = time.monotonic()
    _, errors = command.communicate(timeout=90)
    assert command.returncode in {128 + signal.SIGBUS, 128 + signal.SIGKILL}, errors
    assert time.monotonic() - begun < 60
    if command.returncode == 128 + signal.SIGBUS:
        assert "killed by SIGBUS" in errors
    assert not leftovers(run_directory)
    assert not groups(machine, command.pid)


def test_no_server_is_told_and_leaves_nothing(tmem, run_directory, machine):
    done = tmem("run", *SMALL, "--target", "127.0.0.1:1", "--", "true")
    assert done.returncode == 3
    assert "can't be reached" in done.stderr
    assert not leftovers(run_directory)
    assert not list(machine.root.glob("tmem-run-*"))


def test_room_that_the_server_has_not_is_told(tmem, target):
    done = tmem("run", "--memory", "32MiB", "--size", "1TiB", "--target", target, "--", "true")
    assert done.returncode == 3
    assert "can't be reserved" in done.stderr


def test_too_little_memory_is_told(tmem, target):
    done = tmem("run", "--memory", "64KiB", "--target", target, "--", "true")
    assert done.returncode == 2
    assert "4 MiB" in done.stderr


def test_two_at_once_do_not_disturb_each_other(start_tmem, target, hog_binary):
    command = ("run", *SMALL, "--target", target, "--", str(hog_binary), "64", "2", "rnd", "write")
    both = [start_tmem(*command), start_tmem(*command)]
    for each in both:
        out, errors = each.communicate(timeout=60)
        assert each.returncode == 0, errors
        assert json.loads(out.splitlines()[-1])["bad"] == 0


def test_the_live_view_is_drawn_on_a_terminal(start_tmem, target, hog_binary):
    import pty

    ours, theirs = pty.openpty()
    command = start_tmem(
        *("run", *SMALL, "--target", target, "--", str(hog_binary), "96", "3", "rnd"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # nobody has the other end any more
            break
    os.close(ours)
    assert command.wait(30) == 0
    text = shown.decode()
    for words in ("here", "remote", "faults", "a second", "compressed", "█", '"bad": 0'):
        assert words in text, words


def test_site_names_of_runs_can_t_be_taken_by_mistake(run_directory):
    assert Site(run_directory, "run-1").read() is None
