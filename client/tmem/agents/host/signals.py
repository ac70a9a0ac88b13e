"""Signals that wait.

Owns: that a step which must not be left half done is not left by an exception out of a signal's handler, such as KeyboardInterrupt at a
Ctrl-C: Python may raise that between any two instructions, also between a system call's return and the line that notes what it did.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["held"]

_ASKING_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def held() -> Iterator[None]:
    """Signals that ask to end, and come within the block, are handled at its end.

    One that is ignored stays so. Elsewhere than in the main thread nothing happens: no handler ever runs there.
    """
    came: list[int] = []
    before = {number: handler for number in _ASKING_TO_END if (handler := signal.getsignal(number)) is not None}

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)

    try:
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, note)
    except ValueError:
        before = {}  # not the main thread
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in dict.fromkeys(came):
            signal.raise_signal(late)
