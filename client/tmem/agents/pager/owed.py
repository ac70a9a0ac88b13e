"""Flushes owed: remote copies of units that are home again, or were given up.

Owns: which copies must still be removed, and when that is asked. A copy is removed last, after the unit is safe at home; so
that can wait a moment and be done for many at once. A unit that went to the same target again in the meantime owes
nothing: the put has replaced the copy, and a flush would remove the new one.

Pure but for the port. Units: units and seconds.
"""

from tmem.wire.limits import MAX_BATCH_EXTENTS

from .ports import Remote
from .table import State, Table

__all__ = ["Owed"]

_MANY = 64  # units owed to a target that are asked for at once, however short they have waited
_PATIENCE_SECONDS = 0.01
_RETRY_SECONDS = 0.5
_AWAY = frozenset((State.EVICTING, State.REMOTE, State.RESTORING))


class Owed:
    """The flushes that one region owes.

    Args:
        table: the region's.
        remote: where the copies are.
        unit_pages: pages of a unit.
        block: the most units of one flush; none crosses a multiple of it.
    """

    def __init__(self, table: Table, remote: Remote, unit_pages: int, block: int) -> None:
        self._table = table
        self._remote = remote
        self._unit_pages = unit_pages
        self._block = block
        self._units: list[set[int]] = [set() for _ in range(remote.targets)]
        self._since: list[float] = [float("inf")] * remote.targets
        self.unconfirmed = 0

    def add(self, target: int, first: int, count: int, now: float) -> None:
        """The copies of these units at a target are no longer wanted."""
        self._units[target].update(range(first, first + count))
        self._since[target] = min(self._since[target], now)

    @property
    def pending(self) -> int:
        """Units whose copy is still to be removed, or is not known to be."""
        return sum(map(len, self._units)) + self.unconfirmed

    def next_time(self) -> float:
        """When to call `pay` again; infinite while nothing is owed."""
        return min(self._since) + _PATIENCE_SECONDS

    def pay(self, now: float) -> None:
        """Asks for the removal of what has waited long enough."""
        for target, units in enumerate(self._units):
            if units and (len(units) >= _MANY or now >= self._since[target] + _PATIENCE_SECONDS):
                self._since[target] = float("inf")
                owed = sorted(unit for unit in units if not self._is_back(target, unit))
                units.clear()
                runs = self._runs(owed)
                for at in range(0, len(runs), MAX_BATCH_EXTENTS):
                    self._flush(target, runs[at : at + MAX_BATCH_EXTENTS], now)

    def _is_back(self, target: int, unit: int) -> bool:
        return self._table.states[unit] in _AWAY and self._table.targets[unit] == target

    def _runs(self, units: list[int]) -> list[tuple[int, int]]:
        runs: list[tuple[int, int]] = []
        for unit in units:
            if runs and unit == runs[-1][0] + runs[-1][1] and unit % self._block:
                runs[-1] = (runs[-1][0], runs[-1][1] + 1)
            else:
                runs.append((unit, 1))
        return runs

    def _flush(self, target: int, runs: list[tuple[int, int]], now: float) -> None:
        units = sum(count for _, count in runs)
        self.unconfirmed += units

        def done(confirmed: bool) -> None:
            self.unconfirmed -= units
            if not confirmed:
                for first, count in runs:
                    self.add(target, first, count, now + _RETRY_SECONDS)

        pages = self._unit_pages
        self._remote.flush(target, [(first * pages, count * pages) for first, count in runs], done)
