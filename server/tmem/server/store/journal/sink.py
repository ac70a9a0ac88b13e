"""Where entries go: what the layer and the rewriter ask of a journal's files.

Must not know: files, threads.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tmem.wire.splice import BytesLike

__all__ = ["Done", "Sink"]

Done = Callable[[OSError | None], None]


class Sink(Protocol):
    """Takes entries, and says when they are written. Units: bytes."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        ...

    @property
    def queued(self) -> int:
        """Bytes that wait to be written."""
        ...

    @property
    def room(self) -> int:
        """Bytes that could still be written, about."""
        ...

    def append(self, entry: Sequence[BytesLike], done: Done, *, urgent: bool = False) -> None:
        """Writes an entry behind all others; an urgent one may use the room that is kept for removals.

        `done` is called later, on the store's thread, in the order of the calls.
        """
        ...

    def append_now(self, entry: Sequence[BytesLike]) -> None:
        """The same, and waits for it; raises OSError, and then it is not written later either."""
        ...

    def begin_file(self, done: Callable[[int | None], None]) -> None:
        """Begins a new file for what is appended from now on; tells its number, or None if it can't, as `append` does."""
        ...

    def drop_before(self, number: int, done: Done) -> None:
        """Deletes the files before the one of this number, once everything appended so far is written; tells whether they are gone."""
        ...
