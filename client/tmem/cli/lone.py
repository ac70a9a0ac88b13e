"""What a lone page costs, beside its floors and beside Redis.

Owns: the measurement of one page at a time: by the unary call, by the open stream of the blocking face, by the link; beside an empty echo of
the same bytes on each way, and beside a GET from a Redis of this machine with LZ4's expansion. All in turn, call by call, so that every
one sees the same machine. Ratios are of medians, taken round by round, with the lowest and highest round.

Units: microseconds in the report, seconds inside.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cramjam
import lz4.block

from tmem.client import Client, Pool
from tmem.wire.errors import InvalidOption
from tmem.wire.limits import PAGE_BYTES

from .bench_common.servers import Redis
from .scratch import scratch_pool

__all__ = ["LonePages", "ratio_rows", "rows"]

_PAGES = 512
_WARM_CALLS = 100
_ROUNDS = 10
_REDIS_MIB = 64
_TITLES = {
    "grpc_unary_floor": "gRPC's floor: an empty echo of the same bytes",
    "unary_get": "get, unary",
    "stream_echo": "echo on the stream",
    "stream_get": "get, stream",
    "link_echo": "echo on the link",
    "link_get": "get, link",
    "redis_get": "Redis: GET of the same bytes, and LZ4",
}
# The first over the second.
_RATIOS = (
    ("unary_to_floor", "unary_get", "grpc_unary_floor"),
    ("stream_to_unary", "stream_get", "unary_get"),
    ("link_to_unary", "link_get", "unary_get"),
    ("stream_to_link", "stream_get", "link_get"),
    ("link_to_redis", "link_get", "redis_get"),
)

Way = Callable[[int], object]


class LonePages:
    """One run.

    Args:
        client: to the server.
        memory: plain pages.
        calls: how many of each.
    """

    def __init__(self, client: Client, memory: memoryview, calls: int) -> None:
        self._client = client
        self._calls = calls
        self._pages = [
            memory[at : at + PAGE_BYTES] for at in range(0, min(len(memory), _PAGES * PAGE_BYTES), PAGE_BYTES)
        ]
        self._into = bytearray(PAGE_BYTES)
        self.notes: list[str] = []

    def measure(self) -> dict[str, Any]:
        """The report's part."""
        with ExitStack() as stack:
            ways = dict(self._ways(stack))
            seconds: dict[str, list[float]] = {name: [] for name in ways}
            clock = time.perf_counter
            for call in range(-_WARM_CALLS, self._calls):
                number = call % len(self._pages)
                for name, way in ways.items():
                    begun = clock()
                    way(number)
                    ended = clock()
                    if call >= 0:
                        seconds[name].append(ended - begun)
        report: dict[str, Any] = {f"{name}_us": _percentiles(values) for name, values in seconds.items()}
        for name, above, below in _RATIOS:
            if above in seconds and below in seconds:
                rounds = _ratios(seconds[above], seconds[below])
                report[f"{name}_ratio"] = round(statistics.median(rounds), 3)
                report[f"{name}_ratio_spread"] = [round(min(rounds), 3), round(max(rounds), 3)]
        if self.notes:
            report["lone_notes"] = self.notes
        return report

    # ---- The ways to a page ----

    def _ways(self, stack: ExitStack) -> Iterator[tuple[str, Way]]:
        client, into = self._client, self._into
        pool = self._fill(stack.enter_context(scratch_pool(client, "bench-pages", chunk_pages=1)))
        stored = pool.stat().payload_bytes // len(self._pages)
        request = bytes(80)  # about what a GetRequest has
        yield "grpc_unary_floor", lambda _: client.echo_page_sync(request, stored)
        yield "unary_get", lambda number: pool.get_page_sync(1, number, into)
        yield "stream_echo", lambda _: client.echo(request, stored)
        yield "stream_get", lambda number: pool.get_into(1, number, into)
        link = self._link(stack)
        if link is not None:
            ours = self._fill(stack.enter_context(scratch_pool(link, "bench-link", chunk_pages=1)))
            yield "link_echo", lambda _: link.echo(request, stored)
            yield "link_get", lambda number: ours.get_into(1, number, into)
        redis = self._redis(stack)
        if redis is not None:
            yield "redis_get", redis

    def _fill(self, pool: Pool) -> Pool:
        with pool.batch() as batch:
            for number, page in enumerate(self._pages):
                batch.put(1, number, page)
        return pool

    def _link(self, stack: ExitStack) -> Client | None:
        try:
            import tmem.client.link  # its extra may not be installed
        except ModuleNotFoundError as error:
            self.notes.append(f"no link: {error}")
            return None
        try:
            return stack.enter_context(tmem.client.link.connect(self._client.target, token=self._client.options.token))
        except InvalidOption as error:
            self.notes.append(f"no link: {error}")
            return None

    def _redis(self, stack: ExitStack) -> Way | None:
        """Redis holds the chunks that tmem holds, each under a key; it runs on the CPUs that this process does not use, if there are any."""
        if not Redis.installed():
            self.notes.append("no Redis: redis-server is not installed")
            return None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tmem-bench-")))
        with _other_cpus():
            redis = stack.enter_context(Redis(directory, _REDIS_MIB))
        chunks = [lz4.block.compress(page, store_size=False) for page in self._pages]
        keys = [b"%d" % number for number in range(len(chunks))]
        redis.set(zip(keys, chunks, strict=True))
        into = memoryview(self._into)
        expand = cramjam.lz4.decompress_block_into
        return lambda number: expand(redis.get(keys[number]), into, output_len=PAGE_BYTES)


@contextmanager
def _other_cpus() -> Iterator[None]:
    """Whoever is started meanwhile is kept off this process's CPUs, unless it uses all."""
    mine = os.sched_getaffinity(0)
    others = set(range(os.cpu_count() or 1)) - mine
    if others:
        os.sched_setaffinity(0, others)
    try:
        yield
    finally:
        os.sched_setaffinity(0, mine)


def _percentiles(values: list[float]) -> dict[str, float]:
    """p50 and p99, in microseconds."""
    ordered = sorted(values)
    return {
        "p50": round(ordered[len(ordered) // 2] * 1e6, 1),
        "p99": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1e6, 1),
    }


def _ratios(above: list[float], below: list[float]) -> list[float]:
    """Ratios of medians, of each tenth of the calls."""
    size = -(-len(above) // _ROUNDS)
    return [
        statistics.median(above[at : at + size]) / statistics.median(below[at : at + size])
        for at in range(0, len(above), size)
    ]


def rows(report: dict[str, Any]) -> list[list[str]]:
    """Lines of a table: what it is, p50, p99."""
    return [
        [title, f"{report[f'{name}_us']['p50']:.0f}", f"{report[f'{name}_us']['p99']:.0f}"]
        for name, title in _TITLES.items()
        if f"{name}_us" in report
    ]


def ratio_rows(report: dict[str, Any]) -> list[list[str]]:
    """Lines of a table: the ratio's name, its median, its spread."""
    found = []
    for name, above, below in _RATIOS:
        if f"{name}_ratio" in report:
            low, high = report[f"{name}_ratio_spread"]
            title = f"{_TITLES[above]} / {_TITLES[below]}"
            found.append([title, f"{report[f'{name}_ratio']:.2f}", f"{low:.2f} .. {high:.2f}"])
    return found
