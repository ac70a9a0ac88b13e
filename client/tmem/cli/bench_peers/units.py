"""What a swap agent does with each page when its server is a memcached or a Redis: the same as tmem's client does.

Owns: the form of a value: the CRC32C of each plain page, four bytes each, and behind them the pages as LZ4 made them, or as they are if it did not make
them smaller. The compressor, its settings, the checksum and the decompression into the caller's memory are those of `tmem.wire.codec`.
A unit is 1 page, or 16 together as in one of tmem's chunks.
"""

import sys
from array import array

import cramjam
import lz4.block

from tmem.wire.checksum import page_checksum, page_checksums
from tmem.wire.limits import PAGE_BYTES

__all__ = ["CHECKSUM_BYTES", "pack", "unpack"]

CHECKSUM_BYTES = 4

_compress = lz4.block.compress
_decompress_into = cramjam.lz4.decompress_block_into


def pack(unit: memoryview) -> bytes:
    """The value that is stored for a unit."""
    packed = _compress(unit, store_size=False)
    body = packed if len(packed) < len(unit) else unit
    if len(unit) == PAGE_BYTES:
        return page_checksum(unit).to_bytes(CHECKSUM_BYTES, sys.byteorder) + body
    return array("I", page_checksums(unit)).tobytes() + body


def unpack(value: bytes, into: memoryview) -> bool:
    """Writes the pages of a value to where they are wanted, and verifies each; False if they are not what was stored."""
    size = len(into)
    head = size // PAGE_BYTES * CHECKSUM_BYTES
    body = memoryview(value)[head:]
    if len(body) == size:
        into[:] = body
    else:
        try:
            if _decompress_into(body, into, output_len=size) != size:
                return False
        except cramjam.DecompressionError:
            return False
    if size == PAGE_BYTES:
        return page_checksum(into) == int.from_bytes(value[:CHECKSUM_BYTES], sys.byteorder)
    return array("I", page_checksums(into)).tobytes() == value[:head]
