"""How a device is, for those who look.

Owns: one reading of all figures (`Reading`), and what two readings say of the time between them (`Interval`). Nothing here asks
the holder or a worker anything, so that looking works whatever hangs; only `Compression` asks the server.

Units: bytes, seconds; a figure that is not known is None.
"""

import time
from dataclasses import dataclass
from typing import Any

import tmem.client.link
from tmem.agents.host import swaps
from tmem.wire.errors import TmemError
from tmem.wire.limits import PAGE_BYTES

from .shared import Latencies, Word
from .state import Record, Site, open_control

__all__ = ["Compression", "Interval", "Reading", "read_device"]


_ASK_SECONDS = 1.0
_PATIENCE_SECONDS = 0.3
_AGAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Reading:
    """A device at one moment.

    Attributes:
        condition: one word or sentence: "attached", or what is wrong.
        size, used: of the swap area; used is None when the kernel does not swap there.
        words: the counters (shared.Word), empty when the holder is gone.
        reads, writes: how long they took.
    """

    name: str
    moment: float
    record: Record
    condition: str
    used: int | None
    priority: int | None
    words: tuple[int, ...]
    reads: Latencies
    writes: Latencies

    def __getitem__(self, word: Word) -> int:
        return self.words[word] if self.words else 0

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return self.condition == "attached"

    def messages_per_mib(self, messages: Word, pages: Word) -> float | None:
        """How many messages a MiB of pages took so far."""
        return self[messages] / (self[pages] * PAGE_BYTES / (1 << 20)) if self[pages] else None

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        record = self.record
        return {
            "name": self.name,
            "condition": self.condition,
            "device": record.device,
            "size_bytes": record.size,
            "used_bytes": self.used,
            "priority": self.priority,
            "target": record.target,
            "pool": record.pool,
            "pool_id": record.pool_id,
            "durability": record.durability,
            "io_deadline_seconds": record.io_deadline,
            "holder_pid": record.holder.pid if record.holder is not None else None,
            "worker_pid": self[Word.WORKER_PID] or None,
            "takeovers": self[Word.TAKEOVERS],
            "connections": self[Word.CONNECTIONS],
            "io_flusher": bool(self[Word.IO_FLUSHER]),
            "oom_exempt": bool(self[Word.OOM_EXEMPT]),
            "reads": self[Word.READS],
            "pages_read": self[Word.PAGES_READ],
            "pages_got": self[Word.PAGES_GOT],
            "writes": self[Word.WRITES],
            "pages_written": self[Word.PAGES_WRITTEN],
            "pages_discarded": self[Word.PAGES_DISCARDED],
            "requests_resent": self[Word.RESENT],
            "reads_failed": self[Word.READS_FAILED],
            "writes_failed": self[Word.WRITES_FAILED],
            "pages_lost": self[Word.PAGES_LOST],
            "pages_corrupt": self[Word.PAGES_CORRUPT],
            "puts_refused": self[Word.PUTS_REFUSED],
            "deadlines_passed": self[Word.DEADLINES_PASSED],
            "get_messages_per_mib": self.messages_per_mib(Word.GET_MESSAGES, Word.PAGES_GOT),
            "put_messages_per_mib": self.messages_per_mib(Word.PUT_MESSAGES, Word.PAGES_PUT),
            "flush_messages": self[Word.FLUSH_MESSAGES],
            "read_p50_us": _microseconds(self.reads.quantile(0.5)),
            "read_p99_us": _microseconds(self.reads.quantile(0.99)),
            "write_p50_us": _microseconds(self.writes.quantile(0.5)),
            "write_p99_us": _microseconds(self.writes.quantile(0.99)),
            "exchange_mean_us": _microseconds(self.exchange_seconds),
        }

    @property
    def exchange_seconds(self) -> float | None:
        """How long a get took on average, from asking the server to its answer."""
        gets = self[Word.REMOTE_GETS]
        return self[Word.REMOTE_NANOSECONDS] / gets / 1e9 if gets else None


def _microseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e6, 1)


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened between two readings of one device."""

    before: Reading
    after: Reading

    @property
    def seconds(self) -> float:
        """How long it was."""
        return max(self.after.moment - self.before.moment, 1e-6)

    def rate(self, word: Word) -> float:
        """By how much a counter grew each second."""
        return max(0, self.after[word] - self.before[word]) / self.seconds

    @property
    def reads(self) -> Latencies:
        """Of its reads."""
        return self.after.reads.since(self.before.reads)

    @property
    def writes(self) -> Latencies:
        """Of its writes."""
        return self.after.writes.since(self.before.writes)


def read_device(site: Site) -> Reading | None:
    """A device as it is now; None if nothing is written down of one."""
    record = site.read()
    if record is None:
        return None
    area = swaps.find_area(record.device) if record.device is not None and record.attached else None
    control = open_control(site, record)
    words: tuple[int, ...] = ()
    nothing = Latencies(())
    reads = writes = nothing
    if control is not None:
        words = tuple(control.words[: max(Word) + 1])
        reads, writes = control.latencies()
        control.close()
    return Reading(
        site.name,
        time.monotonic(),
        record,
        _condition(record, words, in_use=area is not None),
        None if area is None else area.used,
        None if area is None else area.priority,
        words,
        reads,
        writes,
    )


def _condition(record: Record, words: tuple[int, ...], *, in_use: bool) -> str:
    if not words:
        return "the holder is gone" + ("; the kernel still swaps to it" if in_use else ", and nothing uses the device")
    if record.holder is None or not record.holder.alive:
        return "the holder is gone, and a worker goes on alone: detach, and attach again"
    if words[Word.ABORTED_AT]:
        return "aborted: requests went unanswered long after their deadline"
    if not record.attached or not in_use:
        return "half attached: `tmem swap detach` takes it down"
    age = time.monotonic_ns() - words[Word.HEARTBEAT]
    if words[Word.HEARTBEAT] and age > 5_000_000_000:
        return f"no worker has shown a sign of life for {age / 1e9:.0f} s"
    if not words[Word.CONNECTED_SINCE]:
        since = words[Word.UNREACHABLE_SINCE]
        return "the server can't be reached" + (f" for {(time.monotonic_ns() - since) / 1e9:.0f} s" if since else "")
    return "attached"


class Compression:
    """How well what is out compresses: plain bytes that the server holds to bytes that they take there.

    Args:
        target, token: the server. A server that can't be asked just now is asked again later, and waited for briefly.

    Attributes:
        known: the last answer; None without any.
    """

    def __init__(self, target: str, token: str | None) -> None:
        self._target = target
        self._token = token
        self._client: tmem.client.link.Client | None = None
        self._asked = 0.0
        self.known: float | None = None

    def of(self, record: Record) -> float | None:
        """That of a device, as of the last second; None while nothing is known."""
        moment = time.monotonic()
        if moment - self._asked < _ASK_SECONDS:
            return self.known
        self._asked = moment
        try:
            if self._client is None:
                self._client = tmem.client.link.connect(
                    self._target, token=self._token, connect_timeout=_PATIENCE_SECONDS, call_timeout=_PATIENCE_SECONDS
                )
            stat = self._client.stat_pool(record.pool_id)
        except TmemError:
            self.close()
            self._asked = moment + _AGAIN_SECONDS
            return self.known
        stored = stat.payload_bytes + stat.index_bytes
        if stored and stat.pages:
            self.known = stat.pages * PAGE_BYTES / stored
        return self.known

    def close(self) -> None:
        """Ends the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None
