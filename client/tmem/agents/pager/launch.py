"""Starting the pager's processes.

Owns: their command lines (a module of this package, and descriptors by number), and their log. Each process is exec'ed afresh, so
that it holds no memory of who starts it, and gets no descriptor but those.
"""

import argparse
import logging
import os
import subprocess
import sys
from dataclasses import dataclass, fields

from tmem.agents.host.log import say

__all__ = ["DONE", "UNREACHABLE", "Descriptors", "log_to_standard_error", "read_arguments", "start"]

# Exit statuses of agents: the region is closed, or its program has ended; no target could be reached at the first start.
DONE, UNREACHABLE = 0, 3


@dataclass(frozen=True, slots=True)
class Descriptors:
    """What a holder or an agent needs of a region.

    Attributes:
        region: the file of the region's state. uffd: the program's userfaultfd. memory: what the region is a mapping of.
        control: the agents' end of the control socket. program: a pidfd.
    """

    region: int
    uffd: int
    memory: int
    control: int
    program: int

    def numbers(self) -> tuple[int, ...]:
        """All of them."""
        return tuple(getattr(self, each.name) for each in fields(self))

    def arguments(self) -> list[str]:
        """For a command line."""
        return [word for each in fields(self) for word in (f"--{each.name}", str(getattr(self, each.name)))]


def read_arguments(who: str, arguments: list[str] | None) -> Descriptors:
    """The descriptors, from a command line."""
    parser = argparse.ArgumentParser(prog=f"tmem.agents.pager.{who}")
    for each in fields(Descriptors):
        parser.add_argument(f"--{each.name}", type=int, required=True)
    return Descriptors(**vars(parser.parse_args(arguments)))


class _Handler(logging.Handler):
    """Says what is logged on standard error, unless that would have to wait.

    Whoever reads it may be the program itself, and may be waiting for a page.
    """

    def __init__(self, who: str) -> None:
        super().__init__(logging.WARNING)
        self._who = who

    def emit(self, record: logging.LogRecord) -> None:
        say(self._who, record.getMessage(), "tmem-pager")


def log_to_standard_error(who: str) -> None:
    """What this process logs goes to standard error."""
    logging.getLogger().addHandler(_Handler(who))


def start(module: str, descriptors: Descriptors) -> "subprocess.Popen[bytes]":
    """Starts a module of this package in a session of its own: what is typed at the program's terminal is not for it.

    Raises:
        OSError: it can't be started.
    """
    # LD_PRELOAD would put the shim into the pager itself.
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    return subprocess.Popen(  # noqa: S603  the interpreter itself
        [sys.executable, "-m", f"tmem.agents.pager.{module}", *descriptors.arguments()],
        pass_fds=descriptors.numbers(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
    )
