"""What measurements are made with: daemons, helper programs, CPUs.

Owns: that everything started or written by a run ends with it: processes, temporary directories.
"""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tmem.client.testing import CaptiveDaemon

from .figures import Report

__all__ = [
    "MIB",
    "Program",
    "Rig",
    "cpu_seconds",
    "ended_by_sigterm",
    "no_process_left",
    "own_resident_bytes",
    "resident_bytes",
    "settle",
    "until",
]

MIB = 1 << 20
_END_SECONDS = 20.0
_ANSWER_SECONDS = 300.0
_REST_SAMPLES = 8


def resident_bytes(pid: int) -> int:
    """How much memory a process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """What a process has spent, by the scheduler's account of all the threads that it has now."""
    nanoseconds = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # a thread that has ended
            nanoseconds += int((task / "schedstat").read_text("ascii").split()[0])
    return nanoseconds / 1e9


def own_resident_bytes() -> int:
    """How much memory this process has now."""
    return resident_bytes(os.getpid())


def until(done: Callable[[], bool], seconds: float, what: str, every: float = 0.1) -> None:
    """Asks again and again; for what nobody reports, such as another program's memory.

    Raises:
        TimeoutError: it did not come true.
    """
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(every)


def settle(sample: Callable[[], object], seconds: float = 300.0) -> None:
    """Waits until a daemon has nothing more to do by itself: what `sample` answers has been the same for a while.

    The daemon looks for work once a second, and begins when nobody else has any for it.
    """
    samples: list[object] = []

    def at_rest() -> bool:
        samples.append(sample())
        recent = samples[-_REST_SAMPLES:]
        return len(recent) == _REST_SAMPLES and all(found == recent[0] for found in recent)

    until(at_rest, seconds, "the daemon comes to rest", every=0.5)


class Program:
    """A helper program that answers each line with a line of JSON. It ends when its standard input does.

    Args:
        module: its full name.
        arguments: its first line, as JSON.
    """

    def __init__(self, module: str, **arguments: Any) -> None:
        # In a group of its own: Ctrl-C is for the command, which ends it.
        self._process = subprocess.Popen(  # noqa: S603  the interpreter itself
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            process_group=0,
        )
        self._name = module.rpartition(".")[2]
        self._heard = b""
        try:
            self.tell(**arguments)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def tell(self, **arguments: Any) -> None:
        """Sends it a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        """Its next line.

        Raises:
            ChildProcessError: it ended, or says nothing for minutes.
        """
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        waiting = select.poll()  # select itself can't where there are more than a thousand descriptors
        waiting.register(descriptor, select.POLLIN)
        while b"\n" not in self._heard:
            if not waiting.poll(_ANSWER_SECONDS * 1000):
                raise ChildProcessError(f"the helper program {self._name!r} said nothing for {_ANSWER_SECONDS:g} s")
            received = os.read(descriptor, 1 << 20)
            if not received:
                raise ChildProcessError(f"the helper program {self._name!r} ended with status {self._process.wait()}")
            self._heard += received
        line, _, self._heard = self._heard.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, **arguments: Any) -> dict[str, Any]:
        """Sends a line and waits for the answer."""
        self.tell(**arguments)
        return self.hear()

    def close(self) -> None:
        """Ends it."""
        process = self._process
        process.kill()
        process.wait(_END_SECONDS)
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Rig:
    """What one run shares.

    Args:
        say: told what happens now.

    Attributes:
        report: where figures go.
        cpus: those that this process may use.
        server_cpu, client_cpu: where ends of the wire are put so that wake-ups cost the same each time; None with one CPU.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.report = Report()
        self.cpus = sorted(os.sched_getaffinity(0))
        self.server_cpu: int | None = None
        self.client_cpu: int | None = None
        if len(self.cpus) > 1:
            self.server_cpu, self.client_cpu = self.cpus[:2]

    @contextmanager
    def on_cpu(self, cpu: int | None) -> Iterator[None]:
        """Puts this thread, and what it starts meanwhile, on one CPU."""
        if cpu is None:
            yield
            return
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {cpu})
        try:
            yield
        finally:
            os.sched_setaffinity(0, before)

    @contextmanager
    def daemon(self, *arguments: str, pinned: bool = False, timeout: float = 60.0) -> Iterator[CaptiveDaemon]:
        """A daemon of one's own."""
        with ExitStack() as stack:
            try:
                with self.on_cpu(self.server_cpu if pinned else None):
                    captive = CaptiveDaemon("--log-level", "info", "--log-format", "json", *arguments, timeout=timeout)
            except RuntimeError as error:
                raise ChildProcessError(str(error)) from error
            yield stack.enter_context(captive)

    @contextmanager
    def directory(self) -> Iterator[Path]:
        """A temporary directory; where it lies is the environment's to say (TMPDIR)."""
        with tempfile.TemporaryDirectory(prefix="tmem-bench-") as directory:
            yield Path(directory)


@contextmanager
def no_process_left() -> Iterator[None]:
    """Ends what is still there at the end: an interrupt may come between a process's start and the block that ends it."""
    try:
        yield
    finally:
        for tasks in Path("/proc/self/task").glob("*/children"):
            for child in map(int, tasks.read_text("ascii").split()):
                with suppress(ProcessLookupError, ChildProcessError):
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Makes SIGTERM an interrupt, so that whatever was started is ended."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
