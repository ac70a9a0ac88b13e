"""The guard of a run: takes down what `tmem run` made when `tmem run` itself can't any more.

Owns: nothing else. It is a process of its own, started before anything is made, and waits on a pipe: "done" means that all was
taken down; the pipe's end without it, that `tmem run` was killed.

`python -m tmem.agents.run.guard GROUP RUN_DIRECTORY [DEVICE]`
"""

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from tmem.agents.host.cgroups import Hierarchy

__all__ = ["Guard"]

_DONE = b"done"
_END_SECONDS = 120.0


class Guard:
    """The guard, as `tmem run` sees it.

    Args:
        group: the name of the control group. run_directory, device: of the swap device, if one is made.
    """

    def __init__(self, group: str, run_directory: Path, device: str | None) -> None:
        command = [sys.executable, "-m", "tmem.agents.run.guard", group, str(run_directory)]
        self._process = subprocess.Popen(  # noqa: S603  the interpreter itself
            command + ([device] if device is not None else []), stdin=subprocess.PIPE, start_new_session=True, cwd="/"
        )

    def dismiss(self) -> None:
        """All was taken down."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(_DONE)
            self._process.stdin.close()
        self._process.wait(_END_SECONDS)


def main() -> None:
    """Waits, and takes down what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name, run_directory, *device = sys.argv[1:]
    if sys.stdin.buffer.read() == _DONE:
        return
    group = Hierarchy.find().group(name)
    if group.path.exists():
        group.kill()
        group.remove()
    if device:
        # Loaded only now: it is not needed while all goes well.
        from tmem.agents.swap.device import detach
        from tmem.agents.swap.state import Site

        site = Site(Path(run_directory), device[0])
        if site.read() is not None:
            detach(site, force=True)


if __name__ == "__main__":
    main()
