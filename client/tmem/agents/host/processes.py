"""Processes, told from others that had or will have their number.

Owns: the identity of a process (its number and when it started), and its signals.
"""

import os
import select
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Self

__all__ = ["Identity"]


@dataclass(frozen=True, slots=True)
class Identity:
    """A process that is or was.

    Attributes:
        pid: its number. started: in clock ticks since the machine started.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """That of a process.

        Raises:
            ProcessLookupError: there is none.
        """
        started = _started(pid)
        if started is None:
            raise ProcessLookupError(f"there is no process {pid}")
        return cls(pid, started)

    @property
    def alive(self) -> bool:
        """Whether it still runs; one that ended and was not waited for does not."""
        return _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> bool:
        """Sends it a signal; answers whether it was there to get it."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # Looked at after the handle was made: the handle can't come to mean another process.
            if not self.alive:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def wait(self, seconds: float) -> bool:
        """Waits until it has ended, child or not; answers whether it has."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            if not self.alive:
                return True
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            return bool(poll.poll(seconds * 1000))
        finally:
            os.close(handle)


def _started(pid: int) -> int | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may itself have spaces and parentheses.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])
