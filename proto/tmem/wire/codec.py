"""The codec: plain pages in a caller's buffer to chunks, and chunks back into a caller's buffer.

Owns: how an extent is cut into chunks and how each is encoded. LZ4 reads the caller's own memory and writes into the
caller's own memory; the one place that copies a plain page (a reader that wants part of a chunk) counts it.

A Codec belongs to one thread at a time: it has one scratch buffer. Units: bytes, unless a name says pages.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import cramjam
import lz4.block

from .checksum import page_checksums, same_filled_checksum
from .copies import CopyCounter
from .errors import InvalidBuffer
from .limits import MAX_CHUNK_PAGES, PAGE_BYTES, SAME_FILLED_BYTES
from .results import Encoding
from .splice import BytesLike

__all__ = ["NO_CHECKSUM", "Codec", "EncodedChunks", "Expansion", "Piece", "Plain", "plain_view"]

Plain = bytes | bytearray | memoryview
"""What callers hand us; anything else that has the buffer protocol works too."""

_compress = lz4.block.compress
_decompress_into = cramjam.lz4.decompress_block_into

_LZ4 = int(Encoding.LZ4)
_RAW = int(Encoding.RAW)
_SAME_FILLED = int(Encoding.SAME_FILLED)
_ZERO_PAGE = bytes(PAGE_BYTES)

NO_CHECKSUM = -1
"""In the place of a page's checksum: its chunk is not what its encoding says."""

Piece = tuple[int, int, "BytesLike", list[int]]
"""One encoded chunk: its Encoding, its plain pages, its bytes, and the CRC32C of each page."""

Expansion = tuple[int, "BytesLike", int, int, memoryview]
"""A chunk to be expanded: its Encoding, its bytes, its plain pages, the first page wanted, and where they go."""


def plain_view(buffer: Plain, *, writable: bool) -> memoryview:
    """A flat byte view of a caller's buffer; no copy.

    Raises:
        InvalidBuffer: not C-contiguous, not a whole number of pages, or read-only where it must be written.
    """
    try:
        view = memoryview(buffer)
    except TypeError as error:
        raise InvalidBuffer(f"a {type(buffer).__name__} is no buffer") from error
    if not view.c_contiguous:
        raise InvalidBuffer("the buffer is not contiguous; copy it into one that is")
    if writable and view.readonly:
        raise InvalidBuffer("the buffer is read-only, and pages are to be read into it")
    if view.nbytes == 0 or view.nbytes % PAGE_BYTES:
        raise InvalidBuffer(f"the buffer has {view.nbytes} bytes, which is not one or more pages of {PAGE_BYTES}")
    return view.cast("B") if view.format != "B" or view.ndim != 1 else view


@dataclass(slots=True)
class EncodedChunks:
    """Chunks in columns, and the pieces of the body that they make.

    A piece that did not shrink is a view of the caller's own buffer: join the pieces before the caller gets it back.

    Attributes:
        sizes: encoded bytes of each chunk.
        pages: plain pages of each chunk.
        encodings: Encoding of each chunk.
        crcs: CRC32C of each plain page of all chunks.
        pieces: the encoded chunks.
        body_bytes: their total length.
    """

    sizes: list[int] = field(default_factory=list)
    pages: list[int] = field(default_factory=list)
    encodings: list[int] = field(default_factory=list)
    crcs: list[int] = field(default_factory=list)
    pieces: list[BytesLike] = field(default_factory=list)
    body_bytes: int = 0

    def add_extent(self, pieces: Iterable[Piece]) -> None:
        """Appends the chunks of one extent with their checksums; neighbours that one word fills become one."""
        word: BytesLike | None = None
        for encoding, pages, data, crcs in pieces:
            if encoding == _SAME_FILLED and data == word:
                self.pages[-1] += pages
            else:
                self.add(encoding, pages, data)
            word = data if encoding == _SAME_FILLED else None
            self.crcs += crcs

    def add(self, encoding: int, pages: int, piece: BytesLike) -> None:
        """Appends one chunk (its page checksums are appended by the caller)."""
        size = len(piece)
        self.sizes.append(size)
        self.pages.append(pages)
        self.encodings.append(encoding)
        self.pieces.append(piece)
        self.body_bytes += size


class Codec:
    """Encodes and decodes chunks, and counts full-size copies.

    Args:
        copies: where a copy of plain pages is counted.
    """

    __slots__ = ("_copies", "_scratch")

    def __init__(self, copies: CopyCounter) -> None:
        self._copies = copies
        self._scratch = memoryview(bytearray(MAX_CHUNK_PAGES * PAGE_BYTES))

    def encode(self, pages: memoryview, first: int, chunk_pages: int, into: EncodedChunks) -> None:
        """Encodes one extent.

        Chunks are cut at multiples of `chunk_pages` within the block, so that a later overwrite of the same pages
        replaces whole chunks. A chunk that does not shrink stays raw; same-filled neighbours become one chunk.

        Args:
            pages: a flat view of n * 4096 bytes.
            first: the extent's first page within its block.
            chunk_pages: the most pages of a chunk, 1..16.
            into: where the chunks and checksums are appended.
        """
        cuts = self.cut(len(pages), first, chunk_pages)
        into.add_extent([self.encode_chunk(pages[start:end]) for start, end in pairwise(cuts)])

    @staticmethod
    def cut(size: int, first: int, chunk_pages: int) -> list[int]:
        """Where an extent of so many bytes is cut into chunks, from 0 to its end."""
        start = (chunk_pages - first % chunk_pages) * PAGE_BYTES
        return [0, *range(start, size, chunk_pages * PAGE_BYTES), size]

    @staticmethod
    def encode_chunk(chunk: memoryview) -> Piece:
        """Encodes one chunk; one that does not shrink stays a view of the caller's memory."""
        pages = len(chunk) // PAGE_BYTES
        word = _same_filled_word(chunk)
        if word is not None:
            return _SAME_FILLED, pages, word, [same_filled_checksum(word)] * pages
        packed = _compress(chunk, store_size=False)
        if len(packed) < len(chunk):
            return _LZ4, pages, packed, page_checksums(chunk)
        return _RAW, pages, chunk, page_checksums(chunk)

    def detach(self, chunks: EncodedChunks) -> None:
        """Copies what still lies in the caller's own buffer, and counts it: for chunks that wait while the buffer changes."""
        for number, (encoding, piece) in enumerate(zip(chunks.encodings, chunks.pieces, strict=True)):
            if encoding == _RAW and not isinstance(piece, bytes):
                chunks.pieces[number] = bytes(piece)
                self._copies.on_put(chunks.pages[number])

    def decode(
        self,
        encoding: int,
        data: BytesLike,
        chunk_pages: int,
        offset: int,
        destination: memoryview,
        crcs: Sequence[int],
    ) -> list[int]:
        """Expands pages of one chunk into a caller's memory, and verifies each.

        Args:
            encoding: the chunk's Encoding.
            data: its encoded bytes.
            chunk_pages: its plain pages.
            offset: the first page wanted.
            destination: a flat writable view of n * 4096 bytes: pages offset .. offset + n - 1 are wanted.
            crcs: the n checksums that they must have.

        Returns:
            Which of the n pages are corrupt, counted from 0. Their parts of the destination are zeroed.
        """
        if not self.expand(encoding, data, chunk_pages, offset, destination):
            destination[:] = bytes(len(destination))
            return list(range(len(crcs)))
        return self.verify(destination, crcs)

    @staticmethod
    def verify(pages: memoryview, crcs: Sequence[int]) -> list[int]:
        """Which of some plain pages do not have their checksums, counted from 0; their parts are zeroed."""
        found = page_checksums(pages)
        if found == (crcs if isinstance(crcs, list) else list(crcs)):
            return []
        bad = [page for page, crc in enumerate(found) if crc != crcs[page]]
        for page in bad:
            pages[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = _ZERO_PAGE
        return bad

    def checksums(
        self, encoding: int, data: BytesLike, chunk_pages: int, offset: int, destination: memoryview
    ) -> list[int]:
        """Expands as `decode` does; the checksums of the pages that are there now, or NO_CHECKSUM for each."""
        if self.expand(encoding, data, chunk_pages, offset, destination):
            return page_checksums(destination)  # now, while the pages are in the cache
        return [NO_CHECKSUM] * (len(destination) // PAGE_BYTES)

    def decode_all(self, chunks: Sequence[Expansion]) -> list[list[int]]:
        """`checksums` of each of some chunks, whose destinations do not overlap."""
        return [self.checksums(*chunk) for chunk in chunks]

    def take_copies(self, other: "Codec") -> None:
        """Counts the copies that another codec has made as this one's."""
        if other._copies.get_pages:  # noqa: SLF001  one of its own kind
            self._copies.on_get(other._copies.get_pages)  # noqa: SLF001
            other._copies.get_pages = 0  # noqa: SLF001

    def expand(self, encoding: int, data: BytesLike, chunk_pages: int, offset: int, destination: memoryview) -> bool:
        """As `decode`, without looking at checksums; False if the data are not what the encoding says."""
        wanted = len(destination)
        if encoding == _LZ4:
            plain = chunk_pages * PAGE_BYTES
            whole = wanted == plain
            target = destination if whole else self._scratch[:plain]
            try:
                # The output length bounds the expansion: LZ4 never writes beyond the view, whatever the data say.
                if _decompress_into(data, target, output_len=plain) != plain:
                    return False
            except cramjam.DecompressionError:
                return False
            if not whole:
                destination[:] = target[offset * PAGE_BYTES : offset * PAGE_BYTES + wanted]
                self._copies.on_get(wanted // PAGE_BYTES)
            return True
        if encoding == _RAW:
            if len(data) != chunk_pages * PAGE_BYTES:
                return False
            destination[:] = memoryview(data)[offset * PAGE_BYTES : offset * PAGE_BYTES + wanted]
            return True
        if encoding == _SAME_FILLED and len(data) == SAME_FILLED_BYTES:
            _fill(destination, data)
            return True
        return False


def _same_filled_word(chunk: memoryview) -> bytes | None:
    """The 8-byte word that fills the whole chunk, or None."""
    head = bytes(chunk[:SAME_FILLED_BYTES])
    # The ends and the middle differ in nearly every chunk that is not same-filled: 0.3 us instead of 4 us per 64 KiB.
    middle = len(chunk) // 2
    if head != chunk[-SAME_FILLED_BYTES:] or head != chunk[middle : middle + SAME_FILLED_BYTES]:
        return None
    words = chunk.cast("Q")
    return head if words[1:] == words[:-1] else None


def _fill(destination: memoryview, word: BytesLike) -> None:
    """Repeats a word over the destination by doubling: no buffer of that size is made."""
    total = len(destination)
    destination[: len(word)] = word
    done = len(word)
    while done < total:
        step = min(done, total - done)
        destination[done : done + step] = destination[:step]
        done += step
