"""What the tests of the shipped files share: where the files are, the tools that read them, and a daemon's real metrics."""

import contextlib
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]
from tests.prometheus import Prometheus, Relay

import tmem.client
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import Refused

_ROOT = Path(__file__).parents[2]
_TIMEOUT_SECONDS = 30.0
# Where the package that a tool comes from is not named as the tool is.
_PACKAGES = {"promtool": "prometheus", "systemd-analyze": "systemd"}


def _missing(what: str) -> None:
    """Skips the test; on CI, where everything is installed, a skip would hide that it is not."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


def _require_tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        _missing(f"{name} is not installed (Debian: apt-get install {_PACKAGES.get(name, name)})")
    return str(found)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return _ROOT


@pytest.fixture(scope="session")
def deploy() -> Path:
    """The shipped files."""
    return _ROOT / "deploy"


@pytest.fixture(scope="session")
def missing() -> Callable[[str], None]:
    """Skips with a reason, or fails on CI."""
    return _missing


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """Answers a tool's path; without it the test is skipped, or fails on CI."""
    return _require_tool


# ---- A daemon that does a bit of everything ----

_RANDOM = random.Random(0)
_RUN = _RANDOM.randbytes(4096) * 8 + bytes(4096) * 8  # a chunk that compresses, and one that is same-filled


class Worker:
    """A client that puts, gets and flushes in every way, so that a daemon shows every series that it can have."""

    def __init__(self, target: str) -> None:
        self._client = tmem.client.connect(target)
        self._kept = self._client.create_pool("kept", chunk_pages=8)
        self._cached = self._client.create_pool("cached", "ephemeral")
        self._small = self._client.create_pool("small", quota_bytes=4096)
        self._fenced = self._client.create_pool("fenced")
        self._fenced.put(1, 0, bytes(4096))
        self._successor = tmem.client.connect(target)
        self._successor.open_pool("fenced", self._fenced.token)

    def work(self) -> None:
        """Does everything once."""
        into = bytearray(len(_RUN))
        page = bytearray(4096)
        kept = self._kept
        for _ in range(2):  # the second replaces the first
            kept.put(1, 0, _RUN)
        kept.put(2, 0, _RUN[:4096])
        kept.put(3, 0, _RUN[:4096] * 512)
        kept.put_page_sync(4, 0, _RUN[:4096])
        for _ in range(20):  # some are refused by the layer
            _be_refused(lambda: kept.get_into(1, 0, into))
            _be_refused(lambda: kept.get_page_sync(1, 3, page))  # of a chunk of 8: expanded
        kept.flush(4, 0)
        kept.flush_object(2)
        for number in range(128):  # more than the memory limit
            self._cached.put(1, number * 16, _RANDOM.randbytes(len(_RUN)))
        _be_refused(lambda: self._cached.get_into(1, 0, into))
        _be_refused(lambda: self._small.put(1, 0, _RANDOM.randbytes(len(_RUN))))
        _be_refused(lambda: self._fenced.flush(1, 0))
        shared = self._client.create_pool("shared", "shared")
        shared.put(1, 0, _RUN)
        shared.leave()
        self._client.echo(b"once")

    def close(self) -> None:
        """Says goodbye."""
        self._successor.close()
        self._client.close()


def _be_refused(function: Callable[[], object]) -> None:
    with contextlib.suppress(Refused):
        function()


@pytest.fixture(scope="package")
def busy() -> Iterator[CaptiveDaemon]:
    """A daemon for a Worker: it evicts soon, and refuses some gets."""
    with CaptiveDaemon("--memory-limit", "4MiB", "--layer", "faulty:get_refused=0.25,seed=1") as daemon:
        yield daemon


@pytest.fixture(scope="package")
def worker(busy: CaptiveDaemon) -> Iterator[Worker]:
    """One that has worked once."""
    worker = Worker(busy.target)
    worker.work()
    yield worker
    worker.close()


class Exposition:
    """What a daemon exposes.

    Attributes:
        types: by family name as the text format has it ("tmem_put_pages_total": "counter").
        samples: the names that samples have. labels: the values that each label has.
    """

    def __init__(self, text: str) -> None:
        self.types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
        self.samples = set(re.findall(r"^([a-z_]+)[{ ]", text, re.MULTILINE))
        self.labels: dict[str, set[str]] = {}
        for name, value in re.findall(r'[{,]([a-z_]+)="([^"]*)"', text):
            self.labels.setdefault(name, set()).add(value)


@pytest.fixture(scope="package")
def exposition(busy: CaptiveDaemon, worker: Worker) -> Exposition:
    """What the daemon exposes after work, and what one of several shards exposes besides."""
    text = _scrape(busy.metrics_url)
    with CaptiveDaemon("--shards", "2") as sharded:
        text += "".join(
            line for line in _scrape(sharded.metrics_url).splitlines(keepends=True) if "tmem_shard_" in line
        )
    return Exposition(text)


def _scrape(url: str) -> str:
    with urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
        text: str = answer.read().decode()
        return text


def _names(expression: str) -> set[str]:
    without = re.sub(r'"[^"]*"', "", expression)  # values of labels
    without = re.sub(r"\{[^}]*\}|\b(?:by|on|without|ignoring)\s*\([^)]*\)", " ", without)  # names of labels
    return set(re.findall(r"\b(?:(?:tmem|process|python)[_:][a-z0-9_:]+|up)\b", without))


@pytest.fixture(scope="session")
def names() -> Callable[[str], set[str]]:
    """Answers the metrics that a query names."""
    return _names


# ---- A Prometheus that scrapes it ----


@pytest.fixture(scope="package")
def relay(busy: CaptiveDaemon) -> Iterator[Relay]:
    """What Prometheus scrapes instead of the daemon."""
    relay = Relay(busy.metrics_url)
    yield relay
    relay.close()


@pytest.fixture(scope="package")
def prometheus(deploy: Path, relay: Relay, worker: Worker) -> Iterator[Prometheus]:
    """A Prometheus with the shipped configuration, but for an address, that has seen the daemon before work and after."""
    binary = _require_tool("prometheus")
    shipped = deploy / "prometheus" / "prometheus.yml"
    config = yaml.safe_load(shipped.read_text("utf-8"))
    config["rule_files"] = [str(shipped.parent / path) for path in config["rule_files"]]
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"] = [{"targets": [relay.address]}]
    with tempfile.TemporaryDirectory(prefix="tmem-") as directory:
        server = Prometheus(binary, config, Path(directory))
        try:
            relay.await_stored()
            worker.work()
            relay.await_stored()
            server.hold()
            yield server
        finally:
            server.close()
