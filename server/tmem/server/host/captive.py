"""A command that the daemon serves and ends with.

Owns: the life of the command given by --run: its environment (TMEM_TARGET, TMEM_METRICS), its signals, its exit status.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterable

__all__ = ["Captive"]


class Captive:
    """A shell command beside the daemon.

    Args:
        command: for /bin/sh.
        without: what it does not find in its environment: the daemon's own.
    """

    def __init__(self, command: str, without: Iterable[str] = ()) -> None:
        self._command = command
        self._without = tuple(without)
        self._process: asyncio.subprocess.Process | None = None
        self._early: signal.Signals | None = None
        # Signals are for all processes of the command: one for the shell alone would leave behind whatever it waits for. On
        # a terminal the command stays in the terminal's own group, or it could not read from there.
        self._apart = not os.isatty(0)

    async def run(self, target: str, metrics_address: str | None) -> int:
        """Runs the command to its end; answers its exit status, 128 + n for signal n."""
        if self._early is not None:
            return 128 + self._early
        environment = os.environ | {"TMEM_TARGET": target}
        for name in (*self._without, "TMEM_METRICS"):  # the last may be another daemon's
            environment.pop(name, None)
        if metrics_address is not None:
            environment["TMEM_METRICS"] = f"http://{metrics_address}/metrics"
        self._process = await asyncio.create_subprocess_shell(
            self._command, env=environment, start_new_session=self._apart
        )
        if self._early is not None:
            self.signal(self._early)
        status = await self._process.wait()
        return 128 - status if status < 0 else status

    def signal(self, number: signal.Signals) -> None:
        """Passes a signal on to the command; one that comes before it was started is kept for it."""
        if self._process is None:
            self._early = number
        elif self._process.returncode is None:
            if self._apart:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)
