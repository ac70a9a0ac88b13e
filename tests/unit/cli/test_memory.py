import ctypes
import mmap
import os

import pytest

from tmem.cli.memory import Region, blocks, read_memory, regions


def test_memory_is_read_straight_into_the_buffer() -> None:
    source = ctypes.create_string_buffer(b"the quick brown fox", 32)
    into = bytearray(b"." * 30)

    read_memory(os.getpid(), ctypes.addressof(source), memoryview(into)[5:24])

    assert into == b"....." + b"the quick brown fox" + b"......"


def test_what_is_not_mapped_can_not_be_read() -> None:
    with pytest.raises(OSError, match="can't read the memory"):
        read_memory(os.getpid(), 4096, memoryview(bytearray(8)))


def address_of(mapping: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(mapping))


def test_a_resident_private_mapping_is_found() -> None:
    # Larger than all neighbours that the kernel might merge it with.
    with mmap.mmap(-1, 256 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE) as mapping:
        address = address_of(mapping)

        assert any(region.start <= address < region.end for region in regions(os.getpid()))


def test_a_mapping_that_was_never_touched_is_not_found() -> None:
    with mmap.mmap(-1, 2 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as mapping:
        address = address_of(mapping)

        assert not any(region.start <= address < region.end for region in regions(os.getpid()))


def test_regions_are_cut_into_blocks() -> None:
    found = [Region(0, 10, 10), Region(100, 104, 4)]

    assert list(blocks(found, 4)) == [(0, 4), (4, 4), (8, 2), (100, 4)]
