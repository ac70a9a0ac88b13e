"""The FUSE protocol, as much of it as a file system of one file needs.

Owns: the bytes of requests and replies (include/uapi/linux/fuse.h, version 7). Pure: bytes in, tuples out; whatever bytes
come, `parse` answers a request or raises ProtocolError. What a request means for pages is the core's business.

Units: bytes, and nanoseconds where a name says so.
"""

import errno
import struct
from dataclasses import dataclass
from typing import NamedTuple

from tmem.wire.errors import ProtocolError

__all__ = [
    "FILE_NAME",
    "FILE_NODE",
    "HEADER_BYTES",
    "MAX_REQUEST_BYTES",
    "MAX_WRITE_BYTES",
    "RESEND",
    "RESENT",
    "ROOT_NODE",
    "WRITE_DATA",
    "Allocate",
    "Features",
    "Forget",
    "Interrupt",
    "Lookup",
    "Opcode",
    "Other",
    "Read",
    "ReadDirectory",
    "Request",
    "Write",
    "attributes_reply",
    "directory_reply",
    "entry_reply",
    "error_reply",
    "init_reply",
    "open_reply",
    "pack_header",
    "parse",
    "parse_init",
    "reply",
    "statfs_reply",
    "write_reply",
]


class Opcode:
    """Numbers of requests."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    ACCESS = 34
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    SYNCFS = 50


ROOT_NODE, FILE_NODE = 1, 2
FILE_NAME = b"swap"

# One write of the kernel's. More than 256 pages would want a sysctl raised.
_MAX_PAGES = 256
MAX_WRITE_BYTES = _MAX_PAGES * 4096

_IN_HEADER = struct.Struct("<IIQQIIIHH")
_OUT_HEADER = struct.Struct("<IiQ")
_READ_IN = struct.Struct("<QQIIQII")  # handle, offset, size, flags, owner, flags, -
_WRITE_IN = _READ_IN
_FALLOCATE_IN = struct.Struct("<QQQII")  # handle, offset, length, mode, -
_INIT_IN = struct.Struct("<IIII")  # major, minor, readahead, flags
_ATTRIBUTES = struct.Struct("<6Q10I")

HEADER_BYTES = _OUT_HEADER.size
WRITE_DATA = _IN_HEADER.size + _WRITE_IN.size
"""Where the data of a write begin in its message."""
# The kernel refuses to read a request into less than 8 KiB.
MAX_REQUEST_BYTES = max(8192, WRITE_DATA + MAX_WRITE_BYTES)

RESENT = 1 << 63
"""Set in the number of a request that the kernel says again."""
RESEND = _OUT_HEADER.pack(_OUT_HEADER.size, 7, 0)
"""Written to /dev/fuse, it makes the kernel say all unanswered requests again (FUSE_NOTIFY_RESEND)."""

_FOREVER_SECONDS = 1 << 30


class Read(NamedTuple):
    """The kernel wants bytes of the file."""

    unique: int
    offset: int
    size: int


class Write(NamedTuple):
    """The kernel gives bytes of the file; `data` is a view of the message."""

    unique: int
    offset: int
    data: memoryview


class Allocate(NamedTuple):
    """The kernel changes what a range is made of; modes are those of fallocate(2)."""

    unique: int
    offset: int
    length: int
    mode: int


class Lookup(NamedTuple):
    """The kernel wants to know what a name means."""

    unique: int
    node: int
    name: bytes


class ReadDirectory(NamedTuple):
    """The kernel wants entries of a directory, from a position on."""

    unique: int
    node: int
    offset: int
    size: int


class Interrupt(NamedTuple):
    """A process that waits for a request was sent a signal. Nothing is answered."""

    unique: int


class Forget(NamedTuple):
    """The kernel drops what it knew of a node. Nothing is answered."""

    unique: int


class Other(NamedTuple):
    """Any other request."""

    unique: int
    opcode: int
    node: int


Request = Read | Write | Allocate | Lookup | ReadDirectory | Interrupt | Forget | Other

_unpack_header = _IN_HEADER.unpack_from
_unpack_io = _READ_IN.unpack_from
_HEADER = _IN_HEADER.size


def parse(message: memoryview) -> Request:
    """The request in a message, as one read of /dev/fuse gives it.

    Raises:
        ProtocolError: it is none.
    """
    size = len(message)
    if size < _HEADER:
        raise ProtocolError(f"the kernel sent {size} bytes, which is no request")
    length, opcode, unique, node, _, _, _, _, _ = _unpack_header(message)
    if length != size:
        raise ProtocolError(f"the kernel sent {size} bytes and says that they are {length}")
    if opcode == Opcode.READ:
        _require(size, _READ_IN.size, opcode)
        _, offset, wanted, _, _, _, _ = _unpack_io(message, _HEADER)
        return Read(unique, offset, wanted)
    if opcode == Opcode.WRITE:
        _require(size, _WRITE_IN.size, opcode)
        _, offset, given, _, _, _, _ = _unpack_io(message, _HEADER)
        if size != WRITE_DATA + given:
            raise ProtocolError(f"a write of {given} bytes came with {size - WRITE_DATA}")
        return Write(unique, offset, message[WRITE_DATA:])
    if opcode == Opcode.FALLOCATE:
        _require(size, _FALLOCATE_IN.size, opcode)
        _, offset, extent, mode, _ = _FALLOCATE_IN.unpack_from(message, _HEADER)
        return Allocate(unique, offset, extent, mode)
    if opcode == Opcode.LOOKUP:
        return Lookup(unique, node, bytes(message[_HEADER:]).partition(b"\0")[0])
    if opcode == Opcode.READDIR:
        _require(size, _READ_IN.size, opcode)
        _, offset, wanted, _, _, _, _ = _unpack_io(message, _HEADER)
        return ReadDirectory(unique, node, offset, wanted)
    if opcode == Opcode.INTERRUPT:
        return Interrupt(unique)
    if opcode in {Opcode.FORGET, Opcode.BATCH_FORGET}:
        return Forget(unique)
    return Other(unique, opcode, node)


def _require(size: int, argument: int, opcode: int) -> None:
    if size < _HEADER + argument:
        raise ProtocolError(f"request {opcode} came with {size - _HEADER} bytes of arguments, not {argument}")


# ---- The opening ----

_BITS = {
    "ASYNC_READ": 0,
    "BIG_WRITES": 5,
    "ASYNC_DIO": 15,
    "PARALLEL_DIROPS": 18,
    "ABORT_ERROR": 21,
    "MAX_PAGES": 22,
    "INIT_EXT": 30,
    "HAS_RESEND": 39,
    "REQUEST_TIMEOUT": 42,
}
# Without ASYNC_DIO the device would do one thing at a time, without MAX_PAGES it would be asked for 128 KiB at most, and
# without HAS_RESEND what a dead worker had in hand would be lost.
_NEEDED = ("ASYNC_DIO", "MAX_PAGES", "HAS_RESEND")


@dataclass(frozen=True, slots=True)
class Features:
    """What the kernel's FUSE can do.

    Attributes:
        major, minor: of its protocol. readahead: bytes.
        flags: bits as of FUSE_*.
    """

    unique: int
    major: int
    minor: int
    readahead: int
    flags: int

    def has(self, name: str) -> bool:
        """Whether it has a feature, by the name of its flag without FUSE_."""
        return bool(self.flags >> _BITS[name] & 1)

    @property
    def missing(self) -> list[str]:
        """What the swap agent can't do without and this kernel does not have."""
        return [name for name in _NEEDED if not self.has(name)]


def parse_init(message: memoryview) -> Features:
    """The first request.

    Raises:
        ProtocolError: it is none, or of another major version.
    """
    if len(message) < _HEADER + _INIT_IN.size:
        raise ProtocolError(f"the kernel opens with {len(message)} bytes, which is no FUSE_INIT")
    _, opcode, unique, _, _, _, _, _, _ = _unpack_header(message)
    major, minor, readahead, flags = _INIT_IN.unpack_from(message, _HEADER)
    if opcode != Opcode.INIT or major != 7:
        raise ProtocolError(
            f"the kernel opens with request {opcode} of version {major}, not with FUSE_INIT of version 7"
        )
    if flags >> _BITS["INIT_EXT"] & 1 and len(message) >= _HEADER + _INIT_IN.size + 4:
        flags |= int.from_bytes(message[_HEADER + _INIT_IN.size : _HEADER + _INIT_IN.size + 4], "little") << 32
    return Features(unique, major, minor, readahead, flags)


_MINOR = 45
# Requests of a loop device are all "background" to FUSE. It has at most 128 in flight, each in at most two pieces; above
# that, a queue full of writes would hold back the reads that programs wait for.
_MAX_BACKGROUND = 1024


def init_reply(kernel: Features, timeout_seconds: int) -> bytes:
    """The answer to the opening.

    Args:
        kernel: what it said.
        timeout_seconds: after so long without an answer the kernel itself aborts the connection, if it can; 0 = never.
    """
    wanted = sum(1 << bit for bit in _BITS.values())
    if not timeout_seconds:
        wanted &= ~(1 << _BITS["REQUEST_TIMEOUT"])
    flags = wanted & kernel.flags
    timeout = min(timeout_seconds, 0xFFFF) if flags >> _BITS["REQUEST_TIMEOUT"] & 1 else 0
    return reply(
        kernel.unique,
        struct.pack(
            "<IIIIHHIIHHIIH22x",
            *(7, min(kernel.minor, _MINOR)),
            *(kernel.readahead, flags & 0xFFFFFFFF),
            *(_MAX_BACKGROUND, _MAX_BACKGROUND * 3 // 4),
            *(MAX_WRITE_BYTES, 1),
            *(_MAX_PAGES, 0),
            *(flags >> 32, 0, timeout),
        ),
    )


# ---- Replies ----


def reply(unique: int, payload: bytes = b"") -> bytes:
    """A good answer."""
    return _OUT_HEADER.pack(_OUT_HEADER.size + len(payload), 0, unique) + payload


def error_reply(unique: int, number: int) -> bytes:
    """A bad one; `number` as in errno, positive."""
    return _OUT_HEADER.pack(_OUT_HEADER.size, -number, unique)


def pack_header(buffer: memoryview, offset: int, size: int, unique: int) -> None:
    """Writes the head of a good answer of `size` bytes in front of them."""
    _OUT_HEADER.pack_into(buffer, offset, _OUT_HEADER.size + size, 0, unique)


def write_reply(unique: int, size: int) -> bytes:
    """All of a write was taken."""
    return reply(unique, struct.pack("<II", size, 0))


def _attributes(node: int, size: int) -> bytes:
    directory = node == ROOT_NODE
    mode = 0o040700 if directory else 0o100600
    size = 0 if directory else size
    return _ATTRIBUTES.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1 + directory, 0, 0, 0, 4096, 0)


def attributes_reply(unique: int, node: int, size: int) -> bytes:
    """What a node is: the root, or the file of so many bytes."""
    return reply(unique, struct.pack("<QII", _FOREVER_SECONDS, 0, 0) + _attributes(node, size))


def entry_reply(unique: int, size: int) -> bytes:
    """The name means the file of so many bytes."""
    head = struct.pack("<QQQQII", FILE_NODE, 0, _FOREVER_SECONDS, _FOREVER_SECONDS, 0, 0)
    return reply(unique, head + _attributes(FILE_NODE, size))


_FOPEN_DIRECT_IO, _FOPEN_NOFLUSH, _FOPEN_PARALLEL_DIRECT_WRITES = 1, 1 << 5, 1 << 6


def open_reply(unique: int, node: int) -> bytes:
    """It is open. The file is read and written past the page cache, by several at once."""
    flags = 0 if node == ROOT_NODE else _FOPEN_DIRECT_IO | _FOPEN_NOFLUSH | _FOPEN_PARALLEL_DIRECT_WRITES
    return reply(unique, struct.pack("<QII", node, flags, 0))


def statfs_reply(unique: int, size: int) -> bytes:
    """A file system that its one file fills."""
    return reply(unique, struct.pack("<5Q4I24x", size // 4096, 0, 0, 2, 0, 4096, 255, 4096, 0))


_DIRECTORY, _REGULAR = 4, 8
_ENTRIES = ((ROOT_NODE, b".", _DIRECTORY), (ROOT_NODE, b"..", _DIRECTORY), (FILE_NODE, FILE_NAME, _REGULAR))


def directory_reply(request: ReadDirectory) -> bytes:
    """The entries from the position on that fit."""
    if request.node != ROOT_NODE:
        return error_reply(request.unique, errno.ENOTDIR)
    payload = b""
    for position, (node, name, kind) in enumerate(_ENTRIES[request.offset :], request.offset + 1):
        entry = struct.pack("<QQII", node, position, len(name), kind) + name
        entry += bytes(-len(entry) % 8)
        if len(payload) + len(entry) > request.size:
            break
        payload += entry
    return reply(request.unique, payload)
