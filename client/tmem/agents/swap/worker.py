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
import time
import traceback
from contextlib import suppress

from tmem.agents.host import log
from tmem.agents.host.memory import lock_memory, map_sparse, take_standing, touch_data
from tmem.wire.allocator import keep_freed_messages
from tmem.wire.errors import Fenced, InvalidOption, TmemError

from .config import GONE, LEFT, READY, STOP, TAKE, Config, Descriptors
from .core import Core
from .kernel import Kernel
from .remote import Pool
from .shared import Control, Word, now

__all__ = ["Worker", "main"]

_ROUND = 32
"""Requests that are taken in before the server's answers are looked at."""
_SINGLES = 16
"""After so many turns with one request each, the next one is sent before a look is taken for another."""
_TICK_SECONDS = 0.05
_TICK_NANOSECONDS = 50_000_000
_GARBAGE = 1000
_IDLE_SECONDS = 0.5
_OPEN_AGAIN_NANOSECONDS = 200_000_000
_STOP_SECONDS = 5.0
_FENCED = 3


class Worker:
    """One worker, from its loading to its end.

    Raises:
        InvalidOption: the shared memory is another version's. Nothing was touched then, and no server asked.
    """

    def __init__(self, descriptors: Descriptors) -> None:
        self._config = Config.from_file(descriptors.config)
        self._descriptors = descriptors
        self._socket = socket.socket(fileno=descriptors.socket)
        self._control = Control(descriptors.control)
        if not self._control.valid:
            raise InvalidOption(
                f"the device {self._config.name!r} was attached by another version of tmem, whose shared memory this one can't "
                "read: the worker that serves goes on. Detach the device, and attach it again"
            )
        self._words = self._control.words
        self._kernel = Kernel(descriptors.fuse, self._control, now, say)
        self._poll = select.epoll()
        self._link = (-1, -1, 0)  # what is registered of it: generation, descriptor, events
        self._singles = 0
        self._tick_at = 0
        self._open_at = 0
        self._stopped = False

    def stand_by(self) -> bool:
        """Makes ready, and waits to be told to take over; answers whether it was."""
        keep_freed_messages()
        gc.collect()
        gc.freeze()  # what is loaded stays; what comes makes no cycles but in errors, and idle time is for those
        gc.disable()
        log.keep(f"{self._config.directory}/log")
        lock_memory()
        self._standing = take_standing()
        pages = self._words[Word.PAGES]
        self._shared = {
            descriptor: map_sparse(descriptor, size)
            for descriptor, size in (
                (self._descriptors.states, pages),
                (self._descriptors.presence, os.fstat(self._descriptors.presence).st_size),
            )
        }
        states, presence = self._shared.values()
        self._pool = Pool(self._config, self._control, memoryview(presence), self._lose, self._meanwhile)
        self._core = Core(
            memoryview(states),
            self._words,
            self._pool,
            self._kernel,
            read_limit=int(self._config.io_deadline * 1e9),
            write_limit=int(self._config.write_deadline * 1e9),
            clock=now,
        )
        self._socket.send(READY)
        return self._socket.recv(16) == TAKE

    def serve(self) -> int:
        """Serves until the device is gone; answers the process's exit status."""
        words = self._words
        words[Word.WORKER_PID] = os.getpid()
        words[Word.IO_FLUSHER] = self._standing.io_flusher
        words[Word.OOM_EXEMPT] = self._standing.oom_exempt
        words[Word.CONNECTED_SINCE] = 0
        words[Word.SERVING_SINCE] = words[Word.HEARTBEAT] = now()
        for descriptor, mapping in self._shared.items():
            touch_data(descriptor, mapping)
        self._core.recover()
        try:
            self._kernel.take_over()
            self._poll.register(self._descriptors.fuse, select.EPOLLIN)
            self._poll.register(self._socket, select.EPOLLIN)
            while True:
                self._turn()
        except Fenced as why:  # somebody has opened the pool since: the next worker opens it again
            say(str(why))
            return _FENCED
        except OSError as error:
            if error.errno not in {errno.ENODEV, errno.ECONNABORTED}:
                raise
        return self._end()

    def _lose(self, block: int, mask: int) -> None:
        self._core.lose(block, mask)

    def _turn(self) -> None:
        """Waits until something happens, and does what follows from it.

        A lone read costs five system calls where the server has answered by the time that the get is sent: wait, read the request,
        send the get, receive the answer, write the reply.
        """
        core, pool = self._core, self._pool
        asked = answered = False
        for descriptor, _ in self._poll.poll(self._patience()):
            if descriptor == self._descriptors.fuse:
                asked = True
            elif descriptor == self._descriptors.socket:
                self._listen()
            else:
                answered = True
        pumped = asked and self._take_in()
        moment = now()
        self._words[Word.HEARTBEAT] = moment
        late = moment >= self._tick_at
        if answered or late:
            pool.pump()
        if core.busy:
            core.step()
            answered = True
        if answered or late or pumped:
            self._register_link()
        if late:
            self._tick(moment)

    def _take_in(self) -> bool:
        """Takes in what the kernel asks, as far as it is there now: readahead comes as many reads at once.

        Reads at random come one by one, and one that waits for a look at what else there is waits in vain.

        Returns:
            Whether it has looked at the link too.
        """
        kernel, handle = self._kernel, self._core.handle
        alone = not kernel.in_hand
        if alone and self._singles >= _SINGLES:
            if kernel.receive(handle):
                self._core.send()
                self._pool.pump()
            return True
        count = 0
        while count < _ROUND and kernel.receive(handle):
            count += 1
        self._singles = self._singles + 1 if alone and count == 1 else 0
        self._core.send()
        if kernel.full:
            self._core.make_room()
        return False

    def _meanwhile(self) -> None:
        """The pool is being opened, which may take a while: requests are taken in, and fail when their time has come."""
        moment = now()
        if moment < self._tick_at:
            return
        self._tick_at = moment + _TICK_NANOSECONDS
        self._words[Word.HEARTBEAT] = moment
        self._take_in()
        self._core.tick()

    def _tick(self, moment: int) -> None:
        self._tick_at = moment + _TICK_NANOSECONDS
        self._core.tick()
        if not self._kernel.in_hand and gc.get_count()[0] > _GARBAGE:
            gc.collect()
        if not self._pool.ready and moment >= self._open_at:
            self._open()

    def _patience(self) -> float:
        """How many seconds nothing may happen."""
        core, pool = self._core, self._pool
        if core.busy:
            return 0.0
        if self._kernel.in_hand or core.waiting or not pool.ready:
            return _TICK_SECONDS
        timer = pool.next_timer()
        return _IDLE_SECONDS if timer is None else min(_IDLE_SECONDS, max(0.0, timer - time.monotonic()))

    def _register_link(self) -> None:
        """Keeps what is waited for up to date; the descriptor is another one after each reconnect."""
        pool = self._pool
        events = select.EPOLLIN | select.EPOLLOUT if pool.wants_write else select.EPOLLIN
        link = (pool.generation, pool.fileno(), events)
        if link == self._link:
            return
        old = self._link
        self._link = link
        if old[1] >= 0 and old[:2] != link[:2]:
            with suppress(OSError):  # closed by now, and so unregistered
                self._poll.unregister(old[1])
        if link[1] >= 0:
            if old[:2] == link[:2]:
                self._poll.modify(link[1], events)
            else:
                self._poll.register(link[1], events)

    def _open(self) -> None:
        why = self._pool.open()
        if why is not None:
            say(f"the pool can't be opened yet: {why}")
        if self._pool.ready:
            self._core.pool_opened()
        self._open_at = now() + _OPEN_AGAIN_NANOSECONDS

    def _listen(self) -> None:
        message = self._socket.recv(16)
        if message == STOP:
            self._stopped = True  # the kernel is about to say so too
        elif not message:
            # Nobody will replace this worker: it serves as long as it can.
            self._poll.unregister(self._socket)
            say("the holder is gone; this worker goes on alone")

    def _end(self) -> int:
        """The device is gone. The holder says whether that was meant; the pool goes with it then."""
        self._socket.settimeout(_STOP_SECONDS)
        try:
            if not self._stopped and self._socket.recv(16) != STOP:
                return 0
            self._pool.destroy()
            self._words[Word.POOL_GONE] = 1
            self._socket.send(GONE)
        except (OSError, TmemError) as error:
            say(f"the pool {self._config.pool!r} is left on the server: {error}")
            with suppress(OSError):
                self._socket.send(LEFT)
        return 0


def say(message: str) -> None:
    """A line for the log."""
    log.say("worker", message)


def main() -> None:
    """Runs a worker; its arguments are the descriptors that it inherits."""
    try:
        worker = Worker(Descriptors.from_arguments(sys.argv[1:]))
        status = worker.serve() if worker.stand_by() else 0
    except InvalidOption as error:
        say(str(error))
        status = 1
    except Exception:  # noqa: BLE001  said so that nothing can wait for it; then the next worker takes over
        say(traceback.format_exc())
        status = 1
    sys.exit(status)


if __name__ == "__main__":
    main()
