"""What the parts of the pager's core share: the region's table and ports, its counts, and the calls that must be made again.

Owns: the counts of resident and remote units, the figures for `stats`, and the memory calls that came while the program was
changing its memory.

Units: units.
"""

from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, fields

from .ports import AgainError, Memory, Remote
from .settings import Settings
from .table import State, Table

__all__ = ["Figures", "Ledger"]


@dataclass(slots=True)
class Figures:
    """What the agents of a region have done, all together; counted in units, but for `faults` and `puts` and `gets`.

    Attributes:
        faults: messages about touched pages. sampled: of those, touches of hidden pages: reference bits, made by hand.
        zeroed: first touches. restored: came back because they were touched; prefetched: because that was expected;
            returned: because there was room.
        evicted: went away. cancelled: were touched on their way. refused: no target took them, or not this one.
        puts, gets: exchanges.
        hidden: were unmapped to see whether they are used.
        lost: can't be had back. poisoned: could not be had in time.
        deferred: touches that waited for room.
        peak: the most that was resident. remote_peak: the most that was remote.
        takeovers: agents that took over from one that had died.
    """

    faults: int = 0
    sampled: int = 0
    zeroed: int = 0
    restored: int = 0
    prefetched: int = 0
    returned: int = 0
    evicted: int = 0
    cancelled: int = 0
    refused: int = 0
    puts: int = 0
    gets: int = 0
    hidden: int = 0
    lost: int = 0
    poisoned: int = 0
    deferred: int = 0
    peak: int = 0
    remote_peak: int = 0
    takeovers: int = 0

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The figures' names, in the order in which the table keeps them."""
        return tuple(each.name for each in fields(cls))

    def values(self) -> tuple[int, ...]:
        """The figures, in that order."""
        return tuple(getattr(self, name) for name in self.names())


@dataclass(slots=True)
class Ledger:
    """One region's.

    Attributes:
        limit: the most units that may be resident. headroom: how many of those are kept free for what comes next.
        resident: units that take memory: RESIDENT, EVICTING and RESTORING. evicting: of those, on their way out.
        remote: units whose only bytes are away: REMOTE and RESTORING.
        top: units from here on were never touched.
        again: calls to be made again, as (method, first, count), once the program's events have been read.
        unit_pages: pages of a unit.
    """

    table: Table
    memory: Memory
    remote_port: Remote
    settings: Settings
    figures: Figures = field(default_factory=Figures)
    limit: int = 0
    resident: int = 0
    evicting: int = 0
    remote: int = 0
    top: int = 0
    again: deque[tuple[str, int, int]] = field(default_factory=deque)
    unit_pages: int = field(init=False)

    def __post_init__(self) -> None:
        self.unit_pages = self.settings.pages.unit_pages

    @property
    def headroom(self) -> int:
        """Units of the limit that evictions keep free: a fault should find room, not make it."""
        return min(max(self.limit // 8, 1), 1024 // self.unit_pages or 1)

    @property
    def free(self) -> int:
        """Units that may still come."""
        return self.limit - self.resident

    def take(self, count: int) -> None:
        """So many units take memory from now on."""
        self.resident += count
        self.figures.peak = max(self.figures.peak, self.resident)

    def count_again(self) -> None:
        """Counts what the table says; for the start."""
        table = self.table
        self.top = len(table.states[: table.units].rstrip(b"\0"))
        self.evicting = table.count(State.EVICTING)
        self.resident = table.count(State.RESIDENT) + self.evicting + table.count(State.RESTORING)
        self.remote = table.count(State.REMOTE) + table.count(State.RESTORING)

    # ---- Calls that the program may stand in the way of ----

    def resume(self, first: int, count: int) -> list[int]:
        """As the memory's, at once or later; answers units that are not there."""
        try:
            return list(self.memory.resume(first, count))
        except AgainError:
            self.again.append(("resume", first, count))
            return []

    def unprotect(self, first: int, count: int) -> None:
        """As the memory's, as far as that can be: what stays protected is let go of by the next write to it."""
        with suppress(AgainError):
            self.memory.unprotect(first, count)

    def poison(self, first: int, count: int) -> None:
        """As the memory's, at once or later."""
        try:
            self.memory.poison(first, count)
        except AgainError:
            self.again.append(("poison", first, count))
