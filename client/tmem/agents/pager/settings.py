"""What a region's pager is told, by the program that owns the region.

Owns: the settings, their limits, and their form in the region's table, where every agent of the region reads them.
"""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from tmem.wire.errors import InvalidOption
from tmem.wire.limits import BLOCK_PAGES, MAX_CHUNK_PAGES, PAGE_BYTES

__all__ = ["MAX_TARGETS", "Pages", "Settings", "Target", "default_prefetch"]

MAX_TARGETS = 15
HUGE_BYTES = PAGE_BYTES * BLOCK_PAGES
_LEAST_UNITS = {1: 64, BLOCK_PAGES: 4}


class Pages(StrEnum):
    """Of which pages a region is made."""

    BASE = "4KiB"
    THP = "thp"
    HUGETLB = "hugetlb"

    @property
    def unit_pages(self) -> int:
        """Pages of 4 KiB in a unit."""
        return 1 if self is Pages.BASE else BLOCK_PAGES


def default_prefetch(pages: Pages) -> int:
    """Bytes that are read ahead of a stream at most: four chunks, or two huge pages."""
    return 4 * MAX_CHUNK_PAGES * PAGE_BYTES if pages is Pages.BASE else 2 * HUGE_BYTES


@dataclass(frozen=True, slots=True)
class Target:
    """One server.

    Attributes:
        address: "HOST:PORT" or "unix:PATH". token: the tenant's, if the server wants one.
    """

    address: str
    token: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of one region. Units: bytes and seconds.

    Attributes:
        size: of the region; a whole number of units.
        resident: how much of it may be in local memory.
        pages: of what it is made.
        targets: where pages go, in order of preference.
        deadline: how long a touch waits for a page that does not come, until it is SIGBUS.
        write_deadline: how long a put may take.
        prefetch: the most that is read ahead of a stream of faults at once; 0 = nothing.
        sampling: whether to hide pages for a moment to learn which are used.
        inertia: how long the remote pages must not have grown in number before they come home.
        watchdog: how long an agent may give no sign of life before the holder replaces it; 0 = for ever.
        name: what the servers call the region's pools.
    """

    size: int
    resident: int
    targets: tuple[Target, ...]
    name: str
    pages: Pages = Pages.BASE
    deadline: float = 30.0
    write_deadline: float = 10.0
    prefetch: int = 64 * PAGE_BYTES
    sampling: bool = True
    inertia: float = 10.0
    watchdog: float = 10.0
    _unit: int = field(init=False, repr=False, compare=False, default=0)

    def __post_init__(self) -> None:
        unit = self.pages.unit_pages * PAGE_BYTES
        object.__setattr__(self, "_unit", unit)
        if self.size <= 0 or self.size % unit:
            raise InvalidOption(f"size is {self.size}, and must be a positive multiple of {unit} bytes")
        least = min(_LEAST_UNITS[self.pages.unit_pages] * unit, self.size)
        if self.resident < least:
            raise InvalidOption(
                f"resident is {self.resident} bytes; at least {least} are needed, or one instruction could touch more pages than may be there at once"
            )
        if not 0 < len(self.targets) <= MAX_TARGETS:
            raise InvalidOption(f"{len(self.targets)} targets; 1..{MAX_TARGETS} can be")
        for setting in ("deadline", "write_deadline"):
            if not getattr(self, setting) > 0:
                raise InvalidOption(f"{setting} is {getattr(self, setting)}, and must be more than 0 seconds")
        for setting in ("prefetch", "inertia", "watchdog"):
            if getattr(self, setting) < 0:
                raise InvalidOption(f"{setting} is {getattr(self, setting)}, and can't be negative")

    @property
    def unit(self) -> int:
        """Bytes of a unit."""
        return self._unit

    @property
    def kernel_page(self) -> int:
        """Bytes of a page as userfaultfd counts: transparent huge pages are mapped as small ones while they are registered."""
        return self._unit if self.pages is Pages.HUGETLB else PAGE_BYTES

    @property
    def units(self) -> int:
        """Units of the region."""
        return self.size // self._unit

    def encode(self) -> bytes:
        """As bytes for the table."""
        values = asdict(self)
        del values["_unit"]
        return json.dumps(values).encode()

    @classmethod
    def decode(cls, data: bytes) -> "Settings":
        """Back from bytes."""
        values: dict[str, Any] = json.loads(data)
        values["targets"] = tuple(Target(**target) for target in values["targets"])
        values["pages"] = Pages(values["pages"])
        return cls(**values)
