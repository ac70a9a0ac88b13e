"""What the core needs of the world: a pool, and a way back to the kernel.

Owns: the two interfaces. `remote.py` and `worker.py` implement them; tests have others.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from tmem.client import FlushResult, GetResult, PutResult
from tmem.wire.errors import TmemError

__all__ = ["Answers", "Buffer", "Piece", "Remote"]

Piece = tuple[int, memoryview]
"""A page index, and the memory of one or more pages of one block."""


class Remote(Protocol):
    """The pool. `done` may be called before a method returns; it is called exactly once."""

    @property
    def ready(self) -> bool:
        """Whether there is a pool to work on yet."""

    def get(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[GetResult]], None]) -> None:
        """Reads runs of pages, by one message; parts that are not hit stay untouched."""

    def put(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[PutResult]], None]) -> None:
        """Stores runs of pages, by one message; the memory is the caller's again when this returns."""

    def flush(self, index: int, count: int, done: Callable[[FlushResult], None]) -> None:
        """Removes pages."""

    def absent(self, index: int, count: int) -> bool:
        """Whether nothing is stored there for certain; the pages are of one block."""


class Buffer(Protocol):
    """Where a read's pages go before they are answered."""

    @property
    def data(self) -> memoryview:
        """The room."""


class Answers(Protocol):
    """The way back to the kernel."""

    def send(self, unique: int, message: bytes) -> None:
        """Sends a whole reply."""

    def send_data(self, unique: int, buffer: Buffer, start: int, size: int) -> None:
        """Answers a read with bytes of its buffer, which is free again."""

    def tell(self, what: str, error: TmemError) -> None:
        """Something failed with this error, which the kernel will not be told: it only gets EIO."""

    def take_buffer(self) -> Buffer | None:
        """Room for MAX_READ_PAGES + 1 pages; None while all are in use."""

    def give_buffer(self, buffer: Buffer) -> None:
        """It is free again, and nothing of it was sent."""
