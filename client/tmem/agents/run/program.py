"""A program in a control group.

Owns: how it gets in there before it uses memory, how its end is told, and that no process of it stays.
"""

import os
import shutil
import subprocess
from contextlib import suppress

from tmem.agents.host.cgroups import Group
from tmem.wire.errors import InvalidOption

__all__ = ["Program", "status_of"]

# The shell puts itself into the group and then becomes the program, under the same process id: nothing of ours is in between.
_LAUNCH = 'echo $$ > "$0" && exec "$@"'


class Program:
    """One program.

    Args:
        command: it and its arguments.
        group: where it lives.

    Raises:
        InvalidOption: there is no such program.
    """

    def __init__(self, command: list[str], group: Group) -> None:
        if shutil.which(command[0]) is None:
            raise InvalidOption(f"there is no program {command[0]!r}")
        self._group = group
        self._process = subprocess.Popen(  # noqa: S603  the user's own command
            ["/bin/sh", "-c", _LAUNCH, str(group.path / "cgroup.procs"), *command]
        )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait(self, seconds: float) -> int | None:
        """Waits so long for its end; answers its exit status, or None."""
        try:
            return status_of(self._process.wait(seconds))
        except subprocess.TimeoutExpired:
            return None

    def signal(self, number: int) -> None:
        """Sends it a signal."""
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, number)

    def end(self) -> int:
        """Ends what is left of it, children too; answers how many processes that were."""
        left = self._group.kill()
        self._process.wait()
        return left


def status_of(returned: int) -> int:
    """An exit status as shells have it."""
    return 128 - returned if returned < 0 else returned
