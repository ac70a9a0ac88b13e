"""The file that the kernel swaps to: requests in, operations on the pool and answers out.

Owns: what each request means. Reads, writes and holes have their own modules, each with its promise; together:

    A write is answered when every page of it is STORED; one refused page fails the whole write.
    A read is answered with the bytes that were last written, or fails. Zeros are answered for what was never written and
    for what was given up, never in the place of something that was lost.
    Reads never wait for writes.

Pure: no I/O and no clock; pages move by the `Remote` that is handed in, answers leave by `Answers`, all in one thread.
"""

import errno
from collections.abc import Callable

from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .holes import Holes
from .ports import Answers, Remote
from .protocol import (
    FILE_NAME,
    FILE_NODE,
    ROOT_NODE,
    Allocate,
    Forget,
    Interrupt,
    Lookup,
    Opcode,
    Other,
    Read,
    ReadDirectory,
    Request,
    Write,
    attributes_reply,
    directory_reply,
    entry_reply,
    error_reply,
    open_reply,
    reply,
    statfs_reply,
)
from .reads import Reads
from .shared import Word
from .writes import Writes

__all__ = ["Core"]

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16


class Core:
    """One device.

    Args:
        states: a byte for each page of the device, where the next worker finds them.
        words: the control file's.
        remote: where pages go.
        answers: where answers go.
        read_limit, write_limit: nanoseconds after which a request fails, counted from when it came.
        clock: the time in nanoseconds.
    """

    def __init__(
        self,
        states: memoryview,
        words: memoryview,
        remote: Remote,
        answers: Answers,
        *,
        read_limit: int,
        write_limit: int,
        clock: Callable[[], int],
    ) -> None:
        self.size = len(states) * PAGE_BYTES
        self._words = words
        self._remote = remote
        self._answers = answers
        self._holes = Holes(states, remote, clock)
        self._reads = Reads(self.size, self._holes, words, remote, answers, read_limit, clock)
        self._writes = Writes(self.size, self._holes, words, remote, answers, write_limit, clock)

    def recover(self) -> None:
        """Takes over from a worker that died."""
        self._holes.recover()

    def lose(self, block: int, mask: int) -> None:
        """Pages of a block (as bits) were on a server that lost them."""
        self._holes.lose(block, mask)

    # ---- Requests ----

    def handle(self, request: Request, came: int, release: Callable[[], None] | None = None) -> bool:
        """Takes a request.

        Args:
            request: what the kernel wants; reads are asked for by `send`, those that came together by one message.
            came: when it said so first.
            release: called when the data of a write have been read.

        Returns:
            Whether `release` will be called; if not, the message's memory is the caller's again now.
        """
        match request:
            case Read():
                self._reads.take(request, came)
            case Write():
                return self._writes.take(request, came, release)
            case Allocate():
                self._allocate(request, came)
            case Lookup(unique, node, name):
                found = node == ROOT_NODE and name == FILE_NAME
                self._send(unique, entry_reply(unique, self.size) if found else error_reply(unique, errno.ENOENT))
            case ReadDirectory():
                self._send(request.unique, directory_reply(request))
            case Other():
                self._other(request)
            case Interrupt() | Forget():
                pass
        return False

    def _send(self, unique: int, message: bytes) -> None:
        self._answers.send(unique, message)

    def _other(self, request: Other) -> None:
        unique, opcode, node = request
        if opcode == Opcode.DESTROY:
            self._send(unique, reply(unique))
        elif node not in {ROOT_NODE, FILE_NODE}:
            self._send(unique, error_reply(unique, errno.ENOENT))
        elif opcode in {Opcode.GETATTR, Opcode.SETATTR}:
            # What would be set is of no interest to anybody: the file is as long as the device, and root's.
            self._send(unique, attributes_reply(unique, node, self.size))
        elif opcode in {Opcode.OPEN, Opcode.OPENDIR}:
            self._send(unique, open_reply(unique, node))
        elif opcode == Opcode.STATFS:
            self._send(unique, statfs_reply(unique, self.size))
        elif opcode in {Opcode.FSYNC, Opcode.FLUSH, Opcode.SYNCFS}:
            self._writes.sync(unique)
        elif opcode in {Opcode.RELEASE, Opcode.RELEASEDIR, Opcode.ACCESS}:
            self._send(unique, reply(unique))
        else:
            self._send(unique, error_reply(unique, errno.ENOSYS))

    def _allocate(self, request: Allocate, came: int) -> None:
        unique, offset, length, mode = request
        end = offset + length
        if end > self.size or not length:
            self._send(unique, error_reply(unique, errno.ENOSPC if length else errno.EINVAL))
        elif mode & (_PUNCH_HOLE | _ZERO_RANGE):
            self._words[Word.DISCARDS] += 1
            self._give_up(unique, offset, end, came)
        elif mode & ~_KEEP_SIZE:
            self._send(unique, error_reply(unique, errno.EOPNOTSUPP))
        else:
            self._send(unique, reply(unique))  # there is room for all of the file from the start

    def _give_up(self, unique: int, offset: int, end: int, came: int) -> None:
        """Bytes that read as zeros from now on: whole pages are holes, what is left of others is overwritten."""
        first, last = -(-offset // PAGE_BYTES), end // PAGE_BYTES
        torn = []
        if first > last:  # inside one page
            torn.append((offset, end))
        else:
            if offset % PAGE_BYTES:
                torn.append((offset, first * PAGE_BYTES))
            if end % PAGE_BYTES:
                torn.append((last * PAGE_BYTES, end))
            if first < last:
                self._words[Word.PAGES_DISCARDED] += last - first
                self._holes.give_up(first, last - first)
        if not torn:
            self._send(unique, reply(unique))
            return
        left = len(torn)
        failed = False

        def finished(error: TmemError | None) -> None:
            nonlocal left, failed
            left -= 1
            failed = failed or error is not None
            if not left:
                self._send(unique, error_reply(unique, errno.EIO) if failed else reply(unique))

        for begin, stop in torn:
            self._writes.patch(begin, bytes(stop - begin), came, finished)

    # ---- Time ----

    @property
    def busy(self) -> bool:
        """Whether `step` has something to do at once."""
        return self._remote.ready and (self._writes.staged or self._holes.may_flush)

    @property
    def waiting(self) -> bool:
        """Whether `tick` is to be called often."""
        return self._reads.waiting or (not self._remote.ready and not self._writes.idle)

    def send(self) -> None:
        """Sends what the requests that were handled since the last time want at once."""
        self._reads.send()

    def pool_opened(self) -> None:
        """The remote is ready from now on."""
        self._reads.start_waiting()
        self._writes.start_waiting()

    def step(self) -> None:
        """Does one piece of what need not be done at once."""
        if not self._remote.ready:
            return
        if self._writes.staged:
            self._writes.put_some()
        elif self._holes.may_flush:
            self._holes.flush_some()

    def tick(self) -> None:
        """Looks at the time; call it several times a second."""
        self._reads.tick()
        self._writes.tick()

    def make_room(self) -> None:
        """Frees memory of a message that waits to be encoded: by encoding, or by failing it if that can't be."""
        if self._remote.ready and self._writes.staged:
            self._writes.put_some()
        else:
            self._writes.drop_oldest()
