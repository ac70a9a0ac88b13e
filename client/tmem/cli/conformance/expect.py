"""What checks say when something is not as it must be.

Owns: the two ways for a check to end early, and the comparisons that checks are made of. Not `assert`: an interpreter that is told to
optimise would leave it out, and pass everything.
"""

from collections.abc import Callable

from tmem.wire.errors import TmemError
from tmem.wire.results import Code

__all__ = ["CannotRun", "Seen", "Violation", "expect", "refused", "same", "show"]

Seen = bytes | Code
"""A page, or why it is not there."""


class Violation(Exception):  # noqa: N818  a verdict
    """The statement does not hold; the message says what was found."""


class CannotRun(Exception):  # noqa: N818  a verdict
    """The statement can't be looked at here; the message says why."""


def expect(holds: object, what: str) -> None:
    """Raises Violation with `what` unless it holds."""
    if not holds:
        raise Violation(what)


def show(value: object) -> str:
    """A value for a message; pages are told apart, not printed."""
    if isinstance(value, bytes | bytearray | memoryview):
        data = bytes(value)
        return f"<{len(data)} bytes {data[:8].hex()}..>" if len(data) > 32 else repr(data)
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"[{', '.join(show(item) for item in value[:8])}, .. {len(value)} in all]"
    if isinstance(value, list | tuple):
        return f"[{', '.join(show(item) for item in value)}]"
    return value.name if isinstance(value, Code) else str(value)


def same(found: object, wanted: object, what: str) -> None:
    """Raises Violation unless both are equal."""
    if found != wanted:
        raise Violation(f"{what}: found {show(found)}, wanted {show(wanted)}")


def refused(call: Callable[[], object], *kinds: type[TmemError], what: str) -> TmemError:
    """The error that a call ends with, which must be of one of some kinds."""
    names = " or ".join(kind.__name__ for kind in kinds)
    try:
        call()
    except kinds as error:
        return error
    except TmemError as error:
        raise Violation(f"{what}: {type(error).__name__} ({error}) instead of {names}") from error
    raise Violation(f"{what}: done, instead of {names}")
