"""How long a lone get takes.

Owns: `Getter`, which times gets of single pages, one after the other, by the blocking face, and how p99s of two situations are compared. Units:
seconds within, microseconds in figures.

Whoever else has the CPU for a moment shows in a p99, by 3 to 5 ms. So two ratios are taken: the median of the pairs, and the least p99 of all rounds in
the one situation over the least in the other, which is what remains where some rounds were undisturbed.
"""

import random
import time
from collections.abc import Callable

from tmem.cli.bench_common.figures import Goal, Report
from tmem.client import Pool
from tmem.wire.limits import PAGE_BYTES

__all__ = ["Getter", "add_ratios", "microseconds"]


def microseconds(seconds: float) -> float:
    """For a figure."""
    return round(seconds * 1e6, 1)


def add_ratios(report: Report, key: str, title: str, these: list[float], those: list[float], goal: Goal) -> None:
    """Compares the p99s of pairs of rounds."""
    ratios = [this / that for this, that in zip(these, those, strict=True)]
    report.add_rounds(f"{key}_p99_ratio", title, ratios, goal)
    report.add(f"{key}_least_p99_ratio", "  least of all rounds over least", min(these) / min(those), goal)


class Getter:
    """Times gets of random pages of one pool.

    Args:
        draw: a page that may be there; one that is not costs no call and is drawn again.
    """

    def __init__(self, pool: Pool, obj: int, draw: Callable[[random.Random], int]) -> None:
        self._pool = pool
        self._object = obj
        self._draw = draw
        self._chance = random.Random(1)  # noqa: S311  the same every time
        self._into = bytearray(PAGE_BYTES)

    def take(self, count: int) -> list[float]:
        """The seconds of so many gets that hit."""
        pool, obj, into, chance = self._pool, self._object, self._into, self._chance
        taken: list[float] = []
        while len(taken) < count:
            page = self._draw(chance)
            begun = time.perf_counter()
            result = pool.get_into(obj, page, into)
            seconds = time.perf_counter() - begun
            if result.hit:
                taken.append(seconds)
        return taken
