"""The live view: memory here against memory on the server, drawn in the terminal.

Owns: how figures are drawn: bars, and a line of the last minute for each rate. It draws on standard error, and where that is no
terminal it prints a line for each look instead.
"""

import time
from collections import deque
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .options import Server
from .output import format_bytes, print_json, talk

if TYPE_CHECKING:
    from tmem.agents.run.ways import Figures, Order, Running
    from tmem.agents.swap.state import Site
    from tmem.agents.swap.status import Reading

__all__ = ["Trend", "bar", "spark", "watch_devices", "watch_run"]

_BAR_WIDTH = 46
_TREND_LENGTH = 46
_TICKS = " ▁▂▃▄▅▆▇█"
_LOOK_SECONDS = 0.25


class Trend:
    """The last values of something, as a line of little bars."""

    def __init__(self, length: int = _TREND_LENGTH) -> None:
        self._values: deque[float] = deque(maxlen=length)

    def add(self, value: float) -> None:
        """Another value."""
        self._values.append(value)

    @property
    def last(self) -> float:
        """The newest value; 0 without any."""
        return self._values[-1] if self._values else 0.0

    def draw(self) -> str:
        """The line, its highest bar the largest value."""
        return spark(list(self._values)).rjust(self._values.maxlen or 0)


def spark(values: list[float]) -> str:
    """Little bars, the highest of them the largest value."""
    top = max(values, default=0.0)
    if top <= 0:
        return _TICKS[0] * len(values)
    return "".join(_TICKS[round(value / top * (len(_TICKS) - 1))] for value in values)


def bar(parts: list[tuple[float, str]], whole: float, width: int = _BAR_WIDTH) -> Text:
    """A bar of parts of a whole, each in its colour; a part that is there at all is seen."""
    text = Text()
    left = width
    for size, style in parts:
        cells = 0 if whole <= 0 else min(left, round(size / whole * width))
        if size > 0 and left:
            cells = max(1, cells)
        text.append("█" * cells, style=style)
        left -= cells
    text.append("░" * left, style="dim")
    return text


def _microseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.0f} us"


# ---- A program ----


def watch_run(running: "Running", order: "Order") -> int:
    """Draws a program until it has ended; answers its exit status."""
    rates = Trend()
    before = running.figures()
    moment = time.monotonic()
    with Live(console=talk, transient=True, auto_refresh=False) as live:
        while (status := running.wait(_LOOK_SECONDS)) is None:
            figures = running.figures()
            now = time.monotonic()
            rates.add((figures.faults - before.faults) / max(now - moment, 1e-6))
            before, moment = figures, now
            live.update(draw_run(figures, order, rates), refresh=True)
    return status


def draw_run(figures: "Figures", order: "Order", rates: Trend) -> RenderableType:
    """One picture of a program."""
    whole = max(order.memory + figures.remote_peak, 1)
    grid = Table.grid(padding=(0, 1))
    grid.add_row(
        "memory",
        bar([(figures.resident, "green"), (figures.remote, "blue")], whole),
        Text.assemble(
            (f"{format_bytes(figures.resident)} here", "green"),
            "  ",
            (f"{format_bytes(figures.remote)} remote", "blue"),
        ),
    )
    grid.add_row("faults", Text(rates.draw(), style="yellow"), f"{rates.last:,.0f} a second, {figures.faults:,} in all")
    ratio = "-" if figures.ratio is None else f"{figures.ratio:.2f} : 1"
    grid.add_row(
        "waits",
        Text(f"p50 {_microseconds(figures.fault_p50)}, p99 {_microseconds(figures.fault_p99)}"),
        f"compressed {ratio}",
    )
    title = Text(" ".join(order.command), style="bold", overflow="ellipsis", no_wrap=True)
    parts: list[RenderableType] = [title, grid]
    if figures.trouble:
        parts.append(Text(figures.trouble, style="bold red"))
    return Group(*parts)


# ---- Devices ----


class _Watched:
    """One device, and what was seen of it before."""

    def __init__(self, site: "Site", server: Server) -> None:
        from tmem.agents.swap.status import Compression, read_device

        self.site = site
        self.before: Reading | None = read_device(site)
        target = self.before.record.target if self.before is not None else server.target
        self.compression = Compression(target, server.token)
        self.reads, self.writes = Trend(), Trend()

    def look(self) -> dict[str, Any] | None:
        """What happened since the last look; None when the device is gone."""
        from tmem.agents.swap.shared import Word
        from tmem.agents.swap.status import Interval, read_device

        after = read_device(self.site)
        before, self.before = self.before, after
        if after is None or before is None:
            return None
        interval = Interval(before, after)
        self.reads.add(interval.rate(Word.PAGES_READ))
        self.writes.add(interval.rate(Word.PAGES_WRITTEN))
        latencies = interval.reads if before.words and after.words else None
        return {
            "name": after.name,
            "condition": after.condition,
            "size_bytes": after.record.size,
            "used_bytes": after.used,
            "pages_read_s": round(self.reads.last, 1),
            "pages_written_s": round(self.writes.last, 1),
            "reads_s": round(interval.rate(Word.READS), 1),
            "read_p50_us": _us(None if latencies is None else latencies.quantile(0.5)),
            "read_p99_us": _us(None if latencies is None else latencies.quantile(0.99)),
            "ratio": self.compression.of(after.record),
        }


def _us(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6, 1)


def watch_devices(places: "list[Site]", server: Server, interval: float) -> None:
    """Draws devices, until they are gone or it is interrupted; with --json, a line for each look."""
    watched = [_Watched(place, server) for place in places]
    try:
        if server.json or not talk.is_terminal:
            _print_lines(watched, interval)
            return
        with Live(console=talk, auto_refresh=False) as live:
            while True:
                time.sleep(interval)
                looks = [(each, look) for each in watched if (look := each.look()) is not None]
                if not looks:
                    return
                live.update(Group(*(draw_device(each, look) for each, look in looks)), refresh=True)
    finally:
        for each in watched:
            each.compression.close()


def _print_lines(watched: list[_Watched], interval: float) -> None:
    import sys

    while True:
        time.sleep(interval)
        looks = [look for each in watched if (look := each.look()) is not None]
        if not looks:
            return
        for look in looks:
            print_json(look, indent=None)
        sys.stdout.flush()


def draw_device(watched: _Watched, look: dict[str, Any]) -> RenderableType:
    """One picture of a device."""
    used, size = look["used_bytes"] or 0, look["size_bytes"]
    grid = Table.grid(padding=(0, 1))
    grid.add_row("remote", bar([(used, "blue")], size), f"{format_bytes(used)} of {format_bytes(size)}")
    grid.add_row("in", Text(watched.reads.draw(), style="yellow"), f"{look['pages_read_s']:,.0f} pages a second")
    grid.add_row("out", Text(watched.writes.draw(), style="magenta"), f"{look['pages_written_s']:,.0f} pages a second")
    p50, p99 = look["read_p50_us"], look["read_p99_us"]
    waits = "-" if p50 is None else f"p50 {p50:,.0f} us, p99 {p99:,.0f} us"
    ratio = "-" if look["ratio"] is None else f"{look['ratio']:.2f} : 1"
    grid.add_row("waits", Text(waits), f"compressed {ratio}")
    style = "bold" if look["condition"] == "attached" else "bold red"
    return Group(Text(f"{look['name']}: {look['condition']}", style=style), grid)
