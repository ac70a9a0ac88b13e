"""deploy/systemd: the unit is well-formed, tight, and the real daemon works under its limits."""

import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO
from urllib.request import urlopen

import pytest

import tmem.client
from tmem.server.config import Settings
from tmem.wire.errors import Unauthenticated

# Exposure by `systemd-analyze security`, times ten. It is 11 with systemd 252, of which 10 is that it uses the network and
# the host's files; later versions may find something new.
_THRESHOLD = 15
_TIMEOUT_SECONDS = 30.0
_PAGES = bytes(range(256)) * 16 * 4
_TOKENS = ("an-old-token-of-a-test", "a-new-token-of-a-test")

RequireTool = Callable[[str], str]


@pytest.fixture(scope="module")
def unit(deploy: Path) -> Path:
    return deploy / "systemd" / "tmemd.service"


def directives(unit: Path) -> dict[str, str]:
    """The last value of each line of the unit."""
    lines = [line for line in unit.read_text("utf-8").splitlines() if line and line[0] not in "#;["]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def installed(unit: Path, tmp_path: Path) -> Path:
    """The unit, with a path to a daemon that exists."""
    text = unit.read_text("utf-8")
    binary = directives(unit)["ExecStart"].split()[0]
    copy = tmp_path / unit.name
    copy.write_text(text.replace(binary, str(Path(sys.executable).with_name("tmemd"))), "utf-8")
    return copy


# ---- The unit itself ----


def test_systemd_has_nothing_to_say_about_the_unit(installed: Path, require_tool: RequireTool) -> None:
    command = [require_tool("systemd-analyze"), "verify", "--man=no", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_wrong_line_would_be_noticed(installed: Path, require_tool: RequireTool) -> None:
    installed.write_text(installed.read_text("utf-8").replace("ProtectSystem=strict", "ProtectSystm=strict"), "utf-8")
    command = [require_tool("systemd-analyze"), "verify", "--man=no", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "ProtectSystm" in done.stderr


def test_the_exposure_is_low(installed: Path, require_tool: RequireTool) -> None:
    command = [
        *(require_tool("systemd-analyze"), "security", "--no-pager", "--offline=true"),
        *(f"--threshold={_THRESHOLD}", str(installed)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout.splitlines()[-1]


def test_every_line_has_its_reason(unit: Path) -> None:
    """Lines that belong together share a comment; a line without any is one that nobody dares to remove."""
    service = unit.read_text("utf-8").partition("[Service]")[2].partition("[Install]")[0]
    for paragraph in re.split(r"\n\n+", service.strip()):
        assert paragraph.startswith("#"), paragraph
        for run in re.findall(r"(?:^[^#\n].*\n?)+", paragraph, re.MULTILINE):
            assert run.count("=") and len(run.splitlines()) <= 3, f"too many lines under one comment:\n{run}"


def test_draining_is_not_cut_short(unit: Path) -> None:
    value = directives(unit)["TimeoutStopSec"]
    assert value.endswith("s")
    assert float(value[:-1]) > Settings().drain_timeout_seconds + 5


def test_bad_settings_are_not_tried_again(unit: Path, tmp_path: Path) -> None:
    file = tmp_path / "tmemd.toml"
    file.write_text('memory_limit = "much"\n', "utf-8")
    command = [sys.executable, "-m", "tmem.server", "--config", str(file)]
    status = subprocess.run(command, capture_output=True, check=False, env={}).returncode
    assert directives(unit)["RestartPreventExitStatus"] == str(status)


def test_the_unit_names_files_as_the_others_do(unit: Path, deploy: Path) -> None:
    lines = directives(unit)
    binary, *arguments = lines["ExecStart"].split()
    assert arguments[:-1] == ["--config"]
    readme = (deploy / "README.md").read_text("utf-8")
    assert arguments[-1] in readme
    assert binary.removesuffix("/bin/tmemd") in readme
    assert f"/run/{lines['RuntimeDirectory']}/" in unit.read_text("utf-8")
    for file in (unit, deploy / "README.md", deploy / "tmemd.toml"):
        assert f'journal = "/var/lib/{lines["StateDirectory"]}/journal"' in file.read_text("utf-8")
    group = (deploy / "systemd" / "tmem.sysusers.conf").read_text("utf-8")
    assert re.search(rf"^g {lines['Group']} -$", group, re.MULTILINE)


# ---- The daemon under it ----


def confined(unit: Path, *command: str) -> list[str]:
    return [sys.executable, str(Path(__file__).with_name("confine.py")), str(unit), *command]


@pytest.fixture
def seccomp(require_tool: RequireTool, missing: Callable[[str], None]) -> None:
    require_tool("systemd-analyze")
    probe = [sys.executable, "-c", "import ctypes; ctypes.CDLL('libseccomp.so.2')"]
    if subprocess.run(probe, capture_output=True, check=False).returncode:
        missing("libseccomp is not installed (Debian: apt-get install libseccomp2)")


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        pytest.param(
            "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)",
            "PermissionError",
            id="writes code",
        ),
        pytest.param("import socket; socket.socket(socket.AF_NETLINK)", "Address family not supported", id="netlink"),
        pytest.param("import ctypes; ctypes.CDLL(None).swapoff(b'/')", -signal.SIGSYS, id="swapoff"),
        pytest.param("import os; os.setpriority(os.PRIO_PROCESS, 0, 5)", -signal.SIGSYS, id="nice"),
        pytest.param("import os; os.chroot('/')", -signal.SIGSYS, id="chroot"),
        pytest.param("import resource; print(resource.getrlimit(resource.RLIMIT_CORE))", "(0, 0)", id="core"),
    ],
)
@pytest.mark.usefixtures("seccomp")
def test_what_the_unit_forbids_does_not_happen(unit: Path, attempt: str, expected: str | int) -> None:
    done = subprocess.run(
        confined(unit, sys.executable, "-c", attempt), capture_output=True, text=True, check=False, timeout=60
    )
    if isinstance(expected, int):
        assert done.returncode == expected, done.stderr
    else:
        assert expected in done.stdout + done.stderr


class Service:
    """The daemon as systemd would start it: with a socket for its notifications, under the unit's limits."""

    def __init__(self, unit: Path, config: Path, tokens: Path, listen: str, directory: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(directory / "notify"))
        self._socket.settimeout(_TIMEOUT_SECONDS)
        self.process = subprocess.Popen(
            confined(
                unit,
                *(sys.executable, "-m", "tmem.server", "--config", str(config), "--tokens", str(tokens)),
                *("--listen", listen, "--metrics-listen", "127.0.0.1:0", "--journal", str(directory / "journal")),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"NOTIFY_SOCKET": str(directory / "notify"), "PATH": "/usr/bin:/bin"},
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._stdout: IO[bytes] = self.process.stdout
        self._stderr: IO[bytes] = self.process.stderr

    def notification(self) -> str:
        """The next thing that it tells systemd."""
        return self._socket.recv(4096).decode()

    def addresses(self) -> tuple[str, str]:
        """Where clients and scrapers reach it."""
        match = re.fullmatch(rb"tmemd ready target=(\S+) metrics=(\S+)\n", self._stdout.readline())
        assert match is not None, self._stderr.read().decode()
        return match[1].decode(), match[2].decode()

    def await_log(self, event: str) -> None:
        """Reads the log up to an event."""
        for line in self._stderr:
            if event.encode() in line:
                return
        pytest.fail(f"the log ended without {event}")

    def close(self) -> None:
        """Ends it, whatever it does."""
        self.process.kill()
        self.process.communicate()
        self._socket.close()


@pytest.fixture
def run_directory() -> Iterator[Path]:
    """For sockets, whose paths may have 107 bytes at most."""
    with tempfile.TemporaryDirectory(prefix="tmem-") as directory:
        yield Path(directory)


@pytest.fixture(params=["127.0.0.1:0", "unix"])
def service(
    request: pytest.FixtureRequest, seccomp: None, unit: Path, deploy: Path, tmp_path: Path, run_directory: Path
) -> Iterator[Service]:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(f'[tenants.alice]\ntokens = ["{_TOKENS[0]}"]\n', "utf-8")
    listen = f"unix:{run_directory}/tmemd.sock" if request.param == "unix" else request.param
    service = Service(unit, deploy / "tmemd.toml", tokens, listen, run_directory)
    yield service
    service.close()


def test_the_daemon_lives_its_whole_life_under_the_unit(service: Service, unit: Path, tmp_path: Path) -> None:
    reading = service.notification()
    assert reading.startswith("STATUS=reading the journal"), reading
    ready = service.notification()
    assert "READY=1" in ready.splitlines(), ready
    target, metrics = service.addresses()
    if target.startswith("unix:"):
        mode = Path(target.removeprefix("unix:")).stat().st_mode
        assert stat.S_IMODE(mode) == 0o770, "the group uses the socket, others do not"

    with tmem.client.connect(target, token=_TOKENS[0]) as client:
        pool = client.create_pool("pages", durability="disk")
        pool.put(1, 0, _PAGES)
        page = bytearray(4096)
        pool.get_page_sync(1, 3, page)
        into = bytearray(len(_PAGES))
        pool.get_into(1, 0, into).raise_for_pages()
        assert (bytes(page), bytes(into)) == (_PAGES[3 * 4096 :], _PAGES)
        with urlopen(f"http://{metrics}/metrics", timeout=_TIMEOUT_SECONDS) as answer:
            assert b"\nprocess_resident_memory_bytes " in answer.read()

        # ExecReload: the token file is read again, and the pages stay.
        assert directives(unit)["ExecReload"].split()[1:] == ["-HUP", "$MAINPID"]
        (tmp_path / "tokens.toml").write_text(f'[tenants.alice]\ntokens = ["{_TOKENS[1]}"]\n', "utf-8")
        service.process.send_signal(signal.SIGHUP)
        service.await_log("daemon.reloaded")
        with pytest.raises(Unauthenticated):
            tmem.client.connect(target, token=_TOKENS[0])
        with tmem.client.connect(target, token=_TOKENS[1]) as other:
            assert [info.name for info in other.pools()] == ["pages"]
        pool.flush(1, 0, 4)

    service.process.send_signal(signal.SIGTERM)
    stopping = service.notification()
    assert "STOPPING=1" in stopping.splitlines(), stopping
    assert service.process.wait(_TIMEOUT_SECONDS) == 0
