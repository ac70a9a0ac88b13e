"""GNU sort, of the logs of several hosts, one behind the other, by time."""

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

from .programs import Done, Program, Start, Wanted, missing_command, run_to_end

__all__ = ["Sort"]

_SEED = 1
# Of an event, as services log them: long lines that begin with a time. Each host's are in order. Sort leaves the lines where they are and takes
# each up once for each time that it merges: it goes through all hosts' at once, again and again.
_LINE_BYTES = 1024
_HOSTS = 16
_MOST_BETWEEN_NS = 2_000_000
# The rest is what sort keeps for each line, beside its text.
_SHARE_OF_TEXT = 0.92


class Sort(Program):
    """`sort` with one thread and a buffer that takes all of its input."""

    name = "sort"
    title = "GNU sort of a log"

    def __init__(self) -> None:
        self._input = -1
        self._buffer_bytes = 0
        self.expected = ""

    def obstacle(self) -> str:
        """Why it can't run here; "" if it can."""
        return missing_command("sort", "coreutils")

    @contextmanager
    def prepared(self, wanted: Wanted) -> Iterator[None]:
        """The lines, in memory of this process; what must come out is made by Python."""
        lines = _lines(int(wanted.work * _SHARE_OF_TEXT))
        self._input = os.memfd_create("tmem-bench-lines")
        try:
            with os.fdopen(os.dup(self._input), "wb") as file:
                file.writelines(lines)
            self._buffer_bytes = os.fstat(self._input).st_size * 5 // 2
            self.expected = hashlib.sha256(b"".join(sorted(lines))).hexdigest()
            del lines
            yield
        finally:
            os.close(self._input)

    def run(self, start: Start, seconds: float) -> Done:
        """One run."""
        command = ["env", "LC_ALL=C", "sort", "--parallel=1", f"--buffer-size={self._buffer_bytes}b"]
        return run_to_end(start, command, seconds, self._input)


def _lines(size: int) -> list[bytes]:
    """So many bytes of lines, about; the same every time. About half of each is words."""
    chance = random.Random(_SEED)  # noqa: S311  input, no secret
    text = b"".join(b'"span": "%016x", "state": "done, %d ms", ' % (chance.getrandbits(64), at) for at in range(4096))
    room = len(text) - _LINE_BYTES
    made = []
    for host in range(_HOSTS):
        time = 1_700_000_000_000_000_000
        for _ in range(size // _LINE_BYTES // _HOSTS):
            time += chance.randrange(_MOST_BETWEEN_NS)
            at = chance.getrandbits(24) % room
            line = b'{"time": %d, "host": %d, ' % (time, host) + text[at : at + _LINE_BYTES]
            made.append(line[: _LINE_BYTES - 1] + b"\n")
    return made
