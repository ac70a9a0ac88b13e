"""What the tests of the shipped files share: where the files are, the tools that read them, and a daemon's real metrics."""

import contextlib
import http.server
import json
import os
import queue
import random
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
import yaml  # type: ignore[import-untyped]

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


@pytest.fixture(scope="session")
def busy() -> Iterator[CaptiveDaemon]:
    """A daemon for a Worker: it evicts soon, and refuses some gets."""
    with CaptiveDaemon("--memory-limit", "4MiB", "--layer", "faulty:get_refused=0.25,seed=1") as daemon:
        yield daemon


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def exposition(busy: CaptiveDaemon, worker: Worker) -> Exposition:
    """What the daemon exposes after work."""
    with urlopen(busy.metrics_url, timeout=_TIMEOUT_SECONDS) as answer:
        return Exposition(answer.read().decode())


def _names(expression: str) -> set[str]:
    without = re.sub(r'"[^"]*"', "", expression)  # values of labels
    without = re.sub(r"\{[^}]*\}|\b(?:by|on|without|ignoring)\s*\([^)]*\)", " ", without)  # names of labels
    return set(re.findall(r"\b(?:(?:tmem|process|python)[_:][a-z0-9_:]+|up)\b", without))


@pytest.fixture(scope="session")
def names() -> Callable[[str], set[str]]:
    """Answers the metrics that a query names."""
    return _names


# ---- A Prometheus that scrapes it ----


class Relay:
    """Serves a daemon's metrics, and tells of each scrape.

    A scrape that begins shows that the one before it is stored: so nobody needs to guess how long Prometheus takes.
    """

    def __init__(self, url: str) -> None:
        self._scrapes: queue.SimpleQueue[None] = queue.SimpleQueue()
        relay = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
                    body = answer.read()
                    content_type = answer.headers["Content-Type"]
                self.send_response(200 if self.path == "/metrics" else 404)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)
                relay._scrapes.put(None)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name for it
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def await_stored(self) -> None:
        """Waits until what the daemon exposes now is stored."""
        while not self._scrapes.empty():
            self._scrapes.get()
        for _ in range(3):  # one may have begun before, the next is the one, the last shows that it is stored
            self._scrapes.get(timeout=_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Stops serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Prometheus:
    """A Prometheus with the shipped configuration, but for the address of the daemon, and a shorter interval."""

    def __init__(self, shipped: Path, directory: Path, target: str) -> None:
        config = yaml.safe_load(shipped.read_text("utf-8"))
        config["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        config["rule_files"] = [str(shipped.parent / path) for path in config["rule_files"]]
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [target]}]
        file = directory / "prometheus.yml"
        file.write_text(yaml.safe_dump(config), "utf-8")
        self._process = subprocess.Popen(
            [
                *(_require_tool("prometheus"), f"--config.file={file}", f"--storage.tsdb.path={directory}/data"),
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._url = self._await_ready()
        # Its log must be read on, or it stops when the pipe is full.
        self._reader = threading.Thread(target=self._read_on)
        self._reader.start()

    def _await_ready(self) -> str:
        assert self._process.stderr is not None
        address, seen = "", []
        for line in self._process.stderr:
            seen.append(line)
            match = re.search(r'msg="Listening on".* address=(\S+)', line)
            address = match[1] if match else address
            if "Server is ready to receive web requests" in line and address:
                return f"http://{address}"
        self._process.wait()
        raise RuntimeError("".join(seen))

    def _read_on(self) -> None:
        assert self._process.stderr is not None
        for _ in self._process.stderr:
            pass

    def _ask(self, path: str, **parameters: str) -> Any:
        with urlopen(f"{self._url}/api/v1/{path}?{urlencode(parameters)}", timeout=_TIMEOUT_SECONDS) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        samples: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return samples

    def rules(self) -> list[dict[str, Any]]:
        """All rules, with what became of their last evaluation."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(_TIMEOUT_SECONDS)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture(scope="session")
def relay(busy: CaptiveDaemon) -> Iterator[Relay]:
    """What Prometheus scrapes instead of the daemon."""
    relay = Relay(busy.metrics_url)
    yield relay
    relay.close()


@pytest.fixture(scope="session")
def prometheus(deploy: Path, relay: Relay, worker: Worker) -> Iterator[Prometheus]:
    """A Prometheus that has seen the daemon before work and after."""
    _require_tool("prometheus")
    with tempfile.TemporaryDirectory(prefix="tmem-") as directory:
        server = Prometheus(deploy / "prometheus" / "prometheus.yml", Path(directory), relay.address)
        try:
            relay.await_stored()
            worker.work()
            relay.await_stored()
            yield server
        finally:
            server.close()
