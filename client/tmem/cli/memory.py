"""Reading the memory of a process.

Owns: what of a process's memory is its own (private, writable, anonymous, and resident), and process_vm_readv, which reads
it straight into our buffer.
"""

import ctypes
import ctypes.util
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PAGE_BYTES", "Region", "blocks", "read_memory", "regions"]

PAGE_BYTES = 4096

_HEADER = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4}) \S+ \S+ (\d+)\s*(.*)")
_FIELD = re.compile(r"(\w+):\s+(\d+) kB")


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_libc = ctypes.CDLL(ctypes.util.find_library("c") or "libc.so.6", use_errno=True)
_libc.process_vm_readv.restype = ctypes.c_ssize_t
_libc.process_vm_readv.argtypes = [
    ctypes.c_int,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.POINTER(_IoVec),
    ctypes.c_ulong,
    ctypes.c_ulong,
]


@dataclass(frozen=True, slots=True)
class Region:
    """One mapping. Units: bytes."""

    start: int
    end: int
    resident: int

    @property
    def size(self) -> int:
        """Its length."""
        return self.end - self.start


def regions(pid: int) -> list[Region]:
    """The mappings of a process that hold its own data: private, writable, anonymous, and at least half resident."""
    found = []
    header: tuple[int, int] | None = None
    for line in Path(f"/proc/{pid}/smaps").read_text("ascii", errors="replace").splitlines():
        match = _HEADER.fullmatch(line)
        if match is not None:
            own = match[3] == "rw-p" and match[4] == "0" and match[5] in {"", "[heap]"}
            header = (int(match[1], 16), int(match[2], 16)) if own else None
            continue
        field = _FIELD.match(line)
        if header is not None and field is not None and field[1] == "Rss":
            start, end = header
            resident = int(field[2]) * 1024
            if resident * 2 >= end - start:
                found.append(Region(start, end, resident))
    return found


def read_memory(pid: int, address: int, into: memoryview) -> None:
    """Fills a writable view with a process's memory.

    Raises:
        OSError: no right to, or nothing mapped there.
    """
    buffer = (ctypes.c_char * len(into)).from_buffer(into)
    done = 0
    while done < len(into):
        local = _IoVec(ctypes.addressof(buffer) + done, len(into) - done)
        remote = _IoVec(address + done, len(into) - done)
        count = _libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if count <= 0:
            number = ctypes.get_errno()
            raise OSError(number, f"can't read the memory of process {pid} at {address:#x}: {os.strerror(number)}")
        done += count


def blocks(found: list[Region], block_bytes: int) -> Iterator[tuple[int, int]]:
    """Cuts regions into blocks: (address, bytes)."""
    for region in found:
        for address in range(region.start, region.end, block_bytes):
            yield address, min(block_bytes, region.end - address)
