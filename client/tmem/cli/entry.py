"""Where the command `tmem` begins: says in one line what is missing when its extra is not installed.

Owns: also Ctrl-C before the commands are there to answer it, as loading gRPC takes a moment.
"""

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command."""
    try:
        from .main import main as command
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit(f"tmem: {error.name} is not installed: the command needs an extra: pip install 'tmem[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    command(prog_name="tmem")
