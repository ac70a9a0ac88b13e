"""A pager at work on the memory of a program that is not there: the pager's own core and its own way to servers, under a page table of ours.

Owns: `Paged`, one region. Its program reads and writes units; a touch of what is away is told to the core, as the kernel would, and the program goes on
when the core has let it. So the statements about pagers need neither userfaultfd nor rights, and the servers are real.

Units: units, of one page of 4 KiB or of 512; seconds.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from tmem.agents.pager.core import Pager
from tmem.agents.pager.ports import NoRoomError
from tmem.agents.pager.region import Region
from tmem.agents.pager.remote import Targets
from tmem.agents.pager.settings import Pages, Settings, Target
from tmem.agents.pager.uffd import Fault
from tmem.wire.limits import PAGE_BYTES

from .expect import Violation

__all__ = ["Paged", "Program"]

# What the pager tells its operator is no business of whoever checks it.
logging.getLogger("tmem.agents").addHandler(logging.NullHandler())

_TURN_SECONDS = 0.002
_PATIENCE_SECONDS = 20.0


class Program:
    """The program's memory as the core knows it: what is there, mapped, write-protected, poisoned.

    Attributes:
        room: units of local memory that may still be taken; None = enough.
        touches: faults that were not told yet.
    """

    def __init__(self, units: int, unit_pages: int) -> None:
        self._unit_pages = unit_pages
        self._unit = unit_pages * PAGE_BYTES
        self._file = bytearray(units * self._unit)
        self._there = [False] * units
        self._mapped = [False] * units
        self._protected = [False] * units
        self.poisoned = [False] * units
        self.room: int | None = None
        self.touches: deque[tuple[int, int]] = deque()

    # ---- The program ----

    def reach(self, unit: int, *, write: bool) -> memoryview | None:
        """The unit's bytes, if the program can have them now; else a fault is noted."""
        if self._mapped[unit] and not (write and self._protected[unit]):
            return self.view(unit * self._unit_pages, self._unit_pages)
        flags = Fault.WRITE if write else Fault(0)
        if self._mapped[unit]:
            flags |= Fault.WP
        elif self._there[unit]:
            flags |= Fault.MINOR
        self.touches.append((unit, int(flags)))
        return None

    # ---- The core's Memory port ----

    def _take_room(self, unit: int) -> None:
        if self._there[unit]:
            return
        if self.room is not None:
            if self.room <= 0:
                raise NoRoomError
            self.room -= 1
        self._there[unit] = True

    def protect(self, first: int, count: int) -> None:
        """Stops writes."""
        self._protected[first : first + count] = [True] * count

    def unprotect(self, first: int, count: int) -> None:
        """Lets writes through."""
        self._protected[first : first + count] = [False] * count

    def view(self, page: int, count: int) -> memoryview:
        """Pages as the pager sees them."""
        for unit in range(page // self._unit_pages, (page + count - 1) // self._unit_pages + 1):
            self._take_room(unit)
        return memoryview(self._file)[page * PAGE_BYTES : (page + count) * PAGE_BYTES]

    def reserve(self, unit: int) -> None:
        """Makes sure that there is memory for a unit."""
        self._take_room(unit)

    def missing(self, first: int, count: int) -> Sequence[int]:
        """Units that are not there."""
        return [unit for unit in range(first, first + count) if not self._there[unit]]

    def punch(self, first: int, count: int) -> None:
        """Gives memory back."""
        for unit in range(first, first + count):
            if self._there[unit] and self.room is not None:
                self.room += 1
            self._there[unit] = self._mapped[unit] = False
            self._file[unit * self._unit : (unit + 1) * self._unit] = bytes(self._unit)

    def resume(self, first: int, count: int) -> Sequence[int]:
        """Lets the program see what is there; answers what is not."""
        absent = []
        for unit in range(first, first + count):
            if not self._there[unit]:
                absent.append(unit)
            elif not self._mapped[unit]:
                self._mapped[unit] = True
                self._protected[unit] = self.poisoned[unit] = False
        return absent

    def zero(self, first: int, count: int) -> None:
        """Gives zeros where nothing is."""
        for unit in range(first, first + count):
            if not self._there[unit]:
                self._take_room(unit)
                self._mapped[unit], self._protected[unit] = True, False
                self.poisoned[unit] = False

    def poison(self, first: int, count: int) -> None:
        """Touching the units is an error from now on."""
        for unit in range(first, first + count):
            self.poisoned[unit] = self.poisoned[unit] or not self._mapped[unit]

    def wake(self, first: int, count: int) -> None:
        """Nobody sleeps here: who waits looks again by itself."""

    def hide(self, first: int, count: int) -> bool:
        """Units can't be hidden here."""
        del first, count
        return False


class Paged:
    """One region. Use it in a `with` statement: at its end its pools at the servers are gone.

    Args:
        targets: servers, in order of preference.
        units: of the region. resident: how many may be in local memory. pages: of what kind they are.
        inertia, deadline: as in the pager's settings.
    """

    def __init__(
        self,
        targets: Sequence[str],
        *,
        name: str,
        units: int,
        resident: int,
        pages: Pages = Pages.BASE,
        inertia: float = 60.0,
        deadline: float = 10.0,
    ) -> None:
        settings = Settings(
            size=units * pages.unit_pages * PAGE_BYTES,
            resident=resident * pages.unit_pages * PAGE_BYTES,
            pages=pages,
            targets=tuple(Target(target) for target in targets),
            name=name,
            deadline=deadline,
            write_deadline=deadline,
            prefetch=0,
            sampling=False,
            inertia=inertia,
        )
        self._region = Region.create(settings, 0, os.getpid())
        now = time.monotonic()
        self._targets = Targets(self._region, now)
        if self._targets.open() != len(targets):
            error = self._targets.errors[0]
            self.close()
            raise error
        self.program = Program(units, pages.unit_pages)
        self.pager = Pager(settings, self._region.table, self.program, self._targets, now)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the region and its pools."""
        self._targets.close()
        with suppress(BufferError):  # the core's views of it go with this object
            self._region.close()
        os.close(self._region.descriptor)

    @property
    def remote(self) -> int:
        """How many units are away."""
        return int(self.pager.ledger.remote)

    def pool_name(self, target: int) -> str:
        """What the region's pool at a server is called."""
        key = self._region.key(target)
        assert key is not None
        return str(key.name)

    def pool_token(self, target: int) -> bytes:
        """What opens it."""
        key = self._region.key(target)
        assert key is not None
        return bytes(key.token)

    # ---- Time ----

    def turn(self) -> None:
        """One turn of the pager's loop."""
        now = self._targets.now = time.monotonic()
        touches, self.program.touches = list(self.program.touches), deque()
        if touches:
            self.pager.deliver((), touches, now)
        self._targets.pump()
        if self.pager.step(now):
            time.sleep(_TURN_SECONDS)

    def run(self, seconds: float) -> None:
        """Turns for a while."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.turn()

    def until(self, ready: Callable[[], object], what: str, seconds: float = _PATIENCE_SECONDS) -> None:
        """Turns until it is so; raises Violation when it takes too long."""
        end = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > end:
                raise Violation(f"{what}: not within {seconds:g} s")
            self.turn()

    # ---- The program ----

    def write(self, unit: int, plain: bytes) -> None:
        """The program writes a unit."""
        self._reach(unit, write=True)[:] = plain

    def read(self, unit: int) -> bytes:
        """The program reads a unit."""
        return bytes(self._reach(unit, write=False))

    def _reach(self, unit: int, *, write: bool) -> memoryview:
        end = time.monotonic() + _PATIENCE_SECONDS
        while True:
            if self.program.poisoned[unit]:
                raise Violation(f"unit {unit} can't be had back")
            found = self.program.reach(unit, write=write)
            if found is not None:
                return found
            if time.monotonic() > end:
                raise Violation(f"the program waits for unit {unit} for ever")
            self.turn()
