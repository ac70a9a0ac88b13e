"""Leaves: where each page of a block is.

Owns: the index of one pool, from (object, block) to a leaf and from a page to its locator, and the way back from a leaf's
number. A leaf of few pages is a short `bytes`; one of many is an array of 512 locators: 8 bytes a page. Everything else is
kept in columns by the leaf's number, because a Python object for each leaf would cost more than a small leaf does.

Measured (CPython 3.11, 64 bits): a leaf of one page takes 150-180 bytes, of a full block 8.6 a page.
"""

from array import array
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Union

from tmem.wire.limits import BLOCK_PAGES

__all__ = ["Leaves"]

_GROW_AT = 24  # more pages than these, and the leaf becomes an array
_SHRINK_AT = 12  # fewer than these, and it becomes small again
_SMALL = [Struct(f"<{count}H{count}Q") for count in range(_GROW_AT + 1)]
_ENTRY_BYTES = 10
_SHRINK_LEAVES = 2000
_ABSENT = bytes(8 * BLOCK_PAGES)

# What CPython takes: a dict's entry at its mean load (45), an object's number (52), the leaf's number (32), four columns (22).
_LEAF_BYTES = 152
_SMALL_BYTES = 33
_DENSE_BYTES = 64 + 16 + 8 * BLOCK_PAGES

_Form = Union[bytes, "array[int]"]  # array takes a parameter for type checkers only


def _cost(form: _Form | None) -> int:
    """Bytes that a leaf of this form takes."""
    if form is None:
        return 0
    return _LEAF_BYTES + (_SMALL_BYTES + len(form) if isinstance(form, bytes) else _DENSE_BYTES)


class Leaves:
    """The index of one pool.

    Attributes:
        bytes: what it takes.
        count: leaves in use.
    """

    __slots__ = ("_blocks", "_counts", "_forms", "_free", "_objects", "_of", "bytes", "count")

    def __init__(self) -> None:
        # An object of one block has that leaf's number here; of several, a dict from block to number.
        self._of: dict[int, int | dict[int, int]] = {}
        self._objects: list[int | None] = [None]
        self._blocks = array("I", [0])
        self._counts = array("H", [0])
        self._forms: list[_Form | None] = [None]
        self._free: list[int] = []
        self.bytes = 0
        self.count = 0

    @property
    def objects(self) -> int:
        """Objects that have a leaf."""
        return len(self._of)

    # ---- Finding ----

    def find(self, obj: int, block: int) -> int:
        """The leaf's number; 0 if there is none."""
        entry = self._of.get(obj)
        if entry is None:
            return 0
        if isinstance(entry, int):
            return entry if self._blocks[entry] == block else 0
        return entry.get(block, 0)

    def of_object(self, obj: int) -> list[int]:
        """The numbers of an object's leaves."""
        entry = self._of.get(obj)
        if entry is None:
            return []
        return [entry] if isinstance(entry, int) else list(entry.values())

    def numbers(self) -> Iterator[int]:
        """Every leaf there is now, in order of number; safe against changes while it runs."""
        for number in range(1, len(self._forms)):
            if number < len(self._forms) and self._forms[number] is not None:
                yield number

    def name(self, number: int) -> tuple[int, int]:
        """The leaf's object and block."""
        obj = self._objects[number]
        assert obj is not None
        return obj, self._blocks[number]

    def pages(self, number: int) -> int:
        """How many pages the leaf has."""
        return self._counts[number]

    def read(self, number: int, first: int, count: int) -> Sequence[int]:
        """The locators of some pages, 0 where there is none; also of a leaf that is gone."""
        form = self._forms[number]
        if isinstance(form, array):
            return form[first : first + count]
        found = [0] * count
        if form:
            entries = len(form) // _ENTRY_BYTES
            values = _SMALL[entries].unpack(form)
            for entry in range(entries):
                page = values[entry] - first
                if 0 <= page < count:
                    found[page] = values[entries + entry]
        return found

    # ---- Changing ----

    def make(self, obj: int, block: int) -> int:
        """The number of the leaf, made if need be. An empty leaf does not last: write to it."""
        number = self.find(obj, block)
        if number:
            return number
        if self._free:
            number = self._free.pop()
            self._blocks[number] = block
        else:
            number = len(self._forms)
            self._objects.append(None)
            self._blocks.append(block)
            self._counts.append(0)
            self._forms.append(None)
        entry = self._of.get(obj)
        if entry is None:
            self._of[obj] = number
        elif isinstance(entry, int):
            obj = self.name(entry)[0]  # the one integer that both leaves can share
            self._of[obj] = {self._blocks[entry]: entry, block: number}
        else:
            entry[block] = number
            obj = self.name(next(iter(entry.values())))[0]
        self._objects[number] = obj
        self._set(number, b"")
        self.count += 1
        return number

    def write(self, number: int, first: int, locators: Sequence[int]) -> None:
        """Sets the locators of some pages; 0 takes a page away. A leaf without pages goes."""
        form = self._forms[number]
        assert form is not None
        if isinstance(form, array):
            end = first + len(locators)
            before = len(locators) - form[first:end].count(0)
            after = len(locators) - locators.count(0)
            form[first:end] = locators if isinstance(locators, array) else array("Q", locators)
            self._counts[number] += after - before
            if self._counts[number] < _SHRINK_AT:
                self._set(number, _pack({page: locator for page, locator in enumerate(form) if locator}))
        elif len(locators) - locators.count(0) > _GROW_AT:
            self._make_dense(number, form, first, locators)
        else:
            entries = _unpack(form)
            for page, locator in enumerate(locators, first):
                if locator:
                    entries[page] = locator
                else:
                    entries.pop(page, None)
            if len(entries) > _GROW_AT:
                self._make_dense(number, form, first, locators)
            else:
                self._counts[number] = len(entries)
                self._set(number, _pack(entries))
        if not self._counts[number]:
            self._remove(number)

    def move(self, number: int, first: int, pages: int, old: int, new: int) -> bool:
        """Tells some pages that their record is elsewhere now, if every one of them is in it; answers whether."""
        form = self._forms[number]
        if isinstance(form, array):
            if pages == 1:
                if form[first] != old:
                    return False
                form[first] = new
                return True
            if form[first : first + pages].count(old) != pages:
                return False
            form[first : first + pages] = array("Q", (new,)) * pages
            return True
        if self.read(number, first, pages).count(old) != pages:
            return False
        self.write(number, first, [new] * pages)
        return True

    def _make_dense(self, number: int, form: bytes, first: int, locators: Sequence[int]) -> None:
        dense = array("Q", _ABSENT)
        for page, locator in _unpack(form).items():
            dense[page] = locator
        dense[first : first + len(locators)] = array("Q", locators)
        self._counts[number] = BLOCK_PAGES - dense.count(0)
        self._set(number, dense)

    def _set(self, number: int, form: _Form | None) -> None:
        self.bytes += _cost(form) - _cost(self._forms[number])
        self._forms[number] = form

    def _remove(self, number: int) -> None:
        obj, block = self.name(number)
        entry = self._of[obj]
        if isinstance(entry, int):
            del self._of[obj]
        else:
            del entry[block]
            if not entry:
                del self._of[obj]
        self._set(number, None)
        self._objects[number] = None
        self._free.append(number)
        self.count -= 1

    def shrink(self) -> bool:
        """Forgets a bounded part of the index of a pool that has ended; answers whether there is more."""
        for _ in range(min(_SHRINK_LEAVES, len(self._forms) - 1)):
            self.bytes -= _cost(self._forms.pop())
            self._objects.pop()
        for _ in range(min(_SHRINK_LEAVES, len(self._of))):
            self._of.popitem()
        if len(self._forms) == 1:
            self.bytes = 0
        return len(self._forms) > 1 or bool(self._of)


def _unpack(form: bytes) -> dict[int, int]:
    entries = len(form) // _ENTRY_BYTES
    values = _SMALL[entries].unpack(form)
    return dict(zip(values[:entries], values[entries:], strict=True))


def _pack(entries: dict[int, int]) -> bytes:
    pages = sorted(entries)
    return _SMALL[len(pages)].pack(*pages, *(entries[page] for page in pages))
