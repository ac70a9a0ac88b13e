"""Plots as SVG to be put into a page.

Owns: what all plots share: size, colours, legend, how many took how long. An SVG that comes out of here names nothing outside of itself: no
namespaces, which a page does not need, no metadata, no fonts but the page's.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from .figures import percentile

__all__ = ["HEIGHT", "OUR_COLOURS", "Plot", "embedded", "legend", "numbered", "styles", "svg", "waits"]

_WIDTH = 8.2  # inches of 72 points
HEIGHT = 3.9
"""Of a plot that has no reason for another."""
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
OUR_COLOURS = ("#0b6e4f", "#34a0a4", "#76c893", "#184e77", "#52b69a", "#1a759f")
_OTHER_COLOURS = ("#d1495b", "#edae49", "#8d5a97", "#c8553d", "#6c757d", "#b5838d", "#3d405b")

Plot = tuple[str, str]
"""A title, and the SVG."""


def svg(*paints: Callable[[Axes], Any], height: float = HEIGHT, columns: int = 1, one_legend: bool = False) -> str:
    """What is painted, as an SVG; several side by side, in so many columns, with one legend for all below."""
    rows = -(-len(paints) // columns)
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH, height * rows), layout="constrained")
        for number, paint in enumerate(paints, 1):
            paint(figure.add_subplot(rows, columns, number))
        if one_legend:
            known = {
                label: line
                for axes in figure.axes
                for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
            }
            figure.legend(known.values(), known.keys(), loc="outside lower center", ncols=3)
        out = StringIO()
        figure.savefig(out, format="svg", transparent=True)
    return embedded(out.getvalue())


def embedded(document: str) -> str:
    """An SVG document as a part of an HTML page: nothing in it that names the outside, not even a namespace."""
    document = document[document.index("<svg") :]
    document = re.sub(r"<metadata>.*?</metadata>", "", document, flags=re.DOTALL)
    document = re.sub(r'\sxmlns(?::\w+)?="[^"]*"', "", document)
    return document.replace("xlink:href=", "href=").strip()


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How each line looks."""
    looks = {}
    counts = {True: 0, False: 0}
    for label in labels:
        ours = label.startswith(_OURS)
        colours = OUR_COLOURS if ours else _OTHER_COLOURS
        number = counts[ours]
        counts[ours] += 1
        looks[label] = {
            "color": colours[number % len(colours)],
            "linestyle": _LINES[number // len(colours) % len(_LINES)],
            "linewidth": 1.8 if ours else 1.2,
        }
    return looks


def waits(
    axes: Axes, latencies: Mapping[str, Sequence[float]], what: str, looks: Mapping[str, Any] | None = None
) -> None:
    """The share of `what` that took at most so many microseconds."""
    looks = looks or styles(list(latencies))
    for label, values in latencies.items():
        ordered = sorted(values)
        # As many points as can be told apart.
        step = max(1, len(ordered) // 400)
        points = [*ordered[::step], ordered[-1]]
        shares = [*(number / len(ordered) for number in range(0, len(ordered), step)), 1.0]
        axes.plot(points, shares, label=label, **looks[label])
    axes.set_xscale("log")
    # Up to where nearly all are; what one in a thousand took may be ten times as much, and is in the tables.
    most = max(percentile(values, 99.5) for values in latencies.values())
    least = min(min(values) for values in latencies.values())
    axes.set_xlim(least * 0.9, most * 1.1)
    numbered(axes.xaxis)
    axes.set_xlabel("microseconds")
    axes.set_ylabel(f"share of {what}")
    axes.set_ylim(0, 1)
    legend(axes)


def numbered(axis: Axis, form: str = "{x:,.0f}") -> None:
    """Plain numbers along a logarithmic axis: 1, 2, 5, 10."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(StrMethodFormatter(form))
    axis.set_minor_formatter(NullFormatter())


def legend(axes: Axes) -> None:
    """To the right of the plot."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8)
