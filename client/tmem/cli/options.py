"""The options that every command shares, and the way to a server.

Owns: --target, --token-file and --json; the exit statuses; the translation of errors into one line.

Exit status of every command: 0 done, 1 something is wrong (a check failed, bytes differ, this machine can't), 2 wrong usage,
3 the server can't be reached or refused, 130 interrupted.
"""

import functools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click

import tmem.client
from tmem.wire.errors import LocalError, MachineError, TmemError

from .output import talk

__all__ = ["Server", "check_target", "fail", "failures_told", "read_token", "server_options"]

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
    talk.print(f"tmem: {message}", soft_wrap=True)
    sys.exit(status)


def read_token(file: Path | None) -> str | None:
    """The token that a file holds; TMEM_TOKEN without one."""
    if file is None:
        return os.environ.get("TMEM_TOKEN")
    try:
        return file.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file} can't be read: {error}", param_hint="--token-file") from error


def check_target(_context: click.Context, _option: click.Parameter, target: str | None) -> str | None:
    """The callback of --target. A port too large would be taken modulo 65536 by gRPC, and none at all replaced by one of its own: they are refused."""
    if target is None:
        return None
    if target.startswith("unix:"):
        if target != "unix:":
            return target
    else:
        host, _, port = target.rpartition(":")
        whole = ":" not in host or host.startswith("[") or "//" in host  # such as dns:///name
        if host and whole and port.isdecimal() and port.isascii() and 0 < int(port) < 65536:
            return target
    raise click.BadParameter(f"{target!r} is neither HOST:PORT (an IPv6 address in brackets) nor unix:PATH")


def server_options(command: F) -> F:
    """Adds the shared options; the command gets a Server as its first argument."""

    @click.option(
        "--target",
        envvar="TMEM_TARGET",
        default=DEFAULT_TARGET,
        callback=check_target,
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
        with failures_told():
            return command(Server(target, read_token(token_file), as_json), **arguments)

    return wrapped  # type: ignore[return-value]


@contextmanager
def failures_told() -> Iterator[None]:
    """Ends the command with one line, and the status that says what kind of failure it was."""
    try:
        yield
    except LocalError as error:
        fail(str(error), 2)
    except MachineError as error:
        fail(str(error), 1)
    except TmemError as error:
        fail(str(error), 3)
    except ModuleNotFoundError as error:
        if "tmem[" not in str(error):
            raise
        fail(str(error), 1)  # an extra is not installed
    except KeyboardInterrupt:
        fail("interrupted", 130)
