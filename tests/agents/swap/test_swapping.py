"""A real kernel swaps to a real server, and a program that checks every word of its memory finds nothing wrong: in peace, with
workers killed under it, with the server stopped, restarted and gone.

Times are asserted only as bounds against hangs.
"""

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from tests.waiting import wait_until

import tmem.client
from tmem.agents.swap.config import Descriptors
from tmem.agents.swap.shared import Word

MIB = 1 << 20
LIMIT = 32 * MIB
SIGBUS = 128 + signal.SIGBUS
SIGKILLED = 128 + signal.SIGKILL

# ---- In peace ----


@pytest.mark.parametrize(
    ("order", "flags"),
    [
        pytest.param("rnd", ["write"], id="random-write"),
        pytest.param("seq", ["write"], id="sequential-write"),
        pytest.param("rnd", ["write", "thp"], id="huge-pages"),
    ],
)
def test_a_program_that_swaps_finds_every_page_as_it_left_it(start_server, attach_device, start_hog, order, flags):
    device = attach_device(start_server().target)
    hog = start_hog(96, 2, order, *flags, limit=LIMIT)
    assert hog.result()["major_faults"] > 0
    reading = device.reading
    assert reading.good, reading.condition
    assert reading[Word.PAGES_WRITTEN] > 64 * 256
    assert reading[Word.PAGES_GOT] > 0
    assert not reading[Word.READS_FAILED] + reading[Word.WRITES_FAILED]


def test_readahead_is_one_exchange(start_server, attach_device, start_hog):
    """Sequential reads are faster because they take fewer messages, not by luck: a lone page takes 256 for each MiB."""
    device = attach_device(start_server().target)
    start_hog(96, 60, "seq", "passes=2", limit=LIMIT).result()
    sequential = device.reading.messages_per_mib(Word.GET_MESSAGES, Word.PAGES_GOT)
    before = device.reading
    start_hog(96, 2, "rnd", limit=LIMIT).result()
    after = device.reading
    random = (
        (after[Word.GET_MESSAGES] - before[Word.GET_MESSAGES]) * 256 / (after[Word.PAGES_GOT] - before[Word.PAGES_GOT])
    )
    assert sequential is not None
    assert random > 3 * sequential, f"{sequential:.0f} messages per MiB in order, {random:.0f} at random"


def test_whole_huge_pages_go_out_in_few_messages(start_server, attach_device, start_hog):
    device = attach_device(start_server().target)
    hog = start_hog(96, 30, "seq", "thp", "passes=1", limit=LIMIT)
    hog.result()
    per_mib = device.reading.messages_per_mib(Word.PUT_MESSAGES, Word.PAGES_PUT)
    assert per_mib is not None
    assert per_mib <= 8


def test_what_a_program_leaves_is_removed_from_the_server(start_server, attach_device, start_hog):
    server = start_server()
    device = attach_device(server.target)
    start_hog(96, 1, "rnd", limit=LIMIT).result()
    with tmem.client.connect(server.target) as client:

        def stored() -> int:
            return client.stat_pool(device.record.pool_id).pages

        # The kernel tells what it has given up in clusters of 2 MiB, and some seconds later.
        wait_until(lambda: stored() < 16 * 256)


# ---- Workers ----


def kill_workers(device, times: int, seconds: float) -> list[int]:
    """Kills the worker that serves, again and again, as soon as the next one does."""
    killed: list[int] = []
    end = time.monotonic() + seconds
    for number in range(times):
        wait_until(lambda: device.reading[Word.WORKER_PID] not in killed and device.reading[Word.CONNECTED_SINCE], 30)
        threading.Event().wait(max(0.0, (end - time.monotonic()) / (times - number)))  # some load for each
        killed.append(device.kill_worker())
    wait_until(lambda: device.reading[Word.WORKER_PID] not in killed, 30)
    return killed


@pytest.mark.parametrize("flags", [["write"], ["write", "thp"]], ids=["pages", "huge-pages"])
def test_workers_are_killed_and_no_page_is_wrong(start_server, attach_device, start_hog, flags):
    device = attach_device(start_server().target)
    hog = start_hog(96, 60, "rnd", *flags, limit=LIMIT)
    hog.await_filled()
    killed = kill_workers(device, 3, 1.5)
    hog.stop()
    hog.result()
    reading = device.reading
    assert reading[Word.TAKEOVERS] >= len(killed)
    assert not reading[Word.READS_FAILED] + reading[Word.WRITES_FAILED], device.log
    assert reading.good


def test_a_worker_that_takes_over_has_locked_all_that_the_one_before_left(start_server, attach_device, start_hog):
    """Nobody can bring such a page back but the worker that waits for it."""
    device = attach_device(start_server().target)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    kill_workers(device, 1, 0)
    hog.stop()
    hog.result()
    pid = device.reading[Word.WORKER_PID]
    words = [word.decode() for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    descriptors = Descriptors.from_arguments(words[3:-1])
    for descriptor in (descriptors.states, descriptors.presence):
        status = Path(f"/proc/{pid}/fd/{descriptor}").stat()
        assert locked(pid, status.st_ino) == status.st_blocks * 512 > 0


def locked(pid: int, inode: int) -> int:
    """Bytes of a file's pages that a process has locked."""
    found = 0
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines():
        fields = line.split()
        if not fields[0].endswith(":"):
            ours = int(fields[4]) == inode
        elif ours and fields[0] == "Locked:":
            found += int(fields[1]) * 1024
    return found


def test_a_worker_that_hangs_is_replaced(start_server, attach_device, start_hog):
    device = attach_device(start_server().target, io_deadline=6.0)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    stopped = device.kill_worker(signal.SIGSTOP)
    wait_until(lambda: device.reading[Word.WORKER_PID] != stopped, 30)
    hog.stop()
    hog.result()
    assert "no sign of life" in device.log
    assert not device.reading[Word.READS_FAILED]


# What a process begins with that finds it: in workers, whoever asks the resolver never gets an answer.
_NO_RESOLVER = """
import socket, sys, time
if sys.orig_argv[1:3] == ["-m", "tmem.agents.swap.worker"]:
    socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
"""


def test_a_worker_takes_over_while_the_resolver_hangs(start_server, attach_device, start_hog, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(_NO_RESOLVER, "ascii")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    device = attach_device(f"localhost:{start_server().target.rpartition(':')[2]}")
    hog = start_hog(64, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    kill_workers(device, 2, 0.5)
    hog.stop()
    hog.result()
    assert not device.reading[Word.READS_FAILED] + device.reading[Word.WRITES_FAILED], device.log
    assert "no sign of life" not in device.log


def test_a_worker_goes_on_without_its_holder(start_server, attach_device, start_hog, tmem):
    device = attach_device(start_server().target)
    hog = start_hog(64, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    assert device.record.holder is not None
    device.record.holder.signal(signal.SIGKILL)
    assert device.record.holder.wait(10)
    status = tmem("swap", "status")
    assert status.returncode == 1
    assert "a worker goes on alone" in status.stdout.replace("\n", " ")
    hog.group.set_limit(512 * MIB)
    detached = tmem("swap", "detach", "t0", timeout=90)  # with most of it still out
    assert detached.returncode == 0, detached.stderr
    hog.stop()
    hog.result()


# ---- The server ----


def test_a_server_that_stops_for_seconds_is_waited_for(start_server, attach_device, start_hog):
    server = start_server()
    device = attach_device(server.target)
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    server.signal(signal.SIGSTOP)
    threading.Event().wait(5.0)  # the test is that so much time passes
    server.signal(signal.SIGCONT)
    hog.stop()
    hog.result()
    assert not device.reading[Word.READS_FAILED] + device.reading[Word.WRITES_FAILED], device.log


def await_more(device, word: Word) -> None:
    """Waits until a counter has grown."""
    before = device.reading[word]
    wait_until(lambda: device.reading[word] > before, 30)


def free_port() -> int:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def test_a_server_with_a_journal_is_killed_and_started_again(start_server, attach_device, start_hog, tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    arguments = ("--journal", str(tmp_path / "journal"))
    server = start_server(*arguments, listen=listen)
    device = attach_device(server.target, durability="disk")
    hog = start_hog(96, 60, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    for _ in range(2):
        server.kill()
        server = start_server(*arguments, listen=listen)
        await_more(device, Word.PAGES_GOT)
    hog.stop()
    hog.result()
    assert device.reading.good
    assert not device.reading[Word.READS_FAILED] + device.reading[Word.PAGES_LOST], device.log


@pytest.mark.parametrize("takeover", [False, True], ids=["same-worker", "next-worker"])
def test_pages_that_a_restarted_server_lost_are_errors_and_never_zeros(
    start_server, attach_device, start_hog, limited, takeover
):
    listen = f"127.0.0.1:{free_port()}"
    server = start_server(listen=listen)
    device = attach_device(server.target)
    hog = start_hog(96, 60, "rnd", limit=LIMIT)
    hog.await_filled()
    server.kill()
    if takeover:
        killed = device.kill_worker()
    server = start_server(listen=listen)
    assert hog.status() == SIGBUS
    if takeover:
        assert device.reading[Word.WORKER_PID] != killed
    # What goes out from now on is kept.
    again = start_hog(64, 1, "rnd", "write", limit=LIMIT)
    again.result()
    assert device.reading.good


def test_a_server_that_is_gone_for_good_ends_programs_in_time_and_the_machine_is_left_clean(
    start_server, attach_device, start_hog, tmem
):
    server = start_server()
    device = attach_device(server.target, io_deadline=3.0, write_deadline=3.0)
    hog = start_hog(96, 120, "rnd", "write", limit=LIMIT)
    hog.await_filled()
    server.kill()
    begun = time.monotonic()
    # SIGBUS for a page that can't be had; or the group has no room, as nothing more can go out.
    assert hog.status() in {SIGBUS, SIGKILLED}
    assert time.monotonic() - begun < 3 * 3.0 + 10
    assert device.reading[Word.READS_FAILED] + device.reading[Word.WRITES_FAILED]
    assert tmem("swap", "status").returncode == 1
    done = tmem("swap", "detach", "t0", "--force")
    assert done.returncode == 0, done.stderr


def test_a_hung_server_never_leaves_an_unkillable_program(start_server, attach_device, start_hog):
    server = start_server()
    attach_device(server.target, io_deadline=3.0, write_deadline=3.0)
    hog = start_hog(96, 120, "rnd", limit=LIMIT)
    hog.await_filled()
    server.signal(signal.SIGSTOP)
    try:
        assert hog.status(timeout=40) in {SIGBUS, SIGKILLED}
    finally:
        server.signal(signal.SIGCONT)


def test_what_a_server_refuses_the_kernel_keeps(start_server, attach_device, start_hog):
    server = start_server("--layer", "faulty:put_refused=0.05")
    for _ in range(50):
        try:
            device = attach_device(server.target)
        except OSError:
            continue  # the header of the swap area itself was refused
        break
    hog = start_hog(64, 1, "rnd", "write", limit=LIMIT)
    hog.result()
    reading = device.reading
    assert reading[Word.PUTS_REFUSED] > 0
    assert reading[Word.WRITES_FAILED] > 0
    assert not reading[Word.READS_FAILED] + reading[Word.PAGES_LOST] + reading[Word.PAGES_CORRUPT]
    assert "was refused" in device.log


# ---- A minute of everything ----


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("order", "flags"),
    [("rnd", ["write"]), ("seq", ["write"]), ("rnd", ["write", "thp"]), ("seq", ["write", "thp"])],
    ids=["random", "sequential", "random-huge", "sequential-huge"],
)
def test_a_minute_with_ten_workers_killed_and_the_server_frozen(start_server, attach_device, start_hog, order, flags):
    server = start_server()
    device = attach_device(server.target)
    hog = start_hog(128, 300, order, *flags, limit=48 * MIB)
    hog.await_filled()
    killed = kill_workers(device, 10, 50)
    server.signal(signal.SIGSTOP)
    threading.Event().wait(5.0)
    server.signal(signal.SIGCONT)
    threading.Event().wait(5.0)
    hog.stop()
    found = hog.result(timeout=120)
    reading = device.reading
    assert reading[Word.TAKEOVERS] >= len(killed) == 10
    assert not reading[Word.READS_FAILED] + reading[Word.WRITES_FAILED], device.log
    print(f"{found['touches']} touches, {found['slow']} waits, {reading[Word.RESENT]} requests said again: 0 bad")


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_minute_with_the_server_restarted_five_times(start_server, attach_device, start_hog, tmp_path):
    listen = f"127.0.0.1:{free_port()}"
    arguments = ("--journal", str(tmp_path / "journal"))
    server = start_server(*arguments, listen=listen)
    device = attach_device(server.target, durability="disk")
    hog = start_hog(128, 300, "rnd", "write", limit=48 * MIB)
    hog.await_filled()
    for _ in range(5):
        threading.Event().wait(10)
        server.kill()
        server = start_server(*arguments, listen=listen)
        device.kill_worker()
        await_more(device, Word.TAKEOVERS)
    hog.stop()
    hog.result(timeout=120)
    assert not device.reading[Word.READS_FAILED] + device.reading[Word.PAGES_LOST], device.log


def test_nothing_of_this_runs_in_our_own_group(machine):
    """A limited test runner would limit the servers too, and their pages are what the programs wait for."""
    limited = machine.limited(machine.of(os.getpid()))
    assert limited is None or limited.limit is None or limited.limit > 2048 * MIB
