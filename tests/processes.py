"""Python programs that tests run beside themselves, to stop or to kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent
_TIMEOUT_SECONDS = 30.0


class Program:
    """A script in a process of its own; it ends with the `with` block.

    Args:
        script: Python source; it may import tests and tmem.
        arguments: its sys.argv[1:].
    """

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=subprocess.PIPE, cwd=ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def await_stopped(self) -> None:
        """Waits until it has stopped itself."""
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOWAIT)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once."""
        self.process.kill()
        self.process.wait(30)


def run_tmemd(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Runs `tmemd` to its end, with no settings in its environment but these."""
    return subprocess.run(
        [sys.executable, "-m", "tmem.server", *arguments],
        env=_without_settings() | environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_SECONDS,
        check=False,
    )


class Tmemd:
    """A `tmemd` whose standard output is read by the test: line by line, or to its end.

    Args:
        arguments: its flags.
        stdin: of the daemon, and so of the command that it runs.
    """

    def __init__(self, *arguments: str, stdin: int = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tmem.server", *arguments],
            env=_without_settings(),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(_TIMEOUT_SECONDS)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    def line(self) -> str:
        """The next line that it, or the command that it runs, prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def end(self) -> tuple[int, str, str]:
        """Waits until it has ended and nobody holds its standard output; answers its status, and what was left to read."""
        rest, errors = self.process.communicate(timeout=_TIMEOUT_SECONDS)
        return self.process.returncode, rest, errors


def _without_settings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TMEM_")}
