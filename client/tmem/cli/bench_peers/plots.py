"""The plots of the report, as SVG to be put into a page.

Owns: how each series is drawn. An SVG that comes out of here names nothing outside of itself: no namespaces, which a page does not need, no metadata, no
fonts but the page's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from tmem.cli.bench_common.figures import percentile

from .rig import Series

__all__ = ["Plot", "draw", "embedded"]

_WIDTH, _HEIGHT = 8.2, 3.9  # inches of 72 points
_BAR_HEIGHT = 0.32
_SETTINGS: Any = {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "svg.hashsalt": "tmem",  # the same plot has the same bytes
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_LINES = ("-", "--", ":", "-.")
# What is ours stands out; the others have colours in the order in which they come.
_OURS = "tmem"
_OUR_COLOURS = ("#0b6e4f", "#34a0a4", "#76c893", "#184e77", "#52b69a", "#1a759f")
_OTHER_COLOURS = ("#d1495b", "#edae49", "#8d5a97", "#c8553d", "#6c757d", "#b5838d", "#3d405b")

Plot = tuple[str, str]
"""A title, and the SVG."""


def draw(series: Series) -> list[Plot]:
    """Every plot of which there is anything to draw."""
    plots: list[Plot] = []
    if series.latencies:
        plots.append(("How long a lone get takes", _svg(lambda axes: _latencies(axes, series.latencies))))
    for what in ("put", "get"):
        if what in series.sweep:
            title = f"Pages/s against the size of the batch, {what}"
            plots.append((title, _svg(_rates_by(series.sweep[what], "pages in a batch"))))
    for what in ("put", "get"):
        if what in series.clients:
            title = f"Pages/s of all together against the number of clients, {what}"
            plots.append((title, _svg(_rates_by(series.clients[what], "active clients"))))
    if series.density:
        height = _bars_height(len(series.density) * max(map(len, series.density.values())))
        plots.append(("Stored bytes of a page, by set", _svg(lambda axes: _density(axes, series.density), height)))
    for what in ("put", "get"):
        if what in series.cost:
            costs = series.cost[what]
            title = f"Slowdown over memcpy: what a page costs in batches of 512, {what}"
            plots.append((title, _svg(_slowdown(costs), _bars_height(len(costs)))))
    return plots


def embedded(svg: str) -> str:
    """An SVG document as a part of an HTML page: nothing in it that names the outside, not even a namespace."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", svg)
    return svg.replace("xlink:href=", "href=").strip()


def _svg(paint: Callable[[Axes], Any], height: float = _HEIGHT) -> str:
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        paint(figure.add_subplot())
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True)
    return embedded(out.getvalue())


def _bars_height(bars: int) -> float:
    return 1.1 + _BAR_HEIGHT * bars


def _styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each line looks."""
    styles = {}
    counts = {True: 0, False: 0}
    for label in labels:
        ours = label.startswith(_OURS)
        colours = _OUR_COLOURS if ours else _OTHER_COLOURS
        number = counts[ours]
        counts[ours] += 1
        styles[label] = {
            "color": colours[number % len(colours)],
            "linestyle": _LINES[number // len(colours) % len(_LINES)],
            "linewidth": 1.8 if ours else 1.2,
        }
    return styles


def _latencies(axes: Axes, latencies: Mapping[str, Sequence[float]]) -> None:
    """The share of gets that took at most so long."""
    styles = _styles(list(latencies))
    for label, values in latencies.items():
        ordered = sorted(values)
        # As many points as can be told apart.
        step = max(1, len(ordered) // 400)
        points = [*ordered[::step], ordered[-1]]
        shares = [*(number / len(ordered) for number in range(0, len(ordered), step)), 1.0]
        axes.plot(points, shares, label=label, **styles[label])
    axes.set_xscale("log")
    # Up to where nearly all are; what one in a thousand took may be ten times as much, and is in the tables.
    most = max(percentile(values, 99.5) for values in latencies.values())
    least = min(min(values) for values in latencies.values())
    axes.set_xlim(least * 0.9, most * 1.1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("microseconds")
    axes.set_ylabel("share of gets")
    axes.set_ylim(0, 1)
    _legend(axes)


def _rates_by(rates: Mapping[str, Mapping[int, float]], across: str) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        styles = _styles(list(rates))
        for label, points in rates.items():
            axes.plot(list(points), list(points.values()), label=label, marker="o", markersize=3, **styles[label])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({number for points in rates.values() for number in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(across)
        axes.set_ylabel("pages/s")
        _legend(axes)

    return paint


def _density(axes: Axes, density: Mapping[str, Mapping[str, float]]) -> None:
    """Bars in groups, the first set at the top."""
    labels = list(next(iter(density.values())))
    colours = dict(zip(labels, ("#adb5bd", "#76c893", "#0b6e4f"), strict=False))
    step = len(labels) + 1
    for group, (_, values) in enumerate(density.items()):
        for number, (label, value) in enumerate(values.items()):
            at = -(group * step + number)
            axes.barh(at, value, height=0.9, color=colours[label], label=label if not group else None)
            axes.text(value + 20, at, f"{value:,.0f}", va="center", fontsize=7)
    middle = (len(labels) - 1) / 2
    axes.set_yticks([-(group * step + middle) for group in range(len(density))], list(density))
    axes.margins(x=0.12)
    axes.set_xlabel("bytes a page of 4096")
    axes.grid(visible=False, axis="y")
    _legend(axes)


def _slowdown(costs: Mapping[str, float]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        least = min(costs.values())
        for at, (label, cost) in enumerate(sorted(costs.items(), key=lambda item: -item[1])):
            colour = _OUR_COLOURS[0] if label.startswith(_OURS) else "#adb5bd"
            axes.barh(at, cost / least, color=colour)
            axes.text(cost / least * 1.03, at, f"{cost / least:.1f} x, {cost:.2f} us", va="center", fontsize=7)
        axes.set_yticks(range(len(costs)), sorted(costs, key=lambda label: -costs[label]))
        axes.set_xscale("log")
        axes.set_xlabel("times what the least takes")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.25)

    return paint


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
