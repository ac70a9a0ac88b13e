"""One record: a chunk with the header that says whose it is.

Owns: the form of a record in memory. It is made small, because a lone 4 KiB page has one of its own: 18 bytes, and 4 for each
page's CRC32C. Which object and block it belongs to is the leaf's to say; the header has the leaf's number.

    leaf      u31   number of the block's leaf, and a bit: its data were compressed as well as can be
    shape     u32   first page in the block, encoding, pages, encoded length
    sequence  u64
    generation u16  or 0 and 8 bytes more behind the header, for the rare one above 65535
    crcs      u32 for each page; absent where a same-filled page's is what its word says
    data

A record never changes once it is written: whatever replaces it is another record.
"""

from array import array
from struct import Struct
from typing import NamedTuple

from tmem.wire.checksum import same_filled_checksum
from tmem.wire.handles import Version
from tmem.wire.limits import MAX_CHUNK_PAGES, PAGE_BYTES, SAME_FILLED_BYTES
from tmem.wire.results import Encoding
from tmem.wire.splice import BytesLike

__all__ = [
    "CRC_BYTES",
    "MAX_LEAF",
    "MAX_RECORD_BYTES",
    "Record",
    "mark_dense",
    "measure",
    "overhead",
    "read",
    "span",
    "write",
]

_HEADER = Struct("<IIQH")
_WIDE = Struct("<Q")
_MAX_NARROW = (1 << 16) - 1
CRC_BYTES = 4

MAX_LEAF = (1 << 31) - 1
"""The highest number of a leaf: 4 EiB of plain pages."""
_DENSE_BYTE, _DENSE_BIT = 3, 1 << 7

_ENCODING_SHIFT = 9
_WIDE_BIT = 1 << 11
_CHUNK_PAGES_SHIFT, _LENGTH_SHIFT = 12, 16
_SAME_PAGES_SHIFT, _SAME_CRCS_BIT = 12, 1 << 21

_SAME_FILLED = int(Encoding.SAME_FILLED)

MAX_RECORD_BYTES = _HEADER.size + _WIDE.size + MAX_CHUNK_PAGES * (CRC_BYTES + PAGE_BYTES)
"""The longest record: a raw chunk of 16 pages. (A same-filled one of 512 pages with CRCs of its own is shorter.)"""


class Record(NamedTuple):
    """What a record's header says.

    Attributes:
        leaf: number of its leaf.
        first, pages: where it lies in its block.
        crcs_at, data_at: where its checksums and its data begin in the segment; equal where the checksums follow from the word.
        length: bytes of its data.
        overhead: bytes before its data.
        dense: compressing its data anew is of no use.
    """

    leaf: int
    first: int
    pages: int
    encoding: int
    length: int
    version: Version
    overhead: int
    crcs_at: int
    data_at: int
    dense: bool

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.data_at + self.length

    @property
    def size(self) -> int:
        """All its bytes."""
        return self.overhead + self.length

    def live_bytes(self, live: int) -> int:
        """The share of its data that belongs to so many live pages."""
        return self.length * live // self.pages

    def add_crcs(self, memory: memoryview, offset: int, count: int, into: "array[int]") -> None:
        """Appends the CRC32C of some of its pages, `offset` the first."""
        at = self.crcs_at
        if at == self.data_at:
            into.extend([same_filled_checksum(bytes(memory[at : at + SAME_FILLED_BYTES]))] * count)
        else:
            at += CRC_BYTES * offset
            into.frombytes(memory[at : at + CRC_BYTES * count])

    def crcs(self, memory: memoryview) -> "array[int]":
        """The CRC32C of each page."""
        crcs = array("I")
        self.add_crcs(memory, 0, self.pages, crcs)
        return crcs


def _omits_crcs(encoding: int, data: BytesLike, crcs: "array[int]") -> bool:
    """Whether the checksums follow from the data: those of an honest writer's same-filled pages."""
    if encoding != _SAME_FILLED:
        return False
    crc = same_filled_checksum(bytes(data))
    return crcs.count(crc) == len(crcs)


def overhead(generation: int) -> int:
    """Bytes of a record's header, without checksums."""
    return _HEADER.size + _WIDE.size if generation > _MAX_NARROW else _HEADER.size


def measure(encoding: int, data: BytesLike, crcs: "array[int]", generation: int) -> int:
    """Bytes that a record takes."""
    size = overhead(generation) + len(data)
    return size if _omits_crcs(encoding, data, crcs) else size + CRC_BYTES * len(crcs)


def write(
    memory: memoryview,
    at: int,
    leaf: int,
    first: int,
    encoding: int,
    data: BytesLike,
    crcs: "array[int]",
    version: Version,
) -> int:
    """Writes a record, for which there is room; answers the bytes before its data."""
    pages = len(crcs)
    generation, sequence = version
    shape = first | encoding << _ENCODING_SHIFT
    omits = False
    if encoding == _SAME_FILLED:
        omits = _omits_crcs(encoding, data, crcs)
        shape |= pages - 1 << _SAME_PAGES_SHIFT
        if not omits:
            shape |= _SAME_CRCS_BIT
    else:
        shape |= pages - 1 << _CHUNK_PAGES_SHIFT | len(data) - 1 << _LENGTH_SHIFT
    begin = at
    if generation > _MAX_NARROW:
        _HEADER.pack_into(memory, at, leaf, shape | _WIDE_BIT, sequence, 0)
        at += _HEADER.size
        _WIDE.pack_into(memory, at, generation)
        at += _WIDE.size
    else:
        _HEADER.pack_into(memory, at, leaf, shape, sequence, generation)
        at += _HEADER.size
    if not omits:
        end = at + CRC_BYTES * pages
        memory[at:end] = memoryview(crcs).cast("B")
        at = end
    memory[at : at + len(data)] = data
    return at - begin


def mark_dense(memory: memoryview, at: int) -> None:
    """Notes that compressing the record at `at` anew is of no use."""
    memory[at + _DENSE_BYTE] |= _DENSE_BIT


def span(memory: memoryview, at: int) -> tuple[int, int, int, int]:
    """Of the record at `at` the leaf's number, the first page, the pages, and all its bytes: a third of the cost of `read`."""
    leaf, shape, _, _ = _HEADER.unpack_from(memory, at)
    leaf &= MAX_LEAF
    size = _HEADER.size
    if shape & _WIDE_BIT:
        size += _WIDE.size
    if shape >> _ENCODING_SHIFT & 3 == _SAME_FILLED:
        pages = (shape >> _SAME_PAGES_SHIFT & 511) + 1
        size += SAME_FILLED_BYTES
        if not shape & _SAME_CRCS_BIT:
            return leaf, shape & 511, pages, size
    else:
        pages = (shape >> _CHUNK_PAGES_SHIFT & 15) + 1
        size += (shape >> _LENGTH_SHIFT) + 1
    return leaf, shape & 511, pages, size + CRC_BYTES * pages


def read(memory: memoryview, at: int) -> Record:
    """The record at `at`."""
    leaf, shape, sequence, generation = _HEADER.unpack_from(memory, at)
    begin = at
    at += _HEADER.size
    if shape & _WIDE_BIT:
        (generation,) = _WIDE.unpack_from(memory, at)
        at += _WIDE.size
    encoding = shape >> _ENCODING_SHIFT & 3
    crcs_at = at
    if encoding == _SAME_FILLED:
        pages = (shape >> _SAME_PAGES_SHIFT & 511) + 1
        length = SAME_FILLED_BYTES
        if shape & _SAME_CRCS_BIT:
            at += CRC_BYTES * pages
    else:
        pages = (shape >> _CHUNK_PAGES_SHIFT & 15) + 1
        length = (shape >> _LENGTH_SHIFT) + 1
        at += CRC_BYTES * pages
    return Record(
        leaf & MAX_LEAF,
        shape & 511,
        pages,
        encoding,
        length,
        Version(generation, sequence),
        at - begin,
        crcs_at,
        at,
        leaf > MAX_LEAF,
    )
