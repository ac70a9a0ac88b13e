"""/dev/fuse, as a worker uses it.

Owns: the descriptor's reads and writes, the table of requests in hand, and how long each took. What requests mean is the
core's business.

Ordering: a request is in the table before the core sees it, and out of it once its answer was written; so a worker that is
killed in between leaves there when each request first came, and the next one keeps to its deadline.
"""

import os
from collections.abc import Callable

from tmem.wire.errors import TmemError

from .ports import Buffer
from .protocol import RESEND, RESENT, Forget, Interrupt, Read, Request, Write, pack_header, parse
from .reads import MAX_READ_PAGES
from .ring import ReplyBuffer, ReplyBuffers, Ring
from .shared import TABLE_SLOTS, Control, Word, bucket_of

__all__ = ["Kernel"]

_RING_BYTES = 16 << 20
_REPLY_BUFFERS = 64
_PAGE_BYTES = 4096
_QUIET_NANOSECONDS = 1_000_000_000
_UNANSWERED = {Forget, Interrupt}


class Kernel:
    """The kernel's side of a device; it implements ports.Answers.

    Args:
        descriptor: of /dev/fuse, not blocking. control: the shared memory. clock: nanoseconds.
        say: writes a line to the log.

    Attributes:
        in_hand: how many requests are unanswered.
    """

    def __init__(self, descriptor: int, control: Control, clock: Callable[[], int], say: Callable[[str], None]) -> None:
        self._descriptor = descriptor
        self._words = control.words
        self._table = control.table
        self._latency = {Read: control.read_latency, Write: control.write_latency}
        self._clock = clock
        self._say = say
        self._quiet_until = 0
        self._untold = 0
        self._ring = Ring(_RING_BYTES)
        self._buffers = ReplyBuffers(_REPLY_BUFFERS, (MAX_READ_PAGES + 1) * _PAGE_BYTES)
        self._slots: dict[int, tuple[int, int, memoryview | None]] = {}  # by number: place, came, latencies
        self._free = list(range(0, 2 * TABLE_SLOTS, 2))
        self._came: dict[int, int] = {}  # what was in the hands of the worker before

    @property
    def in_hand(self) -> int:
        """How many requests are unanswered."""
        return len(self._slots)

    def take_over(self) -> None:
        """Makes the kernel say again what the worker before did not answer."""
        table = self._table
        for slot in range(0, 2 * TABLE_SLOTS, 2):
            if table[slot]:
                self._came[table[slot] & ~RESENT] = table[slot + 1]
                table[slot] = 0
        os.write(self._descriptor, RESEND)

    # ---- Requests ----

    @property
    def full(self) -> bool:
        """Whether messages keep so much memory that another can't be received."""
        return self._ring.room() is None

    def receive(self, handle: Callable[[Request, int, Callable[[], None] | None], bool]) -> bool:
        """Takes one request and hands it on; answers whether there was one.

        Raises:
            OSError: ENODEV: unmounted; ECONNABORTED: aborted.
        """
        room = self._ring.room()
        if room is None:
            return False
        try:
            size = os.readv(self._descriptor, (room,))
        except (BlockingIOError, InterruptedError, FileNotFoundError):
            return False  # the last: it was taken back before it could be read
        came = self._clock()
        request = parse(room[:size])
        unique = request.unique
        if unique & RESENT:
            self._words[Word.RESENT] += 1
            came = self._came.pop(unique & ~RESENT, came)
        kind = type(request)
        if self._free and kind not in _UNANSWERED:
            slot = self._free.pop()
            self._table[slot + 1] = came
            self._table[slot] = unique
            self._slots[unique] = (slot, came, self._latency.get(kind))
        release = self._ring.keep(size) if kind is Write else None
        if not handle(request, came, release) and release is not None:
            release()
        return True

    # ---- Answers ----

    def tell(self, what: str, error: TmemError) -> None:
        """Says in the log why something failed; not each of many."""
        moment = self._clock()
        if moment >= self._quiet_until:
            more = f" (and {self._untold} others since the last of these lines)" if self._untold else ""
            self._say(f"{what} failed: {error}{more}")
            self._quiet_until = moment + _QUIET_NANOSECONDS
            self._untold = 0
        else:
            self._untold += 1

    def send(self, unique: int, message: bytes) -> None:
        """Sends a whole reply."""
        self._write(message)
        self._settle(unique)

    def send_data(self, unique: int, buffer: Buffer, start: int, size: int) -> None:
        """Answers a read with bytes of its buffer, which is free again."""
        assert isinstance(buffer, ReplyBuffer)
        message = buffer.message(start, size)
        pack_header(message, 0, size, unique)
        self._write(message)
        self._buffers.give(buffer)
        self._settle(unique)

    def take_buffer(self) -> ReplyBuffer | None:
        """Room for one more page than MAX_READ_PAGES; None while all are in use."""
        return self._buffers.take()

    def give_buffer(self, buffer: Buffer) -> None:
        """It is free again, and nothing of it was sent."""
        assert isinstance(buffer, ReplyBuffer)
        self._buffers.give(buffer)

    def _write(self, message: bytes | memoryview) -> None:
        try:
            os.write(self._descriptor, message)
        except FileNotFoundError:
            return  # nobody waits for it any more

    def _settle(self, unique: int) -> None:
        found = self._slots.pop(unique, None)
        if found is None:
            return
        slot, came, latency = found
        self._table[slot] = 0
        self._free.append(slot)
        if latency is not None:
            latency[bucket_of(self._clock() - came)] += 1
