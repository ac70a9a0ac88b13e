"""Reads: what the kernel gets back.

Owns: that a read is answered with what was last written there, or with zeros where nothing was or where it was given up, or
fails. Readahead is one exchange: all runs of a read, and all reads that are there at once, go into one message.

Units: nanoseconds for times, bytes for `offset` and `size`, pages otherwise.
"""

import errno
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from tmem.client import Code, GetResult
from tmem.wire.errors import (
    DeadlineExceeded,
    PageCorrupt,
    PageError,
    PageLost,
    PageMissing,
    Refused,
    TmemError,
    Unavailable,
)
from tmem.wire.limits import MAX_BATCH_PAGES, PAGE_BYTES
from tmem.wire.results import Reason

from .holes import FAILED, HOLE, Holes
from .ports import Answers, Buffer, Piece, Remote
from .protocol import Read, error_reply, reply
from .ranges import cut
from .shared import Word

__all__ = ["MAX_READ_PAGES", "Reads", "judge"]

MAX_READ_PAGES = 32
"""The most that one read asks for when it is aligned; the mount's max_read says so to the kernel."""

_TOGETHER = MAX_BATCH_PAGES // (MAX_READ_PAGES + 1)
"""So many reads always fit into one message."""

_RETRY_NANOSECONDS = 100_000_000
# Reads whose times to answer differ by more do not share a message.
_SIMILAR_NANOSECONDS = 1_000_000_000
_ZERO_PAGE = bytes(PAGE_BYTES)
_HIT, _MISS = Code.HIT, Code.MISS
# A server that starts or stops says so; it may be another one, or itself, that answers next.
_PASSING = {Reason.RECOVERING, Reason.DRAINING, Reason.IO}


class _Read:
    __slots__ = ("buffer", "came", "count", "first", "offset", "size", "unique")

    def __init__(self, unique: int, offset: int, size: int, came: int) -> None:
        self.unique = unique
        self.offset = offset
        self.size = size
        self.first = offset // PAGE_BYTES
        self.count = -(-(offset + size) // PAGE_BYTES) - self.first
        self.came = came
        self.buffer: Buffer | None = None


def _age(gathered: tuple[_Read, list[Piece]]) -> int:
    return gathered[0].came


class Reads:
    """The reads of a device that are in hand.

    Args:
        size: of the device, in bytes.
        holes: what its pages are.
        limit: nanoseconds after which a read fails, counted from when it came.
    """

    def __init__(
        self,
        size: int,
        holes: Holes,
        words: memoryview,
        remote: Remote,
        answers: Answers,
        limit: int,
        clock: Callable[[], int],
    ) -> None:
        self._size = size
        self._holes = holes
        self._words = words
        self._remote = remote
        self._answers = answers
        self._limit = limit
        self._clock = clock
        self._waiting: deque[_Read] = deque()  # for a buffer, or for the pool
        self._retries: deque[tuple[int, _Read]] = deque()
        self._gathered: list[tuple[_Read, list[Piece]]] = []

    def take(self, request: Read, came: int) -> None:
        """Takes a request that came at a time; `send` asks for what it wants."""
        unique, offset, size = request
        size = min(size, self._size - offset)
        if size <= 0:
            self._answers.send(unique, reply(unique))
            return
        read = _Read(unique, offset, size, came)
        if read.count > MAX_READ_PAGES + 1:
            self._answers.send(unique, error_reply(unique, errno.EINVAL))
            return
        self._words[Word.READS] += 1
        self._words[Word.PAGES_READ] += read.count
        if self._waiting or not self._remote.ready or not self._take_buffer(read):
            self._waiting.append(read)
        else:
            self._look_up(read)

    def _take_buffer(self, read: _Read) -> bool:
        read.buffer = self._answers.take_buffer()
        return read.buffer is not None

    def _look_up(self, read: _Read) -> None:
        """Finds out what each page is, and notes those that the server may have, to be asked for."""
        assert read.buffer is not None
        memory = read.buffer.data
        first, count = read.first, read.count
        states = self._holes.states(first, count)
        if not states.strip(b"\0"):
            pieces = cut(first, count, memory)
        elif FAILED in states:
            self._fail(read, PageLost(f"page {first + states.index(FAILED)}: its last write failed"))
            return
        else:
            pieces = self._between_holes(first, states, memory)
        if not pieces:
            self._answer(read)
            return
        if read.came + self._limit <= self._clock():
            self._fail(read, DeadlineExceeded("no answer came in time"))
            return
        self._gathered.append((read, pieces))

    def send(self) -> None:
        """Asks for what was taken since the last time, by one message: readahead comes as many reads at once."""
        while self._gathered:
            together = self._take_together()
            left = together[0][0].came + self._limit - self._clock()
            if len(together) == 1:
                ((lone, pieces),) = together
                self._remote.get(pieces, left / 1e9, partial(self._got, lone, pieces))
            else:
                every = [piece for _, pieces in together for piece in pieces]
                self._remote.get(every, left / 1e9, partial(self._got_together, together))

    def _take_together(self) -> list[tuple[_Read, list[Piece]]]:
        """The oldest of what was gathered, and what goes with it: a message has one deadline, the oldest read's."""
        gathered = self._gathered
        if len(gathered) == 1:
            self._gathered = []
            return gathered
        gathered.sort(key=_age)
        end = gathered[0][0].came + _SIMILAR_NANOSECONDS
        count = next((at for at, (read, _) in enumerate(gathered[:_TOGETHER]) if read.came > end), _TOGETHER)
        self._gathered = gathered[count:]
        return gathered[:count]

    def _got_together(self, together: Sequence[tuple[_Read, Sequence[Piece]]], results: Sequence[GetResult]) -> None:
        at = 0
        for read, pieces in together:
            self._got(read, pieces, results[at : at + len(pieces)])
            at += len(pieces)

    def _between_holes(self, first: int, states: bytes, memory: memoryview) -> list[Piece]:
        """Fills the holes, and answers the rest."""
        pieces = []
        at = 0
        while at < len(states):
            end = at + 1
            while end < len(states) and states[end] == states[at]:
                end += 1
            part = memory[at * PAGE_BYTES : end * PAGE_BYTES]
            if states[at] == HOLE:
                part[:] = bytes(len(part))
                self._words[Word.PAGES_LOCAL] += end - at
            else:
                pieces += cut(first + at, end - at, part)
            at = end
        return pieces

    def _got(self, read: _Read, pieces: Sequence[Piece], results: Sequence[GetResult]) -> None:
        for (index, memory), result in zip(pieces, results, strict=True):
            if result.error is None and result.hit:
                continue
            error = judge(index, memory, result, self._words)
            if error is not None:
                self._not_had(read, error)
                return
        self._answer(read)

    def _not_had(self, read: _Read, error: TmemError) -> None:
        now = self._clock()
        passing = isinstance(error, Refused) and error.reason in _PASSING
        if passing and now + _RETRY_NANOSECONDS < read.came + self._limit:
            self._retries.append((now + _RETRY_NANOSECONDS, read))
        else:
            self._fail(read, error)

    def _answer(self, read: _Read) -> None:
        assert read.buffer is not None
        buffer, read.buffer = read.buffer, None
        self._answers.send_data(read.unique, buffer, read.offset - read.first * PAGE_BYTES, read.size)
        if self._waiting:
            self.start_waiting()

    def _fail(self, read: _Read, error: TmemError) -> None:
        self._words[Word.READS_FAILED] += 1
        if not isinstance(error, PageError | Refused):
            self._words[Word.DEADLINES_PASSED] += 1
        self._answers.tell(f"read of pages {read.first}..{read.first + read.count - 1}", error)
        self._answers.send(read.unique, error_reply(read.unique, errno.EIO))
        if read.buffer is not None:
            self._answers.give_buffer(read.buffer)
            read.buffer = None
            if self._waiting:
                self.start_waiting()

    # ---- Time ----

    @property
    def waiting(self) -> bool:
        """Whether a read waits for something else than an answer."""
        return bool(self._waiting or self._retries)

    def start_waiting(self) -> None:
        """Asks for what waited for a buffer or for the pool, as far as there is one now."""
        while self._waiting and self._remote.ready and self._take_buffer(self._waiting[0]):
            self._look_up(self._waiting.popleft())
        self.send()

    def tick(self) -> None:
        """Tries again what was to be, and fails what has waited too long."""
        now = self._clock()
        while self._retries and self._retries[0][0] <= now:
            read = self._retries.popleft()[1]
            if self._remote.ready:
                self._look_up(read)
                continue
            # What is known of pages is known again when the pool is open.
            assert read.buffer is not None
            self._answers.give_buffer(read.buffer)
            read.buffer = None
            self._waiting.appendleft(read)
        self.send()
        while self._waiting and self._waiting[0].came + self._limit <= now:
            self._fail(self._waiting.popleft(), Unavailable("the pool could not be opened in time"))


def judge(index: int, memory: memoryview, result: GetResult, words: memoryview) -> TmemError | None:
    """What a get that did not hit every page means.

    A page that was never stored, or was removed when it was given up, is a MISS: its part of the memory becomes zeros. One
    that was stored and is gone is LOST; one whose write failed was not asked for.

    Returns:
        Why the pages can't be had; None if they can.
    """
    if result.error is not None:
        return result.error
    for page, code in enumerate(result.pages):
        if code == _HIT:
            continue
        if code == _MISS:
            memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = _ZERO_PAGE
            words[Word.PAGES_LOCAL] += 1
        elif code == Code.CORRUPT:
            words[Word.PAGES_CORRUPT] += 1
            return PageCorrupt(f"page {index + page}: its bytes fail their checksum")
        elif code == Code.LOST:
            words[Word.PAGES_LOST] += 1
            return PageLost(f"page {index + page}: the server no longer has it")
        else:
            return PageMissing(f"page {index + page}: {code.name.lower()}")
    return None
