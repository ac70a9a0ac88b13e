"""Unmodified programs under the pager, by its preload shim: what they compute is what they compute without it."""

import ctypes
import hashlib
import os
import re
import resource
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import skip_or_fail
from tests.processes import ROOT
from tests.waiting import wait_until

import tmem.client
from tmem.agents.pager import Pages
from tmem.agents.pager.paging import PagedProgram, Paging
from tmem.agents.run.ways import Order
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import InvalidOption

from .conftest import MIB, alive, await_gone, descendants

IO_URING_SETUP = 425
Run = Callable[..., tuple[int, str, PagedProgram]]


@pytest.fixture(scope="module")
def server() -> Iterator[CaptiveDaemon]:
    with CaptiveDaemon("--memory-limit", "256MiB") as captive:
        yield captive


@pytest.fixture(scope="module")
def allocations(build: Callable[..., Path]) -> Path:
    return build("allocations", "-fno-builtin")


@pytest.fixture
def run(server: CaptiveDaemon, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a program under the pager to its end: its status and output, and what is left to look at."""

    def start(
        *command: object, memory: int = 8 * MIB, room: int = 1 << 30, **way: Any
    ) -> tuple[int, str, PagedProgram]:
        words = [str(word) for word in command]
        order = Order(words, memory, room, way.pop("target", server.target), None)
        others = descendants(os.getpid())
        with Paging(**way).start(order) as program:
            status = program.wait(100)
            if status is None:
                pytest.fail("the program did not end")
            processes = descendants(os.getpid())
        await_gone(processes - others)
        out, err = capfd.readouterr()
        assert status in {0, 128 + signal.SIGBUS}, err
        return status, out, program

    return start


@pytest.mark.parametrize("pages", ["4KiB", "thp"], indirect=True)
def test_every_way_to_ask_for_memory_is_answered_as_ever(run: Run, allocations: Path, pages: str) -> None:
    status, out, program = run(allocations, "family", memory=8 * MIB, pages=Pages(pages))
    assert (status, out) == (0, "right\n")
    figures = program.figures()
    assert figures.more["regions"] == 1
    assert figures.pages_out > 0
    assert figures.messages_out_per_mib
    assert figures.trouble == ""


def test_the_figures_of_a_program_that_ended_are_of_all_that_it_did(server: CaptiveDaemon, tmp_path: Path) -> None:
    """Agents tell theirs once a second, and at the end: this one comes to neither before the program is gone."""
    touched = tmp_path / "touched"
    script = f"import signal; far = bytearray(b'x') * (4 << 20); open({str(touched)!r}, 'w'); signal.pause()"
    order = Order([sys.executable, "-c", script], 64 * MIB, 1 << 30, server.target, None)
    with Paging().start(order) as program:
        wait_until(touched.exists)
        (agent,) = program.agents()
        os.kill(agent, signal.SIGSTOP)
        ended = os.pidfd_open(program.pid)

        def go_on_once_it_is_gone() -> None:
            select.select([ended], [], [], 60)
            time.sleep(0.3)  # whoever does not wait for the agent has answered by then
            os.kill(agent, signal.SIGCONT)

        helper = threading.Thread(target=go_on_once_it_is_gone)
        program.signal(signal.SIGTERM)
        helper.start()
        assert program.wait(60) == 128 + signal.SIGTERM
        assert (program.figures().peak or 0) >= 4 * MIB
        helper.join()
        os.close(ended)


def test_an_agent_that_ends_by_an_error_leaves_its_pages_to_the_next(server: CaptiveDaemon, tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    script = f"""
import hashlib, random, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
far = bytearray(random.Random(1).randbytes(12 << 20))
open({str(ready)!r}, "w")
signal.sigwait([signal.SIGUSR1])
print(hashlib.sha256(far).hexdigest() == hashlib.sha256(random.Random(1).randbytes(12 << 20)).hexdigest(), flush=True)
"""
    order = Order([sys.executable, "-c", script], 4 * MIB, 1 << 30, server.target, None)
    with Paging().start(order) as program:
        wait_until(lambda: ready.exists() and program.figures().pages_out > 100)
        (agent,) = program.agents()
        # Nothing that can be understood.
        program._served[0].end.send(b'{"id": 1}')
        wait_until(lambda: program.agents() not in ([agent], [0]))
        program.signal(signal.SIGUSR1)
        assert program.wait(60) == 0
        assert program.figures().more["pager_lost"] == 0


def test_many_threads_allocate_at_once(run: Run, allocations: Path, server: CaptiveDaemon) -> None:
    _, out, program = run(allocations, "threads", 2, memory=4 * MIB)
    assert out == "right\n"
    assert program.figures().pages_out > 0
    with tmem.client.connect(server.target) as client:
        assert client.pools() == []


def test_a_forked_child_gets_sigsegv_for_its_parents_memory_and_far_memory_of_its_own(
    run: Run, allocations: Path
) -> None:
    _, out, program = run(allocations, "fork", memory=4 * MIB)
    assert out == "right\n"
    assert program.figures().more["regions"] == 2


def test_what_does_not_fit_fails_and_nothing_becomes_local_behind_ones_back(run: Run, allocations: Path) -> None:
    _, out, _ = run(allocations, "full", 65 * MIB, room=64 * MIB)
    assert out == "right\n"


def test_without_a_server_large_allocations_fail(run: Run, allocations: Path) -> None:
    _, out, program = run(allocations, "none", target="127.0.0.1:1")
    assert out == "right\n"
    assert "127.0.0.1:1" in program.figures().trouble


@contextmanager
def standard_input(descriptor: int) -> Iterator[None]:
    """What is started meanwhile has this descriptor, and no other."""
    before = os.dup(0)
    try:
        os.dup2(descriptor, 0)
        yield
    finally:
        os.dup2(before, 0)
        os.close(before)
        os.close(descriptor)


def test_direct_io_is_refused_from_the_start_and_by_what_was_opened_before(
    run: Run, allocations: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    try:
        direct = os.open(tmp_path / "file", os.O_RDONLY | os.O_DIRECT)
    except OSError as error:
        skip_or_fail(f"{tmp_path} has no direct I/O: {error}")
    with standard_input(direct):
        _, out, _ = run(allocations, "direct", tmp_path / "file")
    assert out == "right\n"


def test_a_process_that_was_given_an_io_uring_gets_no_region(run: Run, allocations: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    ring = libc.syscall(IO_URING_SETUP, 1, ctypes.create_string_buffer(120))
    if ring < 0:
        skip_or_fail(f"there is no io_uring: {os.strerror(ctypes.get_errno())}")
    with standard_input(ring):
        _, out, program = run(allocations, "none")
    assert out == "right\n"
    assert program.figures().more["regions"] == 0


def test_the_filter_is_not_put_upon_itself_by_each_program_that_starts_another(run: Run) -> None:
    count = "grep Seccomp_filters /proc/self/status"
    _, out, _ = run("sh", "-c", f"{count}; sh -c '{count}; exec sh -c \"{count}\"'")
    before = re.findall(r"Seccomp_filters:\s*(\d+)", Path("/proc/self/status").read_text("ascii"))
    assert re.findall(r"Seccomp_filters:\s*(\d+)", out) == [str(int(before[0]) + 1)] * 3


def test_a_hog_in_its_own_memory_has_not_one_wrong_byte(run: Run, hog_program: Path) -> None:
    _, out, program = run(hog_program, 24 * MIB, 2, 4, 2, 1)
    assert '"bad": 0' in out
    assert program.figures().pages_out > 1000
    assert (program.figures().peak or 0) <= 8 * MIB


NUMPY = """
import numpy
numbers = numpy.random.default_rng(1).integers(0, 1 << 40, 1 << 19)
ordered = numpy.sort(numbers)
assert (ordered[1:] >= ordered[:-1]).all()
print(int(ordered[::1000].sum()), int(numbers.sum()))
"""

OBJECTS = """
import subprocess
things = {number: str(number) * 3 for number in range(100_000)}
assert subprocess.run(["/bin/echo", "hello"], capture_output=True).stdout == b"hello\\n"
print(sum(map(len, things.values())), things[54321])
"""


@pytest.mark.parametrize("script", [NUMPY, OBJECTS], ids=["numpy", "objects"])
def test_python_computes_what_it_computes_without_it(run: Run, script: str) -> None:
    plain = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    _, out, program = run(sys.executable, "-c", script, memory=8 * MIB)
    assert out == plain.stdout
    assert program.figures().pages_out > 500


GIVER = """
import sys
from tmem.agents.pager.paging import Paging
from tmem.agents.run.ways import Order
with Paging().start(Order([sys.executable, "-c", sys.argv[2]], 2 << 20, 64 << 20, sys.argv[1], None)) as program:
    program.wait(100)
"""

READER = """
import os, sys
far = bytearray(12 << 20)
for at in range(0, len(far), 4096):
    far[at : at + 8] = at.to_bytes(8)
print(os.getpid(), flush=True)
sys.stdin.readline()
assert all(far[at : at + 8] == at.to_bytes(8) for at in range(0, len(far), 4096))
print("right", flush=True)
"""


def test_a_program_whose_giver_is_killed_keeps_its_pages(server: CaptiveDaemon) -> None:
    giver = subprocess.Popen(
        [sys.executable, "-c", GIVER, server.target, READER],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started: set[int] = set()
    try:
        assert giver.stdout is not None
        program = int(giver.stdout.readline())
        started = descendants(giver.pid)
        assert program in started
        with tmem.client.connect(server.target) as client:
            (pool,) = client.pools()
            assert client.stat_pool(pool.pool_id).pages > 1000
            giver.kill()
            giver.wait()
            out, _ = giver.communicate("\n", timeout=60)
            assert out == "right\n"
            await_gone(started)
            assert client.pools() == []
    finally:
        giver.kill()
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
        giver.communicate()


@pytest.mark.long
def test_sort_sorts(run: Run, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("".join(f"{hashlib.sha256(str(line).encode()).hexdigest()}\n" for line in range(40_000)), "ascii")
    command = ["sort", "-S", "60M", "--parallel=1", str(text), "-o"]
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run([*command, tmp_path / "plain"], check=True, timeout=60, env=environment)
    _, _, program = run("env", "LC_ALL=C", *command, tmp_path / "far", memory=2 * MIB)
    assert (tmp_path / "far").read_bytes() == (tmp_path / "plain").read_bytes()
    assert program.figures().pages_out > 500


def test_a_program_that_does_not_exist_or_ends_by_a_signal_is_told(run: Run, server: CaptiveDaemon) -> None:
    with pytest.raises(InvalidOption, match="no program"):
        run("/nowhere/to/be/found")
    order = Order(["sh", "-c", "kill -TERM $$"], 8 * MIB, None, server.target, None)
    with Paging().start(order) as program:
        assert program.wait(30) == 128 + signal.SIGTERM


STEPS = 'while read -r _; do "$@"; done'


class Steps:
    """A program that starts another one with each line that it gets."""

    def __init__(self, target: str, undo: ExitStack, *command: object) -> None:
        reader, self._writer = os.pipe()
        self._undo = undo.enter_context(ExitStack())
        self._undo.callback(os.close, self._writer)
        words = ["sh", "-c", STEPS, "sh", *map(str, command)]
        with standard_input(reader):
            self.program = undo.enter_context(Paging().start(Order(words, 8 * MIB, 64 * MIB, target, None)))

    def step(self) -> None:
        os.write(self._writer, b"\n")

    def end(self) -> int | None:
        self._undo.close()
        return self.program.wait(60)


def test_of_a_process_that_has_ended_nothing_is_kept_but_sums(server: CaptiveDaemon, allocations: Path) -> None:
    def held() -> tuple[int, int, int]:
        maps = Path("/proc/self/maps").read_text("ascii").count("memfd:tmem")
        return len(list(Path("/proc/self/fd").iterdir())), len(descendants(os.getpid())), maps

    def given(number: int) -> bool:
        return steps.program.figures().more["regions"] == number

    with ExitStack() as undo:
        steps = Steps(server.target, undo, allocations, "full", 65 * MIB)
        before = held()
        for number in range(1, 5):
            steps.step()
            wait_until(partial(given, number))
            wait_until(lambda: held() == before)
        assert steps.end() == 0
        assert steps.program.figures().more["regions"] == 4


def test_a_process_that_asks_while_descriptors_are_short_gets_its_memory_later(
    server: CaptiveDaemon, allocations: Path
) -> None:
    with ExitStack() as undo:
        steps = Steps(server.target, undo, allocations, "full", 65 * MIB)
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
        try:
            steps.step()
            wait_until(lambda: steps.program.failures)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        wait_until(lambda: steps.program.figures().more["regions"] == 1)
        assert steps.end() == 0


def test_children_that_a_program_leaves_behind_are_ended(run: Run, tmp_path: Path) -> None:
    _, _, _ = run("sh", "-c", f"(sleep 1000 & echo $! > {tmp_path}/pid) ; exit 0")
    await_gone({int((tmp_path / "pid").read_text("ascii"))})


def test_a_program_that_is_left_is_ended_with_all_of_it(server: CaptiveDaemon, hog_program: Path) -> None:
    command = [str(hog_program), str(32 * MIB), "100", "2", "0", "1"]
    with Paging().start(Order(command, 8 * MIB, None, server.target, None)) as program:
        while not program.figures().pages_out:
            assert program.wait(0.1) is None
        processes = descendants(program.pid) | set(program.agents())
    await_gone(processes)
    assert program.wait(0) == 128 + signal.SIGKILL
    with tmem.client.connect(server.target) as client:
        assert client.pools() == []
