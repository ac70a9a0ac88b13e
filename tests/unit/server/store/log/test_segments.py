"""Segments: what of their memory is resident."""

import ctypes
import re
from pathlib import Path

from tests.conftest import skip_or_fail

from tmem.server.store.log.segments import Segment


def resident_bytes(segment: Segment) -> int:
    """Of its memory, as the kernel counts them."""
    address = ctypes.addressof(ctypes.c_char.from_buffer(segment.memory))
    found = False
    for line in Path("/proc/self/smaps").read_text("utf-8").splitlines():
        span = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if span is not None:
            found = int(span[1], 16) <= address < int(span[2], 16)
        elif found and line.startswith("Rss:"):
            return int(line.split()[1]) << 10
    raise AssertionError("the kernel does not know its memory")


def test_the_unused_part_of_a_huge_page_is_given_back_once_another_segment_is_the_end() -> None:
    """Half empty segments would be resident in whole, and what they gave back in parts would come again."""
    segment = Segment(1, 8 << 20, huge=True)
    at = 3 << 20  # wherever it lies, a whole huge page is around it
    segment.memory[at] = 1
    if resident_bytes(segment) < 2 << 20:
        skip_or_fail("this kernel gives no huge pages here")
    segment.used = at + 1
    segment.settle()
    assert segment.memory[at] == 1
    # Of the huge page what lies before its end stays.
    assert resident_bytes(segment) <= 2 << 20
    assert segment.memory[at + 4096] == 0
    settled = resident_bytes(segment)
    segment.memory[6 << 20] = 1
    assert resident_bytes(segment) <= settled + 2 * 4096
    segment.memory.release()
