"""Sequences, floors, and the rule of one unsettled write per handle.

Owns: the sequence space of one open pool. A write is unsettled from `begin` until its answer; one that was given up is
settled only when the server has confirmed a floor above it, because until then its message may still arrive.
"""

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["Footprint", "Writer"]


class Footprint(NamedTuple):
    """What a write touches: pages of a block as a bit mask, or a whole object (block -1)."""

    object: int
    block: int
    mask: int


_WHOLE_OBJECT = -1


def whole_object(obj: int) -> Footprint:
    """The footprint of a flush of a whole object."""
    return Footprint(obj, _WHOLE_OBJECT, 1)


class Writer:
    """The writes of one pool."""

    def __init__(self) -> None:
        self._next = 1
        self._unsettled: dict[int, tuple[Footprint, ...]] = {}  # by sequence; ascending, as they are begun
        self._given_up: dict[int, tuple[Footprint, ...]] = {}
        self._pages: dict[tuple[int, int], int] = {}  # pages under an unsettled write
        self._objects: dict[int, int] = {}  # how many footprints touch an object
        self._whole: set[int] = set()  # objects under an unsettled flush of all

    @property
    def floor(self) -> int:
        """The lowest sequence that may still be answered and matter."""
        return next(iter(self._unsettled), self._next)

    @property
    def has_given_up(self) -> bool:
        """Whether a floor must be confirmed before all handles are free again."""
        return bool(self._given_up)

    def conflicts(self, footprints: Iterable[Footprint]) -> bool:
        """Whether any handle has an unsettled write."""
        for obj, block, mask in footprints:
            if obj in self._whole or (block == _WHOLE_OBJECT and obj in self._objects):
                return True
            if block != _WHOLE_OBJECT and self._pages.get((obj, block), 0) & mask:
                return True
        return False

    def under_way(self, obj: int, block: int) -> int:
        """The pages of a block, as bits, that a write touches which may still be answered."""
        found = 0
        for footprints in self._unsettled.values():
            for footprint in footprints:
                if footprint.object == obj and footprint.block in {block, _WHOLE_OBJECT}:
                    found |= -1 if footprint.block == _WHOLE_OBJECT else footprint.mask
        return found

    def begin(self, footprints: tuple[Footprint, ...]) -> int:
        """Notes a write that conflicts with none; answers its sequence."""
        sequence = self._next
        self._next += 1
        self._unsettled[sequence] = footprints
        for obj, block, mask in footprints:
            self._objects[obj] = self._objects.get(obj, 0) + 1
            if block == _WHOLE_OBJECT:
                self._whole.add(obj)
            else:
                self._pages[obj, block] = self._pages.get((obj, block), 0) | mask
        return sequence

    def settle(self, sequence: int) -> None:
        """The write was answered, or never left."""
        footprints = self._unsettled.pop(sequence, None) or self._given_up.pop(sequence, None)
        if footprints:
            self._release(footprints)

    def give_up(self, sequence: int) -> None:
        """Nobody waits for the answer any more; its handles stay taken until a floor above it is confirmed."""
        footprints = self._unsettled.pop(sequence, None)
        if footprints:
            self._given_up[sequence] = footprints

    def confirmed(self, floor: int) -> bool:
        """The server has seen this floor; answers whether that freed a handle."""
        if not self._given_up:
            return False
        settled = [sequence for sequence in self._given_up if sequence < floor]
        for sequence in settled:
            self._release(self._given_up.pop(sequence))
        return bool(settled)

    def _release(self, footprints: tuple[Footprint, ...]) -> None:
        for obj, block, mask in footprints:
            left = self._objects[obj] - 1
            if left:
                self._objects[obj] = left
            else:
                del self._objects[obj]
            if block == _WHOLE_OBJECT:
                self._whole.discard(obj)
                continue
            # One write may name a page twice, so its bits may be gone already.
            pages = self._pages.pop((obj, block), 0) & ~mask
            if pages:
                self._pages[obj, block] = pages
