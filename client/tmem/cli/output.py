"""How commands speak: figures to standard output, talk to standard error, JSON when asked.

Owns: tables, progress bars and the JSON form. NO_COLOR and a standard output that is no terminal are respected.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

__all__ = ["console", "format_bytes", "print_json", "print_table", "progress", "talk"]

# What is printed is names, addresses and figures: brackets and colons in them are no markup.
console = Console(highlight=False, soft_wrap=True, markup=False, emoji=False)
talk = Console(stderr=True, highlight=False, markup=False, emoji=False)
if not console.is_terminal:
    console.width = 1000  # into a pipe or a file a table goes whole; nobody is there to widen the window


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """One JSON object or array, on standard output; without indentation, in one line."""
    json.dump(value, sys.stdout, indent=indent, default=_plain)
    sys.stdout.write("\n")


def _plain(value: Any) -> Any:
    return value.hex() if isinstance(value, bytes) else str(value)


def print_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, notes: Sequence[str] = ()
) -> None:
    """A table; the first column is text, the others are figures."""
    table = Table(title=title, title_justify="left", caption="\n".join(notes) or None, caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=number == 0, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def progress() -> Progress:
    """A progress bar on standard error; silent where that is no terminal."""
    return Progress(
        TextColumn("{task.description:<28}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=talk,
        transient=True,
        disable=not talk.is_terminal,
    )


def format_bytes(size: float) -> str:
    """A number of bytes for people, in decimal units, as everywhere in these reports."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000 or unit == "GB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""
