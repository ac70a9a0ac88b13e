"""Every metric of the daemon, by name.

Owns: the names, help texts and labels, and the way from the daemon's plain counters to them. Pages and bytes are counted as
plain integers where they happen (store/counters.py) and read here when somebody scrapes, on the scraper's thread; only what
has a duration is observed here directly.

Rules: prefix `tmem_`, base units, `_total` on counters. A label is a pool, an operation, a result or a reason; never a
client or a page. The first 100 pools by name have a label of their own, `TENANT/NAME`; the others share `other`.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from tmem.server.store.counters import PoolCounters
from tmem.server.store.interface import Counts, Store
from tmem.server.store.pools import Pool
from tmem.wire.copies import CopyCounter
from tmem.wire.results import PoolKind, Reason

__all__ = ["JournalFigures", "Metrics", "RecompressionFigures", "Sources"]

# From the fastest store operation to the slowest answer that is still one; the client library's defaults begin at 5 ms.
_SECONDS_BUCKETS = (
    *(50e-6, 100e-6, 200e-6, 400e-6, 800e-6),
    *(1.6e-3, 3.2e-3, 6.4e-3, 12.8e-3, 25.6e-3),
    *(51.2e-3, 0.1024, 0.2048, 0.4096, 1.0),
)
_MAX_POOL_LABELS = 100
_OTHER = "other"
_NO_POOL = "none"


class JournalFigures(NamedTuple):
    """How the journal does; all 0 without one.

    Attributes:
        size: bytes of its files.
        written, failed: entries so far.
    """

    size: int = 0
    written: int = 0
    failed: int = 0


class RecompressionFigures(NamedTuple):
    """What recompression has done; all 0 where it is off.

    Attributes:
        tried, saved: bytes of chunks, so far.
    """

    tried: int = 0
    saved: int = 0


class Sources:
    """What the metrics are read from; the daemon fills it in once everything is built.

    Attributes:
        pools: all pools. unbound: counters of what named no pool.
        sessions, streams: how many there are.
        load_permille: share of the loop's time in use.
        recovering: whether the journal is being read.
        journal: how it does. recompression: likewise.
    """

    def __init__(
        self,
        *,
        pools: Callable[[], Iterable[Pool]],
        unbound: PoolCounters,
        store: Store,
        copies: CopyCounter,
        memory_limit_bytes: int,
        sessions: Callable[[], int],
        streams: Callable[[], int],
        load_permille: Callable[[], int],
        recovering: Callable[[], bool],
        journal: Callable[[], JournalFigures] = JournalFigures,
        recompression: Callable[[], RecompressionFigures] = RecompressionFigures,
    ) -> None:
        self.pools = pools
        self.unbound = unbound
        self.store = store
        self.copies = copies
        self.memory_limit_bytes = memory_limit_bytes
        self.sessions = sessions
        self.streams = streams
        self.load_permille = load_permille
        self.recovering = recovering
        self.journal = journal
        self.recompression = recompression


class Metrics:
    """The daemon's metrics.

    Args:
        version: of the daemon.

    Attributes:
        registry: what is scraped.
        sources: set by the daemon; without it only durations are reported.
    """

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the lines of a scrape, and nobody asks for them
        self.registry = CollectorRegistry()
        self.sources: Sources | None = None
        self._version = version
        self._labels: dict[str, str] = {}
        self._retired: dict[str, tuple[PoolCounters, Counts]] = {}
        # Held while a pool moves from the living to the retired, and while a scrape takes its snapshot of both: no scrape
        # counts a pool twice, or not at all.
        self._moving = threading.Lock()
        self._rpcs = Counter(
            "tmem_rpc_requests_total",
            "Calls answered; a stream counts once, when it ends.",
            ["method", "code"],
            registry=self.registry,
        )
        self._rpc_seconds = Histogram(
            "tmem_rpc_duration_seconds",
            "From a call's arrival to its answer; a stream's whole life.",
            ["method"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._batches = Counter(
            "tmem_exchange_batches_total", "Batches answered on streams.", ["op"], registry=self.registry
        )
        self._batch_seconds = Histogram(
            "tmem_exchange_batch_duration_seconds",
            "From a batch's arrival to its answer.",
            ["op"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        self._store_seconds = Histogram(
            "tmem_store_operation_duration_seconds",
            "From asking the store to its answer.",
            ["op"],
            buckets=_SECONDS_BUCKETS,
            registry=self.registry,
        )
        messages = Counter(
            "tmem_exchange_messages_total", "Messages on streams.", ["direction"], registry=self.registry
        )
        self._malformed = Counter(
            "tmem_malformed_messages_total",
            "Messages that are not what the contract says, by where they arrived.",
            ["where"],
            registry=self.registry,
        )
        slow = Counter(
            "tmem_slow_decodes_total",
            "Messages whose body was not the last field, so that the generated class had to copy it.",
            registry=self.registry,
        )
        self._cut = Counter(
            "tmem_streams_cut_total", "Streams ended by the daemon, by cause.", ["cause"], registry=self.registry
        )
        self.exchange_received: Callable[[], None] = messages.labels("in").inc
        self.exchange_sent: Callable[[], None] = messages.labels("out").inc
        self.slow_decode: Callable[[], None] = slow.inc
        self._batch_children = {
            op: (self._batches.labels(op).inc, self._batch_seconds.labels(op).observe)
            for op in ("put", "get", "flush", "flush_object", "echo")
        }
        self._store_children = {
            op: self._store_seconds.labels(op).observe for op in ("put", "get", "flush", "flush_object")
        }
        for where in ("unary", "exchange", "batch"):
            self._malformed.labels(where)
        for cause in ("stalled", "silent", "window", "flood", "replaced", "closing", "removed"):
            self._cut.labels(cause)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    # ---- Observed directly ----

    def rpc(self, method: str) -> Callable[[str, float], None]:
        """What takes the code and seconds of each call of a method."""
        observe = self._rpc_seconds.labels(method).observe
        count_ok = self._rpcs.labels(method, "OK").inc

        def done(code: str, seconds: float) -> None:
            if code == "OK":
                count_ok()
            else:
                self._rpcs.labels(method, code).inc()
            observe(seconds)

        return done

    def batch(self, op: str, seconds: float) -> None:
        """Counts one batch."""
        count, observe = self._batch_children[op]
        count()
        observe(seconds)

    def store_operation(self, op: str, seconds: float) -> None:
        """Counts one operation of the store."""
        self._store_children[op](seconds)

    def malformed(self, where: str) -> None:
        """Counts a message that the contract forbids."""
        self._malformed.labels(where).inc()

    def stream_cut(self, cause: str) -> None:
        """Counts a stream that the daemon ended."""
        self._cut.labels(cause).inc()

    # ---- Read when scraped ----

    def retire(self, pool: Pool, counts: Counts) -> None:
        """Keeps the counters of a pool that is about to go, so that no counter ever falls."""
        with self._moving:
            pool.gone = True
            counters, total = self._retired.setdefault(self._label(pool), (PoolCounters(), Counts()))
            counters.add(pool.counters)
            total.evicted += counts.evicted
            total.expanded += counts.expanded

    def _label(self, pool: Pool) -> str:
        name = f"{pool.first_owner}/{pool.name}"
        if name not in self._labels:
            self._labels[name] = name if len(self._labels) < _MAX_POOL_LABELS else _OTHER
            if self._labels[name] == _OTHER:
                del self._labels[name]
                return _OTHER
        return self._labels[name]

    def describe(self) -> Iterable[Metric]:
        """Nothing is promised before the daemon is built."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """The metrics that are read from the daemon's counters."""
        info = InfoMetricFamily("tmem_build", "The daemon.")
        sources = self.sources
        info.add_metric([], {"version": self._version, "store": sources.store.name if sources else ""})
        yield info
        if sources is None:
            return
        by_label: dict[str, tuple[PoolCounters, Counts]] = {}
        by_kind = {kind.name.lower(): _Kind() for kind in PoolKind if kind}
        tenants: dict[str, int] = {}
        with self._moving:
            for label, (counters, counts) in self._retired.items():
                _accumulate(by_label, label, counters, counts)
            for pool in sources.pools():
                if pool.gone:
                    continue
                counts = sources.store.counts(pool.key)
                _accumulate(by_label, self._label(pool), pool.counters, counts)
                by_kind[pool.kind.name.lower()].add(pool, counts)
                tenants[pool.owner] = tenants.get(pool.owner, 0) + counts.pages
        _accumulate(by_label, _NO_POOL, sources.unbound, Counts())
        yield from _pool_metrics(by_label)
        for name, text, attribute in _BY_KIND:
            yield _gauge(name, text, ["kind"], {(kind,): getattr(held, attribute) for kind, held in by_kind.items()})
        yield _gauge("tmem_sessions", "Sessions, with a stream or between two.", [], {(): sources.sessions()})
        yield _gauge("tmem_streams", "Open Exchange streams.", [], {(): sources.streams()})
        yield _gauge(
            "tmem_tenant_pages_max",
            "Pages held for the tenant that has most.",
            [],
            {(): max(tenants.values(), default=0)},
        )
        yield _gauge("tmem_memory_limit_bytes", "Most bytes of pages and index.", [], {(): sources.memory_limit_bytes})
        total = sources.store.counts()
        yield _gauge(
            "tmem_resident_bytes",
            "Bytes of payload, dead bytes and index: what the memory limit is about.",
            [],
            {(): total.payload_bytes + total.dead_bytes + total.index_bytes - total.spilled_bytes},
        )
        yield _gauge(
            "tmem_spilled_bytes", "Bytes of pages that are on the disk instead.", [], {(): total.spilled_bytes}
        )
        yield _gauge(
            "tmem_recovering",
            "Whether the journal is being read, and clients are told to come back.",
            [],
            {(): sources.recovering()},
        )
        journal = sources.journal()
        yield _gauge("tmem_journal_bytes", "Bytes of the journal's files.", [], {(): journal.size})
        yield _counter(
            "tmem_journal_writes_total",
            "Entries that the journal was asked to write.",
            ["result"],
            {("written",): journal.written, ("failed",): journal.failed},
        )
        recompression = sources.recompression()
        yield _counter(
            "tmem_recompression_bytes_total",
            "Encoded bytes that were compressed anew, and of these what that saved.",
            ["result"],
            {("tried",): recompression.tried, ("saved",): recompression.saved},
        )
        yield _gauge(
            "tmem_load_ratio", "Share of the event loop's time in use.", [], {(): sources.load_permille() / 1000}
        )
        yield _counter(
            "tmem_full_size_copies_total",
            "Copies of plain pages that are not LZ4's own pass, in pages.",
            ["op"],
            {("put",): sources.copies.put_pages, ("get",): sources.copies.get_pages},
        )


@dataclass(slots=True)
class _Kind:
    """What the pools of one kind amount to."""

    pools: int = 0
    parked: int = 0
    held_bytes: int = 0
    reserved_bytes: int = 0

    def add(self, pool: Pool, counts: Counts) -> None:
        self.pools += 1
        self.parked += pool.parked
        self.held_bytes += counts.payload_bytes + counts.dead_bytes + counts.index_bytes
        self.reserved_bytes += pool.policy.reserved_bytes


_BY_KIND = (
    ("tmem_pools", "Pools, by kind.", "pools"),
    ("tmem_parked_pools", "Pools that no live session works on, by kind.", "parked"),
    ("tmem_held_bytes", "Payload, dead bytes and index, by kind of pool.", "held_bytes"),
    ("tmem_reserved_bytes", "Payload and index that pools were promised room for, by kind.", "reserved_bytes"),
)

# Reasons whose series exist from the beginning, at 0, so that their first refusal is seen as a rise.
_EXPECTED_REASONS = (Reason.QUOTA, Reason.CAPACITY, Reason.IO)


def _accumulate(
    by_label: dict[str, tuple[PoolCounters, Counts]], label: str, counters: PoolCounters, counts: Counts
) -> None:
    total_counters, total_counts = by_label.setdefault(label, (PoolCounters(), Counts()))
    total_counters.add(counters)
    for name in Counts.__slots__:
        setattr(total_counts, name, getattr(total_counts, name) + getattr(counts, name))


Samples = dict[tuple[str, ...], float]


def _gauge(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(list(values), number)
    return family


def _counter(name: str, text: str, labels: list[str], samples: Samples) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, number in samples.items():
        family.add_metric(list(values), number)
    return family


_GAUGES = (
    ("tmem_pages", "Pages held.", "pages"),
    ("tmem_objects", "Objects that hold a page.", "objects"),
    ("tmem_blocks", "2 MiB blocks that hold a page.", "blocks"),
    ("tmem_payload_bytes", "Encoded bytes of live pages.", "payload_bytes"),
    ("tmem_index_bytes", "What finding the pages takes.", "index_bytes"),
    ("tmem_dead_bytes", "Encoded bytes held for pages that are gone.", "dead_bytes"),
    ("tmem_same_filled_pages", "Pages held that repeat one word.", "same_filled_pages"),
    ("tmem_raw_pages", "Pages held as they are, because they did not shrink.", "raw_pages"),
)

_COUNTERS = (
    ("tmem_put_replaced_pages_total", "Stored pages that took the place of an older one.", "puts_replaced"),
    ("tmem_put_dropped_pages_total", "Pages that went because a newer put of them was refused.", "puts_dropped"),
    ("tmem_put_bytes_total", "Encoded bytes of stored pages.", "put_bytes"),
    ("tmem_put_raw_pages_total", "Stored pages that did not shrink.", "puts_raw"),
    ("tmem_put_same_filled_pages_total", "Stored pages that repeat one word.", "puts_same_filled"),
    ("tmem_get_bytes_total", "Encoded bytes answered; chunks count whole.", "get_bytes"),
    ("tmem_flush_object_pages_total", "Pages removed by flushes of objects.", "object_flush_pages"),
    ("tmem_left_pages_total", "Pages that went with the member of a shared pool who used them last.", "left"),
)


def _pool_metrics(by_label: dict[str, tuple[PoolCounters, Counts]]) -> Iterator[Metric]:
    for name, text, attribute in _GAUGES:
        yield _gauge(
            name, text, ["pool"], {(label,): getattr(counts, attribute) for label, (_, counts) in by_label.items()}
        )
    for name, text, attribute in _COUNTERS:
        yield _counter(
            name, text, ["pool"], {(label,): getattr(counters, attribute) for label, (counters, _) in by_label.items()}
        )
    puts: Samples = {}
    gets: Samples = {}
    flushes: Samples = {}
    objects: Samples = {}
    extents: Samples = {}
    evicted: Samples = {}
    expanded: Samples = {}
    for label, (counters, counts) in by_label.items():
        puts[label, "stored", ""] = counters.puts_stored
        gets[label, "hit", ""] = counters.gets_hit
        gets[label, "miss", ""] = counters.gets_missed
        gets[label, "lost", ""] = counters.gets_lost
        gets[label, "corrupt", ""] = counters.gets_corrupt
        flushes[label, "found", ""] = counters.flushes_found
        for samples, refused in (
            (puts, counters.puts_refused),
            (gets, counters.gets_refused),
            (flushes, counters.flushes_refused),
        ):
            if samples is puts:
                for expected in _EXPECTED_REASONS:
                    samples[label, "refused", expected.name.lower()] = 0
            for reason, pages in refused.items():
                samples[label, "refused", Reason(reason).name.lower()] = pages
        flushes[label, "absent", ""] = (
            counters.flushes_asked - counters.flushes_found - sum(counters.flushes_refused.values())
        )
        objects[label, "found"] = counters.object_flushes_found
        objects[label, "absent"] = counters.object_flushes_asked - counters.object_flushes_found
        extents[label, "whole"] = counters.extents_whole
        extents[label, "partial"] = counters.extents_partial
        extents[label, "single"] = counters.extents_single
        evicted[(label,)] = counts.evicted
        expanded[(label,)] = counts.expanded
    results = ["pool", "result", "reason"]
    yield _counter("tmem_put_pages_total", "Pages put, by what became of them.", results, puts)
    yield _counter("tmem_get_pages_total", "Pages asked for, by what became of them.", results, gets)
    yield _counter("tmem_flush_pages_total", "Pages flushed, by whether they were held.", results, flushes)
    yield _counter(
        "tmem_flush_objects_total", "Objects flushed, by whether they held pages.", ["pool", "result"], objects
    )
    yield _counter(
        "tmem_extents_total", "Extents stored: of 512 pages, of 2 to 511, of one.", ["pool", "shape"], extents
    )
    yield _counter("tmem_evicted_pages_total", "Ephemeral pages evicted to make room.", ["pool"], evicted)
    yield _counter(
        "tmem_expanded_pages_total",
        "Pages answered by expanding their chunk, because the reader could not take it whole.",
        ["pool"],
        expanded,
    )
