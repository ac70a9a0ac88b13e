"""What the kernel gave up, and what a failed write left behind.

Owns: the state of each page (shared.State), and the removals that the server is still owed for it. A page that was given up
reads as zeros from that moment on, also for the next worker; the server learns of it later, in runs.

Ordering: a write takes its pages out of the removals that are owed or on their way (`overwritten`) before it is sent, and
writes down what became of it (`note`) when it is answered. The client sends a put after a removal of the same page that it
sent before, so that neither undoes the other.
"""

from collections.abc import Callable

from tmem.client import FlushResult
from tmem.wire.limits import BLOCK_PAGES

from .ports import Remote
from .ranges import clear, masks, runs
from .shared import State

__all__ = ["FAILED", "HOLE", "ORDINARY", "Holes"]

ORDINARY, HOLE, FAILED = (int(state) for state in State)

_RETRY_NANOSECONDS = 1_000_000_000
_FLUSHES_AT_ONCE = 4
_MOST_FLUSHED_BLOCKS = 512
_WHOLE_BLOCK = (1 << BLOCK_PAGES) - 1


class Holes:
    """The states of a device's pages.

    Args:
        states: a byte for each page, kept where the next worker finds it.
        remote: the pool. clock: nanoseconds.
    """

    def __init__(self, states: memoryview, remote: Remote, clock: Callable[[], int]) -> None:
        self._states = states
        self._remote = remote
        self._clock = clock
        self._owed: dict[int, int] = {}  # by block: pages to remove
        # By block: the removal that is on its way there, as pages by block. One that lost all pages of a block to a later write
        # is not in here for it, and another one may follow before it is answered.
        self._flying: dict[int, dict[int, int]] = {}
        self._flights = 0
        self._not_before = 0

    def states(self, first: int, count: int) -> bytes:
        """The states of some pages, all at most of one message."""
        return self._states[first : first + count].tobytes()

    # ---- What happens to pages ----

    def give_up(self, first: int, count: int) -> None:
        """They are holes from now on."""
        for block, mask in masks(first, count):
            low = (mask & -mask).bit_length() - 1
            pages = mask.bit_length() - low
            at = block * BLOCK_PAGES + low
            if self._remote.ready and self._remote.absent(at, pages):
                if self.states(at, pages).strip(b"\0"):
                    self._states[at : at + pages] = bytes(pages)
            else:
                self._states[at : at + pages] = bytes((HOLE,)) * pages
                self._owe(block, mask)

    def overwritten(self, first: int, count: int) -> None:
        """A write of them begins."""
        if self._owed or self._flying:
            for block, mask in masks(first, count):
                clear(self._owed, block, mask)
                flight = self._flying.get(block)
                if flight is not None:
                    clear(flight, block, mask)
                    if block not in flight:
                        del self._flying[block]

    def note(self, first: int, count: int, *, stored: bool) -> None:
        """A write of them has ended."""
        if stored and not self.states(first, count).strip(b"\0"):
            return
        state = ORDINARY if stored else FAILED
        for block, mask in masks(first, count):
            # What the kernel gave up since is a hole, whatever became of this write.
            since = self._owed.get(block, 0) | self._flying.get(block, {}).get(block, 0)
            base = block * BLOCK_PAGES
            for run, end in runs(mask & ~since):
                self._states[base + run : base + end] = bytes((state,)) * (end - run)
            if not stored:
                # Parts may have been: nobody will ask for them.
                self._owe(block, mask)

    def lose(self, block: int, mask: int) -> None:
        """They were stored on a server that lost them: they can't be read, until something else is written there."""
        base = block * BLOCK_PAGES
        for first, end in runs(mask):
            states = self.states(base + first, end - first)
            self._states[base + first : base + end] = states.replace(bytes((ORDINARY,)), bytes((FAILED,)))

    def recover(self) -> None:
        """Takes over from a worker that died: what it gave up is still owed to the server."""
        for base in range(0, len(self._states), BLOCK_PAGES):
            states = self.states(base, BLOCK_PAGES)
            if HOLE in states:
                self._owe(base // BLOCK_PAGES, sum(1 << page for page, state in enumerate(states) if state == HOLE))

    def _owe(self, block: int, mask: int) -> None:
        self._owed[block] = self._owed.get(block, 0) | mask

    # ---- Telling the server ----

    @property
    def may_flush(self) -> bool:
        """Whether a removal is owed and can be sent now."""
        return (
            bool(self._owed)
            and self._flights < _FLUSHES_AT_ONCE
            and not self._owed.keys() <= self._flying.keys()
            and self._clock() >= self._not_before
        )

    @property
    def settled(self) -> bool:
        """Whether nothing is owed or on its way."""
        return not self._owed and not self._flights

    def flush_some(self) -> None:
        """Sends one removal: a run of pages, over several blocks where they are owed as a whole."""
        block = next((block for block in self._owed if block not in self._flying), None)
        if block is None:
            return
        first, end = runs(self._owed[block])[0]
        index, count = block * BLOCK_PAGES + first, end - first
        taken = {block: (1 << end) - (1 << first)}
        while end == BLOCK_PAGES and len(taken) < _MOST_FLUSHED_BLOCKS:
            block += 1
            if self._owed.get(block) != _WHOLE_BLOCK or block in self._flying:
                break
            taken[block] = _WHOLE_BLOCK
            count += BLOCK_PAGES
        for number, mask in taken.items():
            clear(self._owed, number, mask)
            self._flying[number] = taken
        self._flights += 1
        self._remote.flush(index, count, lambda result: self._flushed(taken, result))

    def _flushed(self, taken: dict[int, int], result: FlushResult) -> None:
        self._flights -= 1
        for block, mask in taken.items():  # what was written meanwhile is no longer in here
            del self._flying[block]
            if result.error is not None:
                self._owe(block, mask)
                continue
            base = block * BLOCK_PAGES
            for first, end in runs(mask):
                # Pages whose last write failed stay what they are: they were removed, but never given up.
                states = self.states(base + first, end - first)
                self._states[base + first : base + end] = states.replace(bytes((HOLE,)), bytes((ORDINARY,)))
        if result.error is not None:
            self._not_before = self._clock() + _RETRY_NANOSECONDS
