"""Handles: how a page is named, and what makes a name valid.

Owns: the rules on object ids, page indices and extents. Units: pages, unless a name says bytes.
"""

from typing import NamedTuple

from crc32c import crc32c

from .errors import InvalidHandle
from .limits import BLOCK_PAGES, MAX_INDEX, MAX_OBJECT

__all__ = ["Extent", "Version", "check_extent", "check_object", "join_object", "shard_of", "split_object"]

_WORD = (1 << 64) - 1


class Version(NamedTuple):
    """The version of a write: the writer's generation, and its sequence within it. (0, 0) is no version."""

    generation: int
    sequence: int


class Extent(NamedTuple):
    """A run of 1..512 pages of one object inside one 2 MiB block."""

    object: int
    index: int  # type: ignore[assignment]  # the field's own word; tuple.index is of no use here
    pages: int

    @property
    def block(self) -> int:
        """The number of the block that the extent lies in."""
        return self.index // BLOCK_PAGES

    @property
    def first(self) -> int:
        """The extent's first page, counted within its block."""
        return self.index % BLOCK_PAGES


def check_object(obj: object) -> None:
    """Raises InvalidHandle unless `obj` is an integer of 0 .. 2**192-1."""
    if not isinstance(obj, int) or not 0 <= obj <= MAX_OBJECT:
        raise InvalidHandle(f"object id {obj!r} is not an integer of 0 .. 2**192-1")


def check_extent(obj: object, index: object, pages: int) -> None:
    """Raises InvalidHandle unless (obj, index, pages) names an extent."""
    check_object(obj)
    if not isinstance(index, int) or not 0 <= index <= MAX_INDEX:
        raise InvalidHandle(f"page index {index!r} is not an integer of 0 .. 2**32-1")
    if not 1 <= pages <= BLOCK_PAGES:
        raise InvalidHandle(f"an extent has 1..{BLOCK_PAGES} pages, not {pages}")
    if index % BLOCK_PAGES + pages > BLOCK_PAGES:
        raise InvalidHandle(
            f"{pages} pages from index {index} cross the end of block {index // BLOCK_PAGES} "
            f"at index {(index // BLOCK_PAGES + 1) * BLOCK_PAGES}: split the extent there"
        )


def split_object(obj: int) -> tuple[int, int, int]:
    """The three 64-bit words of an object id: low, mid, high."""
    return obj & _WORD, (obj >> 64) & _WORD, obj >> 128


def join_object(low: int, mid: int, high: int) -> int:
    """The object id of three 64-bit words."""
    return low | mid << 64 | high << 128


def shard_of(obj: int, block: int, count: int) -> int:
    """Which of so many shards a block is on; see GetCapabilitiesResponse.shards."""
    return crc32c(obj.to_bytes(24, "little") + block.to_bytes(4, "little")) % count
