"""FarMemory as a program uses it, on real daemons. Each program is a process of its own: a touch must never hold up the tests."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.processes import ROOT
from tests.waiting import wait_until

import tmem.client
from tmem.client.testing import CaptiveDaemon

from .conftest import MIB, alive, await_gone, descendants, run_program

Daemons = Callable[..., CaptiveDaemon]

HEAD = """
import ctypes, errno, json, mmap, os, signal, subprocess, sys, threading, time
import numpy as np
from tmem.agents.pager import FarMemory, Target
from tmem.wire import errors
MIB = 1 << 20
target = sys.argv[1] if len(sys.argv) > 1 else ""

def until(ready, seconds=30):
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "not so in time"
        time.sleep(0.02)

def fill(far):
    words = np.frombuffer(far.view(), dtype=np.uint64)
    words[:] = np.arange(words.size, dtype=np.uint64)
    return words

def right(words):
    return bool((words == np.arange(words.size, dtype=np.uint64)).all())
"""


def program(body: str) -> str:
    return HEAD + textwrap.dedent(body)


def run(body: str, *arguments: str, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
    done = run_program(program(body), *arguments, timeout=timeout)
    assert done.returncode == 0, done.stderr
    return done


class Started:
    """A program that is talked to by lines."""

    def __init__(self, body: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program(body), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip("\n")
        assert line, self.process.communicate(timeout=30)[1]
        return line

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    started: list[Started] = []

    def begin(body: str, *arguments: str) -> Started:
        each = Started(body, *arguments)
        started.append(each)
        return each

    yield begin
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def server() -> Iterator[CaptiveDaemon]:
    with CaptiveDaemon("--memory-limit", "256MiB") as captive:
        yield captive


def pools(target: str) -> list[str]:
    with tmem.client.connect(target) as client:
        return [pool.name for pool in client.pools()]


# ---- A buffer ----


@pytest.mark.parametrize("pages", ["4KiB", "thp", "hugetlb"], indirect=True)
def test_numpy_works_on_it_and_the_limit_is_kept(server: CaptiveDaemon, pages: str) -> None:
    done = run(
        """
        with FarMemory(32 * MIB, resident=12 * MIB, target=target, pages=sys.argv[2]) as far:
            words = fill(far)
            assert right(words)
            copy = np.sort(words[::-1].copy())
            assert right(copy)
            words[::512] += 1
            assert int(words[::512].sum()) == sum(range(0, words.size, 512)) + len(words[::512])
            assert words[1] == 1
            until(lambda: far.stats()["evicted"] > 0)
            print(json.dumps(far.stats()))
            del words
        """,
        server.target,
        pages,
    )
    stats = json.loads(done.stdout)
    unit = 4096 if pages == "4KiB" else 2 * MIB
    assert stats["peak"] * unit <= 12 * MIB
    assert stats["resident_bytes"] + stats["remote_bytes"] == 32 * MIB
    assert stats["fault_p50"] > 0
    assert pools(server.target) == []


def test_pages_beside_one_that_is_always_written_to_come_back_as_they_were(
    server: CaptiveDaemon, build: Callable[..., Path]
) -> None:
    """They leave together, and are compressed together: what the program writes at that moment must not get into the others."""
    body = """
        library = ctypes.CDLL(sys.argv[2])
        library.neighbours.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_double)
        library.neighbours.restype = ctypes.c_uint64
        from tmem.agents.pager import kernel
        with FarMemory(8 * MIB, resident=2 * MIB, target=target, sampling=False) as far:
            print(library.neighbours(kernel.address_of(far), len(far) // 4096, 3.0))
            print(far.stats()["cancelled"])
    """
    done = run(body, server.target, str(build("neighbours", "-shared", "-fPIC")))
    wrong, cancelled = map(int, done.stdout.split())
    assert wrong == 0
    assert cancelled > 10


def test_it_is_a_buffer_like_any_other(server: CaptiveDaemon) -> None:
    run(
        """
        with FarMemory(MIB, resident=MIB, target=target) as far:
            assert len(far) == MIB and len(memoryview(far)) == MIB
            assert far[:8] == bytes(8)
            far[4096:4101] = b"hello"
            assert far.find(b"hello") == 4096
            with open("/etc/passwd", "rb") as file:
                count = file.readinto(far)
            assert far[:count] == open("/etc/passwd", "rb").read()
            floats = np.frombuffer(far, dtype=np.float64, count=16)
            assert floats.base is not None
            try:
                far.close()
            except BufferError:
                del floats
            else:
                raise AssertionError("a region in use was closed")
            assert far[4096:4101] == b"hello" or count > 4096
            for call in (lambda: far.resize(2 * MIB), lambda: far.madvise(11), lambda: far.discard(1, 4096)):
                try:
                    call()
                except errors.InvalidOption as error:
                    assert str(error)
                else:
                    raise AssertionError("that can't be")
        try:
            far.stats()
        except errors.Closed:
            pass
        far.close()
        """,
        server.target,
    )


@pytest.mark.parametrize("pages", ["4KiB", "thp", "hugetlb"], indirect=True)
def test_what_is_discarded_reads_as_zeros_and_takes_no_memory_anywhere(server: CaptiveDaemon, pages: str) -> None:
    run(
        """
        import tmem.client
        with FarMemory(32 * MIB, resident=8 * MIB, target=target, pages=sys.argv[2]) as far:
            words = fill(far)
            until(lambda: far.stats()["remote_bytes"] >= 16 * MIB)
            far.discard(4 * MIB, 20 * MIB)
            assert not words[MIB // 2 : 3 * MIB].any()
            assert right(words[: MIB // 2])
            words[MIB // 2 : 3 * MIB] = 7
            assert (words[MIB // 2 : 3 * MIB] == 7).all()
            del words
            far.madvise(mmap.MADV_REMOVE)
            assert far[:4096] == bytes(4096)
            with tmem.client.connect(target) as client:
                (pool,) = client.pools()
                until(lambda: client.stat_pool(pool.pool_id).pages == 0)
            stats = far.stats()
            assert stats["remote_bytes"] == 0, stats
        """,
        server.target,
        pages,
    )


# ---- The rules ----


def test_a_fork_gets_sigsegv_and_never_zeros_and_other_programs_start_as_ever(server: CaptiveDaemon) -> None:
    run(
        """
        with FarMemory(8 * MIB, resident=MIB, target=target) as far:
            words = fill(far)
            child = os.fork()
            if not child:
                try:
                    far.stats()
                except errors.Closed:
                    far[0]  # SIGSEGV
                os._exit(1)
            assert os.waitpid(child, 0)[1] == signal.SIGSEGV
            from tmem.agents.pager import kernel
            begin, end = kernel.address_of(far), kernel.address_of(far) + 8 * MIB
            child = os.fork()
            if not child:
                # The addresses are still taken: nobody else's memory comes to lie there.
                for line in open("/proc/self/maps"):
                    first, last = (int(part, 16) for part in line.split()[0].split("-"))
                    if first <= begin and end <= last and line.split()[1] == "---p":
                        os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            assert subprocess.run(["/bin/echo", "hello"], capture_output=True).stdout == b"hello\\n"
            assert os.waitstatus_to_exitcode(os.system("exit 3")) == 3
            assert right(words)
            del words
        """,
        server.target,
    )


def test_direct_io_is_refused_unless_it_is_promised_that_there_is_none(server: CaptiveDaemon, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(8192))
    body = """
        def attempts():
            found = []
            for flags in (os.O_RDONLY, os.O_RDONLY | os.O_DIRECT):
                try:
                    os.close(os.open(sys.argv[2], flags))
                    found.append(0)
                except OSError as error:
                    found.append(error.errno)
            file = os.open(sys.argv[2], os.O_RDONLY)
            import fcntl
            try:
                fcntl.fcntl(file, fcntl.F_SETFL, os.O_DIRECT)
                found.append(0)
            except OSError as error:
                found.append(error.errno)
            fcntl.fcntl(file, fcntl.F_SETFL, os.O_NONBLOCK)
            os.close(file)
            libc = ctypes.CDLL(None, use_errno=True)
            for call in (425, 437, 278):
                found.append(ctypes.get_errno() if libc.syscall(call, -1, 0, 0, 0) < 0 else 0)
            return found
        before = attempts()
        import fcntl
        opened = os.open(sys.argv[2], os.O_RDONLY | os.O_DIRECT)
        _, pipe = os.pipe2(os.O_DIRECT)
        direct = lambda: [bool(fcntl.fcntl(each, fcntl.F_GETFL) & os.O_DIRECT) for each in (opened, pipe)]
        assert direct() == [True, True]
        libc = ctypes.CDLL(None)
        ring = libc.syscall(425, 1, ctypes.create_string_buffer(120))
        if ring >= 0 and sys.argv[3] == "refused":
            try:
                FarMemory(MIB, resident=MIB, target=target)
            except errors.InvalidOption as error:
                assert f"descriptor {ring} is an io_uring" in str(error), error
            else:
                raise AssertionError("an io_uring was let by")
            os.close(ring)
        with FarMemory(MIB, resident=MIB, target=target, allow_direct_io=sys.argv[3] == "allowed"):
            thread = []
            worker = threading.Thread(target=lambda: thread.append(attempts()))
            worker.start()
            worker.join()
            assert thread == [attempts()]
            assert direct() == [sys.argv[3] == "allowed", True]     # of a pipe the flag means something else
            print(json.dumps([before, attempts()]))
    """
    before, after = json.loads(run(body, server.target, str(tmp_path / "file"), "refused").stdout)
    assert before[:3] == [0, 0, 0]
    assert after == [0, 22, 22, 1, 38, 22]  # EINVAL, EINVAL, EPERM, ENOSYS, EINVAL
    before, after = json.loads(run(body, server.target, str(tmp_path / "file"), "allowed").stdout)
    assert before == after


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("4097, resident=MIB", "size is 4097"),
        ("0, resident=MIB", "size is 0"),
        ("MIB, resident=4096", "resident is 4096"),
        ("3 * MIB, resident=2 * MIB, pages='thp'", "multiple of 2097152"),
        ("MIB, resident=MIB, pages='8KiB'", "4KiB, thp, hugetlb can be"),
        ("MIB, resident=MIB, deadline=0", "more than 0"),
        ("MIB, resident=MIB, inertia=-1", "can't be negative"),
        ("MIB, resident=MIB, colour='red'", "colour"),
        ("MIB, resident=MIB, targets=[]", "targets"),
    ],
)
def test_what_can_t_be_is_said(arguments: str, words: str) -> None:
    done = run(
        f"""
        try:
            FarMemory({arguments}, target="127.0.0.1:1")
        except errors.InvalidOption as error:
            print(error)
        """
    )
    assert words in done.stdout


def test_a_server_that_can_t_be_reached_or_wants_another_token_is_said(start_daemon: Daemons, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[tenants.alpha]\ntokens = ["secret-of-alpha-0123456789"]\n', "ascii")
    tokens.chmod(0o600)
    daemon = start_daemon("--tokens", str(tokens))
    done = run(
        """
        for where, token in (("127.0.0.1:1", None), (target, None), (target, "wrong-0123456789abcdef")):
            try:
                FarMemory(MIB, resident=MIB, target=where, token=token)
            except errors.TmemError as error:
                print(type(error).__name__)
        with FarMemory(8 * MIB, resident=MIB, target=target, token="secret-of-alpha-0123456789") as far:
            words = fill(far)
            assert right(words)
            del words
        """,
        daemon.target,
    )
    assert done.stdout.split() == ["Unavailable", "Unauthenticated", "Unauthenticated"]


# ---- Agents ----


def test_when_the_program_is_killed_everything_of_it_goes(start: Callable[..., Started], server: CaptiveDaemon) -> None:
    far = start(
        """
        far = FarMemory(8 * MIB, resident=MIB, target=target)
        words = fill(far)
        print(far.stats()["agent"], flush=True)
        sys.stdin.readline()
        """,
        server.target,
    )
    agent = int(far.line())
    processes = descendants(far.process.pid)
    assert agent in processes
    assert len(pools(server.target)) == 1
    far.process.kill()
    await_gone(processes)
    assert pools(server.target) == []


def test_a_region_that_nobody_refers_to_any_more_is_closed(server: CaptiveDaemon) -> None:
    run(
        """
        import gc
        far = FarMemory(8 * MIB, resident=MIB, target=target)
        agent = far.stats()["agent"]
        words = fill(far)
        del far
        assert right(words)
        del words
        gc.collect()
        until(lambda: not os.path.exists(f"/proc/{agent}"))
        """,
        server.target,
    )
    assert pools(server.target) == []


def test_an_agent_that_hangs_is_replaced(start: Callable[..., Started], server: CaptiveDaemon) -> None:
    far = start(
        """
        with FarMemory(8 * MIB, resident=MIB, target=target, watchdog=2) as far:
            words = fill(far)
            print(far.stats()["agent"], flush=True)
            sys.stdin.readline()
            assert right(words)
            print(far.stats()["agents"], far.stats()["remote_bytes"] > 0, flush=True)
            del words
        """,
        server.target,
    )
    agent = int(far.line())
    os.kill(agent, signal.SIGSTOP)
    far.go_on()
    assert far.line() == "2 True"
    assert not alive(agent)
    assert far.end()[0] == 0


def test_without_its_holder_the_agent_goes_on(start: Callable[..., Started], server: CaptiveDaemon) -> None:
    far = start(
        """
        with FarMemory(8 * MIB, resident=MIB, target=target) as far:
            words = fill(far)
            print(far.stats()["agent"], flush=True)
            sys.stdin.readline()
            assert right(words)
            print("right", flush=True)
            del words
        """,
        server.target,
    )
    agent = int(far.line())
    (holder,) = descendants(far.process.pid) - {agent}
    os.kill(holder, signal.SIGKILL)
    wait_until(lambda: not alive(holder))
    far.go_on()
    assert far.line() == "right"
    assert far.end()[0] == 0
    await_gone({agent})


def test_stats_need_no_agent(start: Callable[..., Started], server: CaptiveDaemon) -> None:
    far = start(
        """
        with FarMemory(8 * MIB, resident=MIB, target=target, watchdog=0) as far:
            words = fill(far)
            print(far.stats()["agent"], flush=True)
            sys.stdin.readline()
            stats = far.stats()
            print(stats["resident_bytes"] + stats["remote_bytes"] == 8 * MIB, flush=True)
            sys.stdin.readline()
            del words
        """,
        server.target,
    )
    agent = int(far.line())
    os.kill(agent, signal.SIGSTOP)
    far.go_on()
    assert far.line() == "True"
    os.kill(agent, signal.SIGCONT)
    far.go_on()
    assert far.end()[0] == 0


# ---- Home ----


def test_pages_come_home_by_themselves_when_there_is_room(server: CaptiveDaemon) -> None:
    run(
        """
        with FarMemory(12 * MIB, resident=2 * MIB, target=target, inertia=0.5) as far:
            words = fill(far)
            assert far.stats()["remote_bytes"] >= 9 * MIB
            far.resident = 20 * MIB
            assert far.resident == 20 * MIB
            seen = []
            def home():
                seen.append(far.stats()["remote_bytes"])
                return not seen[-1]
            until(home)
            steady = seen[seen.index(max(seen)) :]      # what was on its way out arrived first
            assert steady == sorted(steady, reverse=True)
            assert len(set(steady)) > 5
            until(lambda: far.stats()["returned"] > 0)
            assert right(words)
            far.resident = 2 * MIB
            until(lambda: far.stats()["resident_bytes"] <= 2 * MIB)
            assert right(words)
            del words
        """,
        server.target,
    )


def test_a_working_set_is_recorded_and_brought_home_again(server: CaptiveDaemon, tmp_path: Path) -> None:
    done = run(
        """
        path = sys.argv[2]
        with FarMemory(24 * MIB, resident=8 * MIB, target=target, inertia=1000) as far:
            words = fill(far)
            far.record_working_set()
            first, last = 8 * MIB // 8, 10 * MIB // 8       # 2 MiB in the middle
            for _ in range(3):
                assert int(words[first:last:512].sum()) > 0
            saved = far.save_working_set(path)
            rest = int(words[12 * MIB // 8 :: 512].sum())    # everything else, so that the set goes away
            before = far.stats()
            far.prefetch(path)
            time.sleep(1.1)
            fetched = far.stats()
            assert int(words[first:last:512].sum()) > 0
            time.sleep(1.1)
            touched = far.stats()
            print(json.dumps([saved, fetched["prefetched"] - before["prefetched"], touched["restored"] - fetched["restored"]]))
            assert right(words)
            del words
        with FarMemory(4 * MIB, resident=4 * MIB, target=target) as other:
            try:
                other.prefetch(path)
            except errors.InvalidOption as error:
                assert "larger" in str(error)
            try:
                other.prefetch("/etc/passwd")
            except errors.InvalidOption as error:
                assert "no working set" in str(error)
        """,
        server.target,
        str(tmp_path / "set"),
    )
    saved, fetched, touched = json.loads(done.stdout)
    # The kernel does not hide a page that it is busy with at that moment.
    assert 0.97 * 2 * MIB <= saved <= 2 * MIB + 65536
    assert fetched >= 400
    assert touched <= 8
    assert re.match(r"tmem working set 1\n(\d+ \d+\n)+$", (tmp_path / "set").read_text("ascii"))


# ---- Targets ----


def test_a_page_goes_to_the_first_target_that_accepts_it_and_is_found_wherever_it_went(start_daemon: Daemons) -> None:
    small, large = start_daemon("--memory-limit", "16MiB"), start_daemon("--memory-limit", "256MiB")
    done = run(
        """
        with FarMemory(32 * MIB, resident=4 * MIB, target=[target, sys.argv[2]]) as far:
            noise = np.frombuffer(far.view(), dtype=np.uint64)
            noise[:] = np.random.default_rng(1).integers(0, 1 << 63, noise.size, dtype=np.uint64)
            import tmem.client
            for where in sys.argv[1:]:
                with tmem.client.connect(where) as client:
                    (pool,) = client.pools()
                    print(client.stat_pool(pool.pool_id).pages)
            assert (noise == np.random.default_rng(1).integers(0, 1 << 63, noise.size, dtype=np.uint64)).all()
            assert far.stats()["peak"] * 4096 <= 4 * MIB
            del noise
        """,
        small.target,
        large.target,
    )
    first, second = (int(count) for count in done.stdout.split())
    assert first > 1000
    assert second > 2000


def test_a_target_that_comes_later_is_used_and_one_that_goes_costs_nothing_that_is_elsewhere(
    start_daemon: Daemons, start: Callable[..., Started], tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/late.sock"
    always = start_daemon("--memory-limit", "256MiB")
    far = start(
        """
        with FarMemory(8 * MIB, resident=2 * MIB, target=[sys.argv[2], target], inertia=1000) as far:
            words = fill(far)
            assert right(words)
            print("filled", flush=True)
            sys.stdin.readline()
            until(lambda: right(words) and stored() > 300)
            print("used", flush=True)
            assert right(words)
            del words
        """.replace(
            "until(lambda",
            """def stored():
                import tmem.client
                with tmem.client.connect(sys.argv[2]) as client:
                    return sum(client.stat_pool(pool.pool_id).pages for pool in client.pools())
            until(lambda""",
        ),
        always.target,
        path,
    )
    assert far.line() == "filled"
    with CaptiveDaemon("--memory-limit", "256MiB", listen=path):
        far.go_on()
        assert far.line() == "used"
        assert far.end()[0] == 0


def test_a_target_that_accepts_and_says_nothing_holds_nothing_up(server: CaptiveDaemon) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        done = run(
            """
            port = f":{int(sys.argv[2].rpartition(':')[2]):04X}"
            def tries():
                lines = [line.split() for line in open("/proc/net/tcp")]
                return sum(line[1].endswith(port) and line[3] in ("01", "08") for line in lines)
            with FarMemory(24 * MIB, resident=2 * MIB, target=[target, sys.argv[2]], inertia=1000) as far:
                words = fill(far)
                before = tries()
                assert before
                until(lambda: right(words) and tries() > before)    # it is tried again while the pages move
                assert right(words)
                print(json.dumps(far.stats()))
                del words
            """,
            server.target,
            f"127.0.0.1:{silent.getsockname()[1]}",
        )
    stats = json.loads(done.stdout)
    assert stats["restored"] + stats["prefetched"] >= 22 * MIB // 4096
    assert pools(server.target) == []


def test_without_room_at_any_target_the_program_goes_on_in_local_memory(start_daemon: Daemons) -> None:
    daemon = start_daemon("--memory-limit", "16MiB")
    run(
        """
        with FarMemory(48 * MIB, resident=4 * MIB, target=target) as far:
            noise = np.frombuffer(far.view(), dtype=np.uint64)
            noise[:] = np.random.default_rng(1).integers(0, 1 << 63, noise.size, dtype=np.uint64)
            stats = far.stats()
            assert stats["remote_bytes"] > 4 * MIB, stats
            assert stats["resident_bytes"] > 16 * MIB, stats
            assert (noise == np.random.default_rng(1).integers(0, 1 << 63, noise.size, dtype=np.uint64)).all()
            until(lambda: far.stats()["refused"] > 0)
            noise[:] = 5            # what compresses fits
            until(lambda: far.stats()["resident_bytes"] <= 4 * MIB)
            assert (noise == 5).all()
            del noise
        """,
        daemon.target,
    )


def test_a_server_that_came_back_empty_is_sigbus_for_what_it_had_and_works_for_the_rest(
    start: Callable[..., Started], tmp_path: Path
) -> None:
    path = f"unix:{tmp_path}/server.sock"
    body = """
        far = FarMemory(16 * MIB, resident=4 * MIB, target=target, deadline=10)
        words = fill(far)
        until(lambda: far.stats()["remote_bytes"] >= 12 * MIB)
        print("out", flush=True)
        sys.stdin.readline()
        far.discard(0, 8 * MIB)
        words[: MIB] = np.arange(MIB, dtype=np.uint64)
        assert right(words[: MIB])              # what was given up is the program's again, and goes out and comes back
        print("works", flush=True)
        sys.stdin.readline()
        print(right(words[MIB :]), flush=True)
        print("not reached")
    """
    first = CaptiveDaemon("--memory-limit", "64MiB", listen=path)
    try:
        far = start(body, path)
        assert far.line() == "out"
    finally:
        first.kill()
        first.close()
    with CaptiveDaemon("--memory-limit", "64MiB", listen=path):
        far.go_on()
        assert far.line() == "works"
        far.go_on()
        status, errors = far.end()
        assert status == -signal.SIGBUS
        assert "lost: SIGBUS" in errors


def test_a_server_that_answers_again_after_the_deadline_gives_the_pages_back(
    start: Callable[..., Started], start_daemon: Daemons
) -> None:
    """A program that survives SIGBUS has its page once the server answers: the poison is lifted."""
    daemon = start_daemon("--memory-limit", "64MiB")
    far = start(
        """
        far = FarMemory(4 * MIB, resident=MIB, target=target, deadline=1)
        words = fill(far)
        del words
        until(lambda: far.stats()["remote_bytes"] >= 2 * MIB)
        libc, (ours, theirs) = ctypes.CDLL(None, use_errno=True), os.pipe()
        def look(page):                         # as a touch, but for the signal
            if libc.write(theirs, ctypes.c_void_p(base + page * 4096), ctypes.c_size_t(8)) < 0:
                return -ctypes.get_errno()
            return int.from_bytes(os.read(ours, 8), "little")
        from tmem.agents.pager import kernel
        base = kernel.address_of(far)
        away, other = [page for page in range(1024) if far._region.table.states[page] == 3][::300][:2]
        print("out", flush=True)
        sys.stdin.readline()
        assert look(away) == -errno.EFAULT
        assert look(other) == -errno.EFAULT
        far.discard(other * 4096, 4096)         # the kernel leaves the poison there, and tells of no touch any more
        until(lambda: look(other) == 0)
        ctypes.c_uint64.from_address(base + other * 4096).value = 5
        print("refused", flush=True)
        sys.stdin.readline()
        until(lambda: look(away) == away * 512)
        assert look(other) == 5
        print("back", flush=True)
        far.close()
        """,
        daemon.target,
    )
    assert far.line() == "out"
    daemon.signal(signal.SIGSTOP)
    try:
        far.go_on()
        begun = time.monotonic()
        assert far.line() == "refused"
        assert time.monotonic() - begun < 20
    finally:
        daemon.signal(signal.SIGCONT)
    far.go_on()
    assert far.line() == "back"
    assert far.end()[0] == 0


def test_closing_takes_a_bounded_time_while_the_server_is_silent(
    start: Callable[..., Started], start_daemon: Daemons
) -> None:
    daemon = start_daemon("--memory-limit", "64MiB")
    far = start(
        """
        far = FarMemory(4 * MIB, resident=MIB, target=target)
        words = fill(far)
        del words
        print("out", flush=True)
        sys.stdin.readline()
        far.close()
        print("closed", flush=True)
        """,
        daemon.target,
    )
    assert far.line() == "out"
    processes = descendants(far.process.pid)
    daemon.signal(signal.SIGSTOP)
    try:
        far.go_on()
        assert far.line() == "closed"
        await_gone(processes)
    finally:
        daemon.signal(signal.SIGCONT)
    assert far.end()[0] == 0
