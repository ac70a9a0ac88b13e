"""Options that several `tmem bench ...` commands have. Imports nothing of the server."""

import os
from pathlib import Path

import click

__all__ = ["report_option"]


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
