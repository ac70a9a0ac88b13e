"""The worker: one thread that serves the device.

Owns: the loop over /dev/fuse, the link and the holder's socket, and the order of work in it: requests are taken in first,
then answers of the server, then one step of what can wait. A worker is started ahead (standby): everything is loaded and
locked before it is told to take over.

It can be killed at any instruction. What it must not take with it is in the holder's memory (shared.py).
"""

import errno
import gc
import os
import select
import socket
import sys
from contextlib import suppress

from tmem.agents.host.memory import lock_memory, map_sparse, take_standing
from tmem.wire.allocator import keep_freed_messages
from tmem.wire.errors import TmemError

from .config import GONE, LEFT, READY, STOP, TAKE, Config, Descriptors
from .core import Core
from .kernel import Kernel
from .remote import Pool
from .shared import Control, Word, now

__all__ = ["main"]

_ROUND = 32
"""Requests that are taken in before the server's answers are looked at."""
_TICK_NANOSECONDS = 50_000_000
_IDLE_SECONDS = 0.5
_OPEN_AGAIN_NANOSECONDS = 200_000_000
_STOP_SECONDS = 5.0


class Worker:
    """One worker, from its loading to its end."""

    def __init__(self, descriptors: Descriptors) -> None:
        self._config = config = Config.from_file(descriptors.config)
        self._descriptors = descriptors
        self._socket = socket.socket(fileno=descriptors.socket)
        self._control = Control(descriptors.control)
        self._words = self._control.words
        self._kernel = Kernel(descriptors.fuse, self._control, now)
        self._pool = Pool(config, self._control, descriptors.presence)
        self._poll = select.epoll()
        self._stopping = False
        self._tick_at = 0
        self._open_at = 0

    def stand_by(self) -> bool:
        """Makes ready, and waits to be told to take over; answers whether it was."""
        keep_freed_messages()
        gc.collect()
        gc.freeze()  # what is loaded stays; what comes makes few cycles, and idle time is for those
        gc.disable()
        lock_memory()
        standing = take_standing()
        states = map_sparse(self._descriptors.states, self._words[Word.PAGES])
        self._states = states
        self._core = Core(
            memoryview(states),
            self._words,
            self._pool,
            self._kernel,
            read_limit=int(self._config.io_deadline * 1e9),
            write_limit=int(self._config.write_deadline * 1e9),
            clock=now,
        )
        self._standing = standing
        self._socket.send(READY)
        return self._socket.recv(16) == TAKE

    def serve(self) -> int:
        """Serves until the device is gone; answers the process's exit status."""
        words = self._words
        words[Word.WORKER_PID] = os.getpid()
        words[Word.IO_FLUSHER] = self._standing.io_flusher
        words[Word.OOM_EXEMPT] = self._standing.oom_exempt
        words[Word.SERVING_SINCE] = words[Word.HEARTBEAT] = now()
        self._core.recover()
        self._kernel.take_over()
        fuse = self._descriptors.fuse
        poll = self._poll
        poll.register(fuse, select.EPOLLIN)
        poll.register(self._socket, select.EPOLLIN)
        try:
            while True:
                self._turn()
        except OSError as error:
            if error.errno not in {errno.ENODEV, errno.ECONNABORTED}:
                raise
        return self._end()

    def _turn(self) -> None:
        core, kernel, pool = self._core, self._kernel, self._pool
        seconds = 0.0
        if not core.busy:
            seconds = _TICK_NANOSECONDS / 1e9 if core.waiting or not pool.ready else _IDLE_SECONDS
        for descriptor, _ in self._poll.poll(seconds):
            if descriptor == self._socket.fileno():
                self._listen()
        for _ in range(_ROUND):
            if not kernel.receive(core.handle):
                break
        if kernel.full:
            core.make_room()
        core.step()
        moment = now()
        self._words[Word.HEARTBEAT] = moment
        if moment >= self._tick_at:
            self._tick_at = moment + _TICK_NANOSECONDS
            core.tick()
        if not pool.ready and moment >= self._open_at:
            if pool.open():
                core.pool_opened()
            self._open_at = now() + _OPEN_AGAIN_NANOSECONDS

    def _listen(self) -> None:
        message = self._socket.recv(16)
        if not message:
            # The holder is gone, and nobody will replace this worker: it serves as long as it can.
            self._poll.unregister(self._socket)
            say("the holder is gone; this worker goes on alone")

    def _end(self) -> int:
        """The device is gone. The holder says whether that was meant; the pool goes with it then."""
        self._socket.settimeout(_STOP_SECONDS)
        try:
            if self._socket.recv(16) != STOP:
                return 0
            self._pool.destroy()
            self._socket.send(GONE)
        except (OSError, TmemError) as error:
            say(f"the pool {self._config.pool!r} is left on the server: {error}")
            with suppress(OSError):
                self._socket.send(LEFT)
        return 0


def say(message: str) -> None:
    """A line for the log."""
    sys.stderr.write(f"tmem-swap worker[{os.getpid()}]: {message}\n")
    sys.stderr.flush()


def main() -> None:
    """Runs a worker; its arguments are the descriptors that it inherits."""
    worker = Worker(Descriptors.from_arguments(sys.argv[1:]))
    sys.exit(worker.serve() if worker.stand_by() else 0)


if __name__ == "__main__":
    main()
