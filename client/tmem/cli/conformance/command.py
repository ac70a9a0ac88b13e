"""`tmem conformance`: every statement, and whether it holds.

Owns: the choice of statements, and how verdicts are printed.
"""

from pathlib import Path

import click

from tmem.cli.options import check_target, fail, failures_told, read_token
from tmem.cli.output import console, print_json, progress, talk

from .faces import FACES
from .kit import Outcome, Statement, run, statements
from .stage import Endpoint

__all__ = ["conformance"]

_MARKS = {"passed": "ok", "failed": "FAILED", "not_run": "not run"}


def _numbers(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> list[int]:
    """`7` and `14-28` as numbers."""
    chosen: list[int] = []
    for text in texts:
        first, dash, last = text.partition("-")
        try:
            chosen += range(int(first), int(last if dash else first) + 1)
        except ValueError as error:
            raise click.BadParameter(f"{text!r} is neither a number nor a range such as 14-28") from error
    return chosen


@click.command()
@click.argument("numbers", nargs=-1, callback=_numbers, metavar="[NUMBER | FIRST-LAST]...")
@click.option(
    "--target",
    envvar="TMEM_TARGET",
    callback=check_target,
    show_envvar=True,
    help="The server: HOST:PORT or unix:PATH.  [default: daemons of the kit's own]",
)
@click.option(
    "--token-file",
    envvar="TMEM_TOKEN_FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    show_envvar=True,
    help="File with the tenant's token.",
)
@click.option(
    "--second-token-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the token of another tenant of the server, for statements that need two.",
)
@click.option("--metrics-url", envvar="TMEM_METRICS", show_envvar=True, help="The server's /metrics, for its counters.")
@click.option(
    "--daemon-flag",
    "flags",
    multiple=True,
    metavar="FLAG",
    help="A flag of tmemd for every daemon that the kit starts; may be given several times.",
)
@click.option(
    "--face",
    type=click.Choice(list(FACES)),
    default="blocking",
    show_default=True,
    help="Which client the checks use: the library's, or the agents' link.",
)
@click.option("--list", "list_only", is_flag=True, help="Print the statements and check nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def conformance(
    numbers: list[int],
    target: str | None,
    token_file: Path | None,
    second_token_file: Path | None,
    metrics_url: str | None,
    flags: tuple[str, ...],
    face: str,
    list_only: bool,
    as_json: bool,
) -> None:
    """Check what a tmem service must do, statement by statement.

    Without --target against daemons that the command starts, fills, breaks and ends. With --target only pools of the command's own names
    are made there, and ended again; what can't be looked at so is not run, and says why. A star marks what a networked service adds, and choices
    where its ancestors differ. Exit status 1: a statement does not hold.
    """
    try:
        chosen = statements(numbers)
    except KeyError as error:
        raise click.BadParameter(f"there is no statement {error}", param_hint="NUMBER") from error
    if list_only:
        _list(chosen, as_json=as_json)
        return
    with failures_told():
        endpoint = Endpoint(
            target,
            token=read_token(token_file),
            second_token=None if second_token_file is None else read_token(second_token_file),
            metrics_url=metrics_url,
            flags=flags,
            connect=FACES[face],
        )
        if target is not None:
            with endpoint.connect(target, token=endpoint.token("first")):
                pass  # it is there: else every statement would say that it is not
        outcomes = _check(chosen, endpoint, quiet=as_json)
    if as_json:
        _print_json(outcomes, target)
    else:
        _print_sums(outcomes)
    failed = [outcome for outcome in outcomes if outcome.verdict == "failed"]
    if failed:
        fail(f"{len(failed)} of {len(outcomes)} statements do not hold", 1)


def _list(chosen: list[Statement], *, as_json: bool) -> None:
    if as_json:
        print_json([{"number": item.number, "text": item.text, "added": item.added} for item in chosen])
        return
    for item in chosen:
        console.print(f"{item.number:>3}{'*' if item.added else ' '} {item.text}")


def _check(chosen: list[Statement], endpoint: Endpoint, *, quiet: bool) -> list[Outcome]:
    outcomes = []
    with endpoint, progress() as bars:
        bar = bars.add_task("checking", total=len(chosen))
        for item in chosen:
            bars.update(bar, description=f"checking statement {item.number}")
            outcome = run(item, endpoint)
            outcomes.append(outcome)
            bars.advance(bar)
            if not quiet:
                _say(outcome)
            elif not talk.is_terminal and outcome.verdict == "failed":
                talk.print(f"statement {item.number}: {outcome.why}", soft_wrap=True)
    return outcomes


def _say(outcome: Outcome) -> None:
    item = outcome.statement
    console.print(f"{_MARKS[outcome.verdict]:>8} {item.number:>3}{'*' if item.added else ' '} {item.text}")
    if outcome.why:
        console.print(f"{'':>13}{outcome.why}")


def _print_sums(outcomes: list[Outcome]) -> None:
    counts = {verdict: sum(outcome.verdict == verdict for outcome in outcomes) for verdict in _MARKS}
    console.print(
        f"{counts['passed']} of {len(outcomes)} statements hold, {counts['failed']} do not, {counts['not_run']} were not run."
    )


def _print_json(outcomes: list[Outcome], target: str | None) -> None:
    report: dict[str, object] = {
        verdict: [outcome.statement.number for outcome in outcomes if outcome.verdict == verdict] for verdict in _MARKS
    }
    report["why"] = {outcome.statement.number: outcome.why for outcome in outcomes if outcome.why}
    report["target"] = target
    report["seconds"] = round(sum(outcome.seconds for outcome in outcomes), 1)
    print_json(report)
