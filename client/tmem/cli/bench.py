"""`tmem bench`: what a page and a megabyte cost, beside their floors, in one run.

Owns: the measurements. Every speed is taken in rounds beside its own limit (LZ4 alone on the same data, an empty echo of the
same bytes), so that the ratios hold when the machine's speed drifts; medians are printed with their spread. Data: the
memory of a real process.
"""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import click
import cramjam
import lz4.block

from tmem.client import Client, Pool, aio
from tmem.wire.allocator import keep_freed_messages
from tmem.wire.limits import BLOCK_BYTES

from .bench_peers.command import peers
from .bench_programs.command import programs
from .bench_store.command import store
from .capture import capture
from .lone import LonePages, ratio_rows, rows
from .memory import PAGE_BYTES
from .options import Server, fail, server_options
from .output import console, print_json, print_table, progress, talk
from .scratch import scratch_pool, scratch_pool_aio

__all__ = ["bench"]

MIB = 1 << 20
_CHUNK_BYTES = 16 * PAGE_BYTES


@dataclass
class Rates:
    """Rounds of one thing."""

    values: list[float]

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.values)

    @property
    def spread(self) -> list[float]:
        """The worst and the best round."""
        return [min(self.values), max(self.values)]


async def _async_seconds(work: Coroutine[Any, Any, None]) -> float:
    begun = time.perf_counter()
    await work
    return time.perf_counter() - begun


def _seconds(function: Callable[[], object]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


class Bench:
    """One run.

    Args:
        client: to the server.
        memory: plain pages, a whole number of blocks.
        rounds: of everything that is a rate.
        calls: of everything that is a latency.
    """

    def __init__(self, client: Client, memory: memoryview, rounds: int, calls: int) -> None:
        self._client = client
        self._memory = memory
        self._rounds = rounds
        self._calls = calls
        self._blocks = [memory[at : at + BLOCK_BYTES] for at in range(0, len(memory), BLOCK_BYTES)]
        self._megabytes = len(memory) / 1e6
        self.report: dict[str, Any] = {}

    def run(self, step: Callable[[str], None]) -> dict[str, Any]:
        """Everything; `step` is told what comes next."""
        step("extents")
        asyncio.run(self._extents())
        step("lone pages")
        self.report |= LonePages(self._client, self._memory, self._calls).measure()
        step("ratios")
        self._ratios()
        return self.report

    # ---- Extents against LZ4 alone ----

    async def _extents(self) -> None:
        """By the asyncio face, which is the faster for extents, and by the blocking one."""
        with scratch_pool(self._client, "bench-blocking", chunk_pages=16) as blocking:
            await self._time_extents(blocking)

    async def _time_extents(self, blocking: Pool) -> None:
        back = memoryview(bytearray(len(self._memory)))
        compressed = self._compress()
        names = (
            "lz4_compress",
            "put_extent",
            "lz4_decompress",
            "get_extent",
            "put_extent_blocking",
            "get_extent_blocking",
        )
        rates = {name: Rates([]) for name in names}
        async with (
            aio.connect(self._client.target, token=self._client.options.token) as client,
            scratch_pool_aio(client, "bench", chunk_pages=16) as pool,
        ):
            counters = client.counters
            for number in range(-1, self._rounds):
                if number == 0:
                    # The round before paid for page faults on both sides, and does not count.
                    copied = (counters.copies.put_pages, counters.copies.get_pages)
                    messages = counters.messages_sent
                seconds = {
                    "lz4_compress": _seconds(self._compress),
                    "put_extent": await _async_seconds(self._put_aio(pool)),
                    "lz4_decompress": _seconds(lambda: self._decompress(compressed, back)),
                }
                back[:] = bytes(len(back))
                seconds["get_extent"] = await _async_seconds(self._get_aio(pool, back))
                if back != self._memory:
                    fail("the bytes that came back differ", 1)
                seconds["put_extent_blocking"] = _seconds(lambda: self._put(blocking))
                seconds["get_extent_blocking"] = _seconds(lambda: self._get(blocking, back))
                if number >= 0:
                    for name, value in seconds.items():
                        rates[name].values.append(self._megabytes / value)
            blocks_moved = self._rounds * len(self._blocks)
            self.report |= {
                "messages_per_2mib": round((counters.messages_sent - messages) / (2 * blocks_moved), 3),
                "full_size_copies_put": counters.copies.put_pages - copied[0],
                "full_size_copies_get": counters.copies.get_pages - copied[1],
            }
        for name, rate in rates.items():
            self.report[f"{name}_mb_s"] = round(rate.median, 1)
            self.report[f"{name}_mb_s_spread"] = [round(value, 1) for value in rate.spread]
        for name in ("put_extent", "get_extent", "put_extent_blocking", "get_extent_blocking"):
            limit = rates["lz4_compress" if name.startswith("put") else "lz4_decompress"]
            ratios = [mine / best for mine, best in zip(rates[name].values, limit.values, strict=True)]
            self.report[f"{name}_to_lz4_ratio"] = round(statistics.median(ratios), 3)
            self.report[f"{name}_to_lz4_ratio_spread"] = [round(min(ratios), 3), round(max(ratios), 3)]

    async def _put_aio(self, pool: aio.Pool) -> None:
        async with pool.batch() as batch:
            for number, block in enumerate(self._blocks):
                await batch.put(1, number * 512, block)

    async def _get_aio(self, pool: aio.Pool, back: memoryview) -> None:
        async with pool.batch() as batch:
            results = [
                await batch.get_into(1, number * 512, back[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
                for number in range(len(self._blocks))
            ]
        for result in results:
            result.raise_for_pages()

    def _compress(self) -> list[bytes]:
        memory = self._memory
        return [
            lz4.block.compress(memory[at : at + _CHUNK_BYTES], store_size=False)
            for at in range(0, len(memory), _CHUNK_BYTES)
        ]

    @staticmethod
    def _decompress(chunks: list[bytes], into: memoryview) -> None:
        at = 0
        for chunk in chunks:
            cramjam.lz4.decompress_block_into(chunk, into[at : at + _CHUNK_BYTES], output_len=_CHUNK_BYTES)
            at += _CHUNK_BYTES

    def _put(self, pool: Pool) -> None:
        with pool.batch() as batch:
            for number, block in enumerate(self._blocks):
                batch.put(1, number * 512, block)

    def _get(self, pool: Pool, back: memoryview) -> None:
        with pool.batch() as batch:
            results = [
                batch.get_into(1, number * 512, back[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES])
                for number in range(len(self._blocks))
            ]
        for result in results:
            result.raise_for_pages()

    # ---- Density ----

    def _ratios(self) -> None:
        for name, chunk_pages in (("4k", 1), ("64k", 16)):
            with scratch_pool(self._client, f"bench-{name}", chunk_pages=chunk_pages) as pool:
                self._put(pool)
                self.report[f"stored_ratio_{name}"] = round(len(self._memory) / pool.stat().payload_bytes, 3)


@click.group(invoke_without_command=True)
@click.option("--size", default=64, show_default=True, type=click.IntRange(2, 4096), help="MiB of real pages.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 1000), help="Rounds of every rate.")
@click.option("--calls", default=2000, show_default=True, type=click.IntRange(10), help="Calls of every latency.")
@server_options
@click.pass_context
def bench(context: click.Context, server: Server, size: int, rounds: int, calls: int) -> None:
    """Measure the server: lone pages and extents, each beside its floor or limit.

    The server may be anywhere; figures are of this run on these machines. For steady ones give server and client a CPU
    each (taskset), because wake-ups across CPUs dominate latencies.
    """
    if context.invoked_subcommand is not None:
        return
    keep_freed_messages()
    talk.print(f"capturing {size} MiB of the memory of a real process ...")
    memory = capture(size // 2 * 2 * MIB)
    with server.connect() as client, progress() as bars:
        bar = bars.add_task("measuring", total=3)

        def step(what: str) -> None:
            bars.update(bar, description=what, advance=1)

        report = Bench(client, memory, rounds, calls).run(step)
    report |= {
        "target": server.target,
        "plain_mib": len(memory) // MIB,
        "rounds": rounds,
        "calls": calls,
        "client_cpus": sorted(os.sched_getaffinity(0)),
    }
    if server.json:
        print_json(report)
        return
    _print(report)


bench.add_command(store)
bench.add_command(peers)
bench.add_command(programs)


def _print(report: dict[str, Any]) -> None:
    def rate(name: str) -> list[str]:
        low, high = report[f"{name}_mb_s_spread"]
        return [f"{report[f'{name}_mb_s']:,.0f}", f"{low:,.0f} .. {high:,.0f}"]

    def ratio(name: str) -> list[str]:
        low, high = report[f"{name}_to_lz4_ratio_spread"]
        return [f"{report[f'{name}_to_lz4_ratio']:.2f}", f"{low:.2f} .. {high:.2f}"]

    print_table(
        f"{report['plain_mib']} MiB of a real process against {report['target']}, client on CPUs {report['client_cpus']}",
        ["MB/s of plain pages", "median", "spread"],
        [
            ["LZ4 alone, compress", *rate("lz4_compress")],
            ["put, extents", *rate("put_extent")],
            ["  of LZ4's own rate", *ratio("put_extent")],
            ["put, extents, blocking face", *rate("put_extent_blocking")],
            ["LZ4 alone, decompress into place", *rate("lz4_decompress")],
            ["get, extents", *rate("get_extent")],
            ["  of LZ4's own rate", *ratio("get_extent")],
            ["get, extents, blocking face", *rate("get_extent_blocking")],
        ],
    )
    print_table(
        f"A lone page, {report['calls']} calls of each in turn",
        ["microseconds", "p50", "p99"],
        rows(report),
        notes=report.get("lone_notes", ()),
    )
    print_table("Of the medians of each tenth of the calls", ["ratio", "median", "spread"], ratio_rows(report))
    console.print(
        f"messages per 2 MiB {report['messages_per_2mib']:.2f}; full-size copies: "
        f"put {report['full_size_copies_put']}, get {report['full_size_copies_get']}; plain/stored "
        f"{report['stored_ratio_4k']:.2f} in 4 KiB chunks, {report['stored_ratio_64k']:.2f} in 64 KiB chunks",
        markup=False,
    )
