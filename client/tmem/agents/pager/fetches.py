"""Units on their way home.

Owns: fetches, from the decision to the page that the program sees, and the deadline of everybody who waits. A run of units is
marked RESTORING, the bytes are read into the file in place and verified, the units are marked RESIDENT, mapped, and last
their remote copies are flushed. A unit that is LOST or CORRUPT is punched and poisoned: SIGBUS, never invented bytes. One
that does not come in time is poisoned too, but stays REMOTE, and the poison is lifted once it can be had, or the program gives
it up: nothing that the program does itself lifts it.

While a unit is RESTORING nothing else may happen to it: its bytes may arrive at any moment. What the program does to it
meanwhile is noted, and done when the answer is there.

Units: units and pages, see `ports`; seconds.
"""

import logging
from collections.abc import Callable, Collection, Sequence

from tmem.wire.limits import BLOCK_PAGES

from .ledger import Ledger
from .owed import Owed
from .ports import Got, NoRoomError
from .table import Flag, State

__all__ = ["Fetches"]

log = logging.getLogger(__name__)

_RETRY_SECONDS = 0.05
_REFUSED = frozenset((State.NEVER, State.REMOTE))


def _within(units: Collection[int], first: int, count: int) -> list[int]:
    """Those of a run that are in a collection; either may be long."""
    if count < len(units):
        return [unit for unit in range(first, first + count) if unit in units]
    return [unit for unit in units if first <= unit < first + count]


class Fetches:
    """The fetches of one region.

    Args:
        ledger: the region's. owed: where flushes are owed.
        came: told of each run that is home, before the program sees it; answers which units of it are not to be mapped before
            they are touched.

    Attributes:
        awaited: units that a thread of the program waits for, each with its deadline.
        in_flight: units that are RESTORING.
        poisoned: units that are not LOST, and poisoned all the same: REMOTE ones that the program was refused, and NEVER or RESIDENT
            ones from which it was not lifted yet.
        served: when those were touched that have come home since somebody emptied this.
    """

    def __init__(self, ledger: Ledger, owed: Owed, came: Callable[[int, int], range]) -> None:
        self._ledger = ledger
        self._owed = owed
        self._came = came
        self._now = 0.0
        self._retries: list[tuple[float, int]] = []
        self._unsent: dict[int, list[tuple[int, int]]] = {}  # by target: runs that are RESTORING and not asked for yet
        self.awaited: dict[int, float] = {}
        self.in_flight = 0
        self.poisoned: set[int] = set()
        self.served: list[float] = []

    def advance(self, now: float) -> None:
        """Notes the time."""
        self._now = now

    def expect(self, unit: int) -> None:
        """A thread waits for a unit from now on, unless one does already."""
        self.awaited.setdefault(unit, self._now + self._ledger.settings.deadline)

    # ---- Asking ----

    def begin(self, first: int, count: int) -> bool:
        """Fetches a run of REMOTE units of one target, with the next `send`; False if there is no memory for one of them.

        No run crosses a block.
        """
        ledger = self._ledger
        table = ledger.table
        if ledger.unit_pages > 1:
            try:
                for unit in range(first, first + count):
                    ledger.memory.reserve(unit)
            except NoRoomError:
                ledger.memory.punch(first, count)
                return False
        table.clear_flags(first, count, Flag.DROP | Flag.PART)  # what an agent may have left that died in `_drop`
        table.set_states(first, count, State.RESTORING)
        ledger.take(count)
        self.in_flight += count
        runs = self._unsent.setdefault(table.targets[first], [])
        runs.append((first, count))
        if sum(length for _, length in runs) * ledger.unit_pages >= BLOCK_PAGES:
            self.send()
        return True

    def send(self) -> None:
        """Asks for what was begun: by one exchange for each target, as far as that can carry it."""
        unsent, self._unsent = self._unsent, {}
        for target, runs in unsent.items():
            pages = first = 0
            for number, (_, count) in enumerate(runs):
                pages += count * self._ledger.unit_pages
                if pages > BLOCK_PAGES:
                    self._ask(target, runs[first:number])
                    first, pages = number, count * self._ledger.unit_pages
            self._ask(target, runs[first:])

    def _ask(self, target: int, runs: list[tuple[int, int]]) -> None:
        ledger = self._ledger
        ledger.figures.gets += 1
        timeout = ledger.settings.deadline
        if self.awaited:
            waited = (self.awaited.get(unit) for first, count in runs for unit in range(first, first + count))
            timeout = max(min((deadline - self._now for deadline in waited if deadline), default=timeout), 0.001)
        pages, view = ledger.unit_pages, ledger.memory.view

        def answered(answers: Sequence[Sequence[Got]]) -> None:
            for (first, count), codes in zip(runs, answers, strict=True):
                self._answered(first, count, codes)

        places = [(first * pages, view(first * pages, count * pages)) for first, count in runs]
        ledger.remote_port.get(target, places, timeout, answered)

    def run_around(self, unit: int, end: int, most: int) -> int:
        """How many units from `unit` on are REMOTE at the same target, before `end` and at most `most`."""
        table = self._ledger.table
        states, targets = table.states, table.targets
        target = targets[unit]
        stop = unit
        end = min(end, unit + most)
        while stop < end and states[stop] == State.REMOTE and targets[stop] == target:
            stop += 1
        return stop - unit

    # ---- Answers ----

    def _answered(self, first: int, count: int, codes: Sequence[Got]) -> None:
        """One code for each page; what the units become, run by run of the same fate."""
        self.in_flight -= count
        pages = self._ledger.unit_pages
        worst = list(codes) if pages == 1 else [max(codes[at : at + pages]) for at in range(0, len(codes), pages)]
        flags = self._ledger.table.flags
        begin = 0
        while begin < count:
            fate = worst[begin]
            dropped = flags[first + begin] & Flag.DROP
            end = begin + 1
            while end < count and worst[end] == fate and flags[first + end] & Flag.DROP == dropped:
                end += 1
            run = (first + begin, end - begin)
            if dropped:
                self._drop(*run)
            elif fate == Got.HIT:
                self._home(*run)
            elif fate == Got.LATER:
                self._later(*run)
            else:
                self._lose(*run, fate)
            begin = end

    def _home(self, first: int, count: int) -> None:
        ledger = self._ledger
        table = ledger.table
        target = table.targets[first]
        table.set_states(first, count, State.RESIDENT)
        ledger.remote -= count
        unseen = self._came(first, count)
        if not unseen:
            ledger.resume(first, count)
        else:
            for unit in unseen:
                if unit in self.awaited:
                    ledger.resume(unit, 1)
            if unseen.start > first:
                ledger.resume(first, unseen.start - first)
            if unseen.stop < first + count:
                ledger.resume(unseen.stop, first + count - unseen.stop)
        if self.awaited:
            deadline = ledger.settings.deadline
            self.served += [
                self.awaited[unit] - deadline for unit in range(first, first + count) if unit in self.awaited
            ]
        self.forget(first, count)
        self.lift(first, count)  # what is not to be seen yet too: no touch of it is ever told
        self._owed.add(target, first, count, self._now)

    def forget(self, first: int, count: int) -> None:
        """Nobody waits for these any more."""
        if self.awaited:
            for unit in _within(self.awaited, first, count):
                del self.awaited[unit]

    def lift(self, first: int, count: int) -> None:
        """Those of these that are poisoned are not to be any more, as soon as that can be done."""
        if self.poisoned:
            self._ledger.again.append(("lift", first, count))

    def lifted(self, first: int, count: int) -> None:
        """None of these is poisoned any more, or all are lost."""
        if self.poisoned:
            for unit in _within(self.poisoned, first, count):
                self.poisoned.discard(unit)
                self._ledger.table.clear_flags(unit, 1, Flag.POISONED)

    def _drop(self, first: int, count: int) -> None:
        """The program gave them up while they were on their way: what has arrived is punched, and never seen."""
        ledger = self._ledger
        table = ledger.table
        target = table.targets[first]
        ledger.memory.punch(first, count)  # before the state: what has arrived must not be found by who gives zeros
        for unit in range(first, first + count):
            part = table.flags[unit] & Flag.PART
            table.states[unit] = State.LOST if part else State.NEVER
            table.flags[unit] &= Flag.POISONED
            if part:
                self.lifted(unit, 1)  # it never will be
            ledger.figures.lost += bool(part)
        ledger.resident -= count
        ledger.remote -= count
        self.forget(first, count)
        self.lift(first, count)
        self._owed.add(target, first, count, self._now)
        ledger.memory.wake(first, count)  # who waits touches it again, and gets zeros, or SIGBUS

    def _later(self, first: int, count: int) -> None:
        """They could not be had; they are where they were."""
        ledger = self._ledger
        ledger.table.set_states(first, count, State.REMOTE)
        ledger.memory.punch(first, count)
        ledger.resident -= count
        for unit in range(first, first + count):
            deadline = self.awaited.get(unit)
            if deadline is None:
                continue
            if deadline > self._now + _RETRY_SECONDS:
                self._retries.append((self._now + _RETRY_SECONDS, unit))
            else:
                self.refuse(unit)

    def refuse(self, unit: int) -> None:
        """A unit did not come in time: whoever touches it gets SIGBUS, until it can be had."""
        ledger = self._ledger
        self.awaited.pop(unit, None)
        ledger.figures.poisoned += 1
        if unit not in self.poisoned:
            log.error("unit %d did not come within %g s: SIGBUS", unit, ledger.settings.deadline)
        if ledger.table.states[unit] in _REFUSED:
            self.poisoned.add(unit)
            ledger.table.set_flags(unit, 1, Flag.POISONED)
        ledger.poison(unit, 1)

    def _lose(self, first: int, count: int, fate: Got) -> None:
        """Their bytes are gone for good."""
        ledger = self._ledger
        ledger.table.set_states(first, count, State.LOST)
        ledger.resident -= count
        ledger.remote -= count
        ledger.figures.lost += count
        self.forget(first, count)
        self.lifted(first, count)  # they never will be
        log.error("units %d..%d are %s: SIGBUS", first, first + count - 1, fate.name.lower())
        ledger.memory.punch(first, count)
        ledger.poison(first, count)

    # ---- Time ----

    def due(self, now: float) -> list[int]:
        """Units to be asked for once more: still REMOTE, and still awaited."""
        self._now = now
        if not self._retries or self._retries[0][0] > now:
            return []
        units = [unit for when, unit in self._retries if when <= now]
        self._retries = [retry for retry in self._retries if retry[0] > now]
        return [unit for unit in units if unit in self.awaited and self._ledger.table.states[unit] == State.REMOTE]

    def next_time(self) -> float:
        """When to call `due` or `expire` again."""
        # One that is late and on its way is ended by its get, any moment now.
        soonest = max(min(self.awaited.values(), default=float("inf")), self._now + 0.01)
        return min(self._retries[0][0], soonest) if self._retries else soonest

    def expire(self, now: float) -> None:
        """Refuses what has waited too long without being on its way."""
        self._now = now
        late = [unit for unit, deadline in self.awaited.items() if deadline <= now]
        for unit in late:
            if self._ledger.table.states[unit] != State.RESTORING:  # else the get's own deadline is about to end it
                self.refuse(unit)
