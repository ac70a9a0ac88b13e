"""Python programs that tests run beside themselves, to stop or to kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).parent.parent


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
