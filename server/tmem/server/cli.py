"""The command `tmemd`.

Owns: its flags, its exit status and its one line on standard output. Exit status: 0 it served and was asked to stop, 1 it
failed while serving, 2 it was asked for something that can't be (a port in use, a bad size, an unknown key); with --run the
command's own.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .config import ConfigError, Loaded, add_flags, load
from .host.ports import AddressInUseError
from .observe import logs
from .shards.errors import ShardError
from .store.journal.entries import JournalError
from .tenants import Tenants, TokenFileError

if TYPE_CHECKING:
    from .daemon import Daemon
    from .shards.supervisor import ShardedDaemon

__all__ = ["main"]

_EPILOG = """\
Every setting is also an environment variable (--memory-limit: TMEM_MEMORY_LIMIT) and a key of the TOML file
(memory_limit). A flag wins over the environment, the environment over the file.

When the daemon is ready it prints one line, "tmemd ready target=HOST:PORT metrics=HOST:PORT", and serves until SIGTERM
or SIGINT: then it drains, and a second signal ends it at once. SIGHUP reads the token file again. SIGUSR1 prints the
stacks of all threads, and all tasks, to standard error. With --run, SIGTERM and SIGINT go to the command, and the
daemon ends with it.

Exit status: 0 stopped as asked, 1 failed while serving, 2 bad settings or an address in use; with --run, the command's.
"""


_GRPC = {
    # Its fork handlers are for programs that fork and go on; the daemon only starts commands. Without them it says nothing about
    # threads at each start.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # Its event engine reads each connection on threads of a pool, and every message is handed on once more: measured, a lone get takes an
    # eighth longer, and an extent a tenth more of the daemon's CPU. A version that has no other way says so in a line, and goes on.
    "GRPC_EXPERIMENTS": "-event_engine_listener",
}


class _Parser(argparse.ArgumentParser):
    """Errors in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="tmemd",
        description="Holds compressed pages of many clients in this machine's memory, over gRPC.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"tmemd {distribution_version('tmem')}")
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file of settings (TMEM_CONFIG)")
    parser.add_argument("--dump-config", action="store_true", help="print the settings as a TOML file, and exit")
    parser.add_argument("--check-config", action="store_true", help="check settings and token file, and exit")
    parser.add_argument(
        "--run", metavar="CMD", help="serve only while this shell command runs; it finds the daemon by TMEM_TARGET"
    )
    add_flags(parser.add_argument_group("settings"))  # type: ignore[arg-type]
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; answers its exit status."""
    parser = _parser()
    flags = vars(parser.parse_args(arguments))
    config, dump, check, run = (flags.pop(name) for name in ("config", "dump_config", "check_config", "run"))
    try:
        loaded = load(flags, file=config)
        if dump:
            print(loaded.dump(), end="")
            return 0
        if check:
            if loaded.settings.tokens is not None:
                Tenants.load(loaded.settings.tokens)
            print("the settings are good")
            return 0
        return _serve(loaded, run)
    except (ConfigError, TokenFileError, AddressInUseError, JournalError, ShardError) as error:
        print(f"tmemd: {error}", file=sys.stderr)
        return 2


def _serve(loaded: Loaded, command: str | None) -> int:
    logs.set_up(loaded.settings.log_level, loaded.settings.log_format, loaded.settings.shard)
    runner: Callable[[Coroutine[Any, Any, int]], int]
    if loaded.settings.loop == "uvloop":
        import uvloop

        runner = uvloop.run
    else:
        runner = asyncio.run
    return runner(_run(loaded, command))


async def _start(daemon: "Daemon | ShardedDaemon", asked_to_stop: asyncio.Event) -> bool:
    """Starts the daemon; False if it was asked to stop before it was ready, and has stopped."""
    start = asyncio.ensure_future(daemon.start())
    stop = asyncio.ensure_future(asked_to_stop.wait())
    await asyncio.wait([start, stop], return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if start.done():
        start.result()
        return True
    start.cancel()
    await asyncio.wait([start])
    if start.cancelled():
        return False
    start.result()
    return True


async def _run(loaded: Loaded, command: str | None) -> int:
    # Before gRPC is loaded; what the user has set counts.
    ours = {name: value for name, value in _GRPC.items() if name not in os.environ}
    os.environ.update(ours)
    # Imported here: a bad flag is answered before gRPC is loaded.
    from .daemon import Daemon
    from .host.captive import Captive
    from .host.stacks import print_on_signal
    from .shards.control import listen_to_supervisor
    from .shards.plan import check_journal
    from .shards.supervisor import ShardedDaemon

    settings = loaded.settings
    daemon: Daemon | ShardedDaemon
    if settings.shards > 1:
        daemon = ShardedDaemon(settings)
    else:
        if not settings.shard:
            check_journal(settings.journal, 1)
        daemon = Daemon(settings, distribution_version("tmem"))
    captive = Captive(command, without=ours) if command is not None else None
    asked_to_stop = asyncio.Event()
    must_stop = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if captive is not None:
            captive.signal(number)
        (must_stop if asked_to_stop.is_set() else asked_to_stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    # Before the daemon is ready: systemd may ask for a reload as soon as it is told so.
    loop.add_signal_handler(signal.SIGHUP, daemon.reload)
    print_on_signal(loop)
    if not await _start(daemon, asked_to_stop):
        return 0
    status = 0
    supervisor = None
    if isinstance(daemon, Daemon) and settings.shard:
        supervisor = asyncio.create_task(listen_to_supervisor(daemon.learn_shards, asked_to_stop.set))
    try:
        if captive is not None:
            status = await captive.run(daemon.target, daemon.metrics_address)
        else:
            print(f"tmemd ready target={daemon.target} metrics={daemon.metrics_address or 'none'}", flush=True)
            await asked_to_stop.wait()
            drain = asyncio.ensure_future(daemon.drain())
            cut = asyncio.ensure_future(must_stop.wait())
            await asyncio.wait([drain, cut], return_when=asyncio.FIRST_COMPLETED)
            cut.cancel()
            drain.cancel()
            await asyncio.wait([drain, cut])
    finally:
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor])
        await daemon.stop()
    return status
