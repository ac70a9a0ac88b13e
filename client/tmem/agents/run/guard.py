"""The guard of a run: takes down what `tmem run` made when `tmem run` itself can't any more.

Owns: the order of that, which `tmem run` itself goes by too, and a process of its own, started before anything is made, that waits on a
pipe: "done" means that all was taken down; the pipe's end without it, that `tmem run` was killed, or could not.

`python -m tmem.agents.run.guard GROUP RUN_DIRECTORY [DEVICE]`
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tmem.agents.host.cgroups import Group, Hierarchy

__all__ = ["Guard", "take_down"]

_DONE = b"done"
_END_SECONDS = 120.0
# As long as any device may let a program wait for a page.
_LAST_SECONDS = 600.0


def take_down(group: Group, detach: Callable[[bool], None] | None, seconds: float = _LAST_SECONDS) -> None:
    """Ends a program, and removes its group and its device.

    A program that waits for a page which does not come can't be ended before that has failed: then the device goes first.

    Args:
        group: its processes'.
        detach: takes the device down, if it goes as well; told whether the program is stuck.
        seconds: how long it may take, when there is nothing left to wait for, until the program has ended.

    Raises:
        OSError: something is left.
    """
    stuck = False
    try:
        group.end()
    except OSError:
        stuck = True
    try:
        if detach is not None:
            detach(stuck)
    finally:
        if stuck:
            group.end(seconds)


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
        self._say(_DONE)
        self._process.wait(_END_SECONDS)

    def leave(self) -> None:
        """Something is left: it goes on trying, alone."""
        self._say(b"")

    def _say(self, word: bytes) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(word)
            self._process.stdin.close()


def main() -> None:
    """Waits, and takes down what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    name, run_directory, *device = sys.argv[1:]
    if sys.stdin.buffer.read() == _DONE:
        return

    def detach_all(_stuck: bool) -> None:
        # Loaded only now: it is not needed while all goes well.
        from tmem.agents.swap.device import detach
        from tmem.agents.swap.state import Site

        for each in device:
            site = Site(Path(run_directory), each)
            if site.read() is not None:
                detach(site, force=True)

    take_down(Hierarchy.find().group(name), detach_all)


if __name__ == "__main__":
    main()
