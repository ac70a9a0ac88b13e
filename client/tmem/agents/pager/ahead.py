"""Reading ahead: what is fetched before it is touched.

Owns: the windows of streams, their markers, and what the program has asked for. A window's marker is a unit that is left
unmapped when it comes: touching it tells that the program has got there, and the next window is asked for in time.

Units: units.
"""

from collections import deque
from collections.abc import Callable

from tmem.wire.limits import BLOCK_PAGES

from .fetches import Fetches
from .ledger import Ledger
from .stride import Strides, Window
from .table import State

__all__ = ["ReadAhead"]

_MOST_MARKERS = 1024
_NOTHING = range(0)


class ReadAhead:
    """That of one region.

    Args:
        ledger, fetches: the region's.
        strides: its streams.
        block: no run crosses a multiple of it.
        room: asked how many units may come.
        zero: called with a run of NEVER units that a stream is about to touch first.
    """

    def __init__(
        self,
        ledger: Ledger,
        fetches: Fetches,
        strides: Strides,
        block: int,
        *,
        room: Callable[[], int],
        zero: Callable[[int, int], None],
    ) -> None:
        self._ledger = ledger
        self._fetches = fetches
        self._strides = strides
        self._block = block
        self._room = room
        self._zero = zero
        self._markers: set[int] = set()
        self._windows: deque[tuple[int, int]] = deque()
        self._asked: deque[tuple[int, int]] = deque()
        self._asked_done: list[Callable[[], None]] = []

    @property
    def busy(self) -> bool:
        """Whether there is something to fetch."""
        return bool(self._windows or self._asked)

    # ---- Streams ----

    def missed(self, unit: int, *, first_touch: bool) -> None:
        """A unit was touched that was not there."""
        window = self._strides.note(unit, missed=True)
        if window is not None:
            self._plan(window, zeros=first_touch)

    def touched(self, unit: int) -> None:
        """A unit was touched that is here, or on its way: if it is a marker its stream has got there."""
        if unit in self._markers:
            self._markers.discard(unit)
            window = self._strides.note(unit, missed=False)
            if window is not None:
                self._plan(window, zeros=False)

    def unseen(self, first: int, count: int) -> range:
        """A run comes home: which part of it is not to be mapped before it is touched."""
        if self._markers:
            for unit in range(first, first + count):
                if unit in self._markers:
                    return range(unit, unit + 1)
        return _NOTHING

    def _plan(self, window: Window, *, zeros: bool) -> None:
        """Notes what a stream will want; zeros are given at once, as they cost no exchange."""
        states, targets = self._ledger.table.states, self._ledger.table.targets
        if states[window.marker] == State.REMOTE:
            if (
                len(self._markers) >= _MOST_MARKERS
            ):  # of streams that broke off; a marker that is forgotten costs a fault
                self._markers.clear()
            self._markers.add(window.marker)
        units = sorted(window.units)
        at = 0
        while at < len(units):
            first = units[at]
            state = states[first]
            end = at + 1
            while (
                end < len(units)
                and units[end] == units[end - 1] + 1
                and units[end] % self._block
                and states[units[end]] == state
                and (state != State.REMOTE or targets[units[end]] == targets[first])
            ):
                end += 1
            if state == State.REMOTE:
                self._windows.append((first, end - at))
            elif state == State.NEVER and zeros and self._room() >= end - at:
                self._zero(first, end - at)
            at = end

    # ---- What the program asks for ----

    def bring(self, runs: list[tuple[int, int]], done: Callable[[], None]) -> None:
        """Fetches what is REMOTE of these runs, as far as the limit has room for them; `done` when all of that is home."""
        self._asked.extend(runs)
        self._asked_done.append(done)

    # ---- Work ----

    def step(self) -> bool:
        """Fetches one run; answers whether there is more to do at once."""
        if self._windows:
            first, count = self._windows.popleft()
            end = first + max(min(count, self._room()), 0)
            self._ledger.figures.prefetched += self.fetch_first(first, end)
            return bool(self._windows)
        if self._asked:
            self._fetch_asked()
            return True
        if self._asked_done and not self._fetches.in_flight:
            done, self._asked_done = self._asked_done, []
            for each in done:
                each()
        return False

    def fetch_first(self, first: int, end: int) -> int:
        """Fetches the first run of REMOTE units in first .. end - 1; answers how many."""
        for at, _ in self._ledger.table.runs(State.REMOTE, first, end, 1):
            stop = min(end, at - at % self._block + self._block)
            count = self._fetches.run_around(at, stop, BLOCK_PAGES)
            return count if self._fetches.begin(at, count) else 0
        return 0

    def _fetch_asked(self) -> None:
        ledger = self._ledger
        first, count = self._asked[0]
        end = min(first + count, ledger.table.units)
        at = next((at for at, _ in ledger.table.runs(State.REMOTE, first, end, 1)), end)
        room = ledger.free - ledger.headroom
        if at >= end:
            self._asked.popleft()
        elif room <= 0:
            self._asked.clear()  # the limit is reached: the rest comes when it is touched
        else:
            fetched = self.fetch_first(at, min(end, at + room))
            ledger.figures.prefetched += fetched
            at += max(fetched, 1)
            self._asked[0] = (at, end - at)
