"""The plots of the report.

Owns: how each series is drawn.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes

from tmem.cli.bench_common.plots import Plot, numbered, styles, svg, waits

from .rig import Series
from .ways import BARE_EXCHANGE, TITLES

__all__ = ["SLOWDOWN_TITLE", "WAITS_TITLE", "draw_slowdowns", "draw_waits"]

SLOWDOWN_TITLE = "How many times as long as alone, against the share of the working set in local memory"
WAITS_TITLE = "How long a fault takes, beside a bare exchange"
_PANEL_HEIGHT = 3.0  # inches of 72 points
# What others are held beside is no competitor.
_LIMITS = {TITLES["floor"]: "#3d405b", BARE_EXCHANGE: "#adb5bd"}


def draw_slowdowns(series: Series) -> list[Plot]:
    """One panel for each program, one line for each way, all in one plot; nothing where nothing was measured."""
    found = {name: ways for name, ways in series.slowdowns.items() if any(ways.values())}
    if not found:
        return []
    panels = [_panel(name, ways, _looks()) for name, ways in found.items()]
    drawn = svg(*panels, height=_PANEL_HEIGHT, columns=min(2, len(panels)), one_legend=True)
    return [(SLOWDOWN_TITLE, drawn)]


def draw_waits(series: Series) -> list[Plot]:
    """The share of faults that took at most so long."""
    if not series.latencies:
        return []
    return [(WAITS_TITLE, svg(lambda axes: waits(axes, series.latencies, "faults, of exchanges", _looks())))]


def _looks() -> dict[str, dict[str, Any]]:
    """How each way's line looks, the same in every plot."""
    looks = styles([*TITLES.values(), BARE_EXCHANGE])
    for label, colour in _LIMITS.items():
        looks[label] |= {"color": colour, "linestyle": "--"}
    return looks


def _panel(
    name: str, ways: Mapping[str, Mapping[int, Sequence[float]]], looks: Mapping[str, Any]
) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        for way, title in TITLES.items():
            rounds = ways.get(way)
            if not rounds:
                continue
            shares = list(rounds)
            middle = [statistics.median(rounds[share]) for share in shares]
            axes.plot(shares, middle, label=title, marker="o", markersize=3, **looks[title])
            least, most = ([pick(rounds[share]) for share in shares] for pick in (min, max))
            axes.fill_between(shares, least, most, color=looks[title]["color"], alpha=0.15, linewidth=0)
        axes.set_yscale("log")
        numbered(axes.yaxis, "{x:g}")
        axes.set_xticks(sorted({share for rounds in ways.values() for share in rounds}))
        # From all of it to little of it, as a program comes to have less.
        axes.invert_xaxis()
        axes.set_xlabel("% of the working set in local memory")
        axes.set_ylabel("times as long")
        axes.set_title(name)

    return paint
