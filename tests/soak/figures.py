"""What a soak says of its samples: slopes with their confidence, and a picture for a terminal.

Pure. Units: whatever the samples have; times in seconds.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Slope", "picture", "slope"]

_BINS = 20
# Student's t for 95 %, both sides, _BINS - 2 degrees of freedom.
_T = 2.101
_BLOCKS = " ▁▂▃▄▅▆▇█"


class Slope(NamedTuple):
    """How fast something grows: per second, and the 95 % interval around it."""

    per_second: float
    low: float
    high: float


def slope(times: Sequence[float], values: Sequence[float]) -> Slope:
    """The straight line through the means of twenty spans of time.

    Means, because neighbouring samples say nearly the same: taken one by one they would claim a confidence that is not there.

    Raises:
        ValueError: fewer samples than twice the spans.
    """
    if len(times) < 2 * _BINS:
        raise ValueError(f"{len(times)} samples are too few for a slope; {2 * _BINS} are the least")
    size = len(times) / _BINS
    spans = [(int(number * size), int((number + 1) * size)) for number in range(_BINS)]
    xs = [math.fsum(times[begin:end]) / (end - begin) for begin, end in spans]
    ys = [math.fsum(values[begin:end]) / (end - begin) for begin, end in spans]
    mean_x, mean_y = math.fsum(xs) / _BINS, math.fsum(ys) / _BINS
    spread = math.fsum((x - mean_x) ** 2 for x in xs)
    best = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = math.fsum((y - mean_y - best * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    error = _T * math.sqrt(rest / (_BINS - 2) / spread)
    return Slope(best, best - error, best + error)


def picture(values: Sequence[float], width: int = 72) -> str:
    """The samples as a row of bars between the least and the most."""
    if not values:
        return ""
    width = min(width, len(values))
    means = []
    for number in range(width):
        part = values[number * len(values) // width : (number + 1) * len(values) // width]
        means.append(math.fsum(part) / len(part))
    low, high = min(means), max(means)
    scale = (len(_BLOCKS) - 2) / (high - low) if high > low else 0
    return "".join(_BLOCKS[1 + round((mean - low) * scale)] for mean in means)
