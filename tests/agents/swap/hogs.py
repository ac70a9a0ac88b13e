"""The checking program (hog.c), compiled and started in a control group."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

from tmem.agents.host.cgroups import Group
from tmem.agents.run.program import status_of

__all__ = ["Hog", "compile_hog"]


def compile_hog(compiler: str, directory: Path) -> Path:
    """Makes the program."""
    binary = directory / "hog"
    source = Path(__file__).with_name("hog.c")
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(binary), str(source)], check=True)
    return binary


class Hog:
    """One, running; see hog.c for what it is told."""

    def __init__(self, binary: Path, group: Group, mib: int, seconds: float, order: str, *flags: str) -> None:
        self.group = group
        command = [str(binary), str(mib), str(seconds), order, *flags]
        self.process = subprocess.Popen(
            ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def await_filled(self) -> None:
        """Waits until its memory is there, most of it on the server."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "filled\n", f"it ended with {self.process.wait()}: {line}{self.process.stderr.read()}"

    def stop(self) -> None:
        """Its time is over."""
        self.process.send_signal(signal.SIGUSR1)

    def result(self, timeout: float = 60) -> dict[str, Any]:
        """What it found; it must have ended well."""
        out, errors = self.process.communicate(timeout=timeout)
        assert self.process.returncode in {0, 2}, f"status {status_of(self.process.returncode)}: {errors}"
        found: dict[str, Any] = json.loads(out.splitlines()[-1])
        assert found["bad"] == 0, errors
        return found

    def status(self, timeout: float = 60) -> int:
        """How it ended, as shells have it."""
        self.process.communicate(timeout=timeout)
        return status_of(self.process.returncode)

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.communicate()
