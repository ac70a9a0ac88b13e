"""What a statement is, and what becomes of it.

Owns: the list of statements as the modules of checks register them, and the verdict of one check: it passed, it failed, or it could not run
and says why. A check that could not run never counts as passed. A check that hangs has failed: it is given up after its time.

Must not know: what the statements say.
"""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .expect import CannotRun, Violation
from .stage import Endpoint, Stage

__all__ = ["Outcome", "Statement", "Verdict", "run", "statement", "statements"]

Verdict = Literal["passed", "failed", "not_run"]
Check = Callable[[Stage], None]

# The longest a check may take; the slowest needs a fifth of it on a busy machine.
_MAX_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that a tmem service does.

    Attributes:
        number: what it is known by; never used for another one.
        text: the sentence.
        added: the statement is a networked service's, or a choice where the ancestors differ; it is listed with a star.
        check: raises Violation if it is not so, CannotRun if that can't be told here.
    """

    number: int
    text: str
    added: bool
    check: Check


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one statement.

    Attributes:
        why: what was found instead, or why the check could not run; "" if it passed.
        seconds: how long it took.
    """

    statement: Statement
    verdict: Verdict
    why: str
    seconds: float


_STATEMENTS: dict[int, Statement] = {}


def statement(number: int, text: str, *, added: bool = False) -> Callable[[Check], Check]:
    """Registers the check of a statement."""

    def register(check: Check) -> Check:
        if number in _STATEMENTS:
            raise ValueError(f"statement {number} is there twice")
        _STATEMENTS[number] = Statement(number, text, added, check)
        return check

    return register


def statements(numbers: Iterable[int] = ()) -> list[Statement]:
    """All statements in order of their numbers, or the chosen ones; raises KeyError for a number that there is not."""
    # Each registers its statements when it is imported.
    from . import (  # noqa: F401
        adapters,
        coherency,
        eviction,
        extents,
        handles,
        lifecycle,
        metrics,
        pages,
        pools,
        quotas,
        remote,
        sharing,
    )

    chosen = sorted(set(numbers)) or sorted(_STATEMENTS)
    return [_STATEMENTS[number] for number in chosen]


def run(chosen: Statement, endpoint: Endpoint) -> Outcome:
    """Carries out the check of one statement; whatever it made is gone afterwards."""
    begun = time.monotonic()
    result: list[tuple[Verdict, str]] = []

    def carry_out() -> None:
        try:
            with Stage(endpoint, chosen.number) as stage:
                chosen.check(stage)
            result.append(("passed", ""))
        except CannotRun as cannot:
            result.append(("not_run", str(cannot)))
        except Violation as violation:
            result.append(("failed", str(violation)))
        except Exception as error:  # noqa: BLE001  whatever it is, the statement is not shown to hold
            result.append(("failed", f"{type(error).__name__}: {error}"))

    # In a thread of its own, so that one that hangs can be left behind.
    thread = threading.Thread(target=carry_out, name=f"statement-{chosen.number}", daemon=True)
    thread.start()
    thread.join(_MAX_SECONDS)
    verdict, why = result[0] if result else ("failed", f"the check did not end within {_MAX_SECONDS:g} s")
    return Outcome(chosen, verdict, why, time.monotonic() - begun)
