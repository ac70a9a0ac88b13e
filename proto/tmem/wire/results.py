"""The contract's enumerations as Python integers.

Owns: names for the numbers on the wire. A test holds them against the generated enumerations. Reading an enum column
through the generated class gives plain integers; these give them names without importing protobuf.
"""

from enum import IntEnum, IntFlag
from typing import Any

__all__ = ["Code", "Durability", "Encoding", "PoolFlag", "PoolKind", "Reason", "enum_field"]


def enum_field(value: int) -> Any:
    """A number for an enum field of a generated class, whose stubs want a type that they do not export."""
    return int(value)


class Code(IntEnum):
    """What became of a page of a get, or of an extent of a put or flush (ResultCode)."""

    UNSPECIFIED = 0
    STORED = 1
    HIT = 2
    MISS = 3
    LOST = 4
    CORRUPT = 5
    REFUSED = 6
    FLUSHED = 7


class Reason(IntEnum):
    """Why something was refused (RefusalReason). `tmem.wire.errors` has the table of what follows from each."""

    UNSPECIFIED = 0
    QUOTA = 1
    CAPACITY = 2
    FROZEN = 3
    IO = 4
    REPLICAS = 5
    DRAINING = 6
    UNSETTLED = 7
    FENCED = 8
    STALE = 9
    FORBIDDEN = 10
    NO_SUCH_POOL = 11
    INVALID = 12
    RECOVERING = 13
    POOL_EXISTS = 14
    POOL_LIMIT = 15


class Encoding(IntEnum):
    """How a chunk's bytes are encoded (Encoding)."""

    UNSPECIFIED = 0
    LZ4 = 1
    RAW = 2
    SAME_FILLED = 3


class PoolKind(IntEnum):
    """What lives in a pool, and for how long (PoolKind)."""

    UNSPECIFIED = 0
    EPHEMERAL = 1
    PERSISTENT = 2
    SHARED = 3


class Durability(IntEnum):
    """Which single fault a stored page survives (Durability)."""

    UNSPECIFIED = 0
    MEMORY = 1
    DISK = 2
    REPLICATED = 3


class PoolFlag(IntFlag):
    """Options of a pool (PoolFlag); every other bit is reserved."""

    NONE = 0
    TAKE = 1
    KEEP = 2
    ENCRYPTED = 4
