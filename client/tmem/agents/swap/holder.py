"""The holder: keeps what must not end with a worker, replaces workers, and enforces the deadline.

Owns: the descriptor of /dev/fuse, which it alone opens (whoever closes the last copy fails every request), the memory that
workers share (shared.py), the file by which the connection is aborted, and the workers: one that serves, and one that stands
by, loaded and locked.

It is a small program that was started by exec, imports no client, locks its memory, and once it runs makes nothing but small
objects in memory that it has already: it must go on when nothing can be had.

A worker that shows no sign of life is killed and replaced. If a request is still unanswered well after its deadline,
whatever was tried, the connection is aborted: every request fails at once, and programs get errors instead of hanging.

Signals do not end it while the device is mounted. When it is unmounted, it ends the workers, and itself.
"""

import errno
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress

from tmem.agents.host import log
from tmem.agents.host.cgroups import Hierarchy
from tmem.agents.host.memory import lock_memory, take_standing
from tmem.agents.host.mounts import control_file, find_mount, mount_fuse, unmount, unswappable_files
from tmem.wire.errors import InvalidOption
from tmem.wire.limits import PAGE_BYTES

from .config import GONE, READY, STOP, TAKE, WORKER_MODULE, Config, Descriptors, shelter_name
from .protocol import MAX_REQUEST_BYTES, init_reply, parse_init
from .shared import CONTROL_BYTES, Control, Identity, Word, now

__all__ = ["main"]

MAX_READ_BYTES = 32 * PAGE_BYTES
_POLL_MS = 200
_START_SECONDS = 30.0
_GRACE_SECONDS = 5.0
_STOP_SECONDS = 6.0
_AGAIN_NANOSECONDS = 1_000_000_000
_MOST_AGAIN_NANOSECONDS = 30_000_000_000


class _Worker:
    """A worker's process, as its parent sees it.

    Attributes:
        ready: it is loaded and locked.
    """

    def __init__(self, pid: int, sock: socket.socket) -> None:
        self.pid = pid
        self.socket = sock
        self.handle = os.pidfd_open(pid)
        self.ready = False

    def close(self) -> None:
        self.socket.close()
        os.close(self.handle)


class Holder:
    """One device's holder."""

    def __init__(self, config_file: int) -> None:
        self._config_file = config_file
        self._config = config = Config.from_file(config_file)
        pages = config.size // PAGE_BYTES
        sizes = (CONTROL_BYTES, pages, config.presence_bytes)
        self.control_file, self._states, self._presence = unswappable_files(sizes)
        identity = Identity(bytes.fromhex(config.pool_token), config.epoch)
        self._control = Control.make(self.control_file, pages, identity)
        self._words = self._control.words
        self._mount_path = os.path.join(config.directory, "mnt")  # noqa: PTH118  pathlib is not loaded here
        self._fuse = -1
        self._abort = -1
        self._poll = select.poll()
        self._active: _Worker | None = None
        self._standby: _Worker | None = None
        self._spawn_at = 0
        self._pause = _AGAIN_NANOSECONDS  # longer while workers do not come to stand by
        self._progress = (0, 0)  # what was counted, and when that changed last
        self._connected = True
        self._hang = int(config.hang_seconds * 1e9)
        self._limit = int((max(config.io_deadline, config.write_deadline) + config.hang_seconds + _GRACE_SECONDS) * 1e9)

    # ---- Start ----

    def start(self) -> None:
        """Mounts the file system, and starts the workers.

        Raises:
            OSError: a step was refused.
        """
        with suppress(InvalidOption):  # no memory controller, no limits
            Hierarchy.find().shelter(shelter_name(os.getpid()))  # the workers follow
        self._fuse = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        mount_fuse(self._fuse, self._mount_path, f"tmem:{self._config.name}", MAX_READ_BYTES)
        self._greet()
        mounted = find_mount(self._mount_path)
        if mounted is None:
            unmount(self._mount_path, lazily=True)
            raise OSError(
                errno.ENOENT,
                f"what was mounted at {self._mount_path} is not in the mount table by that name: give the run directory's real path",
            )
        self._abort = control_file(mounted.minor, "abort", os.O_WRONLY)
        self._active = self._spawn()
        self._await_ready(self._active)
        self._active.socket.send(TAKE)
        self._words[Word.HEARTBEAT] = now()
        self._standby = self._spawn()
        self._await_ready(self._standby)
        self._poll.register(self._fuse, 0)  # tells only when the connection is gone
        log.keep(f"{self._config.directory}/log")
        lock_memory()
        take_standing()

    def _greet(self) -> None:
        """Answers the kernel's opening."""
        poll = select.poll()
        poll.register(self._fuse, select.POLLIN)
        if not poll.poll(_START_SECONDS * 1000):
            raise OSError(errno.ETIMEDOUT, "the kernel does not open the FUSE connection")
        message = bytearray(MAX_REQUEST_BYTES)
        size = os.readv(self._fuse, (message,))
        kernel = parse_init(memoryview(message)[:size])
        if kernel.missing:
            raise OSError(
                errno.EOPNOTSUPP,
                f"FUSE {kernel.major}.{kernel.minor} of this kernel lacks {', '.join(kernel.missing)}: Linux 6.9 has them",
            )
        # The kernel's own timer is for the case that the holder itself hangs.
        os.write(self._fuse, init_reply(kernel, int(self._limit / 1e9) + 30))

    def _spawn(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptors = Descriptors(
            self._config_file, self._fuse, self.control_file, self._states, self._presence, theirs.fileno()
        )
        for name in Descriptors.__slots__:
            os.set_inheritable(getattr(descriptors, name), True)
        command = [sys.executable, "-m", WORKER_MODULE, *descriptors.to_arguments()]
        pid = os.posix_spawn(sys.executable, command, os.environ)
        theirs.close()
        worker = _Worker(pid, ours)
        self._poll.register(worker.handle, select.POLLIN)
        self._poll.register(worker.socket, select.POLLIN)
        return worker

    def _await_ready(self, worker: _Worker) -> None:
        worker.socket.settimeout(_START_SECONDS)
        try:
            worker.ready = worker.socket.recv(16) == READY
        except TimeoutError:
            worker.ready = False
        worker.socket.settimeout(None)
        if not worker.ready:
            raise OSError(errno.ECHILD, "the worker did not start; its own words are above, or in the log")

    # ---- Life ----

    def run(self) -> None:
        """Holds until the file system is unmounted."""
        while self._connected or find_mount(self._mount_path) is not None:
            try:
                for descriptor, event in self._poll.poll(_POLL_MS):
                    self._note(descriptor, event)
                self._words[Word.HOLDER_BEAT] = moment = now()
                if self._connected:
                    self._watch(moment)
            except Exception as error:  # noqa: BLE001  whatever it is, programs' memory depends on this going on
                say(f"went wrong, and goes on: {error!r}")
                time.sleep(_POLL_MS / 1000)
        self._stop()

    def _note(self, descriptor: int, event: int) -> None:
        if descriptor == self._fuse:
            if event & (select.POLLERR | select.POLLHUP):
                self._poll.unregister(self._fuse)
                self._connected = False
            return
        for worker in (self._active, self._standby):
            if worker is None:
                continue
            if descriptor == worker.handle:
                self._bury(worker)
                return
            if descriptor == worker.socket.fileno():
                try:
                    message = worker.socket.recv(16)
                except ConnectionResetError:  # it died with something unread
                    message = b""
                if message == READY:
                    worker.ready = True
                    self._pause = _AGAIN_NANOSECONDS
                elif not message:
                    self._poll.unregister(worker.socket)

    def _bury(self, worker: _Worker) -> None:
        _, status = os.waitpid(worker.pid, 0)
        for thing in (worker.handle, worker.socket):
            with suppress(KeyError):
                self._poll.unregister(thing)
        worker.close()
        what = "serving" if worker is self._active else "standing by"
        say(f"worker {worker.pid}, {what}, ended with {os.waitstatus_to_exitcode(status)}")
        if worker is self._active:
            self._active = None
            self._spawn_at = min(self._spawn_at, now() + _AGAIN_NANOSECONDS)
        else:
            self._standby = None
            if not worker.ready and self._active is not None:
                self._pause = min(2 * self._pause, _MOST_AGAIN_NANOSECONDS)
            self._spawn_at = now() + (_AGAIN_NANOSECONDS if self._active is None else self._pause)

    def _watch(self, moment: int) -> None:
        """Sees to it that there is a worker, that it lives, and that requests are answered."""
        words = self._words
        active = self._active
        if active is None:
            standby = self._standby
            if standby is not None and standby.ready:
                self._active, self._standby = standby, None
                words[Word.TAKEOVERS] += 1
                words[Word.HEARTBEAT] = moment
                with suppress(OSError):  # dead already: that is told next
                    standby.socket.send(TAKE)
        elif moment - words[Word.HEARTBEAT] > self._hang and moment > words[Word.HEARTBEAT]:
            say(f"worker {active.pid} shows no sign of life: it is replaced")
            with suppress(ProcessLookupError):
                os.kill(active.pid, signal.SIGKILL)
            words[Word.HEARTBEAT] = moment
        if self._standby is None and moment >= self._spawn_at:
            self._spawn_at = moment + _AGAIN_NANOSECONDS
            self._standby = self._spawn()
        self._enforce(moment)

    def _enforce(self, moment: int) -> None:
        oldest = self._control.oldest()
        late = bool(oldest) and moment - oldest > self._limit
        # Requests that no worker has taken are in no table: nothing is counted while they wait.
        counted = self._words[Word.READS] + self._words[Word.WRITES] + self._words[Word.DISCARDS]
        if counted != self._progress[0] or not self._unread():
            self._progress = (counted, moment)
        if late or moment - self._progress[1] > self._limit:
            say("requests are unanswered long after their deadline: the connection is aborted")
            self._words[Word.ABORTED_AT] = moment
            os.write(self._abort, b"1")
            self._connected = False

    def _unread(self) -> bool:
        poll = select.poll()
        poll.register(self._fuse, select.POLLIN)
        return bool(poll.poll(0))

    # ---- End ----

    def _stop(self) -> None:
        """Has a worker destroy the pool, the one that stood by if the one that served hangs; then ends them."""
        asked = [(self._active, (STOP,)), (self._standby, (TAKE, STOP))]
        gone = any(worker is not None and self._stop_with(worker, messages) for worker, messages in asked)
        if not gone:
            say(f"the pool {self._config.pool!r} is left on the server")
        for worker in (self._active, self._standby):
            if worker is not None:
                with suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                os.waitpid(worker.pid, 0)

    @staticmethod
    def _stop_with(worker: _Worker, messages: tuple[bytes, ...]) -> bool:
        """Whether a worker has destroyed the pool."""
        try:
            worker.socket.settimeout(_STOP_SECONDS)
            for message in messages:
                worker.socket.send(message)
            while (answer := worker.socket.recv(16)) == READY:
                pass
        except OSError:
            return False
        return answer == GONE


def say(message: str) -> None:
    """A line for the log."""
    log.say("holder", message)


def _close_others(kept: set[int]) -> None:
    """Closes what was inherited by accident: it would stay open for as long as the device is there."""
    for descriptor in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208  pathlib is not loaded here
        if descriptor not in kept:
            with suppress(OSError):
                os.close(descriptor)


def main() -> None:
    """Runs a holder: `holder CONFIG REPORT`, two descriptors; what became of the start is written to the second."""
    config_file, report = int(sys.argv[1]), int(sys.argv[2])
    os.chdir("/")
    _close_others({0, 1, 2, config_file, report})
    os.set_inheritable(report, False)  # workers would keep it open
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda *_: say("still attached: use `tmem swap detach`"))
    try:
        holder = Holder(config_file)
        holder.start()
    except OSError as error:
        os.write(report, json.dumps({"error": str(error)}).encode())
        sys.exit(1)
    os.write(report, json.dumps({"control": holder.control_file}).encode())
    os.close(report)
    holder.run()


if __name__ == "__main__":
    main()
