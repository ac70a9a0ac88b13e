"""Ranges of pages, against sets of numbers."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from tmem.agents.swap.ranges import clear, cut, masks, runs
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

ranges = st.tuples(st.integers(0, 3000), st.integers(1, 1500))


@given(ranges)
def test_masks_are_the_pages_of_each_block(pages):
    first, count = pages
    found = masks(first, count)
    assert [block for block, _ in found] == sorted({page // BLOCK_PAGES for page in range(first, first + count)})
    numbers = [block * BLOCK_PAGES + bit for block, mask in found for bit in range(BLOCK_PAGES) if mask >> bit & 1]
    assert numbers == list(range(first, first + count))


@given(st.integers(0, (1 << BLOCK_PAGES) - 1))
def test_runs_are_the_set_bits(mask):
    found = runs(mask)
    assert sum(((1 << end) - 1) ^ ((1 << first) - 1) for first, end in found) == mask
    for (_, end), (first, _) in itertools.pairwise(found):
        assert first > end


@given(ranges)
def test_pieces_lie_in_one_block_each_and_cover_the_memory(pages):
    first, count = pages[0], min(pages[1], 40)
    memory = memoryview(bytearray(range(256)) * (count * 16))
    pieces = cut(first, count, memory)
    assert b"".join(bytes(part) for _, part in pieces) == bytes(memory)
    at = first
    for index, part in pieces:
        assert index == at
        size = len(part) // PAGE_BYTES
        assert index // BLOCK_PAGES == (index + size - 1) // BLOCK_PAGES
        at += size


def test_clearing_the_last_bit_removes_the_entry():
    table = {3: 0b110}
    clear(table, 3, 0b010)
    clear(table, 4, 1)
    assert table == {3: 0b100}
    clear(table, 3, 0b111)
    assert table == {}
