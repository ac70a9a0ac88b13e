"""Swap devices for tests, on this machine's kernel: each in a run directory of its own, and gone when the test is."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.agents.swap.hogs import Hog, compile_hog
from tests.conftest import skip_or_fail

from tmem.agents.host import loops, mounts, swaps
from tmem.agents.host.cgroups import Group, Hierarchy
from tmem.agents.host.machine import Machine, missing
from tmem.agents.swap.device import Options, attach, detach
from tmem.agents.swap.requirements import needs
from tmem.agents.swap.state import Record, Site, sites
from tmem.agents.swap.status import Reading, read_device
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import InvalidOption

MIB = 1 << 20


@pytest.fixture(scope="session")
def machine() -> Hierarchy:
    """What the kernel must have for these tests."""
    lacking = missing(needs(Machine()))
    if lacking:
        skip_or_fail("; ".join(f"{need.what}: {need.found}" for need in lacking))
    try:
        return Hierarchy.find()
    except InvalidOption as error:
        skip_or_fail(str(error))
        raise


@pytest.fixture(scope="session")
def hog_binary(tmp_path_factory: pytest.TempPathFactory, require_tool: Callable[[str], str]) -> Path:
    return compile_hog(require_tool("gcc"), tmp_path_factory.mktemp("hog"))


@pytest.fixture
def run_directory(machine: Hierarchy) -> Iterator[Path]:
    """A run directory; whatever a test leaves there is taken down, and then nothing may be left."""
    with tempfile.TemporaryDirectory(prefix="tmem-swap-") as name:
        directory = Path(name)
        yield directory
        for site in sites(directory):
            with suppress(OSError, InvalidOption):
                detach(site, force=True)
        left = leftovers(directory)
        if left:
            clean_up(directory)
        assert not left, left


def leftovers(directory: Path) -> list[str]:
    """What there still is of devices in a run directory: areas, loop devices, mounts, control groups, processes."""
    found = []
    backed = {f"/dev/{path.name}": loops.backing_of(f"/dev/{path.name}") for path in Path("/sys/block").glob("loop*")}
    ours = {path for path, backing in backed.items() if backing is not None and backing.startswith(str(directory))}
    found += [f"swap area {area.path}" for area in swaps.list_areas() if area.path in ours]
    found += [f"loop device {path}" for path in ours]
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        if f" {directory}/" in line:
            found.append(f"mount {line.split()[4]}")
    found += [f"file {path}" for path in directory.glob("*/*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            command = path.read_bytes().split(b"\0")
            if b"tmem.agents.swap.holder" in command or b"tmem.agents.run.guard" in command:
                environment = (path.parent / "environ").read_bytes()
                if f"TMEM_TEST_RUN_DIR={directory}".encode() in environment:
                    found.append(f"process {path.parent.name}: {b' '.join(command).decode()}")
    return found


def clean_up(directory: Path) -> None:
    """By force, so that the next test finds the machine as it was."""
    for path in Path("/sys/block").glob("loop*"):
        device = f"/dev/{path.name}"
        backing = loops.backing_of(device)
        if backing is not None and backing.startswith(str(directory)):
            subprocess.run(["swapoff", device], check=False, capture_output=True, timeout=60)
            loops.clear(device)
    for mount in directory.glob("*/mnt"):
        with suppress(OSError):
            mounts.unmount(str(mount), lazily=True)


@pytest.fixture
def start_server(start_daemon: Callable[..., CaptiveDaemon], machine: Hierarchy) -> Callable[..., CaptiveDaemon]:
    """Starts a server that can't be swapped out to itself."""
    return lambda *arguments, **options: start_daemon(
        "--lock-memory", "--memory-limit", "512MiB", *arguments, **options
    )


class Device:
    """An attached device."""

    def __init__(self, site: Site, record: Record) -> None:
        self.site = site
        self.record = record

    @property
    def reading(self) -> Reading:
        """How it is."""
        reading = read_device(self.site)
        assert reading is not None
        return reading

    @property
    def log(self) -> str:
        """What holder and workers said."""
        return self.site.log.read_text("utf-8")

    def kill_worker(self, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends the worker that serves a signal; answers its pid."""
        from tmem.agents.swap.shared import Word

        pid = self.reading[Word.WORKER_PID]
        os.kill(pid, number)
        return pid


@pytest.fixture
def attach_device(run_directory: Path) -> Callable[..., Device]:
    """Attaches devices that the run directory's fixture takes down."""

    def make(target: str, *, name: str = "t0", size: int = 192 * MIB, **options: Any) -> Device:
        site = Site(run_directory, name)
        priority = max((area.priority for area in swaps.list_areas()), default=0) + 1
        return Device(site, attach(site, Options(target, None, size, **{"priority": max(priority, 1), **options})))

    return make


@pytest.fixture
def limited(machine: Hierarchy) -> Iterator[Callable[[int], Group]]:
    """Makes control groups with a limit."""
    made: list[Group] = []

    def make(limit: int) -> Group:
        group = machine.create(f"tmem-test-{os.getpid()}-{len(made)}")
        made.append(group)
        group.set_limit(limit)
        return group

    yield make
    for group in made:
        group.kill()
        group.remove()


@pytest.fixture
def start_hog(hog_binary: Path, limited: Callable[[int], Group]) -> Iterator[Callable[..., Hog]]:
    """Starts hogs inside limited groups."""
    started: list[Hog] = []

    def start(mib: int, seconds: float, order: str, *flags: str, limit: int) -> Hog:
        hog = Hog(hog_binary, limited(limit), mib, seconds, order, *flags)
        started.append(hog)
        return hog

    yield start
    for hog in started:
        hog.close()


@pytest.fixture
def tmem(run_directory: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command to its end."""

    def run(*arguments: str, timeout: float = 60, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [str(Path(sys.executable).with_name("tmem")), *arguments],
            env=command_environment(run_directory) | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


@pytest.fixture
def start_tmem(run_directory: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts the command; it ends with the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **options: Any) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [str(Path(sys.executable).with_name("tmem")), *arguments],
            env=command_environment(run_directory) | {"TERM": "xterm", "COLUMNS": "100"},
            text=True,
            **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def command_environment(run_directory: Path) -> dict[str, str]:
    """For the command: its own run directory, and a mark by which its processes are found."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")}
    return kept | {"TMEM_RUN_DIR": str(run_directory), "TMEM_TEST_RUN_DIR": str(run_directory)}


def read_json(text: str) -> Any:
    """JSON that a command printed."""
    return json.loads(text)
