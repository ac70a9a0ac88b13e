"""Taking over a region from an agent that has died, at whatever instruction.

Owns: what each state is worth when nobody knows any more what was under way, and what of it must be done over. See `table` for the
order in which the states were written; this is the other half of it. Everything here can be killed and begun again.

    freed        removals whose message died with its reader: done now, first, before anything is mapped
    RESTORING    part of the bytes may be in the file, none of them was seen: punched, and REMOTE
    EVICTING     the bytes are here; whether they are at the target too nobody knows: RESIDENT, and let go of
    REMOTE       the agent may have died before it punched: punched
    LOST         likewise, and poisoned
    POISONED     the poison is lifted from what is no longer REMOTE
    copies       what a target may hold of a unit that is not REMOTE there: its flush is owed
    waiters      are woken, all of them: they touch again, and are told again

Units: units.
"""

from collections.abc import Callable

from .fetches import Fetches
from .ledger import Ledger
from .owed import Owed
from .table import Flag, State

__all__ = ["take_over"]

_REMOTE = bytes((State.REMOTE,))
_SEEN = bytes(value & ~Flag.HIDDEN for value in range(256))
_POISONED = bytes(bool(value & Flag.POISONED) for value in range(256))


def take_over(ledger: Ledger, fetches: Fetches, owed: Owed, give_up: Callable[[int, int], None], now: float) -> None:
    """Goes on from the table that another agent has left.

    Args:
        ledger: the region's, new.
        fetches: likewise.
        owed: likewise.
        give_up: notes that the program has given up a run of units.
        now: the time.
    """
    table, memory = ledger.table, ledger.memory
    ledger.count_again()
    ledger.figures.takeovers += 1
    top = ledger.top
    table.flags[:top] = table.flags[:top].translate(_SEEN)  # probation ended with the agent that knew of it
    _note_freed(ledger, give_up)
    for first, count in list(table.runs(State.RESTORING, end=top)):
        _undo_restoring(ledger, first, count)
    for first, count in list(table.runs(State.EVICTING, end=top)):
        table.set_states(first, count, State.RESIDENT)
        ledger.unprotect(first, count)
    for first, count in list(table.runs(State.REMOTE, end=top)):
        memory.punch(first, count)
    for first, count in list(table.runs(State.LOST, end=top)):
        table.clear_flags(first, count, Flag.POISONED)
        memory.punch(first, count)
        ledger.poison(first, count)
    ledger.count_again()
    poisoned = table.flags[: table.units].translate(_POISONED)  # of units that were given up too, wherever they lie
    unit = poisoned.find(1)
    while unit >= 0:
        fetches.poisoned.add(unit)
        fetches.lift(unit, 1)
        unit = poisoned.find(1, unit + 1)
    _owe_copies(ledger, owed, now)
    memory.wake(0, table.units)


def _note_freed(ledger: Ledger, give_up: Callable[[int, int], None]) -> None:
    """Of any unit, also of such that were never touched: a mark that stays would be taken for one of a later use."""
    table = ledger.table
    freed, states, flags, units = table.freed, table.states, table.flags, table.units
    first = freed.find(b"\1", 0, units)
    while first >= 0:
        stop = freed.find(b"\0", first, units)
        stop = units if stop < 0 else stop
        for unit in range(first, stop):
            if states[unit] in {State.EVICTING, State.RESTORING}:  # nothing is on its way any more
                states[unit] = State.NEVER
                flags[unit] &= Flag.POISONED
        ledger.memory.punch(first, stop - first)
        give_up(first, stop - first)
        first = freed.find(b"\1", stop, units)


def _undo_restoring(ledger: Ledger, first: int, count: int) -> None:
    states, flags = ledger.table.states, ledger.table.flags
    ledger.memory.punch(first, count)
    for unit in range(first, first + count):
        if flags[unit] & Flag.DROP:
            states[unit] = State.LOST if flags[unit] & Flag.PART else State.NEVER
            flags[unit] &= Flag.POISONED
        else:
            states[unit] = State.REMOTE


def _owe_copies(ledger: Ledger, owed: Owed, now: float) -> None:
    """A flush that was owed died with its agent; the presence maps say what it may have been about."""
    states, targets, pages = ledger.table.states, ledger.table.targets, ledger.unit_pages
    for target in range(ledger.remote_port.targets):
        for page, count in ledger.remote_port.held(target):
            first, end = page // pages, (page + count - 1) // pages + 1
            # Nearly all that a target holds is as it should be: that is seen a run at a time.
            length = end - first
            if states[first:end] == _REMOTE * length and targets[first:end] == bytes((target,)) * length:
                continue
            for unit in range(first, end):
                if states[unit] != State.REMOTE or targets[unit] != target:
                    owed.add(target, unit, 1, now)
