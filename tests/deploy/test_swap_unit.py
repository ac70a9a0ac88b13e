"""deploy/systemd/tmem-swap@.service: well-formed, explained, and the real agent works under its limits."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.deploy.test_systemd import RequireTool, confined, directives
from tests.waiting import wait_until

from tmem.agents.host import machine, swaps
from tmem.agents.swap.device import detach
from tmem.agents.swap.requirements import needs
from tmem.agents.swap.shared import Word
from tmem.agents.swap.state import Site
from tmem.agents.swap.status import Reading, read_device
from tmem.client.testing import CaptiveDaemon

MIB = 1 << 20


@pytest.fixture(scope="module")
def unit(deploy: Path) -> Path:
    return deploy / "systemd" / "tmem-swap@.service"


@pytest.fixture(scope="module")
def settings(deploy: Path) -> dict[str, str]:
    """What the example sets, as systemd reads an EnvironmentFile."""
    lines = (deploy / "swap.example.conf").read_text("utf-8").splitlines()
    pairs = (line.split("=", 1) for line in lines if line and not line.startswith("#"))
    return {name: value.strip('"') for name, value in pairs}


def command(unit: Path, settings: dict[str, str], name: str) -> list[str]:
    """ExecStart, with the instance's name and the settings in their places."""
    words = directives(unit)["ExecStart"].replace("%i", name).split()
    words[0] = str(Path(sys.executable).with_name("tmem"))
    at = words.index("$SWAP_OPTIONS")
    return words[:at] + settings["SWAP_OPTIONS"].split() + words[at + 1 :]


# ---- The unit itself ----


def test_systemd_has_nothing_to_say_about_the_unit(unit: Path, tmp_path: Path, require_tool: RequireTool) -> None:
    text = unit.read_text("utf-8").replace("/opt/tmem/bin/tmem", str(Path(sys.executable).with_name("tmem")))
    installed = tmp_path / "tmem-swap@swap0.service"
    installed.write_text(text, "utf-8")
    done = subprocess.run(
        [require_tool("systemd-analyze"), "verify", "--man=no", str(installed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_every_line_has_its_reason(unit: Path) -> None:
    service = unit.read_text("utf-8").partition("[Unit]")[2].partition("[Install]")[0]
    for run in re.findall(r"((?:^#.*\n)*)((?:^[^#\n\[].*\n?)+)", service, re.MULTILINE):
        comment, lines = run
        assert comment or lines.startswith("Description="), lines
        assert len(lines.splitlines()) <= 3, f"too many lines under one comment:\n{lines}"


def test_nothing_gives_it_a_view_of_the_mounts_of_its_own(unit: Path) -> None:
    """Who asks for the state of a device, or takes one down, must see its mount."""
    hiding = (
        "ProtectSystem",
        "ProtectHome",
        "PrivateTmp",
        "PrivateMounts",
        "PrivateDevices",
        "ReadOnlyPaths",
        "ProtectKernel",
    )
    assert not [name for name in directives(unit) if name.startswith(hiding)]


def test_stopping_never_kills_and_never_gives_up(unit: Path) -> None:
    lines = directives(unit)
    assert lines["SendSIGKILL"] == "no"
    assert lines["KillMode"] == "process"
    assert lines["TimeoutStopSec"] == "infinity"
    assert lines["Restart"] == "no"


def test_the_example_names_the_files_that_the_unit_reads(unit: Path, deploy: Path, settings: dict[str, str]) -> None:
    file = directives(unit)["EnvironmentFile"].replace("%i", "NAME")
    for text in (deploy / "swap.example.conf", deploy / "README.md"):
        assert file in text.read_text("utf-8")
    assert set(settings) == {"TMEM_TARGET", "SWAP_OPTIONS"}


def test_the_command_of_the_unit_exists_with_its_flags(unit: Path, deploy: Path, settings: dict[str, str]) -> None:
    words = command(unit, settings, "swap0")
    help_text = subprocess.run([*words[:3], "--help"], capture_output=True, text=True, check=True).stdout
    mentioned = re.findall(r"--[a-z-]+", (deploy / "swap.example.conf").read_text("utf-8"))
    for flag in [word for word in words if word.startswith("--")] + [flag for flag in mentioned if flag != "--help"]:
        assert flag in help_text, flag


# ---- The agent under it ----


@pytest.fixture
def run_directory(missing_things: None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tmem-unit-") as directory:
        yield Path(directory)
        site = Site(Path(directory), "swap0")
        if site.read() is not None:
            detach(site, force=True)


@pytest.fixture(name="missing_things")
def _missing_things(require_tool: RequireTool, missing: Callable[[str], None]) -> None:
    require_tool("systemd-analyze")
    lacking = missing_needs()
    if lacking:
        missing("; ".join(lacking))
    probe = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        missing("libseccomp is not installed (Debian: apt-get install libseccomp2)")


def missing_needs() -> list[str]:
    return [f"{need.what}: {need.found}" for need in machine.missing(needs(machine.Machine()))]


def test_a_device_lives_its_whole_life_under_the_unit(
    unit: Path, settings: dict[str, str], start_daemon: Callable[..., CaptiveDaemon], run_directory: Path
) -> None:
    server = start_daemon("--lock-memory")
    words = command(unit, settings | {"SWAP_OPTIONS": "--size 64MiB"}, "swap0")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifications:
        notifications.bind(str(run_directory / "notify"))
        notifications.settimeout(60)
        process = subprocess.Popen(
            confined(unit, *words),
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                "NOTIFY_SOCKET": str(run_directory / "notify"),
                "TMEM_RUN_DIR": str(run_directory),
                "TMEM_TARGET": server.target,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            assert "READY=1" in notifications.recv(4096).decode(), process.stderr.read()
            site = Site(run_directory, "swap0")

            def reading() -> Reading:
                found = read_device(site)
                assert found is not None
                return found

            assert reading().good
            with (site.mount / "swap").open("r+b", buffering=0) as file:
                os.pwrite(file.fileno(), b"kept" * 1024, 63 * MIB)
                worker = reading()[Word.WORKER_PID]
                os.kill(worker, signal.SIGKILL)
                assert os.pread(file.fileno(), 4096, 63 * MIB) == b"kept" * 1024
            wait_until(lambda: reading()[Word.WORKER_PID] != worker and reading().good)
            process.send_signal(signal.SIGTERM)
            assert "STOPPING=1" in notifications.recv(4096).decode()
            assert process.wait(60) == 0
            assert not [area for area in swaps.list_areas() if area.size == 64 * MIB - 4096]
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
