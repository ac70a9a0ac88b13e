"""HTML pages that need nothing else: the parts that every report is made of.

Owns: how a page, a table and a figure look, and how the file is written. Must not know: what was measured.
"""

import html
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .figures import Report
from .plots import Plot
from .run import table_row

__all__ = [
    "document",
    "every_figure",
    "goals",
    "how_much",
    "machine",
    "plain",
    "plots",
    "subtitle",
    "table",
    "text",
    "write",
]

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
_COLUMNS = ("", "goal", "measured", "spread", "")


def write(file: Path, page: str) -> None:
    """Writes a page; whoever reads the file meanwhile finds the old one or the new one."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as out:
            out.write(page)
        Path(name).chmod(0o644)
        Path(name).replace(file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def document(title: str, heading: str, parts: Iterable[str]) -> str:
    """A whole page around its parts, which are HTML already."""
    head = f'<html lang="en"><head><meta charset="utf-8"><title>{text(title)}</title>'
    lines = [
        "<!DOCTYPE html>",
        head,
        f"<style>{_STYLE}</style></head><body>",
        f"<h1>{text(heading)}</h1>",
        *parts,
        "</body></html>",
    ]
    return "\n".join(lines) + "\n"


def subtitle(about: dict[str, Any]) -> str:
    """The machine, its load, and what a reader has to know before any figure."""
    found = about["machine"]
    load = ", ".join(f"{value:g}" for value in found["load_average_at_start"])
    quick = "; a quick run, so figures are rough" if about.get("quick") else ""
    shrunk = "; shrunk to try the command: the figures mean nothing" if about.get("shrink", 1) > 1 else ""
    words = (
        f"{found['cpu']}, {found['cores']} cores, {found['kernel']}; load average at the start {load}{quick}{shrunk}"
    )
    return f"<p class=quiet>{text(words)}</p>"


def goals(report: Report) -> Iterable[str]:
    """Every goal beside what was measured, and what could not be."""
    found = report.with_goal
    yield f"<h2>Goals: {sum(1 for figure in found if figure.ok)} of {len(found)} met</h2>"
    yield table(_COLUMNS, map(table_row, found))
    yield from (f"<p class=missed>{text(reason)}</p>" for reason in report.failed.values())
    yield from (f"<p class=quiet>{text(reason)}</p>" for reason in dict.fromkeys(report.not_run.values()))


def plots(drawn: Iterable[Plot]) -> Iterable[str]:
    """Each plot under its title."""
    yield from (f"<figure><figcaption>{text(title)}</figcaption>{svg}</figure>" for title, svg in drawn)


def every_figure(report: Report) -> Iterable[str]:
    """Each measurement with all that it found, to be unfolded."""
    yield "<h2>Every figure</h2>"
    for name, figures in report.figures.items():
        load, seconds = report.about[f"{name}_load_average"], report.about[f"{name}_measured_in_seconds"]
        yield f"<details><summary>{text(name)}: measured in {seconds:.0f} s, load average {load:g} at its end</summary>"
        yield table(_COLUMNS, map(table_row, figures))
        yield "</details>"


def machine(about: dict[str, Any]) -> Iterable[Sequence[str]]:
    """Rows of a table: what was measured on."""
    yield from ([name.replace("_", " "), plain(value)] for name, value in about["machine"].items())


def how_much(report: Report) -> Iterable[str]:
    """Sizes and settings of the run."""
    yield "<h2>How much was measured</h2>"
    about = report.about.items()
    yield table(["", ""], [[name, plain(value)] for name, value in sorted(about) if not isinstance(value, dict)])


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column is text, indented where it begins with a blank, the others are figures."""
    head = "".join(f"<th>{text(column)}</th>" for column in columns)
    lines = [f"<table><thead><tr>{head}</tr></thead><tbody>"]
    for row in rows:
        first, *rest = row
        within = " class=within" if first.startswith(" ") else ""
        cells = [f"<td{within}>{text(first.strip())}</td>"]
        for cell in rest:
            kind = {"ok": " class=ok", "MISSED": " class=missed"}.get(cell, "")
            cells.append(f"<td{kind}>{text(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def plain(value: Any) -> str:
    """A setting, for people."""
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def text(words: str) -> str:
    """Words, as HTML."""
    return html.escape(words)
