"""The memory of a real process, for measurements.

Owns: how so many bytes of it are had: a process with real data is started, read, and ended.
"""

from tmem.wire.limits import BLOCK_BYTES

from .memory import blocks, read_memory, regions
from .workload import Workload

__all__ = ["capture", "capture_from"]


def capture(size: int) -> memoryview:
    """That many bytes of the memory of a real process, from its largest mappings."""
    with Workload(size * 5 // 4) as workload:
        workload.await_built()
        return capture_from(workload.pid, size)


def capture_from(pid: int, size: int) -> memoryview:
    """That many bytes of the memory of this process, from its largest mappings.

    Raises:
        ChildProcessError: it has less of its own.
    """
    memory = memoryview(bytearray(size))
    found = sorted(regions(pid), key=lambda region: -region.size)
    offset = 0
    for address, block_bytes in blocks(found, BLOCK_BYTES):
        length = min(block_bytes, size - offset)
        read_memory(pid, address, memory[offset : offset + length])
        offset += length
        if offset == size:
            return memory
    raise ChildProcessError("the process that was to fill its memory has less of its own than asked for")
