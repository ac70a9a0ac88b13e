"""The command `tmem` and its sub-commands."""

from importlib.metadata import version

import click

from .bench import bench
from .demo import demo
from .doctor import doctor
from .ping import ping
from .pools import destroy, pools, stat

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("tmem"), message="tmem %(version)s")
def main() -> None:
    """Remote memory: look at a tmem server, measure it, try it.

    Exit status: 0 done, 1 done and something is wrong, 2 wrong usage, 3 the server can't be reached or refused.
    """


for command in (ping, pools, stat, destroy, demo, bench, doctor):
    main.add_command(command)
