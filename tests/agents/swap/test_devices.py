"""A device's life: attached, looked at, detached; refused with its reason, undone when a step fails, taken down when its processes died."""

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tests.agents.swap.conftest import command_environment, leftovers
from tests.waiting import wait_until

import tmem.client
from tmem.agents.host import loops, swaps
from tmem.agents.swap.device import Options, attach, detach
from tmem.agents.swap.shared import Word
from tmem.agents.swap.state import Site
from tmem.wire.errors import InvalidOption, NoRoom, OutOfCapacity, Unavailable

MIB = 1 << 20
LIMIT = 32 * MIB


def pools(target: str) -> list[str]:
    with tmem.client.connect(target) as client:
        return [pool.name for pool in client.pools()]


# ---- Attach and detach ----


def test_a_device_is_attached_shown_and_detached(start_server, tmem, run_directory):
    server = start_server()
    done = tmem("swap", "attach", "--name", "s0", "--size", "64MiB", "--priority", "7", "--target", server.target)
    assert done.returncode == 0, done.stderr
    assert "the kernel swaps to /dev/loop" in done.stdout
    (shown,) = json.loads(tmem("swap", "status", "--json").stdout)
    assert shown["condition"] == "attached"
    assert shown["size_bytes"] == 64 * MIB
    area = swaps.find_area(shown["device"])
    assert area is not None
    assert area.priority == shown["priority"] == 7
    assert pools(server.target) == [shown["pool"]]
    assert tmem("swap", "status", "s0").stdout.count("s0") >= 1
    done = tmem("swap", "detach", "s0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["pool_destroyed"]
    assert swaps.find_area(shown["device"]) is None
    assert pools(server.target) == []
    assert not leftovers(run_directory)
    assert tmem("swap", "status").stdout == "no device is attached\n"


def test_a_run_directory_may_be_reached_through_a_symbolic_link(start_server, tmem, run_directory):
    """The kernel's tables have the real path."""
    server = start_server()
    link = run_directory / "link"
    link.symlink_to(run_directory)
    options = ("--run-dir", str(link))
    done = tmem("swap", "attach", "--name", "s0", "--size", "16MiB", "--target", server.target, *options)
    assert done.returncode == 0, done.stderr
    (shown,) = json.loads(tmem("swap", "status", "--json").stdout)
    assert shown["condition"] == "attached"
    assert tmem("swap", "detach", "s0", *options).returncode == 0
    link.unlink()
    assert not leftovers(run_directory)
    assert pools(server.target) == []


def test_room_for_all_of_it_is_reserved_on_the_server(start_server, attach_device):
    server = start_server("--memory-limit", "64MiB")
    with pytest.raises(OutOfCapacity, match="can't be reserved"):
        attach_device(server.target, size=64 * MIB)
    device = attach_device(server.target, size=64 * MIB, overcommit=4.0)
    with tmem.client.connect(server.target) as client:
        (pool,) = client.pools()
    pages = 64 * MIB // 4096
    assert pool.reserved_bytes == int(pages * (4096 + 40) / 4)
    assert device.reading.record.size == 64 * MIB


def test_a_name_is_used_once(start_server, attach_device):
    server = start_server()
    attach_device(server.target, size=16 * MIB)
    with pytest.raises(InvalidOption, match="attached already"):
        attach_device(server.target, size=16 * MIB)
    attach_device(server.target, name="t1", size=16 * MIB)


def test_a_pool_of_the_name_is_not_taken_over(start_server, attach_device):
    """It may belong to another machine of the same name, whose pages are in it."""
    server = start_server()
    with tmem.client.connect(server.target) as client:
        client.create_pool(f"swap/{os.uname().nodename}/t0")
        with pytest.raises(InvalidOption, match="tmem destroy swap/"):
            attach_device(server.target, size=16 * MIB)
        assert len(client.pools()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--name", "s0", "--size", "64MiB", "--target", "127.0.0.1:1"], 3, "can't be reached"),
        (["--name", "../s0", "--size", "64MiB"], 2, "can't be the name of a device"),
        (["--name", "s0", "--size", "much"], 2, "write a number and a unit"),
        (["--name", "s0", "--size", "4KiB"], 2, "64 at least"),
        (["--name", "s0", "--size", "64MiB", "--io-deadline", "soon"], 2, "is not a duration"),
        (["--name", "s0", "--size", "64MiB", "--priority", "40000"], 2, "40000"),
        (["--name", "s0", "--size", "64MiB", "--overcommit", "0.5"], 2, "0.5"),
    ],
)
def test_what_can_t_be_is_refused_with_its_reason(tmem, run_directory, arguments, status, words):
    done = tmem("swap", "attach", *arguments)
    assert done.returncode == status, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not leftovers(run_directory)


def test_a_server_that_can_be_swapped_out_to_itself_is_refused(start_daemon, tmem, run_directory):
    done = tmem("swap", "attach", "--name", "s0", "--size", "16MiB", "--target", start_daemon().target)
    assert done.returncode == 1
    assert "--lock-memory" in done.stderr
    assert not leftovers(run_directory)


@pytest.mark.parametrize("broken", ["mkswap", "swapon", "holder", "loop"])
def test_a_step_that_fails_undoes_those_before_it(
    start_server, attach_device, run_directory, monkeypatch, tmp_path, broken
):
    server = start_server()
    if broken == "mkswap":
        (tmp_path / "mkswap").write_text("#!/bin/sh\necho no >&2\nexit 1\n", "ascii")
        (tmp_path / "mkswap").chmod(0o700)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        expected = "mkswap .* failed: no"
    elif broken == "swapon":
        (tmp_path / "mkswap").write_text("#!/bin/sh\nexit 0\n", "ascii")  # so that there is no header
        (tmp_path / "mkswap").chmod(0o700)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        expected = "can't swap to /dev/loop"
    elif broken == "holder":
        monkeypatch.setattr(sys, "executable", "/bin/false")
        expected = "the holder did not start"
    else:
        monkeypatch.setattr("tmem.agents.host.loops._LOOP_CTL_GET_FREE", 0x4CFF)
        expected = "no loop device can be had"
    with pytest.raises(OSError, match=expected):
        attach_device(server.target, size=16 * MIB)
    assert not leftovers(run_directory)
    assert pools(server.target) == []
    monkeypatch.undo()
    attach_device(server.target, size=16 * MIB)


@pytest.mark.parametrize(
    ("module", "call"), [(swaps, "swapon"), (loops.Loop, "over"), (os, "posix_spawn")], ids=["swapon", "loop", "holder"]
)
def test_a_signal_while_the_kernel_does_a_step_undoes_that_step_too(
    start_server, attach_device, run_directory, monkeypatch, module, call
):
    """Python tells of it only when the system call has returned: the kernel swaps to the device then, and the holder must not end first."""
    server = start_server()
    real = getattr(module, call)

    def interrupted(*arguments, **options):
        done = real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)  # as often as somebody presses it
        return done

    monkeypatch.setattr(module, call, interrupted)
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        attach_device(server.target, size=16 * MIB)
    assert time.monotonic() - begun < 18, "it waited for something that was still in use"
    assert not leftovers(run_directory)
    assert pools(server.target) == []


def test_whoever_serves_never_ends_while_the_kernel_swaps_there(start_server, attach_device):
    from tmem.agents.swap.device import _end_holder

    device = attach_device(start_server().target, size=16 * MIB)
    with pytest.raises(OSError, match="still swaps to"):
        _end_holder(device.site, device.record)
    assert device.reading.good


def test_an_unknown_device_is_told(tmem):
    assert tmem("swap", "detach", "none").returncode == 2
    assert tmem("swap", "status", "none").returncode == 1


# ---- What is out fits back, or stays ----


def test_what_is_out_comes_back_under_a_running_program(start_server, attach_device, start_hog, tmem):
    attach_device(start_server().target)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    hog.group.set_limit(256 * MIB)
    done = tmem("swap", "detach", "t0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["brought_back_bytes"] > 16 * MIB
    assert json.loads(done.stdout)["given_up_bytes"] == 0
    hog.stop()
    hog.result()


def test_what_does_not_fit_back_stays_and_nothing_changes(start_server, attach_device, start_hog, tmem):
    device = attach_device(start_server().target)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    done = tmem("swap", "detach", "t0")
    assert done.returncode == 1
    assert "does not fit back" in done.stderr
    assert str(hog.group.path) in done.stderr
    assert f"hog[{hog.process.pid}]" in done.stderr
    assert device.reading.good
    hog.stop()
    hog.result()


def test_a_detach_that_is_interrupted_changes_nothing(start_server, attach_device, start_hog, start_tmem):
    server = start_server("--layer", "delayed:seconds=0.002")
    device = attach_device(server.target)
    # The kernel looks at signals between one process's pages and the next one's.
    hogs = [start_hog(12, 60, "rnd", limit=6 * MIB) for _ in range(6)]
    for hog in hogs:
        hog.await_filled()
        hog.process.send_signal(signal.SIGSTOP)  # or it would bring its pages back by itself
        hog.group.set_limit(64 * MIB)
    out = device.reading.used
    command = start_tmem("swap", "detach", "t0")
    wait_until(lambda: (device.reading.used or 0) < out - 4096 * 10)
    command.send_signal(signal.SIGINT)
    _, errors = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "stays attached" in errors
    assert device.reading.good
    assert device.reading.used
    for hog in hogs:
        hog.process.send_signal(signal.SIGCONT)
        hog.stop()
        hog.result()


# ---- When something died ----


def test_with_its_processes_gone_it_is_taken_down_by_force_only_if_something_is_out(
    start_server, attach_device, start_hog, tmem
):
    server = start_server()
    device = attach_device(server.target)
    hog = start_hog(64, 60, "rnd", limit=LIMIT)
    hog.await_filled()
    hog.process.send_signal(signal.SIGSTOP)
    assert device.record.holder is not None
    worker = device.reading[Word.WORKER_PID]
    device.record.holder.signal(signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)
    device.record.holder.wait(10)
    wait_until(lambda: not Path(f"/proc/{worker}").exists())
    assert "the holder is gone" in tmem("swap", "status").stdout
    done = tmem("swap", "detach", "t0")
    assert done.returncode == 1
    assert "--force" in done.stderr
    done = tmem("swap", "detach", "t0", "--force")
    assert done.returncode == 0, done.stderr
    assert "are lost" in done.stderr
    assert "left there" in done.stderr
    assert pools(server.target) == [device.record.pool]
    hog.process.send_signal(signal.SIGCONT)
    # It touches what is lost; or it was killed, because not even marks for what is lost had room.
    assert hog.status() in {128 + signal.SIGBUS, 128 + signal.SIGKILL}


def test_an_attach_that_is_killed_leaves_what_detach_takes_down(start_server, run_directory, tmem):
    server = start_server()
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from tmem.agents.swap import device; from tmem.agents.host import swaps\n"
        "from tmem.agents.swap.state import Site\n"
        "swaps.swapon = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "device.attach(Site(Path(sys.argv[1]), 't0'), device.Options(sys.argv[2], None, 16 << 20))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(run_directory), server.target],
        env=command_environment(run_directory),
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert "half attached" in tmem("swap", "status").stdout
    assert tmem("swap", "detach", "t0").returncode == 0
    assert pools(server.target) == []


def test_a_holder_is_not_ended_by_signals(start_server, attach_device):
    device = attach_device(start_server().target, size=16 * MIB)
    assert device.record.holder is not None
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        device.record.holder.signal(number)
    wait_until(lambda: device.log.count("still attached") == 3)
    assert device.reading.good


@pytest.mark.long
def test_when_nothing_helps_the_connection_is_aborted_and_programs_get_errors(start_server, attach_device, start_hog):
    """Every worker hangs, also the next ones: after the deadline requests fail all the same."""
    device = attach_device(start_server().target, io_deadline=1.0, write_deadline=1.0)
    hog = start_hog(64, 120, "rnd", limit=LIMIT)
    hog.await_filled()
    assert device.record.holder is not None
    holder = device.record.holder.pid
    stop = threading.Event()

    def hang_all() -> None:
        while not stop.wait(0.005):
            for child in Path(f"/proc/{holder}/task/{holder}/children").read_text("ascii").split():
                try:
                    os.kill(int(child), signal.SIGSTOP)
                except ProcessLookupError:
                    continue

    thread = threading.Thread(target=hang_all)
    thread.start()
    try:
        assert hog.status(timeout=60) == 128 + signal.SIGBUS
        assert device.reading[Word.ABORTED_AT], "by the holder, and not only by the kernel's own timer"
        assert "aborted" in device.reading.condition
    finally:
        stop.set()
        thread.join()


# ---- The processes themselves ----


def field(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(dict(line.split(":", 1) for line in lines)[name].split()[0]) * 1024


def faults(pid: int) -> tuple[int, int]:
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return int(fields[7]), int(fields[9])


def test_agents_are_locked_outside_every_limit_and_allocate_nothing_under_load(
    start_server, start_hog, run_directory, limited, tmem, machine
):
    """Attached from within a limited group: what an agent waits for must never be memory that only it can free."""
    server = start_server()
    group = limited(400 * MIB)
    command = [str(Path(sys.executable).with_name("tmem")), "swap", "attach", "--name", "t0", "--size", "192MiB"]
    subprocess.run(
        [
            *("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *command),
            *("--target", server.target, "--priority", "100"),
        ],
        env=command_environment(run_directory),
        check=True,
        capture_output=True,
        timeout=60,
    )
    from tests.agents.swap.conftest import Device

    site = Site(run_directory, "t0")
    record = site.read()
    assert record is not None
    assert record.holder is not None
    device = Device(site, record)
    holder, worker = record.holder.pid, device.reading[Word.WORKER_PID]
    start_hog(96, 1, "rnd", "write", limit=LIMIT).result()  # everything was used once
    before = {pid: faults(pid) for pid in (holder, worker)}
    start_hog(96, 2, "rnd", "write", limit=LIMIT).result()
    for pid in (holder, worker):
        assert machine.limited(machine.of(pid)) is None
        assert machine.keeps_swap_out(machine.of(pid))
        assert field(pid, "VmLck") >= field(pid, "VmRSS") * 0.9
        assert field(pid, "VmSwap") == 0
        minor, major = (after - then for after, then in zip(faults(pid), before[pid], strict=True))
        assert major == 0
        assert minor < (20 if pid == holder else 2000), f"{minor} page faults under load"
    assert tmem("swap", "detach", "t0").returncode == 0
    assert not list(machine.root.glob("tmem-swap-*"))


# ---- The file under it ----


def test_bytes_at_any_offset_are_what_was_written(start_server, attach_device):
    """As blkid, mkswap and people with dd read and write it: past the loop device, at the end that swapping has not reached."""
    import random

    device = attach_device(start_server().target, size=32 * MIB)
    chance = random.Random(7)
    base, length = 24 * MIB, 2 * MIB + 123
    model = bytearray(length)
    descriptor = os.open(device.site.mount / "swap", os.O_RDWR)
    try:
        assert os.fstat(descriptor).st_size == 32 * MIB
        for _ in range(120):
            at = chance.randrange(length)
            size = min(length - at, chance.choice([1, 3, 512, 4095, 4096, 4097, 9000, 70_000, 1_200_000]))
            if chance.random() < 0.5:
                data = chance.randbytes(size)
                assert os.pwrite(descriptor, data, base + at) == size
                model[at : at + size] = data
            else:
                assert os.pread(descriptor, size, base + at) == model[at : at + size]
        os.fsync(descriptor)
        assert os.pread(descriptor, length, base) == model
        assert os.pread(descriptor, 100, 32 * MIB - 10) == bytes(10)
        with pytest.raises(OSError, match="No space left"):
            os.pwrite(descriptor, bytes(100), 32 * MIB - 10)
    finally:
        os.close(descriptor)
    assert [entry.name for entry in device.site.mount.iterdir()] == ["swap"]
    assert not device.reading[Word.READS_FAILED] + device.reading[Word.WRITES_FAILED]


def test_holes_read_as_zeros_at_once(start_server, attach_device):
    device = attach_device(start_server().target, size=32 * MIB)
    base = 24 * MIB
    with (device.site.mount / "swap").open("r+b", buffering=0) as file:
        os.pwrite(file.fileno(), b"x" * MIB, base)
        subprocess.run(
            ["fallocate", "--punch-hole", "--offset", str(base + 1000), "--length", str(MIB // 2), file.name],
            check=True,
        )
        found = os.pread(file.fileno(), MIB, base)
    assert found == b"x" * 1000 + bytes(MIB // 2) + b"x" * (MIB - MIB // 2 - 1000)


# ---- In the foreground, as a service ----


def test_in_the_foreground_it_says_ready_and_detaches_when_told(start_server, start_tmem, run_directory, tmp_path):
    import socket

    server = start_server()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(tmp_path / "notify"))
        notifications.settimeout(30)
        os.environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        try:
            command = start_tmem(
                *("swap", "attach", "--name", "s0", "--size", "64MiB", "--target", server.target, "--foreground")
            )
        finally:
            del os.environ["NOTIFY_SOCKET"]
        assert "READY=1" in notifications.recv(4096).decode()
        assert any(63 * MIB < area.size < 65 * MIB for area in swaps.list_areas())
        command.send_signal(signal.SIGTERM)
        assert "STOPPING=1" in notifications.recv(4096).decode()
        assert command.wait(30) == 0
    assert not leftovers(run_directory)
    assert pools(server.target) == []


def test_an_attach_that_is_told_to_end_leaves_nothing(start_server, start_tmem, run_directory):
    server = start_server("--layer", "delayed:seconds=0.3")  # so that it takes a while
    command = start_tmem("swap", "attach", "--name", "t0", "--size", "16MiB", "--target", server.target)
    wait_until(lambda: (record := Site(run_directory, "t0").read()) is not None and record.device is not None)
    command.send_signal(signal.SIGTERM)
    assert command.wait(60) == 130
    assert not leftovers(run_directory)
    assert pools(server.target) == []


def test_in_the_foreground_what_does_not_fit_stays_until_it_does(start_server, start_tmem, start_hog, run_directory):
    server = start_server()
    command = start_tmem(
        *("swap", "attach", "--name", "t0", "--size", "192MiB", "--target", server.target, "--foreground"),
        *("--priority", "100"),
    )
    wait_until(lambda: (record := Site(run_directory, "t0").read()) is not None and record.attached)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    command.send_signal(signal.SIGTERM)
    assert command.stderr is not None
    lines = []
    while not any("does not fit back" in line for line in lines):
        ready, _, _ = select.select([command.stderr], [], [], 30)
        assert ready, lines
        lines.append(command.stderr.readline())
    hog.stop()
    hog.result()
    assert command.wait(30) == 0, "nobody tells it a second time"


# ---- Looking ----


def test_watching_prints_a_line_for_each_look_where_there_is_no_terminal(
    start_server, attach_device, start_hog, start_tmem
):
    device = attach_device(start_server().target)
    watch = start_tmem("swap", "status", "--watch", "--interval", "200ms", "--json")
    assert watch.stdout is not None
    hog = start_hog(96, 30, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    deadline = time.monotonic() + 20
    while True:
        look = json.loads(watch.stdout.readline())
        assert look["name"] == device.site.name
        if look["pages_read_s"] > 0 and look["read_p50_us"] and look["ratio"]:
            break
        assert time.monotonic() < deadline
    hog.stop()
    hog.result()
    detach(device.site)
    assert watch.wait(20) == 0


def test_looking_works_when_the_worker_hangs(start_server, attach_device, tmem):
    device = attach_device(start_server().target, size=16 * MIB)
    device.kill_worker(signal.SIGSTOP)
    done = tmem("swap", "status", timeout=20)
    assert "t0" in done.stdout


def test_a_server_that_is_gone_is_shown(start_server, attach_device, tmem):
    server = start_server()
    device = attach_device(server.target, size=16 * MIB)
    server.kill()
    wait_until(lambda: "can't be reached" in device.reading.condition)
    assert tmem("swap", "status").returncode == 1


def test_unavailable_servers_are_told_from_python_too(run_directory):
    with pytest.raises(Unavailable):
        attach(Site(run_directory, "t0"), Options("127.0.0.1:1", None, 16 * MIB))


def test_no_room_lists_its_obstacles():
    error = NoRoom("t0 stays attached", ["because", "and because"])
    assert error.obstacles == ["because", "and because"]
    assert str(error) == "t0 stays attached\n  because\n  and because"
