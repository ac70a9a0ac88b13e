"""The guard of a run: takes back what the run did to the machine when the run itself can't any more.

Owns: the list of what there is to take back (undo.py says how), kept in a process of its own that reads it from a pipe. The pipe's end
without a word of good-bye means that the run was killed, or was interrupted while it cleaned up: what is on the list then is taken back,
the last first.

Ordering: a thing is put on the list before it is made where its name is known, and leaves it after it was taken back.

`python -m tmem.cli.bench_programs.guard`
"""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

from .undo import undo

__all__ = ["Guard"]

_END_SECONDS = 180.0


class Guard:
    """The guard, as the run sees it. Use it in a `with` statement, around everything else that the run makes."""

    def __init__(self) -> None:
        # In a session of its own, and nobody's child once it runs: neither Ctrl-C nor whoever ends this process's children is meant for it.
        ours, theirs = os.pipe()
        self._end, end = os.pipe()
        try:
            subprocess.run(  # noqa: S603  the interpreter itself
                [sys.executable, "-m", "tmem.cli.bench_programs.guard", str(end)],
                stdin=ours,
                stdout=subprocess.DEVNULL,
                pass_fds=(end,),
                start_new_session=True,
                cwd="/",
                check=True,
                timeout=_END_SECONDS,
            )
        finally:
            os.close(ours)
            os.close(end)
        self._pipe = theirs
        self._number = 0
        self._left: set[int] = set()

    @contextmanager
    def made(self, kind: str, *arguments: Any) -> Iterator[None]:
        """A thing that is there for the length of the block at most, and is taken back at its end.

        Args:
            kind: of undo.KINDS.
            *arguments: of its function.
        """
        self._number += 1
        number = self._number
        self._left.add(number)
        self._tell(number, kind, *arguments)
        try:
            yield
        finally:
            undo(kind, *arguments)
            self._left.discard(number)
            self._tell(number)

    def _tell(self, *words: Any) -> None:
        os.write(self._pipe, json.dumps(words).encode() + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._left:
            self._tell("done")
        os.close(self._pipe)
        # Until it has done what is left, if anything is.
        select.select([self._end], [], [], _END_SECONDS)
        os.close(self._end)


def main() -> None:
    """Keeps the list, and takes back what is left on it."""
    if os.fork():
        os._exit(0)  # whoever started it does not wait for it
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    left: dict[int, list[Any]] = {}
    for line in sys.stdin.buffer:
        number, *what = json.loads(line)
        if number == "done":
            return
        if what:
            left[number] = what
        else:
            left.pop(number, None)
    for what in reversed(left.values()):
        try:
            undo(*what)
        except Exception as error:  # noqa: BLE001  the others are to go, too
            with suppress(OSError):
                sys.stderr.write(f"tmem: {' '.join(map(str, what))} could not be taken back: {error}\n")


if __name__ == "__main__":
    main()
