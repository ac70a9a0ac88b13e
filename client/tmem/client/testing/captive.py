"""A real daemon for the length of a test.

Owns: the life of a `tmemd` process: its addresses (ports chosen by the kernel), its logs, its end.
"""

import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import IO, Self

__all__ = ["CaptiveDaemon"]

_READY = re.compile(rb"tmemd ready target=(\S+) metrics=(\S+)\n")


class CaptiveDaemon:
    """Starts `tmemd` and ends it. Use it in a `with` statement, or close it.

    Args:
        arguments: flags beside the addresses, such as "--memory-limit", "64MiB".
        listen: where; a free port of the loopback by default.
        environment: variables on top of this process's own.
        timeout: seconds until it must be ready, and until it must have ended.
        program: what runs it, before its flags; this interpreter's `tmem.server` by default.

    Attributes:
        target: where clients reach it. metrics_url: its metrics.

    Raises:
        RuntimeError: it did not become ready; the message has its log.
    """

    def __init__(
        self,
        *arguments: str,
        listen: str = "127.0.0.1:0",
        environment: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        program: Sequence[str] = (),
    ) -> None:
        self._timeout = timeout
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by close
        command: Sequence[str] = [
            *(program or (sys.executable, "-m", "tmem.server")),
            *("--listen", listen, "--metrics-listen", "127.0.0.1:0"),
            *arguments,
        ]
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")}
        self.process = subprocess.Popen(  # noqa: S603  the interpreter itself, and the caller's flags
            command,
            stdout=subprocess.PIPE,
            stderr=self._log,
            stdin=subprocess.DEVNULL,
            env=inherited | dict(environment or {}),
        )
        try:
            self.target, metrics = self._await_ready()
        except BaseException:
            self.kill()
            self.close()
            raise
        self.metrics_url = f"http://{metrics}/metrics"

    def _await_ready(self) -> tuple[str, str]:
        assert self.process.stdout is not None
        deadline = time.monotonic() + self._timeout
        seen = b""
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while True:
                ready = selector.select(max(0.0, deadline - time.monotonic()))
                chunk = os.read(self.process.stdout.fileno(), 4096) if ready else b""
                seen += chunk
                match = _READY.search(seen)
                if match is not None:
                    return match[1].decode(), match[2].decode()
                if not chunk:
                    what = "ended" if ready else f"was not ready after {self._timeout:g} s"
                    raise RuntimeError(f"tmemd {what}:\n{self.log()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def log(self) -> str:
        """What it has logged so far."""
        # Not read(): the daemon writes at the offset that it shares with us.
        descriptor = self._log.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        self.process.kill()
        self.process.wait(self._timeout)

    def wait(self) -> int:
        """Waits until it has ended by itself; answers its exit status."""
        return self.process.wait(self._timeout)

    def close(self) -> None:
        """Asks it to stop, waits, and insists."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(self._timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()
