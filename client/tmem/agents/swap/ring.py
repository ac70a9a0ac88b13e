"""Memory for messages of the kernel, and for answers to it: made once, locked, and used again and again.

Owns: `Ring`, where messages are received one behind the other and keep their place until their data were read; and
`ReplyBuffers`. Nothing here allocates after it was made. Units: bytes.
"""

import mmap
from collections import deque
from collections.abc import Callable

from .protocol import HEADER_BYTES, MAX_REQUEST_BYTES

__all__ = ["ReplyBuffer", "ReplyBuffers", "Ring"]

_ALIGN = 64


class Ring:
    """A circle of memory; its oldest messages are let go of in any order, and their room comes back in order.

    Args:
        size: of it; at least room for two of the largest messages.
    """

    def __init__(self, size: int) -> None:
        assert size >= 2 * MAX_REQUEST_BYTES
        self._memory = memoryview(mmap.mmap(-1, size))
        self._size = size
        self._head = 0
        self._kept: deque[list[int]] = deque()  # [begin, end, in use]

    @property
    def used(self) -> bool:
        """Whether any message keeps its place."""
        return bool(self._kept)

    def room(self) -> memoryview | None:
        """Where the next message can be received; None while the largest would not fit."""
        if not self._kept:
            self._head = 0
            return self._memory[:MAX_REQUEST_BYTES]
        tail = self._kept[0][0]
        if self._head > tail:
            if self._size - self._head >= MAX_REQUEST_BYTES:
                return self._memory[self._head : self._head + MAX_REQUEST_BYTES]
            if tail <= MAX_REQUEST_BYTES:
                return None
            self._head = 0
        if tail - self._head > MAX_REQUEST_BYTES:
            return self._memory[self._head : self._head + MAX_REQUEST_BYTES]
        return None

    def keep(self, size: int) -> Callable[[], None]:
        """The message that was just received there keeps its place; answers what lets go of it."""
        entry = [self._head, self._head + size, 1]
        self._kept.append(entry)
        self._head += -(-size // _ALIGN) * _ALIGN

        def release() -> None:
            entry[2] = 0
            while self._kept and not self._kept[0][2]:
                self._kept.popleft()

        return release


class ReplyBuffer:
    """Room for the data of an answer, with room for its head in front.

    Attributes:
        data: for the data. whole: with the room in front, whose size is `front`.
    """

    __slots__ = ("data", "front", "whole")

    def __init__(self, whole: memoryview, front: int) -> None:
        self.whole = whole
        self.front = front
        self.data = whole[front:]

    def message(self, start: int, size: int) -> memoryview:
        """The head's room and `size` bytes of the data from `start` on, in one piece: what lies before is overwritten."""
        begin = self.front + start - HEADER_BYTES
        return self.whole[begin : begin + HEADER_BYTES + size]


class ReplyBuffers:
    """So many of them.

    Args:
        count: how many. size: of the data of each.
    """

    def __init__(self, count: int, size: int) -> None:
        front = mmap.PAGESIZE  # so that the data begin at a page
        memory = memoryview(mmap.mmap(-1, count * (front + size)))
        self._free = [ReplyBuffer(memory[at : at + front + size], front) for at in range(0, len(memory), front + size)]

    def take(self) -> ReplyBuffer | None:
        """One that is free."""
        return self._free.pop() if self._free else None

    def give(self, buffer: ReplyBuffer) -> None:
        """It is free again."""
        self._free.append(buffer)
