"""Fixtures that every kind of test shares."""

import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.faces import FACES, Face
from tests.gauges import assert_empties

import tmem.client
from tmem.client.testing import CaptiveDaemon

_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Lets children be interrupted, wherever the tests run: in the background of a shell SIGINT is ignored, and they inherit that."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Fast ones first: who breaks something small learns it within the first seconds.
_ORDER = ("unit", "property", "packaging", "simulation", "integration", "conformance", "deploy", "agents")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the folders; within one, chance does (pytest-randomly)."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(here).parts[0]
        return _ORDER.index(folder) if folder in _ORDER else len(_ORDER)

    items.sort(key=lambda item: (place(item), item.path.relative_to(here).parts[0]))


def pytest_report_header() -> list[str]:
    """The versions under test."""
    import cramjam
    import google.protobuf
    import grpc
    import lz4

    return [
        f"grpcio {grpc.__version__}, protobuf {google.protobuf.__version__}, lz4 {lz4.__version__}, cramjam {cramjam.__version__}"
    ]


def skip_or_fail(reason: str) -> None:
    """Skips a test that can't run here; where everything can run (CI), that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{reason}, and CI=true says that it must be")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Finds a command of the system, or skips."""

    def require(name: str) -> str:
        path = shutil.which(name)
        if path is None:
            skip_or_fail(f"{name} is not installed")
        assert path is not None
        return path

    return require


@pytest.fixture(scope="session", params=["uvloop", "asyncio"])
def daemon(request: pytest.FixtureRequest) -> Iterator[CaptiveDaemon]:
    """A daemon that many tests share, on each event loop; use names of your own for pools. At the end it holds nothing."""
    flags = ("--loop", request.param, "--log-level", "debug", "--session-timeout-seconds", "15")
    with CaptiveDaemon(*flags) as captive:
        yield captive
        assert_empties(captive)


@pytest.fixture
def start_daemon() -> Iterator[Callable[..., CaptiveDaemon]]:
    """Starts daemons of one's own; they end with the test."""
    started: list[CaptiveDaemon] = []

    def start(*arguments: str, **options: object) -> CaptiveDaemon:
        captive = CaptiveDaemon(*arguments, **options)  # type: ignore[arg-type]
        started.append(captive)
        return captive

    yield start
    for captive in started:
        captive.close()


@pytest.fixture
def client(daemon: CaptiveDaemon) -> Iterator[tmem.client.Client]:
    """A blocking client of the shared daemon."""
    with tmem.client.connect(daemon.target) as connected:
        yield connected


@pytest.fixture(params=FACES)
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    """Each face of the client in turn."""
    made = Face(request.param)
    yield made
    made.close()


@pytest.fixture
def any_client(face: Face, daemon: CaptiveDaemon) -> Iterator[Any]:
    """A client of the shared daemon, with each face."""
    with face.connect(daemon.target) as connected:
        yield connected


@pytest.fixture
def pool_name() -> Callable[[], str]:
    """Names that no other test uses."""
    return lambda: f"pool-{next(_numbers)}"
