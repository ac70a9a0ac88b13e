"""Which units go: a clock that makes its own reference bits.

Owns: the hand, the chances, and the units on probation. The kernel tells nobody outside which pages of a process are used,
so the clock samples: a unit that the hand comes to is hidden from the program (unmapped, not changed) and put on
probation; if the program touches it, the fault says so, and it stays. What is still hidden when its probation ends goes.
Where units can't be hidden, the hand goes by chances alone: a unit that came in since the last round gets another one.

Must not know: where units go, or how. Pure: it reads and writes the table, and asks by return values.

Units: units. The hand moves by address, so that what goes together lies together.
"""

from collections import deque

from .table import Flag, State, Table

__all__ = ["Clock"]

_SCAN = 4096  # units looked at in one call: about a millisecond

_CHANCE = Flag.CHANCE
_HIDDEN = Flag.HIDDEN
_KEEP_BUT_CHANCE = 0xFF & ~_CHANCE
_KEEP_BUT_HIDDEN = 0xFF & ~_HIDDEN
_RESIDENT = int(State.RESIDENT)
_RESIDENT_BYTE = bytes((State.RESIDENT,))


class Clock:
    """One hand over one table.

    Args:
        table: whose units.
        run: the most units of one victim; runs do not cross multiples of `block`.
        block: units of a block.
        probation: how many units are on probation at once; 0 = no sampling.
    """

    def __init__(self, table: Table, *, run: int, block: int, probation: int) -> None:
        self._table = table
        self._run = run
        self._block = block
        self.probation = probation
        self._hand = 0
        self._waiting: deque[tuple[int, int]] = deque()
        self._waiting_units = 0

    def came(self, first: int, count: int) -> None:
        """These units came in."""
        flags = self._table.flags
        for unit in range(first, first + count):
            flags[unit] = flags[unit] & _KEEP_BUT_HIDDEN | _CHANCE

    def used(self, unit: int) -> bool:
        """A unit was touched: if it was hidden it is no more; answers whether it was."""
        flags = self._table.flags
        was = flags[unit]
        flags[unit] = was & _KEEP_BUT_HIDDEN | _CHANCE
        return bool(was & _HIDDEN)

    def sample(self, top: int) -> tuple[int, int] | None:
        """The next run to hide; call `hidden` if that was done.

        Args:
            top: units from here on were never touched.
        """
        if self._waiting_units >= self.probation:
            return None
        return self._advance(top)

    def hidden(self, first: int, count: int) -> None:
        """A run was hidden, and is on probation now."""
        self._table.set_flags(first, count, _HIDDEN)
        self._waiting.append((first, count))
        self._waiting_units += count

    def victims(self, top: int, *, urgent: bool) -> tuple[int, int] | None:
        """A run of units that can go, all of them RESIDENT; None if none was found in this call.

        Args:
            top: units from here on were never touched.
            urgent: somebody waits for room: probation ends early.
        """
        if not self.probation:
            return self._advance(top)
        while self._waiting and (urgent or self._waiting_units >= self.probation):
            first, count = self._waiting.popleft()
            self._waiting_units -= count
            found = self._cold_run(first, first + count)
            if found is None:
                continue
            rest = found[0] + found[1]
            if rest < first + count:  # what lies behind a unit that was used
                self._waiting.appendleft((rest, first + count - rest))
                self._waiting_units += first + count - rest
            return found
        return self._advance(top) if urgent else None

    def _cold_run(self, first: int, end: int) -> tuple[int, int] | None:
        """The first run of units that are still hidden."""
        states, flags = self._table.states, self._table.flags
        while first < end and not (states[first] == _RESIDENT and flags[first] & _HIDDEN):
            first += 1
        stop = first
        while stop < end and states[stop] == _RESIDENT and flags[stop] & _HIDDEN:
            flags[stop] &= _KEEP_BUT_HIDDEN
            stop += 1
        return (first, stop - first) if stop > first else None

    def _advance(self, top: int) -> tuple[int, int] | None:
        """Moves the hand to the next run of units without a chance; takes the chances of those that it passes."""
        table = self._table
        states, flags = table.states, table.flags
        left = min(_SCAN, 2 * top)
        while left > 0:
            if self._hand >= top:
                self._hand = 0
            stop = min(top, self._hand + left)
            at = states.find(_RESIDENT_BYTE, self._hand, stop)
            if at < 0:
                left -= stop - self._hand
                self._hand = stop
                continue
            left -= at - self._hand + 1
            if flags[at] & (_CHANCE | _HIDDEN):
                flags[at] &= _KEEP_BUT_CHANCE
                self._hand = at + 1
                continue
            end = min(at + self._run, at - at % self._block + self._block, top)
            stop = at + 1
            while stop < end and states[stop] == _RESIDENT and not flags[stop] & (_CHANCE | _HIDDEN):
                stop += 1
            self._hand = stop
            return at, stop - at
        return None
