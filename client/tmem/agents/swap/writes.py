"""Writes: what the kernel gives away.

Owns: that a write is answered when every page of it is STORED, and fails as a whole if one is refused: the kernel keeps its
pages then. Writes are encoded in steps, so that reads are looked at in between; small ones share a message.

A write of a part of a page is a patch: the page is read, changed, and written as a whole. While one is at work no other
write is, because a get would overtake a put of the same page. The kernel's swapping never does that; people with dd do.

Units: nanoseconds for times, bytes for `offset` and `size`, pages otherwise.
"""

import errno
from collections import deque
from collections.abc import Callable, Sequence

from tmem.client import GetResult, PutResult
from tmem.wire.errors import DeadlineExceeded, PageLost, Refused, TmemError, Unavailable
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .holes import FAILED, ORDINARY, Holes
from .ports import Answers, Piece, Remote
from .protocol import Write, error_reply, reply, write_reply
from .reads import judge
from .shared import Word

__all__ = ["STEP_PAGES", "Writes"]

STEP_PAGES = 64
"""The most that is encoded between two looks at /dev/fuse: a quarter of a millisecond, by which a read may be late."""

# Writes share a message, and so its deadline, if theirs differ from the first one's by no more than this.
_SIMILAR_NANOSECONDS = 500_000_000
_LATE = "it could not be stored in time"
Finished = Callable[[TmemError | None], None]


class _Write:
    """A write of whole pages.

    Attributes:
        number: its place among writes.
        sent: pages handed to the remote. unanswered: messages that carry some of them.
        closed: no more of it will be sent.
        finished: told the error, or None.
    """

    __slots__ = (
        *("came", "closed", "count", "data", "error", "finished", "first", "number", "release", "sent", "unanswered"),
    )

    def __init__(
        self, first: int, data: memoryview, came: int, finished: Finished, release: Callable[[], None] | None = None
    ) -> None:
        self.first = first
        self.count = len(data) // PAGE_BYTES
        self.data = data
        self.came = came
        self.finished = finished
        self.release = release
        self.number = 0
        self.sent = 0
        self.unanswered = 0
        self.closed = False
        self.error: TmemError | None = None

    def let_go(self) -> None:
        """Its memory is no longer needed."""
        if self.release is not None:
            release, self.release = self.release, None
            self.data = memoryview(b"")
            release()


class _Patch:
    """A write of parts of pages; `data` is a copy."""

    __slots__ = ("came", "data", "end", "finished", "first", "memory", "offset")

    def __init__(self, offset: int, data: bytes, came: int, finished: Finished) -> None:
        self.offset = offset
        self.data = data
        self.came = came
        self.finished = finished
        self.first = offset // PAGE_BYTES
        self.end = -(-(offset + len(data)) // PAGE_BYTES)

    def torn(self) -> list[int]:
        """The pages that it covers in part."""
        found = {self.first} if self.offset % PAGE_BYTES else set()
        if (self.offset + len(self.data)) % PAGE_BYTES:
            found.add(self.end - 1)
        return sorted(found)


class Writes:
    """The writes of a device that are in hand; arguments as of Reads."""

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
        self._staged: deque[_Write] = deque()
        self._in_flight: dict[int, _Write] = {}  # in the order in which they came
        self._last = 0
        self._patches: deque[_Patch] = deque()
        self._patching = False
        self._held: deque[_Write] = deque()  # until no patch waits or is at work
        self._syncs: deque[tuple[int, int]] = deque()  # (the last write before it, unique)

    def take(self, request: Write, came: int, release: Callable[[], None] | None) -> bool:
        """Takes a request that came at a time; answers whether `release` will be called once its data were read."""
        unique, offset, data = request
        size = len(data)
        if offset + size > self._size:
            self._answers.send(unique, error_reply(unique, errno.ENOSPC))
            return False
        if not size:
            self._answers.send(unique, write_reply(unique, 0))
            return False
        self._words[Word.WRITES] += 1

        def finished(error: TmemError | None) -> None:
            self._answer(unique, offset, size, error)

        if offset % PAGE_BYTES or size % PAGE_BYTES:
            self.patch(offset, bytes(data), came, finished)
            return False
        write = _Write(offset // PAGE_BYTES, data, came, finished, release)
        if self._patches or self._patching:
            self._held.append(write)
        else:
            self._stage(write)
        return True

    def _answer(self, unique: int, offset: int, size: int, error: TmemError | None) -> None:
        if error is None:
            self._answers.send(unique, write_reply(unique, size))
            return
        self._words[Word.WRITES_FAILED] += 1
        if isinstance(error, DeadlineExceeded | Unavailable):
            self._words[Word.DEADLINES_PASSED] += 1
        self._answers.tell(f"write of {size} bytes at page {offset // PAGE_BYTES}", error)
        self._answers.send(unique, error_reply(unique, errno.EIO))

    # ---- Whole pages ----

    def _stage(self, write: _Write) -> None:
        self._holes.overwritten(write.first, write.count)
        self._words[Word.PAGES_WRITTEN] += write.count
        self._last += 1
        write.number = self._last
        self._in_flight[write.number] = write
        self._staged.append(write)

    def put_some(self) -> None:
        """Sends one message of what is staged."""
        pieces: list[Piece] = []
        parts: list[_Write] = []
        room = STEP_PAGES
        now = self._clock()
        left = similar = 0
        while self._staged and room:
            write = self._staged[0]
            rest = write.came + self._limit - now
            if rest <= 0 or write.error is not None:
                self._staged.popleft()
                self._close(write, DeadlineExceeded(_LATE))
                continue
            if not pieces:
                left = similar = rest
            elif abs(rest - similar) > _SIMILAR_NANOSECONDS:
                break
            left = min(left, rest)
            first = write.first + write.sent
            pages = min(write.count - write.sent, room, BLOCK_PAGES - first % BLOCK_PAGES)
            pieces.append((first, write.data[write.sent * PAGE_BYTES : (write.sent + pages) * PAGE_BYTES]))
            parts.append(write)
            write.sent += pages
            write.unanswered += 1
            room -= pages
            if write.sent == write.count:
                self._staged.popleft()
                write.closed = True
        if not pieces:
            return
        self._remote.put(pieces, left / 1e9, lambda results: self._stored(parts, results))
        for write in parts:
            if write.closed:
                write.let_go()

    def _stored(self, parts: Sequence[_Write], results: Sequence[PutResult]) -> None:
        for write, result in zip(parts, results, strict=True):
            write.unanswered -= 1
            if result.error is not None:
                if isinstance(result.error, Refused):
                    self._words[Word.PUTS_REFUSED] += 1
                write.error = write.error or result.error
            if write.closed and not write.unanswered:
                self._end(write)

    def _close(self, write: _Write, error: TmemError) -> None:
        """The rest of a write will not be sent."""
        write.closed = True
        write.error = write.error or error
        write.let_go()
        if not write.unanswered:
            self._end(write)

    def _end(self, write: _Write) -> None:
        """All that was sent of a write is answered."""
        del self._in_flight[write.number]
        self._holes.note(write.first, write.count, stored=write.error is None)
        write.finished(write.error)
        if self._syncs:
            self._answer_syncs()
        if self._patches:
            self._start_patch()

    # ---- Parts of pages ----

    def patch(self, offset: int, data: bytes, came: int, finished: Finished) -> None:
        """Changes bytes, wherever pages begin and end."""
        self._patches.append(_Patch(offset, data, came, finished))
        self._start_patch()

    def _start_patch(self) -> None:
        """Begins the next patch once no write is under way."""
        if self._patching or not self._patches or self._in_flight or not self._remote.ready:
            return
        self._patching = True
        patch = self._patches.popleft()
        memory = memoryview(bytearray((patch.end - patch.first) * PAGE_BYTES))
        pieces: list[Piece] = []
        for page in patch.torn():
            (state,) = self._holes.states(page, 1)
            if state == FAILED:
                self._end_patch(patch, PageLost(f"page {page}: its last write failed"))
                return
            if state == ORDINARY:
                at = (page - patch.first) * PAGE_BYTES
                pieces.append((page, memory[at : at + PAGE_BYTES]))
        left = patch.came + self._limit - self._clock()
        if left <= 0:
            self._end_patch(patch, DeadlineExceeded(_LATE))
        elif pieces:
            self._remote.get(pieces, left / 1e9, lambda results: self._patch(patch, memory, pieces, results))
        else:
            self._patch(patch, memory, (), ())

    def _patch(self, patch: _Patch, memory: memoryview, pieces: Sequence[Piece], results: Sequence[GetResult]) -> None:
        """Changes the pages that were read, and writes them."""
        for (index, part), result in zip(pieces, results, strict=True):
            error = judge(index, part, result, self._words)
            if error is not None:
                self._end_patch(patch, error)
                return
        at = patch.offset - patch.first * PAGE_BYTES
        memory[at : at + len(patch.data)] = patch.data
        self._stage(_Write(patch.first, memory, patch.came, lambda error: self._end_patch(patch, error)))

    def _end_patch(self, patch: _Patch, error: TmemError | None) -> None:
        self._patching = False
        patch.finished(error)
        self._go_on()

    def _go_on(self) -> None:
        """Begins what waited for patches that are no more."""
        self._start_patch()
        if not self._patching and not self._patches:
            if self._held:
                while self._held:
                    self._stage(self._held.popleft())
                # What was held had no number yet when these came.
                self._syncs = deque((self._last, unique) for _, unique in self._syncs)
            self._answer_syncs()

    # ---- Syncs ----

    def sync(self, unique: int) -> None:
        """Answers a request when all writes that came before it are answered."""
        self._syncs.append((self._last, unique))
        self._answer_syncs()

    def _answer_syncs(self) -> None:
        if self._patches or self._patching:
            return  # rare, and writes that came later wait for them anyway
        oldest = next(iter(self._in_flight), self._last + 1)
        while self._syncs and self._syncs[0][0] < oldest:
            _, unique = self._syncs.popleft()
            self._answers.send(unique, reply(unique))

    # ---- Time ----

    @property
    def staged(self) -> bool:
        """Whether something can be sent."""
        return bool(self._staged)

    @property
    def idle(self) -> bool:
        """Whether no write is in hand."""
        return not (self._in_flight or self._held or self._patches or self._patching)

    def start_waiting(self) -> None:
        """Begins what waited for the pool."""
        if self._patches:
            self._start_patch()

    def tick(self) -> None:
        """Fails what has waited too long."""
        before = self._clock() - self._limit
        while self._staged and self._staged[0].came <= before:
            self._close(self._staged.popleft(), Unavailable(_LATE))
        while self._patches and self._patches[0].came <= before:
            self._patches.popleft().finished(Unavailable(_LATE))
        while self._held and self._held[0].came <= before:
            self._refuse(self._held.popleft(), Unavailable(_LATE))
        self._go_on()

    def drop_oldest(self) -> None:
        """Fails the write that has waited longest to be encoded, because its memory is needed."""
        late = Unavailable("there is no room for writes while the pool can't be opened")
        if self._staged:
            self._close(self._staged.popleft(), late)
        elif self._held:
            self._refuse(self._held.popleft(), late)

    def _refuse(self, write: _Write, error: TmemError) -> None:
        """Fails a write that was not begun."""
        write.let_go()
        self._holes.note(write.first, write.count, stored=False)
        write.finished(error)
