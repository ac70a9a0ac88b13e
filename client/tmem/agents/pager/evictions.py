"""Units on their way out.

Owns: evictions, from the decision to the punch. A run of units is marked EVICTING with a number, write-protected, and compressed, 64 KiB
with each step, so that a fault never waits for longer than that takes. Runs for one target are gathered and go by one
exchange. A fault on a unit cancels its eviction, and what is compressed after that leaves it out. Only when all of a run is
STORED, and only a unit that is still EVICTING under the same number, is marked REMOTE and punched: until then it is where it
was. What was stored in vain is flushed.

A target that refuses is passed over for the next; when none takes a run it stays, and the limit is soft.

Units: units and pages, see `ports`; seconds.
"""

from collections import deque
from collections.abc import Iterator, Sequence

from tmem.wire.limits import BLOCK_PAGES, MAX_CHUNK_PAGES

from .ledger import Ledger
from .owed import Owed
from .ports import AgainError, Gathering, Put
from .table import State

__all__ = ["Evictions"]

_MOST_PAGES = (
    2 * BLOCK_PAGES
)  # on their way at once; bounds what waits behind a fault, and what a silent target holds up
_GATHER_PAGES = 64  # of small pages by one exchange: more gains little, and comes back later


class _Eviction:
    """One run on its way to one target.

    Attributes:
        sequence: its number, in the table for each of its units.
        next_page, end_page: what of it is still to be compressed.
        parts: how many pieces it was compressed in.
        tried: targets that have refused it, this one included.
    """

    __slots__ = ("count", "end_page", "first", "next_page", "parts", "sequence", "target", "tried")

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
        self.parts = 0


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
        self._chosen: deque[_Eviction] = deque()  # not compressed yet, or only in part
        self._gathering: Gathering | None = None
        self._gathered: list[_Eviction] = []
        self._gathered_pages = 0
        self._now = 0.0
        self.grew = False

    @property
    def busy(self) -> bool:
        """Whether something is to be compressed."""
        return bool(self._chosen)

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

    def advance(self, now: float) -> None:
        """Notes the time."""
        self._now = now

    # ---- Out ----

    def begin(self, first: int, count: int) -> bool:
        """Chooses a run of RESIDENT units; False if no target can be asked or the program is changing its memory."""
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
        self._chosen.append(_Eviction(self._sequence, first, count, target, tried, ledger.unit_pages))
        return True

    def compress(self) -> None:
        """Compresses the next 64 KiB of what was chosen; sends what was gathered once that is enough.

        Units that were touched meanwhile are left out: the program may be writing to them at this very moment, and a codec whose
        input changes under it makes wrong bytes of the pages beside them too.
        """
        eviction = self._chosen[0]
        still = list(self._still(eviction))
        if not still:
            self._chosen.popleft()  # all of it was touched
            if eviction.parts:
                self._forget(eviction)
            # A flush of what the target held before was left out if its time came meanwhile: this put was to replace it.
            self._owed.add(eviction.target, eviction.first, eviction.count, self._now)
            return
        unit_pages = self._ledger.unit_pages
        page = eviction.next_page
        end = min(page - page % MAX_CHUNK_PAGES + MAX_CHUNK_PAGES, eviction.end_page)
        for first, count in still:
            begin, stop = max(first * unit_pages, page), min((first + count) * unit_pages, end)
            if begin < stop:
                self._add(eviction, begin, stop - begin)
        eviction.next_page = end
        if end == eviction.end_page:
            self._chosen.popleft()
            if self._gathered_pages >= _GATHER_PAGES:
                self.send()

    def _add(self, eviction: _Eviction, page: int, count: int) -> None:
        ledger = self._ledger
        gathering = self._gathering
        if gathering is None or (not eviction.parts and not self._fits(eviction)):
            self.send()
            gathering = self._gathering = ledger.remote_port.gather(eviction.target)
        if not eviction.parts:
            self._gathered.append(eviction)
        gathering.add(page, ledger.memory.view(page, count))
        eviction.parts += 1
        self._gathered_pages += count

    def _fits(self, eviction: _Eviction) -> bool:
        assert self._gathering is not None
        pages = eviction.end_page - eviction.next_page
        return self._gathered[0].target == eviction.target and self._gathering.has_room(pages)

    def _forget(self, eviction: _Eviction) -> None:
        """A run that was touched before all of it was compressed: what is gathered with it goes by the board, as one piece."""
        self._gathering = None
        gathered, self._gathered = self._gathered, []
        self._gathered_pages = 0
        for other in gathered:
            if other is not eviction:
                other.next_page = other.first * self._ledger.unit_pages
                other.parts = 0
                self._chosen.append(other)

    def send(self) -> None:
        """Sends what was gathered, if anything was."""
        gathering, self._gathering = self._gathering, None
        gathered, self._gathered = self._gathered, []
        self._gathered_pages = 0
        if gathering is not None:
            self._ledger.figures.puts += 1
            gathering.send(lambda answers: self._answered(gathered, answers))

    @property
    def gathered(self) -> bool:
        """Whether something was gathered, and `send` would send it."""
        return bool(self._gathered) and not (self._chosen and self._chosen[0].parts)

    # ---- Answers ----

    def _answered(self, gathered: list[_Eviction], answers: Sequence[Put]) -> None:
        at = 0
        for eviction in gathered:
            parts = answers[at : at + eviction.parts]
            at += eviction.parts
            self._settle(eviction, stored=all(part is Put.STORED for part in parts))

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

    def _settle(self, eviction: _Eviction, *, stored: bool) -> None:
        ledger = self._ledger
        table = ledger.table
        gone = 0
        if stored:
            for first, count in self._still(eviction):
                gone += count
                table.set_states(first, count, State.REMOTE)
                ledger.memory.punch(first, count)
                ledger.evicting -= count
                ledger.resident -= count
                ledger.remote += count
                ledger.figures.evicted += count
                ledger.figures.remote_peak = max(ledger.figures.remote_peak, ledger.remote)
                self.grew = True
        else:
            for first, count in list(self._still(eviction)):
                ledger.figures.refused += count
                ledger.evicting -= count
                if not self._begin(first, count, eviction.tried):
                    table.set_states(first, count, State.RESIDENT)
                    ledger.unprotect(first, count)
        if gone < eviction.count:
            # Touched on its way, refused, or refused in part. Units that are at this target are left out when it comes to it.
            self._owed.add(eviction.target, eviction.first, eviction.count, self._now)

    def cancel(self, unit: int) -> None:
        """A unit on its way was touched, or given up: it stays. The caller lets the program have it afterwards."""
        ledger = self._ledger
        if self._gathering is not None:
            self._gathering.detach()  # the program may write to it from now on
        ledger.table.states[unit] = State.RESIDENT
        ledger.evicting -= 1
        ledger.figures.cancelled += 1
