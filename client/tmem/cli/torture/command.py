"""`tmem torture`: random operations, recorded, and held against a model.

Owns: the command, and how a history that can't be is printed.
"""

import secrets
import time
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

import tmem.client
from tmem.cli.options import check_target, fail, failures_told, read_token
from tmem.cli.output import console, print_json, progress, talk
from tmem.client.testing import CaptiveDaemon

from .history import check, shrink
from .load import Load, Plan

__all__ = ["torture"]

_EACH_ROUND = 2000
_MOST_FINDINGS = 3


@click.command()
@click.option(
    "--target",
    envvar="TMEM_TARGET",
    callback=check_target,
    show_envvar=True,
    help="The server: HOST:PORT or unix:PATH.  [default: a daemon of the command's own, with little memory]",
)
@click.option(
    "--token-file",
    envvar="TMEM_TOKEN_FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_envvar=True,
    help="File with the tenant's token.",
)
@click.option("--seed", type=int, help="Ask the same again.  [default: another one each time]")
@click.option("--seconds", type=click.FloatRange(0.1), default=30.0, show_default=True, help="For how long.")
@click.option("--clients", type=click.IntRange(1, 64), default=3, show_default=True, help="How many.")
@click.option("--threads", type=click.IntRange(1, 16), default=2, show_default=True, help="Of each client.")
@click.option(
    "--daemon-flag", "flags", multiple=True, metavar="FLAG", help="A flag of tmemd for the daemon of its own."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def torture(
    target: str | None,
    token_file: Path | None,
    seed: int | None,
    seconds: float,
    clients: int,
    threads: int,
    flags: tuple[str, ...],
    as_json: bool,
) -> None:
    """Ask a server at random, from several clients at once, and check that all its answers can be true.

    Puts, gets, takes, flushes, freezes and hurried calls meet on few pages. Every operation is recorded, and the history is held against a model of each
    page. What can't be true is shrunk to the operations that contradict each other, and printed. Exit status 1: something can't.
    """
    chosen = secrets.randbelow(1 << 32) if seed is None else seed
    with failures_told(), ExitStack() as stack:
        if target is None:
            if find_spec("tmem.server") is None or find_spec("pydantic") is None:
                fail("without --target this needs the server: pip install 'tmem[cli,server]'", 1)
            daemon = stack.enter_context(CaptiveDaemon("--memory-limit", "1MiB", *flags))
            target = daemon.target
        report = _run(target, read_token(token_file), Plan(chosen, clients, threads), seconds)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if report["findings"]:
        fail(f"{report['wrong']} answers can't be true; ask again with --seed {chosen}", 1)


def _run(target: str, token: str | None, plan: Plan, seconds: float) -> dict[str, Any]:
    """Rounds of their own pools, each checked by itself, so that no history grows beyond what can be held."""
    deadline = time.monotonic() + seconds
    report: dict[str, Any] = {"seed": plan.seed, "rounds": 0, "operations": 0, "page_operations": 0, "wrong": 0}
    report |= {"tally": {}, "findings": []}

    def connect(**options: Any) -> tmem.client.Client:
        return tmem.client.connect(target, token=token, **options)

    with progress() as bars:
        bar = bars.add_task("torturing", total=seconds)
        while not report["findings"] and time.monotonic() < deadline:
            number = report["rounds"]
            run = secrets.token_hex(4)
            round_plan = Plan(plan.seed + number, plan.clients, plan.threads)
            with Load(connect, round_plan, lambda name, run=run: f"torture-{run}-{name}") as load:  # type: ignore[misc]
                load.start(_EACH_ROUND)
                load.wait(max(0.1, deadline - time.monotonic()))
                load.look()
                history = load.history()
            findings = check(history)
            report["rounds"] += 1
            report["operations"] += len(history.operations)
            report["page_operations"] += history.pages()
            report["wrong"] += len(findings)
            for name, count in load.tally.items():
                report["tally"][name] = report["tally"].get(name, 0) + count
            for finding in findings[:_MOST_FINDINGS]:
                least = shrink(history, finding)
                report["findings"].append(
                    {"what": str(finding), "history": [str(operation) for operation in least.operations]}
                )
            bars.update(bar, completed=seconds - max(0.0, deadline - time.monotonic()))
            if not talk.is_terminal:
                talk.print(f"round {report['rounds']}: {len(history.operations):,} operations", soft_wrap=True)
    return report


def _print(report: dict[str, Any]) -> None:
    console.print(
        f"seed {report['seed']}: {report['operations']:,} operations on {report['page_operations']:,} pages in {report['rounds']} rounds, "
        f"{report['wrong']} answers that can't be true"
    )
    for name, count in sorted(report["tally"].items()):
        console.print(f"  {count:>9,} {name}")
    for finding in report["findings"]:
        console.print(finding["what"])
        console.print("  the least history that shows it (asked .. answered, who, what):")
        for line in finding["history"]:
            console.print(f"    {line}")
