"""When pages come home by themselves.

Owns: the decision how many may come at a time. A page comes home when local memory is free and the number of remote pages
has not grown for a while: a program that shrank, or whose limit was raised, should not wait for a fault on each page for
ever after; one that is growing should not have its pages carried back and forth.

Pure: time is handed in. Units: units and seconds.
"""

__all__ = ["Homecoming"]

_PERIOD_SECONDS = 0.1
_FRACTION = 16  # of what is remote comes with each period: half of it in a second, and the last of it too


class Homecoming:
    """One region's.

    Args:
        inertia: how long there must have been no growth.
        least: units that come with each period at least.
        now: the time.
    """

    def __init__(self, inertia: float, least: int, now: float) -> None:
        self._inertia = inertia
        self._least = least
        self._quiet_since = now
        self._next = now

    def grew(self, now: float) -> None:
        """More pages are remote than before: wait anew."""
        self._quiet_since = now

    def due(self, remote: int, room: int, now: float) -> int:
        """How many units may come now.

        Args:
            remote: units that are away.
            room: units that local memory has free, beyond what evictions keep free.
            now: the time.
        """
        if not remote or room <= 0 or now < self.next_time(remote):
            return 0
        self._next = now + _PERIOD_SECONDS
        return min(room, remote, max(self._least, remote // _FRACTION))

    def next_time(self, remote: int) -> float:
        """When to ask `due` again; infinite while nothing is away."""
        return max(self._quiet_since + self._inertia, self._next) if remote else float("inf")
