"""A block's pages as journal entries: for a journal that is written anew, and for snapshots.

Owns: how pages that a store answers become puts again, with the versions and checksums that they have.
"""

from tmem.server.store.interface import Store
from tmem.wire.answers import Pages
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_CHUNK_PAGES, PAGE_BYTES
from tmem.wire.requests import Header, encode_put
from tmem.wire.results import Encoding
from tmem.wire.splice import BytesLike

from .entries import Kind, encode_entry

__all__ = ["PART_BYTES", "block_entries", "block_parts", "part_entries"]

# Half a block at a time, so that it fits into an entry.
_PART_PAGES = BLOCK_PAGES // 2
# Room for every page's own chunk of the greatest size: a chunk that is not answered as it is held is expanded and verified, and
# pages of it that went bad would be missing.
PART_BYTES = _PART_PAGES * (MAX_CHUNK_PAGES + 1) * PAGE_BYTES


def block_entries(store: Store, key: int, obj: int, block: int, codec: Codec) -> list[list[BytesLike]]:
    """Entries that put the pages of a block as they are now.

    Raises:
        OSError: a page can't be read just now.
    """
    entries = []
    for part in block_parts(obj, block):
        entries += part_entries(store.read_now(key, [part], PART_BYTES), key, part, codec)
    return entries


def block_parts(obj: int, block: int) -> list[Extent]:
    """A block, cut into what fits into an entry."""
    return [Extent(obj, block * BLOCK_PAGES + first, _PART_PAGES) for first in range(0, BLOCK_PAGES, _PART_PAGES)]


def part_entries(pages: Pages, key: int, part: Extent, codec: Codec) -> list[list[BytesLike]]:
    """Entries that put what a store has answered of a part, asked for with room for PART_BYTES.

    Raises:
        OSError: a page can't be read just now.
    """
    if pages.refused:
        raise OSError(f"{pages.refused[0][1]} pages of block {part.block} of object {part.object:#x} can't be read")
    entries = []
    for version, (extents, chunks) in _by_version(pages, part.object, part.index, codec).items():
        header = Header(0, key, version.generation, version.sequence)
        entries.append(encode_entry(Kind.BATCH, encode_put(header, extents, chunks)))
    return entries


def _by_version(pages: Pages, obj: int, first: int, codec: Codec) -> dict[Version, tuple[list[Extent], EncodedChunks]]:
    """The runs of an answer as extents with chunks of their own, those of one write together."""
    found: dict[Version, tuple[list[Extent], EncodedChunks]] = {}
    at = 0
    for run in pages.runs:
        extents, chunks = found.setdefault(Version(run.generation, run.sequence), ([], EncodedChunks()))
        extents.append(Extent(obj, first + run.position, run.pages))
        chunk = pages.chunks[run.chunk]
        if run.pages == chunk.pages:
            chunks.add(chunk.encoding, chunk.pages, chunk.data)
        else:
            plain = memoryview(bytearray(run.pages * PAGE_BYTES))
            if codec.expand(chunk.encoding, chunk.data, chunk.pages, run.offset, plain):
                own = EncodedChunks()
                codec.encode(plain, (first + run.position) % BLOCK_PAGES, min(chunk.pages, MAX_CHUNK_PAGES), own)
                for count, encoding, piece in zip(own.pages, own.encodings, own.pieces, strict=True):
                    chunks.add(encoding, count, bytes(piece))
            else:
                # Its bytes went bad, and stay so: zeros whose checksums are not theirs.
                chunks.add(int(Encoding.RAW), run.pages, bytes(len(plain)))
        chunks.crcs.extend(pages.crcs[at : at + run.pages])
        at += run.pages
    return found
