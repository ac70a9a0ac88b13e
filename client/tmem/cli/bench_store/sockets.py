"""memcached and Redis, as much of them as is needed to put values into them.

Owns: their start on a Unix socket in a directory of one's own, a pipelined set of many values in the protocol of each, and their end.
"""

import os
import select
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tmem.wire.splice import BytesLike

__all__ = ["Memcached", "Redis", "Rival"]

_READY_SECONDS = 20.0
_ANSWER_SECONDS = 60.0
_WINDOW = 256  # values in flight


class Rival:
    """A server that holds values; it ends with the `with` block.

    Args:
        directory: for its socket.
        memory_mib: how much it may hold at least.
    """

    command = ""
    _stored = b""

    def __init__(self, directory: Path, memory_mib: int) -> None:
        path = directory / f"{self.command}.sock"
        executable = shutil.which(self.command)
        assert executable is not None
        self._process = subprocess.Popen(  # noqa: S603  a server of this name, with flags of our own
            [executable, *self._flags(str(path), memory_mib)],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            self._socket = self._connect(path)
        except BaseException:
            self._end()
            raise
        self._answers = b""

    def _flags(self, path: str, memory_mib: int) -> list[str]:
        raise NotImplementedError

    def _message(self, key: bytes, value: BytesLike) -> Sequence[BytesLike]:
        raise NotImplementedError

    @classmethod
    def installed(cls) -> bool:
        """Whether it can be started."""
        return shutil.which(cls.command) is not None

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _connect(self, path: Path) -> socket.socket:
        """It says nowhere when it is ready; it is when it can be connected to."""
        deadline = time.monotonic() + _READY_SECONDS
        ended = os.pidfd_open(self._process.pid)
        try:
            while True:
                connection = socket.socket(socket.AF_UNIX)
                connection.settimeout(_ANSWER_SECONDS)
                try:
                    connection.connect(str(path))
                    return connection
                except OSError:
                    connection.close()
                if select.select([ended], [], [], 0.01)[0] or time.monotonic() > deadline:
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


class Memcached(Rival):
    """memcached, with its own slab settings and enough memory."""

    command = "memcached"
    _stored = b"STORED\r\n"

    def _flags(self, path: str, memory_mib: int) -> list[str]:
        user = ["-u", "root"] if os.geteuid() == 0 else []
        return ["-s", path, "-m", str(memory_mib), "-M", *user]

    def _message(self, key: bytes, value: BytesLike) -> Sequence[BytesLike]:
        return (b"set %b 0 0 %d\r\n" % (key, len(value)), value, b"\r\n")


class Redis(Rival):
    """Redis, without persistence."""

    command = "redis-server"
    _stored = b"+OK\r\n"

    def _flags(self, path: str, memory_mib: int) -> list[str]:  # noqa: ARG002  it takes what it needs
        return ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--daemonize", "no"]

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
