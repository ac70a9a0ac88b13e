"""What the pager's core asks of the world: the program's memory, and the places where pages can go.

Owns: the two protocols, and what their calls may answer or raise. The drivers (`memory`, `remote`) and the tests' doubles
implement them.

Units: a unit is what is paged as one: 4 KiB, or 2 MiB for huge pages. A page is 4 KiB: what targets count in. Unit u has
the pages u * pages_per_unit ... Ranges are (first, count).

The errors here never leave the pager: they steer it. What programs and operators see is the tree of tmem.wire.errors.
"""

from collections.abc import Callable, Iterator, Sequence
from enum import Enum, IntEnum, IntFlag
from typing import Protocol

__all__ = ["AgainError", "Fault", "Gathering", "GoneError", "Got", "Memory", "NoRoomError", "Put", "Remote"]


class AgainError(Exception):
    """The program changes its memory right now: read its events, then ask again. Part of a range may be done."""


class GoneError(Exception):
    """The program has ended, or is ending."""


class NoRoomError(Exception):
    """No page can be had for this unit now; nothing was changed."""


class Fault(IntFlag):
    """How a page was touched, in the kernel's numbers: neither WP nor MINOR = it was not there."""

    WRITE = 1
    WP = 2  # a write to a protected page
    MINOR = 4  # it is in the file, and not mapped


class Put(Enum):
    """What became of a put."""

    STORED = "stored"
    REFUSED = "refused"  # nothing of it is there
    UNKNOWN = "unknown"  # no answer in time: it may be there


class Got(IntEnum):
    """What became of one page of a get."""

    HIT = 0
    LATER = 1  # refused, or no answer in time: the page is where it was
    LOST = 2  # it was stored, and is no more
    CORRUPT = 3  # its bytes fail their checksum


class Memory(Protocol):
    """The program's memory. Every call but `view` works on whole units and may raise GoneError.

    `protect`, `unprotect`, `resume`, `zero` and `poison` may raise AgainError.
    """

    def protect(self, first: int, count: int) -> None:
        """Stops writes; when it returns, what is in the units stays until they are unprotected or resumed."""
        ...

    def unprotect(self, first: int, count: int) -> None:
        """Lets writes through, and wakes the writers."""
        ...

    def view(self, page: int, count: int) -> memoryview:
        """Pages (of 4 KiB) as the agent sees them: writable, and never a fault that the agent would have to serve."""
        ...

    def missing(self, first: int, count: int) -> Sequence[int]:
        """Units of which not all is there; a unit that is not there at all must not be read by `view`. May raise AgainError."""
        ...

    def reserve(self, unit: int) -> None:
        """Makes sure that `view` can be written to.

        Raises:
            NoRoomError: it can't be had now.
        """
        ...

    def punch(self, first: int, count: int) -> None:
        """Gives the units' memory back: the next touch is a fault. Nothing happens where nothing is."""
        ...

    def resume(self, first: int, count: int) -> Sequence[int]:
        """Lets the program see units that are there, writable, and wakes who waits; also lifts poison.

        Returns:
            Units that are not there.
        """
        ...

    def zero(self, first: int, count: int) -> None:
        """Gives the program zeros where nothing is, and wakes who waits; also lifts poison, which a removal by the program does not.

        Raises:
            NoRoomError: as `reserve`.
        """
        ...

    def poison(self, first: int, count: int) -> None:
        """Touching the units, which were punched before, is SIGBUS from now on; who waits gets it now."""
        ...

    def wake(self, first: int, count: int) -> None:
        """Makes everybody who waits in the units fault again."""
        ...

    def hide(self, first: int, count: int) -> bool:
        """Unmaps units from the program without changing them, so that the next touch is seen; False if it can't be."""
        ...


class Gathering(Protocol):
    """Puts that go by one exchange. One that is not sent is forgotten."""

    def has_room(self, pages: int) -> bool:
        """Whether another run of so many pages fits."""
        ...

    def add(self, page: int, plain: memoryview) -> None:
        """Compresses a run of pages. It must stay as it is until this was sent, or detached."""
        ...

    def detach(self) -> None:
        """What was added so far may be changed from now on."""
        ...

    def send(self, done: Callable[[Sequence[Put]], None]) -> None:
        """Sends them; `done` gets one Put for each run."""
        ...


class Remote(Protocol):
    """The targets, in order of preference. Answers come through `done`, once each, perhaps before the call returns.

    Writes of one page to one target take effect in the order of the calls. Pages must not cross a block of 512.
    """

    @property
    def targets(self) -> int:
        """How many there are."""
        ...

    def accepting(self, target: int) -> bool:
        """Whether a put is worth trying: it is connected, answers, and has not refused one a moment ago."""
        ...

    def held(self, target: int) -> Iterator[tuple[int, int]]:
        """Runs of pages, as (page, count), that the target may hold, as far as that is known."""
        ...

    def gather(self, target: int) -> "Gathering":
        """For puts to one target by one exchange."""
        ...

    def get(
        self,
        target: int,
        runs: Sequence[tuple[int, memoryview]],
        timeout: float,
        done: Callable[[Sequence[Sequence[Got]]], None],
    ) -> None:
        """Reads runs of pages, as (page, into), into place by one exchange: 512 pages at most.

        Each `into` may be written to until `done` is called, and never afterwards. `done` gets for each run one Got for each
        page. The part of a page that is no HIT holds no part of any page.
        """
        ...

    def flush(self, target: int, runs: Sequence[tuple[int, int]], done: Callable[[bool], None]) -> None:
        """Removes runs of pages, as (page, count), at most 512 of them; `done` is told whether all of that is confirmed."""
        ...
