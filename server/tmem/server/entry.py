"""Where `tmemd` begins: says in one line what is missing when its extra is not installed."""

import sys

__all__ = ["main"]

_EXTRA = {"grpc_health", "grpc_reflection", "prometheus_client", "pydantic", "structlog", "uvloop"}


def main() -> int:
    """Runs the daemon; answers its exit status."""
    try:
        from .cli import main as daemon

        return daemon()  # here too: some modules of the extra are loaded when they are needed
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.exit(f"tmemd: {error.name} is not installed: the daemon needs an extra: pip install 'tmem[server]'")
