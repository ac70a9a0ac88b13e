"""A command that the daemon serves and ends with.

Owns: the life of the command given by --run: its environment (TMEM_TARGET, TMEM_METRICS), its signals, its exit status.
"""

import asyncio
import os
import signal

__all__ = ["Captive"]


class Captive:
    """A shell command beside the daemon.

    Args:
        command: for /bin/sh.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, target: str, metrics_address: str | None) -> int:
        """Runs the command to its end; answers its exit status, 128 + n for signal n."""
        environment = os.environ | {"TMEM_TARGET": target}
        if metrics_address is not None:
            environment["TMEM_METRICS"] = f"http://{metrics_address}/metrics"
        self._process = await asyncio.create_subprocess_shell(self._command, env=environment)
        status = await self._process.wait()
        return 128 - status if status < 0 else status

    def signal(self, number: signal.Signals) -> None:
        """Passes a signal on to the command."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)
