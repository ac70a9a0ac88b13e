"""The plots of the report.

Owns: how each series is drawn.
"""

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes

from tmem.cli.bench_common.plots import OUR_COLOURS, Plot, legend, numbered, styles, svg, waits

from .rig import Series

__all__ = ["draw"]

_BAR_HEIGHT = 0.32  # inches of 72 points
_OURS = "tmem"


def draw(series: Series) -> list[Plot]:
    """Every plot of which there is anything to draw."""
    plots: list[Plot] = []
    if series.latencies:
        plots.append(("How long a lone get takes", svg(lambda axes: waits(axes, series.latencies, "gets"))))
    for what in ("put", "get"):
        if what in series.sweep:
            title = f"Pages/s against the size of the batch, {what}"
            plots.append((title, svg(_rates_by(series.sweep[what], "pages in a batch"))))
    for what in ("put", "get"):
        if what in series.clients:
            title = f"Pages/s of all together against the number of clients, {what}"
            plots.append((title, svg(_rates_by(series.clients[what], "active clients"))))
    if series.density:
        height = _bars_height(len(series.density) * max(map(len, series.density.values())))
        plots.append(
            ("Stored bytes of a page, by set", svg(lambda axes: _density(axes, series.density), height=height))
        )
    for what in ("put", "get"):
        if what in series.cost:
            costs = series.cost[what]
            title = f"Slowdown over memcpy: what a page costs in batches of 512, {what}"
            plots.append((title, svg(_slowdown(costs), height=_bars_height(len(costs)))))
    return plots


def _bars_height(bars: int) -> float:
    return 1.1 + _BAR_HEIGHT * bars


def _rates_by(rates: Mapping[str, Mapping[int, float]], across: str) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        looks = styles(list(rates))
        for label, points in rates.items():
            axes.plot(list(points), list(points.values()), label=label, marker="o", markersize=3, **looks[label])
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        ticks = sorted({number for points in rates.values() for number in points})
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        numbered(axes.yaxis)
        axes.set_xlabel(across)
        axes.set_ylabel("pages/s")
        legend(axes)

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
    legend(axes)


def _slowdown(costs: Mapping[str, float]) -> Callable[[Axes], None]:
    def paint(axes: Axes) -> None:
        least = min(costs.values())
        for at, (label, cost) in enumerate(sorted(costs.items(), key=lambda item: -item[1])):
            colour = OUR_COLOURS[0] if label.startswith(_OURS) else "#adb5bd"
            axes.barh(at, cost / least, color=colour)
            axes.text(cost / least * 1.03, at, f"{cost / least:.1f} x, {cost:.2f} us", va="center", fontsize=7)
        axes.set_yticks(range(len(costs)), sorted(costs, key=lambda label: -costs[label]))
        axes.set_xscale("log")
        axes.set_xlabel("times what the least takes")
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.25)

    return paint
