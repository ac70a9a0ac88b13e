"""The presence map: what a client knows of its private pool.

Owns: what a presence map is (`Presence`), and the one that lives in the client's own memory: for each page whether it is stored, whether that is uncertain, and the CRC32C of what was last STORED. So a get of
something never stored costs no call, and an old page that comes back with a valid checksum is recognised.

States of a page
    absent      never stored, or removed: a get is a miss without a call
    stored      STORED was answered; its CRC is known unless it comes from a listing without CRCs
    uncertain   a write of it is unanswered, or was given up: gets ask the server and believe what they get
A write in flight lays `uncertain` over the state before; a refusal that changed nothing uncovers it again, but for pages that an
earlier write has left uncertain: what became of that one it does not tell.

Memory: 4 B a page for CRCs and 3 bits for states, per block that was ever touched.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from tmem.wire.handles import Extent
from tmem.wire.limits import BLOCK_PAGES

__all__ = ["Block", "BlockMap", "Presence", "PresenceMap", "mask_of"]

_NO_CRCS = array("I", bytes(4 * BLOCK_PAGES))


def mask_of(extent: Extent) -> int:
    """The extent's pages as bits of its block."""
    return ((1 << extent.pages) - 1) << extent.first


class Block(Protocol):
    """What is known of one block; pages are bits 0..511.

    Attributes:
        stored, uncertain, with_crc: masks. A page that is stored but not in with_crc has an unknown CRC.
        crcs: CRC32C by page; meaningful where with_crc is set.
    """

    @property
    def stored(self) -> int: ...

    @property
    def uncertain(self) -> int: ...

    @property
    def with_crc(self) -> int: ...

    @property
    def crcs(self) -> Sequence[int]: ...

    def checksums(self, first: int, count: int) -> "array[int]":
        """The CRCs of pages first .. first + count - 1 as they are now."""
        ...


class Presence(Protocol):
    """What is known of all blocks of one pool.

    Attributes:
        absent_is_lost: the pool was made again after a loss, and this map does not know what was stored before: a page
            that it does not hold may have been, so it is lost, unless this client removed it itself.
    """

    absent_is_lost: bool

    def check(self, extent: Extent) -> None:
        """Raises InvalidHandle for an extent that the map has no place for."""
        ...

    def block(self, extent: Extent) -> Block | None:
        """What is known of the extent's block; None = all absent."""
        ...

    def objects(self) -> set[int]:
        """The objects of which anything is stored or uncertain."""
        ...

    def blocks_of(self, obj: int) -> Iterable[tuple[int, Block]]:
        """The blocks of one object of which anything is stored or uncertain."""
        ...

    def counts(self) -> tuple[int, int]:
        """How many pages are stored, and how many uncertain."""
        ...

    def was_removed(self, extent: Extent, page: int) -> bool:
        """Whether this client removed a page (counted in its block), so that its absence is no loss."""
        ...

    def begin(self, extent: Extent) -> int:
        """A write of these pages is on its way; answers, as bits of their block, which of them were uncertain already."""
        ...

    def stored(self, extent: Extent, crcs: Sequence[int]) -> None:
        """They were STORED; `crcs` is one CRC32C for each."""
        ...

    def absent(self, extent: Extent) -> None:
        """They are gone, by a flush or by a refusal."""
        ...

    def unchanged(self, extent: Extent, doubted: int = 0) -> None:
        """The write changed nothing: what was known before holds again.

        Args:
            extent: the write's.
            doubted: what `begin` has answered: pages that stay uncertain.
        """
        ...

    def missing(self, extent: Extent, page: int) -> None:
        """An ephemeral page (counted in its block) is no longer on the server."""
        ...

    def created(self, token: bytes, *, epoch: int, generation: int) -> None:
        """The map is of a pool that was made this moment; raises InvalidOption if it is another's."""
        ...

    def opening(self) -> None:
        """The server is about to be asked to open the pool; its answer may not come."""
        ...

    def not_opened(self) -> None:
        """It said no."""
        ...

    def opened(self, token: bytes, *, epoch: int, generation: int, known_epoch: int | None, incomplete: bool) -> bool:
        """The map is of a pool that existed.

        Args:
            token: the pool's.
            epoch: which it has now.
            generation: likewise.
            known_epoch: which the caller knew last, if it says so.
            incomplete: whether the server lost it once.

        Returns:
            Whether the server must be asked what it holds: then comes `listed` for each block, and then `filled`.

        Raises:
            InvalidOption: the map is another pool's.
        """
        ...

    def listed(self, obj: int, number: int, bitmap: int, crcs: Sequence[int] | None) -> None:
        """The server says which pages of a block it holds, at a moment when no write is on its way.

        Never clears what is known to be stored; what was uncertain is certain now.
        """
        ...

    def filled(self) -> None:
        """The server has said so of every block."""
        ...

    def forget(self) -> None:
        """Nothing is stored any more (an ephemeral pool whose server came back empty)."""
        ...

    def lost(self, under_way: Callable[[int, int], int]) -> None:
        """A persistent pool's server came back empty.

        What was uncertain and is answered by nobody any more was not done, for all that is left of it: a page that was
        stored before is lost, and a get must say so.

        Args:
            under_way: the pages, as bits, of an object's block that a write touches which is sent again.
        """
        ...


class BlockMap:
    """A `Block` in the client's own memory."""

    __slots__ = ("crcs", "stored", "uncertain", "with_crc")

    def __init__(self) -> None:
        self.stored = 0
        self.uncertain = 0
        self.with_crc = 0
        self.crcs = array("I", _NO_CRCS)

    def checksums(self, first: int, count: int) -> "array[int]":
        """The CRCs of pages first .. first + count - 1 as they are now."""
        return self.crcs[first : first + count]


class PresenceMap:
    """A `Presence` of any objects and pages, in the client's own memory."""

    def __init__(self) -> None:
        self._blocks: dict[tuple[int, int], BlockMap] = {}
        self._removed: dict[tuple[int, int], int] = {}
        self.absent_is_lost = False

    def check(self, extent: Extent) -> None:
        """Has a place for every extent."""

    def block(self, extent: Extent) -> BlockMap | None:
        """What is known of the extent's block; None = all absent."""
        return self._blocks.get((extent.object, extent.block))

    def objects(self) -> set[int]:
        """The objects of which anything is stored or uncertain."""
        return {obj for (obj, _), block in self._blocks.items() if block.stored or block.uncertain}

    def blocks_of(self, obj: int) -> Iterator[tuple[int, BlockMap]]:
        """The blocks of one object of which anything is stored or uncertain."""
        return ((number, block) for (owner, number), block in list(self._blocks.items()) if owner == obj)

    def counts(self) -> tuple[int, int]:
        """How many pages are stored, and how many uncertain."""
        blocks = list(self._blocks.values())
        return sum(block.stored.bit_count() for block in blocks), sum(block.uncertain.bit_count() for block in blocks)

    def was_removed(self, extent: Extent, page: int) -> bool:
        """Whether this client removed a page (counted in its block), so that its absence is no loss."""
        return bool(self._removed.get((extent.object, extent.block), 0) >> page & 1)

    # ---- Writes ----

    def begin(self, extent: Extent) -> int:
        """A write of these pages is on its way; answers, as bits of their block, which of them were uncertain already."""
        block = self._touch(extent)
        mask = mask_of(extent)
        doubted = block.uncertain & mask
        block.uncertain |= mask
        return doubted

    def stored(self, extent: Extent, crcs: Sequence[int]) -> None:
        """They were STORED; `crcs` is one CRC32C for each, as an array of unsigned ints."""
        block = self._touch(extent)
        mask = mask_of(extent)
        block.stored |= mask
        block.with_crc |= mask
        block.uncertain &= ~mask
        block.crcs[extent.first : extent.first + extent.pages] = array("I", crcs)
        self._forget_removal(extent, mask)

    def absent(self, extent: Extent) -> None:
        """They are gone, by a flush or by a refusal."""
        key = (extent.object, extent.block)
        mask = mask_of(extent)
        block = self._blocks.get(key)
        if block is not None:
            block.stored &= ~mask
            block.uncertain &= ~mask
            if not block.stored and not block.uncertain:
                del self._blocks[key]
        if self.absent_is_lost:
            self._removed[key] = self._removed.get(key, 0) | mask

    def unchanged(self, extent: Extent, doubted: int = 0) -> None:
        """The write changed nothing: what was known before holds again, but for what was in doubt."""
        key = (extent.object, extent.block)
        block = self._blocks.get(key)
        if block is not None:
            block.uncertain &= ~mask_of(extent) | doubted
            if not block.stored and not block.uncertain:
                del self._blocks[key]

    def missing(self, extent: Extent, page: int) -> None:
        """An ephemeral page (counted in its block) is no longer on the server."""
        self.absent(Extent(extent.object, extent.block * BLOCK_PAGES + page, 1))

    # ---- Wholesale ----

    def created(self, token: bytes, *, epoch: int, generation: int) -> None:
        """A new pool holds nothing, as a new map does."""

    def opening(self) -> None:
        """Of no interest to a map that begins with the answer."""

    def not_opened(self) -> None:
        """Likewise."""

    def opened(
        self,
        token: bytes,  # noqa: ARG002  for maps that are kept
        *,
        epoch: int,
        generation: int,  # noqa: ARG002
        known_epoch: int | None,
        incomplete: bool,
    ) -> bool:
        """The server must be asked: the map knows nothing yet."""
        self.absent_is_lost = incomplete if known_epoch is None else known_epoch != epoch
        return True

    def listed(self, obj: int, number: int, bitmap: int, crcs: Sequence[int] | None) -> None:
        """The server says which pages of a block it holds, at a moment when no write is on its way."""
        extent = Extent(obj, number * BLOCK_PAGES, BLOCK_PAGES)
        block = self._touch(extent)
        new = bitmap & (~block.stored | block.uncertain)
        if crcs is not None:
            fill_crcs(block.crcs, bitmap, new, crcs)
        block.with_crc = block.with_crc & ~new | (0 if crcs is None else new)
        block.stored |= new
        block.uncertain &= ~new
        if not block.stored and not block.uncertain:
            del self._blocks[extent.object, extent.block]

    def filled(self) -> None:
        """Nothing was uncertain."""

    def forget(self) -> None:
        """Nothing is stored any more (an ephemeral pool whose server came back empty)."""
        for key, block in list(self._blocks.items()):
            block.stored = block.with_crc = 0
            if not block.uncertain:
                del self._blocks[key]

    def lost(self, under_way: Callable[[int, int], int]) -> None:
        """What was uncertain, and is not sent again, is what was known before."""
        for (obj, number), block in list(self._blocks.items()):
            block.uncertain &= under_way(obj, number)
            if not block.stored and not block.uncertain:
                del self._blocks[obj, number]

    def _touch(self, extent: Extent) -> BlockMap:
        key = (extent.object, extent.block)
        block = self._blocks.get(key)
        if block is None:
            block = self._blocks[key] = BlockMap()
        return block

    def _forget_removal(self, extent: Extent, mask: int) -> None:
        key = (extent.object, extent.block)
        if self._removed and key in self._removed:
            self._removed[key] &= ~mask


def fill_crcs(crcs: "array[int] | memoryview[int]", bitmap: int, new: int, listed: Sequence[int]) -> None:
    """Takes the CRCs of the pages `new` out of a listing that has one for each page of `bitmap`."""
    if new == bitmap == ((1 << len(listed)) - 1):
        crcs[: len(listed)] = array("I", listed)  # a whole block, most often
        return
    position = 0
    for page in range(BLOCK_PAGES):
        if bitmap >> page & 1:
            if new >> page & 1:
                crcs[page] = listed[position]
            position += 1
