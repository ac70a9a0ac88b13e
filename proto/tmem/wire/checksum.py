"""CRC32C of plain pages.

Owns: how a page's checksum is computed. It is made by the client from the plain bytes, travels and is stored beside the
page, is verified by whoever expands the page, and is never recomputed on the way.
"""

from functools import lru_cache

import crc32c as _crc32c

from .limits import BLOCK_BYTES, PAGE_BYTES, SAME_FILLED_BYTES

__all__ = ["page_checksum", "page_checksums", "same_filled_checksum"]

page_checksum = _crc32c.crc32c
"""CRC32C (Castagnoli) of a buffer's bytes."""


# One slice object for each page of a block: making them anew is a third of the time that a checksum takes.
_PAGES = [slice(at, at + PAGE_BYTES) for at in range(0, BLOCK_BYTES, PAGE_BYTES)]


def page_checksums(pages: memoryview) -> list[int]:
    """CRC32C of each page of a flat view of n * 4096 bytes, n up to 512."""
    return list(map(page_checksum, map(pages.__getitem__, _PAGES[: len(pages) // PAGE_BYTES])))


@lru_cache(maxsize=256)
def same_filled_checksum(word: bytes) -> int:
    """CRC32C of a page that repeats one 8-byte word."""
    return int(_crc32c.crc32c(word * (PAGE_BYTES // SAME_FILLED_BYTES)))
