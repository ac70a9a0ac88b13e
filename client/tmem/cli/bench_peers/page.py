"""The report as one HTML page that needs nothing else.

Owns: what stands on it and in what order: what was found against the goals, the plots, who did what per page, the machine, every figure.
"""

import html
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tmem.cli.bench_common.figures import Report
from tmem.cli.bench_common.run import table_row

from .fairness import FAIRNESS
from .plots import draw
from .rig import Rig

__all__ = ["page", "write_page"]

_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #212529; background: #fff; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #dee2e6; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1rem; font-size: .86rem; }
th, td { text-align: right; padding: .18rem .5rem; border-bottom: 1px solid #f1f3f5; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; }
td.within { padding-left: 1.6rem; color: #495057; }
.ok { color: #0b6e4f; font-weight: 600; } .missed { color: #c1121f; font-weight: 600; }
figure { margin: 1rem 0; } figure svg { width: 100%; height: auto; } figcaption { font-weight: 600; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; } .quiet { color: #6c757d; }
details > summary { cursor: pointer; margin: .4rem 0; }
"""


def write_page(file: Path, rig: Rig) -> None:
    """Writes it; whoever reads the file meanwhile finds the old one or the new one."""
    text = page(rig)
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def page(rig: Rig) -> str:
    """The whole page."""
    report = rig.report
    goals = report.with_goal
    met = sum(1 for figure in goals if figure.ok)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8"><title>tmem beside its peers</title>',
        f"<style>{_STYLE}</style></head><body>",
        "<h1>tmem beside memcached, Redis and Valkey</h1>",
        f"<p class=quiet>{_text(_subtitle(report.about))}</p>",
        f"<h2>Goals: {met} of {len(goals)} met</h2>",
        _table(["", "goal", "measured", "spread", ""], [table_row(figure) for figure in goals]),
        *(f"<p class=missed>{_text(reason)}</p>" for reason in report.failed.values()),
        *(f"<p class=quiet>{_text(reason)}</p>" for reason in report.not_run.values()),
        "<h2>Plots</h2>",
        *(f"<figure><figcaption>{_text(title)}</figcaption>{svg}</figure>" for title, svg in draw(rig.series)),
        "<h2>Who does what</h2><dl>",
        *(f"<dt>{_text(title)}</dt><dd>{_text(text)}</dd>" for title, text in FAIRNESS.items()),
        "</dl><h2>Machine and versions</h2>",
        _table(["", ""], _machine(rig)),
        "<h2>Every figure</h2>",
        *_figures(report),
        "<h2>How much was measured</h2>",
        _table(["", ""], [[name, _plain(value)] for name, value in sorted(report.about.items()) if _is_plain(value)]),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _subtitle(about: dict[str, Any]) -> str:
    machine = about["machine"]
    load = ", ".join(f"{value:g}" for value in machine["load_average_at_start"])
    quick = "; a quick run, so figures are rough" if about.get("quick") else ""
    shrunk = "; shrunk to try the command: the figures mean nothing" if about.get("shrink", 1) > 1 else ""
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}; load average at the start {load}{quick}{shrunk}"


def _machine(rig: Rig) -> Iterable[Sequence[str]]:
    about = rig.report.about
    for name, value in about["machine"].items():
        yield [name.replace("_", " "), _plain(value)]
    yield ["CPU of the servers", _plain(about["server_cpu"])]
    yield ["CPU of the clients", _plain(about["client_cpu"])]
    for name, value in about["versions"].items():
        yield [name, value]


def _figures(report: Report) -> Iterable[str]:
    for name, figures in report.figures.items():
        load, seconds = report.about[f"{name}_load_average"], report.about[f"{name}_measured_in_seconds"]
        yield f"<details><summary>{_text(name)}: measured in {seconds:.0f} s, load average {load:g} at its end</summary>"
        yield _table(["", "goal", "measured", "spread", ""], map(table_row, figures))
        yield "</details>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{_text(column)}</th>" for column in columns)
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        first, *rest = row
        within = " class=within" if first.startswith(" ") else ""
        cells = [f"<td{within}>{_text(first.strip())}</td>"]
        for cell in rest:
            kind = {"ok": " class=ok", "MISSED": " class=missed"}.get(cell, "")
            cells.append(f"<td{kind}>{_text(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _is_plain(value: Any) -> bool:
    return not isinstance(value, dict)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _text(text: str) -> str:
    return html.escape(text)
