"""What a program has to offer to be measured.

Owns: the interface between programs and ways: a program is started by whatever `Start` it is handed, does one piece of work, and says how long
that took and what came out, as a digest. Units: bytes and seconds.
"""

import hashlib
import os
import select
import shutil
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

__all__ = [
    "TOO_LONG",
    "Done",
    "Failed",
    "NoMemory",
    "Program",
    "Start",
    "Started",
    "Wanted",
    "describe_status",
    "hear_to_end",
    "missing_command",
    "redirected",
    "run_to_end",
    "tried",
]

T = TypeVar("T")

TOO_LONG = "did not end in time"

# One for each name in /proc/self/fd: how a program gets at a file that has no name.
_REDIRECT = 'exec <"$0" >"$1"; shift; exec "$@"'
_CHUNK_BYTES = 1 << 20
_LAST_SECONDS = 10.0
_TRIES = 3


class Failed(Exception):  # noqa: N818  what happened to the run
    """A run that came to nothing; the message says how."""


class NoMemory(Failed):
    """The kernel killed it because its group had no memory left at one moment; the next time there may be some."""


class Started(Protocol):
    """A program that runs."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def wait(self, seconds: float) -> int | None:
        """Waits so long for its end; answers its exit status (128 + n for signal n), or None if it still runs."""

    def signal(self, number: int) -> None:
        """Sends it a signal."""


class Start(Protocol):
    """Starts a command somewhere, with so much local memory as the one who made this says; it is gone after the block."""

    def __call__(self, command: list[str]) -> AbstractContextManager[Started]:
        """It runs for the length of the block."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How much a program is to do.

    Attributes:
        work: bytes of memory that it shall need, about.
        queries: how many questions it is asked, if it is one that answers.
    """

    work: int
    queries: int


@dataclass(frozen=True, slots=True)
class Done:
    """What one run did.

    Attributes:
        seconds: of the work. digest: of all that came out of it.
    """

    seconds: float
    digest: str


class Program(ABC):
    """One program.

    Attributes:
        name: in keys. title: for people; what it does.
        small: why its memory does not come in large allocations, which alone the pager's shim takes; "" if it does.
        expected: the digest of its output, where that can be known without it; "" where it can't. It is there once it is prepared.
    """

    name = ""
    title = ""
    small = ""
    expected = ""

    def obstacle(self) -> str:
        """Why it can't run here; "" if it can."""
        return ""

    @abstractmethod
    def prepared(self, wanted: Wanted) -> AbstractContextManager[None]:
        """Its input is there, outside of every limit, for the length of the block."""

    @abstractmethod
    def run(self, start: Start, seconds: float) -> Done:
        """One run.

        Raises:
            Failed: it did not end in so many seconds, or badly.
        """


def tried(run: Callable[[], T], killed: Callable[[], object] = lambda: None) -> T:
    """A run, and once more where it was killed for want of memory; twice at most.

    Args:
        run: does it.
        killed: told each time.

    Raises:
        NoMemory: it was killed the last time, too.
    """
    for _ in range(_TRIES - 1):
        try:
            return run()
        except NoMemory:
            killed()
    return run()


def missing_command(command: str, package: str) -> str:
    """Why a command can't be run; "" if it can."""
    return "" if shutil.which(command) else f"{command} is not installed (apt install {package})"


def redirected(command: Sequence[str], stdin: int | None, stdout: int | None) -> list[str]:
    """A command whose standard input and output are descriptors of this process; None: nothing, nowhere.

    A file is opened anew, so that it is read from its start.
    """

    def path(descriptor: int | None) -> str:
        return os.devnull if descriptor is None else f"/proc/{os.getpid()}/fd/{descriptor}"

    return ["/bin/sh", "-c", _REDIRECT, path(stdin), path(stdout), *command]


def run_to_end(start: Start, command: Sequence[str], seconds: float, stdin: int | None = None) -> Done:
    """Runs a command from its start to its end; the digest is that of its standard output.

    Raises:
        Failed: it did not end in time, or with a status.
    """
    digest = hashlib.sha256()
    taken = hear_to_end(start, command, seconds, digest.update, stdin)
    return Done(taken, digest.hexdigest())


def hear_to_end(
    start: Start, command: Sequence[str], seconds: float, hear: Callable[[bytes], object], stdin: int | None = None
) -> float:
    """Runs a command from its start to its end, hands on its standard output, and answers how many seconds that took.

    Raises:
        Failed: it did not end in time, or with a status.
    """
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    try:
        with start(redirected(command, stdin, writer)) as started:
            begun = time.monotonic()
            ended = os.pidfd_open(started.pid)
            try:
                while not _read_until(reader, ended, begun + seconds, hear):
                    pass
            finally:
                os.close(ended)
            taken = time.monotonic() - begun
            status = started.wait(_LAST_SECONDS)
    finally:
        os.close(reader)
        os.close(writer)
    if status:
        raise Failed(describe_status(status))
    return taken


def _read_until(reader: int, ended: int, deadline: float, hear: Callable[[bytes], object]) -> bool:
    """Takes what there is to read; answers whether the program has ended, and nothing is left."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    poll.register(ended, select.POLLIN)
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
    if not ready:
        raise Failed(TOO_LONG)
    over = ended in ready
    try:
        while data := os.read(reader, _CHUNK_BYTES):
            hear(data)
            if not over:
                break
    except BlockingIOError:
        pass
    return over


def describe_status(status: int) -> str:
    """How a program ended that did not end well."""
    if status <= 128:
        return f"ended with status {status}"
    return f"killed by {signal.Signals(status - 128).name}"
