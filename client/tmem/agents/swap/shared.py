"""Memory that outlives workers: the holder makes it, each worker in turn writes it, and `status` reads it.

Owns: the layout of three anonymous files, which the kernel never swaps out (host/mounts.py). A worker can be killed at any instruction, so each word alone must make sense:
nothing here is a pair that has to change at once, but for the pool's identity, which has two places and a word that says
which one counts.

    control  words of 64 bits: counters, heartbeat, latencies, the table of requests in hand, the pool's identity
    states   a byte for each page of the device: see State
    presence the client's own map (tmem.client.SharedPresence)

Units: nanoseconds of CLOCK_MONOTONIC, which all processes share; 0 = never. Everything else says its own.
"""

import mmap
import os
import time
from dataclasses import dataclass
from enum import IntEnum

__all__ = [
    "CONTROL_BYTES",
    "TABLE_SLOTS",
    "Control",
    "Identity",
    "Latencies",
    "State",
    "Word",
    "bucket_of",
    "bucket_top",
    "make_file",
    "now",
]

_MAGIC = 0x746D656D73776103  # the last byte counts layouts
TABLE_SLOTS = 512
_BUCKETS = 160
_IDENTITY_WORDS = 16


class State(IntEnum):
    """What a page of the device is, beyond what the client's presence map says."""

    ORDINARY = 0
    """As the presence map says; zeros if nothing was ever stored."""
    HOLE = 1
    """Given up by the kernel: zeros. Its removal from the server is still owed."""
    FAILED = 2
    """A write of it failed, or what was written is lost: it can't be read until something else is written there."""


class Word(IntEnum):
    """Places in the control file."""

    MAGIC = 0
    PAGES = 1
    WORKER_PID = 2
    HEARTBEAT = 3
    SERVING_SINCE = 4
    CONNECTED_SINCE = 5
    UNREACHABLE_SINCE = 6
    TAKEOVERS = 7
    ABORTED_AT = 8
    IDENTITY_CHOICE = 9
    HOLDER_BEAT = 10
    CONNECTIONS = 11
    POOL_GONE = 12
    """1: the device was taken down, and its pool destroyed."""
    REMAKING = 13
    """1: the server lost the pool, and one of its name may be this device's new one, of which nobody knows the token."""
    # Counted from here on.
    READS = 16
    PAGES_READ = 17
    PAGES_LOCAL = 18
    """Of those read, answered without asking: never written, or given up."""
    WRITES = 19
    PAGES_WRITTEN = 20
    DISCARDS = 21
    PAGES_DISCARDED = 22
    RESENT = 23
    READS_FAILED = 24
    WRITES_FAILED = 25
    PAGES_LOST = 26
    PAGES_CORRUPT = 27
    PUTS_REFUSED = 28
    DEADLINES_PASSED = 29
    GET_MESSAGES = 30
    PUT_MESSAGES = 31
    FLUSH_MESSAGES = 32
    PAGES_GOT = 33
    PAGES_PUT = 34
    REMOTE_NANOSECONDS = 35
    """Of gets, from asking to the answer; REMOTE_GETS counts them."""
    REMOTE_GETS = 36
    IO_FLUSHER = 40
    OOM_EXEMPT = 41


_READ_LATENCY = 64
_WRITE_LATENCY = _READ_LATENCY + _BUCKETS
_TABLE = _WRITE_LATENCY + _BUCKETS
_IDENTITY = _TABLE + 2 * TABLE_SLOTS
CONTROL_BYTES = -(-(_IDENTITY + 2 * _IDENTITY_WORDS) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


def make_file(name: str, size: int) -> int:
    """An anonymous file; pages that nobody touches cost nothing."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


@dataclass(frozen=True, slots=True)
class Identity:
    """The right to the pool, for the next worker.

    Attributes:
        token: the pool's secret. epoch: its incarnation as last known.
    """

    token: bytes
    epoch: int


def bucket_of(nanoseconds: int) -> int:
    """Where a latency is counted: four buckets to each doubling, of 64 ns and more."""
    value = nanoseconds >> 4
    bits = value.bit_length()
    if bits < 3:
        return value
    return min((bits - 2) * 4 + (value >> bits - 3 & 3), _BUCKETS - 1)


def bucket_top(bucket: int) -> int:
    """The least latency that is counted beyond a bucket, in nanoseconds."""
    bucket += 1
    if bucket < 8:
        return bucket << 4
    return (4 + bucket % 4) << bucket // 4 - 1 << 4


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long requests took, in buckets; `since` makes the figures of an interval of two readings."""

    counts: tuple[int, ...]

    @property
    def total(self) -> int:
        """How many."""
        return sum(self.counts)

    def since(self, before: "Latencies") -> "Latencies":
        """Those that came after."""
        return Latencies(tuple(now - then for now, then in zip(self.counts, before.counts, strict=True)))

    def quantile(self, share: float) -> float | None:
        """The seconds within which that share of them was answered, to the next bucket; None without any."""
        total = self.total
        if not total:
            return None
        seen = 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if seen >= share * total:
                return bucket_top(bucket) / 1e9
        return None


class Control:
    """The control file, mapped.

    Args:
        descriptor: of the file.
        readonly: for those who only look.

    Attributes:
        words: all of it.
        read_latency, write_latency: buckets to count in.
        table: pairs of (request number, when it came); a number of 0 is a free place.
    """

    def __init__(self, descriptor: int, *, readonly: bool = False) -> None:
        access = mmap.ACCESS_READ if readonly else mmap.ACCESS_DEFAULT
        self._mapping = mmap.mmap(descriptor, CONTROL_BYTES, access=access)
        self.words = memoryview(self._mapping).cast("Q")
        self.read_latency = self.words[_READ_LATENCY : _READ_LATENCY + _BUCKETS]
        self.write_latency = self.words[_WRITE_LATENCY : _WRITE_LATENCY + _BUCKETS]
        self.table = self.words[_TABLE : _TABLE + 2 * TABLE_SLOTS]

    @classmethod
    def make(cls, descriptor: int, pages: int, identity: Identity) -> "Control":
        """Fills a fresh one, for a device of so many pages."""
        control = cls(descriptor)
        control.words[Word.PAGES] = pages
        control.remember(identity)
        control.words[Word.MAGIC] = _MAGIC
        return control

    @property
    def valid(self) -> bool:
        """Whether it is a control file of this version."""
        return self.words[Word.MAGIC] == _MAGIC

    def close(self) -> None:
        """Unmaps it."""
        for view in (self.read_latency, self.write_latency, self.table, self.words):
            view.release()
        self._mapping.close()

    # ---- The pool's identity ----

    @property
    def identity(self) -> Identity:
        """The last that was remembered."""
        return self._identity(self.words[Word.IDENTITY_CHOICE] & 1)

    def _place(self, choice: int) -> int:
        return _IDENTITY + choice * _IDENTITY_WORDS

    def _identity(self, choice: int) -> Identity:
        at = self._place(choice)
        length = self.words[at + 1]
        token = self.words[at + 2 : at + _IDENTITY_WORDS].tobytes()[:length]
        return Identity(token, self.words[at])

    def remember(self, identity: Identity) -> None:
        """Keeps another identity, all of it or nothing."""
        choice = ~self.words[Word.IDENTITY_CHOICE] & 1
        at = self._place(choice)
        self.words[at] = identity.epoch
        self.words[at + 1] = len(identity.token)
        room = (_IDENTITY_WORDS - 2) * 8
        assert len(identity.token) <= room
        padded = memoryview(identity.token.ljust(room, b"\0")).cast("Q")
        self.words[at + 2 : at + _IDENTITY_WORDS] = padded
        self.words[Word.IDENTITY_CHOICE] = choice

    # ---- For those who look ----

    def latencies(self) -> tuple[Latencies, Latencies]:
        """Of reads, and of writes."""
        return Latencies(tuple(self.read_latency)), Latencies(tuple(self.write_latency))

    def oldest(self) -> int:
        """When the oldest request that a worker has in hand came; 0 = none is."""
        table = self.table
        oldest = 0
        for slot in range(0, 2 * TABLE_SLOTS, 2):
            if table[slot]:
                came = table[slot + 1]
                if not oldest or came < oldest:
                    oldest = came
        return oldest


def now() -> int:
    """The time, as it stands in these files."""
    return time.monotonic_ns()
