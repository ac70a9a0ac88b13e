"""Options that several `tmem bench ...` commands have. Imports nothing of the server."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["only_option", "report_option", "shrink_option"]


def _writable(_context: click.Context, _option: click.Parameter, file: Path | None) -> Path | None:
    """A report that can't be written is refused before a quarter of an hour is spent on it."""
    if file is not None:
        if not file.parent.is_dir():
            raise click.BadParameter(f"there is no directory {file.parent}")
        if file.is_dir():
            raise click.BadParameter(f"{file} is a directory")
        if not os.access(file if file.exists() else file.parent, os.W_OK):
            raise click.BadParameter(f"{file} can't be written to")
    return file


report_option = click.option(
    "--report",
    metavar="FILE",
    type=click.Path(path_type=Path),
    callback=_writable,
    help="Write an HTML page with tables and plots, too; its directory must exist.",
)
"""Where the page goes; None without."""


def shrink_option(meaningless: str) -> Callable[[Any], Any]:
    """What tests and first tries divide all sizes by; and what of the report means nothing then."""
    return click.option(
        "--shrink",
        metavar="N",
        default=1,
        show_default=True,
        type=click.IntRange(1),
        help=f"Divide all sizes by N, to try the command; {meaningless} mean nothing then.",
    )


def only_option(names: Sequence[str]) -> Callable[[Any], Any]:
    """Which of a command's measurements are taken; none named: all."""
    return click.option(
        "--only",
        metavar="NAME",
        multiple=True,
        type=click.Choice(names),
        help=f"Measure only this; may be given several times. One of {', '.join(names)}.",
    )
