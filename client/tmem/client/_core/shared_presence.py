"""A presence map in memory that outlives the process.

Owns: `SharedPresence` and the layout of its buffer: a caller's flat writable memory, most often a memfd that another process
keeps. Whoever maps it next goes on with it, even if the process before was killed between any two instructions.

How it holds: one process writes, in the order of its program, and a memory that is shared keeps what was stored to it.
- Before a write of a page is sent, its `uncertain` bit is set: from then on nothing else that is noted of it counts.
- STORED: the CRC, then `with_crc` and `stored`, and last of all `uncertain` is cleared. A CRC is written only under `uncertain`.
- Gone: `stored` is cleared, then `uncertain`.
Bits of several pages are one copy of bytes, which may be cut short: each page's own order holds all the same, because no
copy changes two kinds of bits.
What a listing fills counts only once `filled` has said so in the head of the buffer, by its last byte.

Whose map it is stands in the head: a digest of the pool's token, and the epoch and generation under which it was opened last. Each
opening raises the generation, also one whose answer nobody got: so attempts are counted there before they are made (`opening`). A
generation beyond them is a writer who may not have had the map: then everything in it is doubted.

Layout: a head of 64 bytes (shape, owner, flags, attempts); then four bitmaps (stored, uncertain, with_crc, removed), one bit a page, little-endian; then the CRCs,
4 bytes a page in the machine's order. Sizes are in whole blocks of 512 pages: 4.5 bytes a page.
"""

import struct
from array import array
from collections.abc import Callable, Iterator, Sequence

from tmem.wire.checksum import page_checksum
from tmem.wire.codec import Plain
from tmem.wire.errors import InvalidBuffer, InvalidHandle, InvalidOption
from tmem.wire.handles import Extent, check_object
from tmem.wire.limits import BLOCK_PAGES

from .presence import fill_crcs, mask_of

__all__ = ["SharedPresence"]

_MAGIC = b"tmemPM1\0"
_SHAPE = struct.Struct("<8sQ24s")  # magic, pages, object
_OWNER = struct.Struct("<QQI")  # epoch, generation, digest of the token
_HEAD_BYTES = 64
_OWNER_AT = _SHAPE.size
_FLAGS_AT = _OWNER_AT + _OWNER.size
_ATTEMPTS = struct.Struct("<H")
_ATTEMPTS_AT = _HEAD_BYTES - _ATTEMPTS.size
_MOST_ATTEMPTS = (1 << 8 * _ATTEMPTS.size) - 1
_OWNED, _ABSENT_IS_LOST = 1, 2
_BITMAP_BYTES = BLOCK_PAGES // 8


def _blocks(pages: int) -> int:
    return -(-pages // BLOCK_PAGES)


class _SharedBlock:
    """A `Block` of a shared map: its masks as they were when it was asked for, and its CRCs as they are."""

    __slots__ = ("crcs", "stored", "uncertain", "with_crc")

    def __init__(self, owner: "SharedPresence", number: int) -> None:
        self.stored = owner._stored.get(number)  # noqa: SLF001  a part of its owner
        self.uncertain = owner._uncertain.get(number)  # noqa: SLF001
        self.with_crc = owner._with_crc.get(number)  # noqa: SLF001
        self.crcs = owner._crcs[number * BLOCK_PAGES : (number + 1) * BLOCK_PAGES]  # noqa: SLF001

    def checksums(self, first: int, count: int) -> "array[int]":
        """The CRCs of pages first .. first + count - 1 as they are now."""
        return array("I", self.crcs[first : first + count])


class _Bitmap:
    """One bit for each page."""

    __slots__ = ("_view",)

    def __init__(self, view: memoryview) -> None:
        self._view = view

    def get(self, number: int) -> int:
        at = number * _BITMAP_BYTES
        return int.from_bytes(self._view[at : at + _BITMAP_BYTES], "little")

    def put(self, number: int, bits: int) -> None:
        at = number * _BITMAP_BYTES
        self._view[at : at + _BITMAP_BYTES] = bits.to_bytes(_BITMAP_BYTES, "little")

    def set(self, number: int, mask: int) -> None:
        self.put(number, self.get(number) | mask)

    def clear(self, number: int, mask: int) -> None:
        self.put(number, self.get(number) & ~mask)

    def all(self) -> int:
        return int.from_bytes(self._view, "little")


class SharedPresence:
    """What is known of the pages 0 .. pages - 1 of one object of a private pool, in a caller's memory.

    Args:
        buffer: flat and writable, `SharedPresence.size(pages)` bytes or more, all zero when it is used for the first time.
        pages: how many pages the object can have.
        object: which object; the pool has no other for whoever uses this map.
        ask_later: what is uncertain when the pool is opened stays so, and gets of it ask the server, in the place of one
            listing of the whole pool at once: for those who take over while somebody waits.

    Attributes:
        absent_is_lost: as in PresenceMap; kept in the buffer too.

    Raises:
        InvalidBuffer: too small, or not writable. InvalidOption: the buffer has a map of another shape.
    """

    def __init__(self, buffer: Plain, pages: int, object: int = 0, *, ask_later: bool = False) -> None:  # noqa: A002  the field's own word
        check_object(object)
        if pages < 1:
            raise InvalidOption(f"a presence map of {pages} pages can't be")
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous or view.nbytes < self.size(pages):
            raise InvalidBuffer(f"a presence map of {pages} pages wants {self.size(pages)} writable bytes in one piece")
        view = view.cast("B")
        self._pages = pages
        self._object = object
        self._ask_later = ask_later
        self._head = view[:_HEAD_BYTES]
        self._next_owner = (0, 0, 0)
        self._nothing_lost = False
        shape = _SHAPE.pack(_MAGIC, pages, object.to_bytes(24, "little"))
        if self._head[:8] == bytes(8):
            self._head[8:_OWNER_AT] = shape[8:]
            self._head[:8] = shape[:8]
        elif self._head[:_OWNER_AT] != shape:
            raise InvalidOption("the buffer holds something else than a presence map of these pages and this object")
        size = _blocks(pages) * _BITMAP_BYTES
        bitmaps = [_Bitmap(view[at : at + size]) for at in range(_HEAD_BYTES, _HEAD_BYTES + 4 * size, size)]
        self._stored, self._uncertain, self._with_crc, self._removed = bitmaps
        crcs = _HEAD_BYTES + 4 * size
        self._crcs = view[crcs : self.size(pages)].cast("I")

    @staticmethod
    def size(pages: int) -> int:
        """How many bytes a map of so many pages takes."""
        return _HEAD_BYTES + _blocks(pages) * (4 * _BITMAP_BYTES + 4 * BLOCK_PAGES)

    @property
    def owned(self) -> bool:
        """Whether it is a pool's map, and all that was stored in the pool is in it."""
        return bool(self._head[_FLAGS_AT] & _OWNED)

    @property
    def epoch(self) -> int:
        """The pool's epoch when it was made or opened last; 0 for a map that is nobody's yet."""
        return self._owner()[0] if self.owned else 0

    @property
    def absent_is_lost(self) -> bool:
        """Whether a page that the map does not hold may have been stored before the map began."""
        return bool(self._head[_FLAGS_AT] & _ABSENT_IS_LOST)

    @absent_is_lost.setter
    def absent_is_lost(self, lost: bool) -> None:
        flags = self._head[_FLAGS_AT] & ~_ABSENT_IS_LOST
        self._head[_FLAGS_AT] = flags | (_ABSENT_IS_LOST if lost else 0)

    def reset(self) -> None:
        """Makes the map nobody's, and forgets all of it: for another pool."""
        self._head[_FLAGS_AT] = 0
        for number in range(_blocks(self._pages)):
            for bitmap in (self._stored, self._uncertain, self._with_crc, self._removed):
                bitmap.put(number, 0)

    def _owner(self) -> tuple[int, int, int]:
        epoch, generation, digest = _OWNER.unpack_from(self._head, _OWNER_AT)
        return epoch, generation, digest

    def _own(self, epoch: int, generation: int, digest: int) -> None:
        """Says whose map it is; from the last byte on it is believed."""
        self._attempts = 0  # first: who is killed in between doubts
        _OWNER.pack_into(self._head, _OWNER_AT, epoch, generation, digest)
        self._head[_FLAGS_AT] |= _OWNED

    @property
    def _attempts(self) -> int:
        """How many openings since the last that was noted the server may have carried out."""
        (attempts,) = _ATTEMPTS.unpack_from(self._head, _ATTEMPTS_AT)
        return int(attempts)

    @_attempts.setter
    def _attempts(self, attempts: int) -> None:
        _ATTEMPTS.pack_into(self._head, _ATTEMPTS_AT, min(attempts, _MOST_ATTEMPTS))

    # ---- What is known ----

    def check(self, extent: Extent) -> None:
        """Raises InvalidHandle for an extent that the map has no place for."""
        if extent.object != self._object or extent.index + extent.pages > self._pages:
            raise InvalidHandle(
                f"object {extent.object}, pages {extent.index}..{extent.index + extent.pages - 1}: the presence map of this "
                f"pool is of object {self._object}, pages 0..{self._pages - 1}"
            )

    def block(self, extent: Extent) -> _SharedBlock:
        """What is known of the extent's block."""
        self.check(extent)
        return _SharedBlock(self, extent.block)

    def objects(self) -> set[int]:
        """The objects of which anything is stored or uncertain."""
        return {self._object} if any(self.counts()) else set()

    def blocks_of(self, obj: int) -> Iterator[tuple[int, _SharedBlock]]:
        """The blocks of one object of which anything is stored or uncertain."""
        self.check(Extent(obj, 0, 1))
        for number in range(_blocks(self._pages)):
            if self._stored.get(number) | self._uncertain.get(number):
                yield number, _SharedBlock(self, number)

    def counts(self) -> tuple[int, int]:
        """How many pages are stored, and how many uncertain."""
        return self._stored.all().bit_count(), self._uncertain.all().bit_count()

    def was_removed(self, extent: Extent, page: int) -> bool:
        """Whether a page (counted in its block) was removed by the pool's writer, so that its absence is no loss."""
        return bool(self._removed.get(extent.block) >> page & 1)

    # ---- Writes ----

    def begin(self, extent: Extent) -> int:
        """A write of these pages is on its way; answers, as bits of their block, which of them were uncertain already."""
        number, mask = extent.block, mask_of(extent)
        uncertain = self._uncertain.get(number)
        self._uncertain.put(number, uncertain | mask)
        return uncertain & mask

    def stored(self, extent: Extent, crcs: Sequence[int]) -> None:
        """They were STORED; `crcs` is one CRC32C for each."""
        number = extent.block
        mask = mask_of(extent)
        self._uncertain.set(number, mask)
        self._crcs[extent.index : extent.index + extent.pages] = memoryview(array("I", crcs))
        self._with_crc.set(number, mask)
        self._stored.set(number, mask)
        self._uncertain.clear(number, mask)
        if self.absent_is_lost:
            self._removed.clear(number, mask)

    def absent(self, extent: Extent) -> None:
        """They are gone, by a flush or by a refusal."""
        number = extent.block
        mask = mask_of(extent)
        if self.absent_is_lost:
            self._removed.set(number, mask)
        self._stored.clear(number, mask)
        self._uncertain.clear(number, mask)

    def unchanged(self, extent: Extent, doubted: int = 0) -> None:
        """The write changed nothing: what was known before holds again, but for what was in doubt."""
        self._uncertain.clear(extent.block, mask_of(extent) & ~doubted)

    def missing(self, extent: Extent, page: int) -> None:
        """An ephemeral page (counted in its block) is no longer on the server."""
        self.absent(Extent(extent.object, extent.block * BLOCK_PAGES + page, 1))

    # ---- Wholesale ----

    def created(self, token: bytes, *, epoch: int, generation: int) -> None:
        """The map is of a pool that was made this moment.

        Raises:
            InvalidOption: it is another pool's, or was.
        """
        if self.owned or any(self.counts()):
            raise InvalidOption("the presence map is another pool's: reset() it first")
        self.absent_is_lost = False
        self._own(epoch, generation, page_checksum(token))

    def opening(self) -> None:
        """The server is about to be asked to open the pool; its answer may not come."""
        self._attempts += 1

    def not_opened(self) -> None:
        """It said no."""
        self._attempts = max(0, self._attempts - 1)

    def opened(self, token: bytes, *, epoch: int, generation: int, known_epoch: int | None, incomplete: bool) -> bool:
        """The map is of a pool that existed; answers whether the server must be asked what it holds.

        A map that was kept from the pool's making on, or since it was filled, is believed; what is uncertain in it, or in
        doubt, is asked for.
        """
        digest = page_checksum(token)
        self._next_owner = (epoch, generation, digest)
        if not self.owned:
            self.reset()
            self.absent_is_lost = incomplete if known_epoch is None else known_epoch != epoch
            self._nothing_lost = True  # of what is in the map
            return True
        old_epoch, old_generation, old_digest = self._owner()
        if old_digest != digest:
            raise InvalidOption("the presence map is another pool's")
        self._nothing_lost = epoch == old_epoch and not incomplete
        if not old_generation < generation <= old_generation + max(1, self._attempts):
            for number in range(_blocks(self._pages)):
                self._uncertain.set(number, self._stored.get(number))
        elif self._ask_later or not self._uncertain.all():
            self._own(*self._next_owner)
            return False
        return True

    def listed(self, obj: int, number: int, bitmap: int, crcs: Sequence[int] | None) -> None:
        """The server says which pages of a block it holds, at a moment when no write is on its way."""
        if obj != self._object or number >= _blocks(self._pages):
            return  # nobody can ask for them
        stored, uncertain = self._stored.get(number), self._uncertain.get(number)
        within = (1 << min(BLOCK_PAGES, self._pages - number * BLOCK_PAGES)) - 1
        new = bitmap & within & (~stored | uncertain)
        if not new:
            return
        self._uncertain.put(number, uncertain | new)
        if crcs is not None:
            fill_crcs(self._crcs[number * BLOCK_PAGES : (number + 1) * BLOCK_PAGES], bitmap, new, crcs)
            self._with_crc.set(number, new)
        else:
            self._with_crc.clear(number, new)
        self._stored.put(number, stored | new)
        self._uncertain.clear(number, new)

    def filled(self) -> None:
        """The server has said so of every block: what is uncertain still is not there.

        If the server has lost nothing, such a page is absent: never put, or removed. Else a page that was stored before is
        lost, and stays known to be stored, so that a get says so.
        """
        for number in range(_blocks(self._pages)):
            uncertain = self._uncertain.get(number)
            if uncertain:
                if self._nothing_lost:
                    self._stored.clear(number, uncertain)
                self._uncertain.put(number, 0)
        self._own(*self._next_owner)

    def forget(self) -> None:
        """Nothing is stored any more (an ephemeral pool whose server came back empty)."""
        for number in range(_blocks(self._pages)):
            self._stored.put(number, 0)

    def lost(self, under_way: Callable[[int, int], int]) -> None:
        """What was uncertain, and is not sent again, is what was known before."""
        for number in range(_blocks(self._pages)):
            uncertain = self._uncertain.get(number)
            if uncertain:
                self._uncertain.put(number, uncertain & under_way(self._object, number))
