"""The options that every command shares, and the way to a server.

Owns: --target, --token-file and --json; the exit statuses; the translation of errors into one line.

Exit status of every command: 0 done, 1 done and something is wrong (a check failed, bytes differ), 2 wrong usage,
3 the server can't be reached or refused.
"""

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

import tmem.client
from tmem.wire.errors import LocalError, TmemError

from .output import talk

__all__ = ["Server", "fail", "server_options"]

DEFAULT_TARGET = "127.0.0.1:8636"

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Server:
    """Where a command goes.

    Attributes:
        json: print JSON.
    """

    target: str
    token: str | None
    json: bool

    def connect(self, **options: Any) -> tmem.client.Client:
        """A client."""
        return tmem.client.connect(self.target, token=self.token, name=f"tmem[{os.getpid()}]", **options)


def fail(message: str, status: int) -> NoReturn:
    """Ends the command with one line on standard error."""
    talk.print(f"tmem: {message}", markup=False, soft_wrap=True)
    sys.exit(status)


def server_options(command: F) -> F:
    """Adds the shared options; the command gets a Server as its first argument."""

    @click.option(
        "--target",
        envvar="TMEM_TARGET",
        default=DEFAULT_TARGET,
        show_default=True,
        show_envvar=True,
        help="The server: HOST:PORT or unix:PATH.",
    )
    @click.option(
        "--token-file",
        envvar="TMEM_TOKEN_FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        show_envvar=True,
        help="File with the tenant's token; TMEM_TOKEN holds the token itself.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def wrapped(target: str, token_file: Path | None, as_json: bool, **arguments: Any) -> Any:
        token = token_file.read_text("utf-8").strip() if token_file else os.environ.get("TMEM_TOKEN")
        try:
            return command(Server(target, token, as_json), **arguments)
        except LocalError as error:
            fail(str(error), 2)
        except TmemError as error:
            fail(str(error), 3)

    return wrapped  # type: ignore[return-value]
