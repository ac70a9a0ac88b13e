"""How long touches waited: a histogram in memory that others may look at.

Owns: the buckets. They grow by half powers of two from a microsecond, so that a quantile is known to within a fifth.

Units: seconds outside, microseconds inside.
"""

from collections.abc import Sequence
from math import log2

__all__ = ["BUCKETS", "note", "quantile"]

BUCKETS = 64


def note(buckets: "memoryview[int] | list[int]", seconds: float) -> None:
    """Counts one."""
    microseconds = seconds * 1e6
    buckets[0 if microseconds < 1 else min(int(2 * log2(microseconds)) + 1, BUCKETS - 1)] += 1


def quantile(buckets: Sequence[int], part: float) -> float | None:
    """The time within which so large a part was over; None if nothing was counted."""
    total = sum(buckets)
    seen = 0
    for number, count in enumerate(buckets):
        seen += count
        if count and seen >= part * total:
            return float(2 ** (number / 2)) / 1e6
    return None
