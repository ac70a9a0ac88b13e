"""sqlite3: a table, an index over it, and questions at random; sqlite_work.py is what it does."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from .programs import Done, Program, Start, Wanted, run_to_end

__all__ = ["Sqlite"]

_ROW_BYTES = 1100  # of memory, with its part of the index


class Sqlite(Program):
    """Python's sqlite3 with a database in memory."""

    name = "sqlite"
    title = "sqlite3 index and queries"
    small = "sqlite3 takes its memory page by page, in allocations of 4 KiB, and the pager's shim serves those of 1 MiB and more"

    def __init__(self) -> None:
        self._rows = 0
        self._queries = 0

    @contextmanager
    def prepared(self, wanted: Wanted) -> Iterator[None]:
        """It makes its table itself."""
        self._rows = wanted.work // _ROW_BYTES
        self._queries = wanted.queries
        yield

    def run(self, start: Start, seconds: float) -> Done:
        """One run."""
        command = [sys.executable, "-m", f"{__package__}.sqlite_work", str(self._rows), str(self._queries)]
        return run_to_end(start, command, seconds)
