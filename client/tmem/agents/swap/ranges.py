"""Ranges of pages: cut at the ends of blocks, as bits, as runs.

Owns: the arithmetic. Units: pages; a mask has a bit for each page of one block.
"""

from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .ports import Piece

__all__ = ["clear", "cut", "masks", "runs"]


def cut(first: int, count: int, memory: memoryview) -> list[Piece]:
    """Pages and their memory, cut at the ends of blocks."""
    if first % BLOCK_PAGES + count <= BLOCK_PAGES:
        return [(first, memory[: count * PAGE_BYTES])]
    pieces = []
    at = 0
    while at < count:
        pages = min(BLOCK_PAGES - (first + at) % BLOCK_PAGES, count - at)
        pieces.append((first + at, memory[at * PAGE_BYTES : (at + pages) * PAGE_BYTES]))
        at += pages
    return pieces


def masks(first: int, count: int) -> list[tuple[int, int]]:
    """Pages as bits of their blocks: (block, mask), ascending."""
    found = []
    while count:
        at = first % BLOCK_PAGES
        pages = min(BLOCK_PAGES - at, count)
        found.append((first // BLOCK_PAGES, ((1 << pages) - 1) << at))
        first += pages
        count -= pages
    return found


def runs(mask: int) -> list[tuple[int, int]]:
    """The runs of set bits: (first, end), ascending."""
    found = []
    at = 0
    while rest := mask >> at:
        at += (rest & -rest).bit_length() - 1
        rest = mask >> at
        # The lowest bit that is not set.
        length = (~rest & (rest + 1)).bit_length() - 1
        found.append((at, at + length))
        at += length
    return found


def clear(table: dict[int, int], block: int, mask: int) -> None:
    """Takes bits out of a table of masks by block."""
    left = table.get(block, 0) & ~mask
    if left:
        table[block] = left
    else:
        table.pop(block, None)
