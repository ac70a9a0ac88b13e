"""The command `tmem` and its sub-commands.

Owns: the list of commands, and how they end when the machine fails them: one line, never a traceback.
"""

import os
import sys
from importlib.metadata import version
from typing import Any

import click

from .bench import bench
from .conformance.command import conformance
from .demo import demo
from .doctor import doctor
from .options import fail
from .ping import ping
from .pools import destroy, explain, pools, stat
from .run import run
from .snapshot import snapshot
from .swap import swap
from .torture.command import torture

__all__ = ["main"]


class _Commands(click.Group):
    """The commands; standard output is written out before they end, so that its failure is seen and said."""

    def main(self, *arguments: Any, **options: Any) -> Any:
        try:
            try:
                return super().main(*arguments, **options)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()
        except BrokenPipeError:
            _let_go_of_output()
            sys.exit(1)
        except OSError as error:
            _let_go_of_output()
            fail(str(error), 1)


def _let_go_of_output() -> None:
    """What standard output still holds goes nowhere: the interpreter would try once more, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("tmem"), message="tmem %(version)s")
def main() -> None:
    """Remote memory: look at a tmem server, measure it, try it.

    Exit status: 0 done, 1 something is wrong, 2 wrong usage, 3 the server can't be reached or refused, 130 interrupted.
    """


for command in (ping, pools, stat, explain, snapshot, destroy, run, swap, demo, bench, conformance, torture, doctor):
    main.add_command(command)
