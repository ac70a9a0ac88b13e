"""What tests of the pager share: the rights and settings of the machine, the hog, and programs that use far memory."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import skip_or_fail
from tests.processes import ROOT
from tests.waiting import wait_until

from tmem.agents.pager.uffd import needed_features, probe_features

HERE = Path(__file__).parent
SHMEM = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
MIB = 1 << 20


@pytest.fixture(autouse=True, scope="session")
def _userfaultfd() -> None:
    """Skips where the pager can't run."""
    try:
        features = probe_features()
    except OSError as error:
        skip_or_fail(f"userfaultfd can't be used: {error}")
    if needed_features(hugetlb=True) & ~features:
        skip_or_fail(f"userfaultfd has only {features!r}")


def _setting(path: Path, value: str, before: str) -> Iterator[None]:
    try:
        path.write_text(value, "ascii")
    except OSError as error:
        skip_or_fail(f"{path} can't be set: {error}")
    yield
    path.write_text(before, "ascii")


@pytest.fixture
def thp() -> Iterator[None]:
    """Shared memory may be made of huge pages, where it asks for them."""
    now = SHMEM.read_text("ascii") if SHMEM.exists() else ""
    if not now:
        skip_or_fail("this kernel has no huge pages of shared memory")
    yield from _setting(SHMEM, "advise", now[now.index("[") + 1 : now.index("]")])


@pytest.fixture
def hugetlb() -> Iterator[None]:
    """A pool of 24 huge pages, beside those that are there."""
    before = HUGE_PAGES.read_text("ascii")
    yield from _setting(HUGE_PAGES, str(int(before) + 24), before)


@pytest.fixture
def pages(request: pytest.FixtureRequest) -> str:
    """A kind of pages, with what the machine must be set to for it; parametrize it."""
    if request.param != "4KiB":
        request.getfixturevalue(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Callable[..., Path]:
    """Compiles a C file of this folder."""

    def compile_(name: str, *flags: str) -> Path:
        made = tmp_path_factory.mktemp("built") / name
        command = [require_tool("gcc"), "-O2", "-Wall", "-Wextra", "-Werror", "-pthread", *flags, "-o", str(made)]
        subprocess.run([*command, str(HERE / f"{name}.c")], check=True, timeout=60)
        return made

    return compile_


@pytest.fixture(scope="session")
def hog_library(build: Callable[..., Path]) -> Path:
    """The hog, to be called."""
    return build("hog", "-DLIBRARY", "-shared", "-fPIC")


@pytest.fixture(scope="session")
def hog_program(build: Callable[..., Path]) -> Path:
    """The hog, to be run."""
    return build("hog")


class Hogging:
    """A hog in far memory, in a process of its own."""

    def __init__(self, library: Path, **options: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.agents.pager.hogging", str(library), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        self.last: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """The next line that it prints; empty when it has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            self.last = json.loads(line)
        return self.last if line else {}

    def until(self, ready: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Reads until a line says so."""
        while True:
            line = self.read()
            assert line, "the hog ended early"
            assert "operations" not in line, f"the hog was done early: {line}"
            if ready(line):
                return line

    def kill_agent(self) -> None:
        """Kills the agent, once it has served a little."""
        stats = self.read()
        agent, faults = stats["agent"], stats["faults"]
        now = self.until(lambda line: line["faults"] > faults + 20)
        os.kill(now["agent"], signal.SIGKILL)
        self.until(lambda line: line["agent"] != agent)

    def result(self) -> dict[str, Any]:
        """Ends it; answers what it found."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        while self.read():
            pass
        assert self.process.wait(30) == 0, self.last
        return self.last

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_hog(hog_library: Path) -> Iterator[Callable[..., Hogging]]:
    """Starts hogs; they end with the test."""
    started: list[Hogging] = []

    def start(**options: Any) -> Hogging:
        hog = Hogging(hog_library, **{"threads": 4, "pattern": 2, "seed": 1, "seconds": 600.0} | options)
        started.append(hog)
        return hog

    yield start
    for hog in started:
        hog.close()


def descendants(pid: int) -> set[int]:
    """The processes that a process has started, and theirs, and so on."""
    parents: dict[int, int] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                parents[int(each.name)] = int((each / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
            except OSError:
                continue
    found: set[int] = set()
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted} - found
        found |= wanted
    return found


def await_gone(pids: set[int]) -> None:
    """Waits until none of these processes is there any more."""
    wait_until(lambda: not [pid for pid in pids if alive(pid)], 30.0)


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def run_program(script: str, *arguments: str, timeout: float = 60.0) -> "subprocess.CompletedProcess[str]":
    """Runs a Python program to its end: a touch of far memory must never hold up the tests themselves."""
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
