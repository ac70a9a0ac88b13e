"""Units on their way out.

Owns: evictions, from the decision to the punch. A run of units is marked EVICTING with a number, write-protected, and put, 64 KiB
with each step, so that a fault never waits for longer than that takes to compress. A fault on one of them cancels it
for that unit. Only when all of it is STORED, and only a unit that is still EVICTING under the same number, is marked REMOTE
and punched: until then it is where it was. What was stored in vain is flushed.

A target that refuses is passed over for the next; when none takes a run it stays, and the limit is soft.

Units: units and pages, see `ports`; seconds.
"""

from collections import deque
from collections.abc import Iterator

from tmem.wire.limits import MAX_CHUNK_PAGES

from .ledger import Ledger
from .owed import Owed
from .ports import AgainError, Put
from .table import State

__all__ = ["Evictions"]

_MOST_PAGES = 1024  # on their way at once; bounds what waits behind a fault, and what a silent target holds up


class _Eviction:
    """One run on its way to one target.

    Attributes:
        sequence: its number, in the table for each of its units.
        next_page, end_page: what of it is still to be sent.
        unanswered: puts that are.
        worst: of the answers.
        tried: targets that have refused it, this one included.
        chosen_at: the time.
    """

    __slots__ = (
        "chosen_at",
        "count",
        "end_page",
        "first",
        "next_page",
        "sequence",
        "target",
        "tried",
        "unanswered",
        "worst",
    )

    def __init__(
        self, sequence: int, first: int, count: int, target: int, tried: frozenset[int], unit_pages: int
    ) -> None:
        self.sequence = sequence
        self.first = first
        self.count = count
        self.target = target
        self.tried = tried | {target}
        self.next_page = first * unit_pages
        self.end_page = (first + count) * unit_pages
        self.unanswered = 0
        self.worst = Put.STORED


class Evictions:
    """The evictions of one region.

    Args:
        ledger: the region's. owed: where flushes are owed.

    Attributes:
        grew: whether a unit has become remote since this was last set to False.
    """

    def __init__(self, ledger: Ledger, owed: Owed) -> None:
        self._ledger = ledger
        self._owed = owed
        self._sequence = 0
        self._unsent: deque[_Eviction] = deque()
        self._now = 0.0
        self.grew = False

    @property
    def busy(self) -> bool:
        """Whether a run is still being sent."""
        return bool(self._unsent)

    @property
    def full(self) -> bool:
        """Whether enough is on its way."""
        return self._ledger.evicting * self._ledger.unit_pages >= _MOST_PAGES

    def accepting(self, tried: frozenset[int] = frozenset()) -> int | None:
        """The first target that a put is worth trying at."""
        remote = self._ledger.remote_port
        for target in range(remote.targets):
            if target not in tried and remote.accepting(target):
                return target
        return None

    def begin(self, first: int, count: int, now: float) -> bool:
        """Sends off a run of RESIDENT units; False if no target can be asked or the program is changing its memory."""
        self._now = now
        return self._begin(first, count, frozenset())

    def _begin(self, first: int, count: int, tried: frozenset[int]) -> bool:
        target = self.accepting(tried)
        if target is None:
            return False
        ledger = self._ledger
        table = ledger.table
        self._sequence = self._sequence % 0xFFFFFFFF + 1
        for unit in range(first, first + count):
            table.targets[unit] = target
            table.sequences[unit] = self._sequence
        table.set_states(first, count, State.EVICTING)
        try:
            ledger.memory.protect(first, count)
        except AgainError:
            # Whatever part was protected is let go by the next write to it.
            table.set_states(first, count, State.RESIDENT)
            return False
        ledger.evicting += count
        self._unsent.append(_Eviction(self._sequence, first, count, target, tried, ledger.unit_pages))
        self.send()
        return True

    def send(self) -> None:
        """Sends the next 64 KiB of what is on its way."""
        eviction = self._unsent[0]
        ledger = self._ledger
        page = eviction.next_page
        if eviction.worst is not Put.STORED or not any(self._still(eviction)):
            self._unsent.popleft()  # refused or touched: what follows would be sent in vain
            eviction.end_page = page
            if not eviction.unanswered:
                self._settle(eviction)
            return
        end = min(page - page % MAX_CHUNK_PAGES + MAX_CHUNK_PAGES, eviction.end_page)
        eviction.next_page = end
        eviction.unanswered += 1
        if end == eviction.end_page:
            self._unsent.popleft()
        ledger.figures.puts += 1
        ledger.remote_port.put(
            eviction.target, page, ledger.memory.view(page, end - page), lambda put: self._answered(eviction, put)
        )

    def _answered(self, eviction: _Eviction, put: Put) -> None:
        eviction.unanswered -= 1
        if put is not Put.STORED and eviction.worst is not Put.UNKNOWN:
            eviction.worst = put
        if not eviction.unanswered and eviction.next_page == eviction.end_page:
            self._settle(eviction)

    def _still(self, eviction: _Eviction) -> Iterator[tuple[int, int]]:
        """Runs of its units that nothing has happened to since."""
        table = self._ledger.table
        states, sequences = table.states, table.sequences
        first, end = eviction.first, eviction.first + eviction.count
        while first < end:
            stop = first
            while stop < end and states[stop] == State.EVICTING and sequences[stop] == eviction.sequence:
                stop += 1
            if stop > first:
                yield first, stop - first
            first = stop + 1

    def _settle(self, eviction: _Eviction) -> None:
        """All answers are in."""
        ledger = self._ledger
        table = ledger.table
        whole = eviction.end_page == (eviction.first + eviction.count) * ledger.unit_pages
        gone = 0
        if whole and eviction.worst is Put.STORED:
            for first, count in self._still(eviction):
                gone += count
                table.set_states(first, count, State.REMOTE)
                ledger.memory.punch(first, count)
                ledger.evicting -= count
                ledger.resident -= count
                ledger.remote += count
                ledger.figures.evicted += count
                self.grew = True
        else:
            for first, count in list(self._still(eviction)):
                ledger.figures.refused += count
                ledger.evicting -= count
                if not self._begin(first, count, eviction.tried):
                    table.set_states(first, count, State.RESIDENT)
                    ledger.unprotect(first, count)
        if gone < eviction.count:
            # Touched on its way, or refused in part. Units that are at this target are left out when it comes to it.
            self._owed.add(eviction.target, eviction.first, eviction.count, self._now)

    def cancel(self, unit: int) -> None:
        """A unit on its way was touched, or given up: it stays. The caller lets the program have it."""
        ledger = self._ledger
        ledger.table.states[unit] = State.RESIDENT
        ledger.evicting -= 1
        ledger.figures.cancelled += 1

    def advance(self, now: float) -> None:
        """Notes the time."""
        self._now = now
