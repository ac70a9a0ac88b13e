"""The form of journal files: a header, and entries one behind the other. Pure.

    file    magic 8 B, format version u32, number u64, boot id 16 B, flags u32, CRC32C of these u32
    entry   length of payload u32, CRC32C of payload u32, kind u8, CRC32C of these u32, payload
    range   magic 8 B, format version u32, first and last number u64, CRC32C of these u32: which files must be there

A head has a checksum of its own, because a length that went bad would look like an entry that is not all there.

Batches are written as the contract's own messages (ExchangeRequest), with the pool's key in the place of its number: one form on the
wire and on the disk. What a pool is goes in as JSON.

A journal is read in order. What a killed daemon leaves is a last entry that is not all there: it is cut off, because nobody was told
that it had been written. Anything else that does not fit is refused with the file's name; it is never guessed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from crc32c import crc32c

from tmem.wire.limits import MAX_MESSAGE_BYTES
from tmem.wire.splice import BytesLike

__all__ = [
    "FORMAT_VERSION",
    "HEADER_BYTES",
    "FileHeader",
    "JournalError",
    "Kind",
    "Torn",
    "encode_entry",
    "encode_header",
    "encode_range",
    "read_entries",
    "read_header",
    "read_range",
]

FORMAT_VERSION = 1

_MAGIC = b"TMEMJRNL"
_HEADER = Struct("<8sIQ16sI")
_RANGE_MAGIC = b"TMEMJRNG"
_RANGE = Struct("<8sIQQ")
_CRC = Struct("<I")
_HEAD = Struct("<IIB")
HEADER_BYTES = _HEADER.size + _CRC.size
_HEAD_BYTES = _HEAD.size + _CRC.size
_SECTOR_BYTES = 512  # the least that a disk writes
_MAX_PAYLOAD_BYTES = 2 * MAX_MESSAGE_BYTES

_SYNCED = 1


class JournalError(Exception):
    """A journal can't be used; the message names the file and says why."""


class Kind(IntEnum):
    """What an entry says."""

    POOL = 1  # a pool and its rights, as they are from now on
    BATCH = 2  # a put, flush or flush of objects that was done
    DROP = 3  # the pool is gone
    MARK = 4  # nothing: whoever wrote it waits until it is written
    END = 5  # the daemon ended in order: everything before is on the disk
    START = 6  # a daemon has read everything before, it is on the disk, and what was missing is said by the pools


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a file says of itself.

    Attributes:
        number: its place among the files, counted from 1.
        boot_id: of the machine's run in which it was written; 16 bytes.
        synced: every write was forced to the disk before it was acknowledged.
    """

    number: int
    boot_id: bytes
    synced: bool


@dataclass(frozen=True, slots=True)
class Torn:
    """The last entry is not all there.

    Attributes:
        offset: where it begins: what the file is to be cut to.
        lost: bytes behind that.
    """

    offset: int
    lost: int


def encode_header(header: FileHeader) -> bytes:
    """The beginning of a file."""
    data = _HEADER.pack(_MAGIC, FORMAT_VERSION, header.number, header.boot_id, _SYNCED if header.synced else 0)
    return data + _CRC.pack(crc32c(data))


def read_header(data: BytesLike, name: str) -> FileHeader:
    """What the beginning of a file says.

    Raises:
        JournalError: it is no journal, or one of another version.
    """
    if len(data) < HEADER_BYTES or bytes(data[: len(_MAGIC)]) != _MAGIC:
        raise JournalError(f"{name}: not a journal file of tmemd")
    _, version, number, boot_id, flags = _HEADER.unpack_from(data)
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if version != FORMAT_VERSION:
        raise JournalError(f"{name}: journal format {version}; this tmemd reads {FORMAT_VERSION}")
    if crc != crc32c(data[: _HEADER.size]):
        raise JournalError(f"{name}: the file's header fails its checksum")
    return FileHeader(number, boot_id, bool(flags & _SYNCED))


def encode_range(first: int, last: int) -> bytes:
    """Which files must be there: from number `first` to `last`; later ones may be."""
    data = _RANGE.pack(_RANGE_MAGIC, FORMAT_VERSION, first, last)
    return data + _CRC.pack(crc32c(data))


def read_range(data: BytesLike, name: str) -> tuple[int, int]:
    """The first and the last file that must be there.

    Raises:
        JournalError: that is not what the data say, or they are of another version.
    """
    if len(data) != _RANGE.size + _CRC.size or bytes(data[: len(_RANGE_MAGIC)]) != _RANGE_MAGIC:
        raise JournalError(f"{name}: not a file of tmemd's journal")
    _, version, first, last = _RANGE.unpack_from(data)
    if version != FORMAT_VERSION:
        raise JournalError(f"{name}: journal format {version}; this tmemd reads {FORMAT_VERSION}")
    if _CRC.unpack_from(data, _RANGE.size)[0] != crc32c(data[: _RANGE.size]):
        raise JournalError(f"{name}: the file fails its checksum")
    return first, last


def encode_entry(kind: Kind, payload: BytesLike) -> list[BytesLike]:
    """An entry, in pieces."""
    head = _HEAD.pack(len(payload), crc32c(payload), kind)
    return [head + _CRC.pack(crc32c(head)), payload]


def read_entries(
    data: memoryview, name: str, *, last: bool, rebooted: bool = False
) -> Iterator[tuple[Kind, memoryview] | Torn]:
    """The entries of a file, behind its header; at the end of the last file perhaps a Torn.

    Args:
        data: all of the file.
        name: for errors.
        last: it is the journal's last one, which alone may end anywhere.
        rebooted: the machine went down since, and nothing was forced to the disk: the file may have grown before its bytes reached it, also within an entry.

    Raises:
        JournalError: what is there was never written so.
    """
    at, end = HEADER_BYTES, len(data)
    while at < end:
        begin = at + _HEAD_BYTES
        whole = begin <= end
        if whole:
            length, crc, kind = _HEAD.unpack_from(data, at)
            if _CRC.unpack_from(data, at + _HEAD.size)[0] != crc32c(data[at : at + _HEAD.size]):
                if any(data[at:]):
                    raise JournalError(f"{name}: the entry at byte {at} fails its checksum")
                whole = False  # a file that grew before its bytes reached the disk
            elif length > _MAX_PAYLOAD_BYTES:
                raise JournalError(f"{name}: the entry at byte {at} claims {length} bytes")
            else:
                whole = begin + length <= end
        if not whole:
            if not last:
                raise JournalError(f"{name}: the entry at byte {at} is cut short, and it is not the journal's last")
            yield Torn(at, end - at)
            return
        payload = data[begin : begin + length]
        if crc != crc32c(payload):
            if last and rebooted and _ends_in_empty_sectors(data, begin, begin + length):
                yield Torn(at, end - at)
                return
            raise JournalError(f"{name}: the entry at byte {at} fails its checksum")
        try:
            known = Kind(kind)
        except ValueError:
            raise JournalError(f"{name}: the entry at byte {at} is of the unknown kind {kind}") from None
        yield known, payload
        at = begin + length


def _ends_in_empty_sectors(data: memoryview, begin: int, end: int) -> bool:
    """Whether from some sector within these bytes on, all of the file is zeros."""
    first = -(-begin // _SECTOR_BYTES) * _SECTOR_BYTES
    last = (end - 1) // _SECTOR_BYTES * _SECTOR_BYTES
    return first <= last and not any(data[last:])
