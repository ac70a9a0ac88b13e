"""The state table: for each unit of a region, where its bytes are.

Owns: the states and their meaning, and the order in which they are written. The table lies in memory that outlives the
agent (a memfd that the program and the holder keep), so that the next agent goes on from what an agent killed at any
instruction has left. Each transition is one store of one byte, after the stores that it leans on.

    NEVER      never touched, or given up by the program: zeros. Nothing of it is in the file, but for what the program is about
               to remove
    RESIDENT   the bytes are in the file
    EVICTING   as RESIDENT, write-protected, and on its way to `target`, as eviction number `sequence`
    REMOTE     the bytes are at `target`. What may still be in the file is the same or garbage: the agent that died meant
               to punch it
    RESTORING  as REMOTE; the bytes are being read into the file. The program does not see the unit yet
    LOST       the bytes are nowhere: touching it is SIGBUS

    NEVER -> RESIDENT            before the zeros are mapped (with ZEROS set: a unit that is not there is zeros)
    RESIDENT -> EVICTING         before it is protected
    EVICTING -> REMOTE           after STORED, before it is punched
    EVICTING -> RESIDENT         before it is unprotected: a fault came first, or the target refused
    REMOTE -> RESTORING          before the first byte
    RESTORING -> RESIDENT        after the last byte was verified, and before the program can see it
    RESTORING -> REMOTE          the bytes could not be had; before it is punched
    RESTORING -> NEVER           the program gave it up meanwhile; after it was punched
    any other -> NEVER           the program gave it up, and punches it

Why RESIDENT is written before the unit is mapped, and not after: an agent that dies in between leaves a unit that is there
and not mapped, which the next fault maps. The other way round it would leave RESTORING on a unit that the program has
already seen and perhaps written to, and the next agent would put the old bytes over it.

Units: units, see `ports`. Sizes in bytes.
"""

import mmap
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

__all__ = ["Flag", "State", "Table", "freed_offset", "layout_bytes"]

_ALIGN = mmap.ALLOCATIONGRANULARITY


class State(IntEnum):
    """Where a unit's bytes are; see the module."""

    NEVER = 0
    RESIDENT = 1
    EVICTING = 2
    REMOTE = 3
    RESTORING = 4
    LOST = 5


class Flag:
    """What else is known of a unit, as bits. Plain numbers: enum's own & and | take microseconds, and every fault has several."""

    CHANCE: Final = 1  # used since the clock's hand passed
    HIDDEN: Final = 2  # unmapped to see whether it is used
    USED: Final = 4  # used since the recording of the working set began
    ZEROS: Final = 8  # if it is not there it is zeros, rightly
    DROP: Final = 16  # given up by the program while it was being restored
    PART: Final = 64  # with DROP: only a part of it was given up, so the rest is lost
    POISONED: Final = (
        32  # touching it is SIGBUS though it is not LOST: no target answered in time, or it was given up since
    )


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def layout_bytes(units: int) -> int:
    """How long the table's file part must be: one byte each for state, target, flags and freed, four for the sequence."""
    return 4 * _aligned(units) + _aligned(4 * units)


def freed_offset(units: int) -> int:
    """Where `freed` begins in the table's file part."""
    return 3 * _aligned(units)


class Table:
    """The table of one region.

    Args:
        units: of the region.
        descriptor: of the file that holds it; -1: memory of this process.
        offset: where it begins in the file; a multiple of the system's allocation granularity.

    Attributes:
        states, targets, flags: one byte a unit; `states` also has `find`.
        sequences: the eviction that a unit is part of; of use to the agent that began it, and to who debugs.
        freed: one byte a unit, set by the program before it gives memory back, cleared by the agent once it has noted
            that. So a removal whose message died with an agent is not forgotten.
    """

    def __init__(self, units: int, descriptor: int = -1, offset: int = 0) -> None:
        self.units = units
        maps = []
        for size in (units, units, units, units, 4 * units):
            length = _aligned(size)
            maps.append(mmap.mmap(-1, length) if descriptor < 0 else mmap.mmap(descriptor, length, offset=offset))
            offset += length
        self.states, self.targets, self.flags, self.freed = maps[:4]
        self.sequences = memoryview(maps[4]).cast("I")
        self._sequences_map = maps[4]

    def close(self) -> None:
        """Lets go of the memory."""
        self.sequences.release()
        for mapping in (self.states, self.targets, self.flags, self.freed, self._sequences_map):
            mapping.close()

    # ---- Reading ----

    def state(self, unit: int) -> State:
        """The state of one unit."""
        return State(self.states[unit])

    def end_of_run(self, first: int, end: int, state: int) -> int:
        """The first unit from `first` on, and before `end`, that has another state; else `end`."""
        states = self.states
        while first < end and states[first] == state:
            first += 1
        return first

    def runs(
        self, state: int, first: int = 0, end: int | None = None, most: int = 1 << 62
    ) -> Iterator[tuple[int, int]]:
        """Runs of units in a state, as (first, count), each of at most `most` units."""
        end = self.units if end is None else end
        wanted = bytes((state,))
        while True:
            first = self.states.find(wanted, first, end)
            if first < 0:
                return
            stop = self.end_of_run(first, min(end, first + most), state)
            yield first, stop - first
            first = stop

    def count(self, state: int) -> int:
        """How many units are in a state."""
        return self.states[: self.units].count(bytes((state,)))

    def counts(self) -> dict[State, int]:
        """How many units are in each state, as of one moment."""
        states = self.states[: self.units]
        return {state: states.count(bytes((state,))) for state in State}

    # ---- Writing ----

    def set_states(self, first: int, count: int, state: int) -> None:
        """Moves a run of units to a state. An agent killed in between has moved some of them: each alone is right."""
        if count == 1:
            self.states[first] = state
        else:
            self.states[first : first + count] = bytes((state,)) * count

    def set_flags(self, first: int, count: int, flags: int) -> None:
        """Adds flags to a run of units."""
        for unit in range(first, first + count):
            self.flags[unit] |= flags

    def clear_flags(self, first: int, count: int, flags: int) -> None:
        """Takes flags from a run of units."""
        keep = 0xFF & ~flags
        for unit in range(first, first + count):
            self.flags[unit] &= keep
