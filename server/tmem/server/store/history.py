"""What became of pages lately: for whoever asks why one is not there.

Owns: `History`, a bounded memory of refusals and evictions, the oldest forgotten first. Pure: time is passed in.
"""

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import NamedTuple

from tmem.wire.handles import Extent
from tmem.wire.results import Reason

__all__ = ["Event", "Fate", "History"]


class Fate(IntEnum):
    """Why a page is not there (PageFate)."""

    REFUSED = 1
    EVICTED = 2


class Event(NamedTuple):
    """Something that became of some pages.

    Attributes:
        key: the pool.
        reason: of a refusal; else UNSPECIFIED.
        at: when, in the seconds of the clock.
    """

    key: int
    extent: Extent
    fate: Fate
    reason: int
    at: float


class History:
    """Remembers the newest events.

    Args:
        clock: seconds.
        capacity: how many.
    """

    def __init__(self, clock: Callable[[], float], capacity: int = 4096) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=capacity)
        self.capacity = capacity

    def note(self, key: int, extent: Extent, fate: Fate, reason: int = Reason.UNSPECIFIED) -> None:
        """Remembers one."""
        self._events.append(Event(key, extent, fate, reason, self._clock()))

    def of_page(self, key: int, obj: int, index: int) -> list[tuple[Event, float]]:
        """What became of one page, the newest first, and how many seconds ago."""
        now = self._clock()
        return [
            (event, now - event.at)
            for event in reversed(self._events)
            if event.key == key
            and event.extent.object == obj
            and event.extent.index <= index < event.extent.index + event.extent.pages
        ]
