"""The report as one HTML page that needs nothing else.

Owns: what stands on it and in what order: what was found against the goals, the plots, who did what per page, the machine, every figure.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from tmem.cli.bench_common import pages

from .fairness import FAIRNESS
from .plots import draw
from .rig import Rig

__all__ = ["page", "write_page"]


def write_page(file: Path, rig: Rig) -> None:
    """Writes it; whoever reads the file meanwhile finds the old one or the new one."""
    pages.write(file, page(rig))


def page(rig: Rig) -> str:
    """The whole page."""
    report = rig.report
    parts = [
        pages.subtitle(report.about),
        *pages.goals(report),
        "<h2>Plots</h2>",
        *pages.plots(draw(rig.series)),
        "<h2>Who does what</h2><dl>",
        *(f"<dt>{pages.text(title)}</dt><dd>{pages.text(words)}</dd>" for title, words in FAIRNESS.items()),
        "</dl><h2>Machine and versions</h2>",
        pages.table(["", ""], _machine(rig)),
        *pages.every_figure(report),
        *pages.how_much(report),
    ]
    return pages.document("tmem beside its peers", "tmem beside memcached, Redis and Valkey", parts)


def _machine(rig: Rig) -> Iterable[Sequence[str]]:
    about = rig.report.about
    yield from pages.machine(about)
    yield ["CPU of the servers", pages.plain(about["server_cpu"])]
    yield ["CPU of the clients", pages.plain(about["client_cpu"])]
    for name, value in about["versions"].items():
        yield [name, value]
