"""redis-server under redis-benchmark.

Owns: how the server is filled, asked and read out. Only it is limited: whoever fills and asks has memory enough. Every value begins with the
same character, and half of the requests write that character anew: so memory is written as well as read, and what must be there at the end does not
depend on which keys redis-benchmark drew.
"""

import hashlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .programs import (
    TOO_LONG,
    Done,
    Failed,
    Program,
    Start,
    Started,
    Wanted,
    describe_status,
    missing_command,
    redirected,
)

__all__ = ["RedisServer"]

_VALUE_BYTES = 1024
_ENTRY_BYTES = 1430  # of memory, for a value of that length
_FIRST = b"{"
_SEED = 4
_CLIENTS = "4"
_WINDOW = 500
_POLL_SECONDS = 0.005


class RedisServer(Program):
    """A server without persistence, on a Unix socket."""

    name = "redis"
    title = "redis-server under redis-benchmark"
    small = "redis-server takes its memory in small allocations, and the pager's shim serves those of 1 MiB and more"

    def __init__(self) -> None:
        self._values: list[bytes] = []
        self._queries = 0
        self._directory = Path()
        self.expected = ""

    def obstacle(self) -> str:
        """Why it can't run here; "" if it can."""
        return missing_command("redis-server", "redis-server") or missing_command("redis-benchmark", "redis-tools")

    @contextmanager
    def prepared(self, wanted: Wanted) -> Iterator[None]:
        """The values, in memory of this process."""
        self._values = list(_values(max(1, wanted.work // _ENTRY_BYTES)))
        self._queries = 4 * wanted.queries
        self.expected = hashlib.sha256(b"".join(self._values)).hexdigest()
        with tempfile.TemporaryDirectory(prefix="tmem-bench-") as directory:
            self._directory = Path(directory)
            try:
                yield
            finally:
                self._values = []

    def run(self, start: Start, seconds: float) -> Done:
        """One run: the time is that of the requests."""
        path = self._directory / "redis.sock"
        deadline = time.monotonic() + seconds
        server = ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        with start(redirected(server, None, None)) as started:
            try:
                with _connect(path, started, deadline) as connection:
                    _fill(connection, self._values)
                    taken = sum(self._ask(path, deadline, command) for command in _REQUESTS)
                    return Done(taken, _read_out(connection, len(self._values)))
            except TimeoutError:
                raise Failed(TOO_LONG) from None
            except OSError as error:
                status = started.wait(1.0)
                raise Failed(str(error) if status is None else describe_status(status)) from error
            finally:
                path.unlink(missing_ok=True)

    def _ask(self, path: Path, deadline: float, command: Sequence[str]) -> float:
        """How many seconds redis-benchmark says that half of the requests took."""
        benchmark = shutil.which("redis-benchmark")
        assert benchmark is not None
        count = self._queries // 2
        options = ["-s", str(path), "-c", _CLIENTS, "-n", str(count), "-r", str(len(self._values)), "--csv"]
        try:
            done = subprocess.run(  # noqa: S603  the machine's own
                [benchmark, *options, *command],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(0.0, deadline - time.monotonic()),
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Failed(TOO_LONG) from None
        try:
            # "test","rps","avg_latency_ms",...
            return count / float(done.stdout.splitlines()[-1].split('","')[1])
        except (IndexError, ValueError, ZeroDivisionError):
            raise Failed(f"redis-benchmark ended with status {done.returncode}: {done.stderr.strip()[-200:]}") from None


_REQUESTS = (("get", "key:__rand_int__"), ("setrange", "key:__rand_int__", "0", _FIRST.decode()))


def _values(count: int) -> Iterator[bytes]:
    """About half words and half figures, all different; the same every time."""
    chance = random.Random(_SEED)  # noqa: S311  input, no secret
    text = b"".join(b'"id": "%016x", "state": "shipped", ' % chance.getrandbits(64) for _ in range(4096))
    room = len(text) - _VALUE_BYTES
    for number in range(count):
        at = chance.getrandbits(24) % room
        yield (b'{"number": %d, ' % number + text[at : at + _VALUE_BYTES])[:_VALUE_BYTES]


def _key(number: int) -> bytes:
    """As redis-benchmark makes them."""
    return b"key:%012d" % number


@contextmanager
def _connect(path: Path, started: Started, deadline: float) -> Iterator[socket.socket]:
    """A connection; the server says nowhere when it is ready: it is when it can be connected to."""
    with socket.socket(socket.AF_UNIX) as connection:
        while True:
            try:
                connection.connect(str(path))
                break
            except (FileNotFoundError, ConnectionRefusedError):
                status = started.wait(_POLL_SECONDS)
                if status is not None:
                    raise Failed(describe_status(status)) from None
                if time.monotonic() > deadline:
                    raise Failed(TOO_LONG) from None
        connection.settimeout(max(0.1, deadline - time.monotonic()))
        yield connection


def _fill(connection: socket.socket, values: Sequence[bytes]) -> None:
    with connection.makefile("rb") as answers:
        for first in range(0, len(values), _WINDOW):
            window = values[first : first + _WINDOW]
            connection.sendall(
                b"".join(
                    b"*3\r\n$3\r\nSET\r\n$16\r\n%b\r\n$%d\r\n%b\r\n" % (_key(number), len(value), value)
                    for number, value in enumerate(window, first)
                )
            )
            for _ in window:
                answer = answers.readline()
                if answer != b"+OK\r\n":
                    raise Failed(f"redis-server did not take a value: {answer.decode().strip()}")


def _read_out(connection: socket.socket, count: int) -> str:
    """The digest of all values, in the order of their keys."""
    digest = hashlib.sha256()
    with connection.makefile("rb") as answers:
        for first in range(0, count, _WINDOW):
            numbers = range(first, min(first + _WINDOW, count))
            keys = b"".join(b"$16\r\n%b\r\n" % _key(number) for number in numbers)
            connection.sendall(b"*%d\r\n$4\r\nMGET\r\n%b" % (len(numbers) + 1, keys))
            answers.readline()
            for _ in numbers:
                head = answers.readline()
                if not head:
                    raise ConnectionResetError("redis-server closed the connection")
                size = int(head[1:])  # -1: it is not there
                digest.update(answers.read(size + 2)[:-2] if size >= 0 else b"missing")
    return digest.hexdigest()
