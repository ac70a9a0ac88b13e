"""A real Prometheus for tests, and what stands between it and a daemon to tell when it has scraped."""

import http.server
import json
import queue
import re
import subprocess
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import yaml  # type: ignore[import-untyped]

_TIMEOUT_SECONDS = 30.0


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
    """A Prometheus, on a port that the kernel chooses.

    Args:
        binary: where it is.
        config: prometheus.yml, but for the intervals: those are short.
        directory: where its data go.
    """

    def __init__(self, binary: str, config: dict[str, Any], directory: Path) -> None:
        file = directory / "prometheus.yml"
        intervals = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
        file.write_text(yaml.safe_dump(config | {"global": intervals}), "utf-8")
        self._process = subprocess.Popen(
            [
                *(binary, f"--config.file={file}", f"--storage.tsdb.path={directory}/data"),
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        self._moment: float | None = None
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
        at = {} if self._moment is None else {"time": f"{self._moment:.3f}"}
        samples: list[dict[str, Any]] = self._ask("query", query=expression, **at)["result"]
        return samples

    def hold(self) -> None:
        """From now on queries are of this moment: rates of work done before it don't fade while other tests run."""
        self._moment = time.time()

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
