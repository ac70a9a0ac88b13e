"""`tmem demo`: the main job, on the memory of a real process, in front of the user.

Owns: the demonstration. A process builds a data structure of 256 MiB or more; its memory is read, put page by page with the
classical calls (a sample) and as streamed extents (all of it), got back both ways, and compared byte for byte with the
process itself.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from rich.progress import Progress

from tmem.client import Client, Pool
from tmem.wire.allocator import keep_freed_messages
from tmem.wire.limits import BLOCK_BYTES, BLOCK_PAGES

from .memory import PAGE_BYTES, Region, blocks, read_memory, regions
from .options import Server, fail, server_options
from .output import console, format_bytes, print_json, print_table, progress, talk
from .scrape import moved, scrape, total
from .scratch import scratch_pool
from .swap import run_directory_option
from .workload import Workload

__all__ = ["demo"]

MIB = 1 << 20
_MEMORY_MIB, _PROGRAM_MIB = 256, 96


@dataclass
class Way:
    """What one way of moving pages took.

    Attributes:
        put_exchanges, get_exchanges: as the server counted them; None without its metrics.
        put_copies, get_copies: full-size copies on both sides, in pages.
    """

    pages: int = 0
    put_seconds: float = 0.0
    get_seconds: float = 0.0
    put_exchanges: float | None = None
    get_exchanges: float | None = None
    put_copies: float = 0.0
    get_copies: float = 0.0

    def report(self) -> dict[str, float | None]:
        """The figures, by name."""

        def per_block(exchanges: float | None) -> float | None:
            return None if exchanges is None else exchanges / (self.pages / BLOCK_PAGES)

        return {
            "pages": self.pages,
            "put_pages_s": self.pages / self.put_seconds,
            "get_pages_s": self.pages / self.get_seconds,
            "put_mb_s": self.pages * PAGE_BYTES / self.put_seconds / 1e6,
            "get_mb_s": self.pages * PAGE_BYTES / self.get_seconds / 1e6,
            "put_exchanges_per_2mib": per_block(self.put_exchanges),
            "get_exchanges_per_2mib": per_block(self.get_exchanges),
            "put_full_size_copies_per_page": self.put_copies / self.pages,
            "get_full_size_copies_per_page": self.get_copies / self.pages,
        }


@dataclass
class Demonstration:
    """One run.

    Attributes:
        memory: the process's memory, as it was read. back: what came back.
    """

    client: Client
    metrics_url: str | None
    memory: memoryview
    back: memoryview
    bars: Progress

    @property
    def extents(self) -> range:
        """Where each extent begins in the memory, in bytes; the last one may be short."""
        return range(0, len(self.memory), BLOCK_BYTES)

    def samples(self) -> dict[str, float]:
        """The server's metrics, if they can be had."""
        return scrape(self.metrics_url) if self.metrics_url else {}

    def stream(self, pool: Pool) -> Way:
        """All of it, as extents of up to 2 MiB on the stream."""
        way = Way(pages=len(self.memory) // PAGE_BYTES)
        before = self.samples()
        copies = self.client.counters.copies
        copied = (copies.put_pages, copies.get_pages)
        bar = self.bars.add_task("extents out", total=len(self.extents))
        begun = time.perf_counter()
        with pool.batch() as batch:
            for at in self.extents:
                batch.put(1, at // PAGE_BYTES, self.memory[at : at + BLOCK_BYTES])
                self.bars.advance(bar)
        way.put_seconds = time.perf_counter() - begun
        bar = self.bars.add_task("extents back", total=len(self.extents))
        begun = time.perf_counter()
        with pool.batch() as batch:
            results = []
            for at in self.extents:
                results.append(batch.get_into(1, at // PAGE_BYTES, self.back[at : at + BLOCK_BYTES]))
                self.bars.advance(bar)
        way.get_seconds = time.perf_counter() - begun
        for result in results:
            result.raise_for_pages()
        self._note(way, before, "tmem_exchange_batches_total", {"op": "put"}, {"op": "get"}, copied)
        return way

    def unary(self, pool: Pool, sample: int) -> Way:
        """Every so many-th page, by the classical calls."""
        count = len(self.memory) // PAGE_BYTES
        step = max(1, count // sample)
        chosen = range(0, count, step)[:sample]
        way = Way(pages=len(chosen))
        before = self.samples()
        copies = self.client.counters.copies
        copied = (copies.put_pages, copies.get_pages)
        bar = self.bars.add_task("single pages out", total=len(chosen))
        begun = time.perf_counter()
        for number, page in enumerate(chosen):
            pool.put_page_sync(0, page, self.memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])
            if number % 64 == 0:
                self.bars.advance(bar, 64)
        way.put_seconds = time.perf_counter() - begun
        bar = self.bars.add_task("single pages back", total=len(chosen))
        begun = time.perf_counter()
        for number, page in enumerate(chosen):
            place = self.back[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
            pool.get_page_sync(0, page, place).raise_for_pages()
            if number % 64 == 0:
                self.bars.advance(bar, 64)
        way.get_seconds = time.perf_counter() - begun
        methods = ({"method": "PagesService/Put"}, {"method": "PagesService/Get"})
        self._note(way, before, "tmem_rpc_requests_total", *methods, copied)
        for page in chosen:
            here = slice(page * PAGE_BYTES, (page + 1) * PAGE_BYTES)
            if bytes(self.back[here]) != bytes(self.memory[here]):
                fail(f"page {page} came back different by the unary calls", 1)
        return way

    def _note(
        self,
        way: Way,
        before: dict[str, float],
        metric: str,
        put_labels: dict[str, str],
        get_labels: dict[str, str],
        copied: tuple[int, int],
    ) -> None:
        """Exchanges and copies since `before`: the client's own copies and the server's."""
        copies = self.client.counters.copies
        way.put_copies = copies.put_pages - copied[0]
        way.get_copies = copies.get_pages - copied[1]
        if self.metrics_url is None:
            return
        after = self.samples()

        def moved_by(name: str, labels: dict[str, str]) -> float:
            return total(after, name, **labels) - total(before, name, **labels)

        way.put_exchanges = moved_by(metric, put_labels)
        way.get_exchanges = moved_by(metric, get_labels)
        way.put_copies += moved_by("tmem_full_size_copies_total", {"op": "put"})
        way.get_copies += moved_by("tmem_full_size_copies_total", {"op": "get"})


@click.command()
@click.option(
    "--with",
    "what",
    type=click.Choice(["memory", "program", "auto"]),
    default="memory",
    show_default=True,
    help="memory: that of a process, put and got back. program: one that runs with a quarter of what it needs, as root. auto: "
    "the program where that can be, else the memory.",
)
@click.option(
    "--size", type=click.IntRange(8, 65536), help="MiB of data to build.  [default: 256, or 96 for a program]"
)
@click.option("--sample", default=2048, show_default=True, type=click.IntRange(1), help="Pages for the unary calls.")
@click.option("--metrics-url", envvar="TMEM_METRICS", show_envvar=True, help="The server's /metrics, for its counters.")
@run_directory_option
@server_options
def demo(
    server: Server, what: str, size: int | None, sample: int, metrics_url: str | None, run_directory: Path
) -> None:
    """Put the memory of a real process into the server, get it back, and compare every byte; or run a program from there."""
    if what != "memory":
        # Loaded only now: it needs the extra of the agents.
        from .demo_program import obstacles, show

        why_not = obstacles(server)
        if not why_not:
            show(server, (size or _PROGRAM_MIB) * MIB, run_directory)
            return
        talk.print("a program can't run from the server's memory here:\n  " + "\n  ".join(why_not), soft_wrap=True)
        if what == "program":
            sys.exit(1)
        talk.print("so here is the memory of a process, put there and got back:")
    size = size or _MEMORY_MIB
    keep_freed_messages()
    with server.connect() as client, Workload(size * MIB) as workload:
        talk.print(f"process {workload.pid} builds {size} MiB of records ...")
        records = workload.await_built()
        os.kill(workload.pid, signal.SIGSTOP)  # its memory stands still from here on
        try:
            report = _run(client, workload.pid, metrics_url, sample)
        finally:
            os.kill(workload.pid, signal.SIGCONT)
    report["records"] = records
    report["target"] = server.target
    if server.json:
        print_json(report)
    else:
        _print(report)


def _run(client: Client, pid: int, metrics_url: str | None, sample: int) -> dict[str, Any]:
    found = regions(pid)
    plain = sum(region.size for region in found)
    memory, back = memoryview(bytearray(plain)), memoryview(bytearray(plain))
    talk.print(f"reading {format_bytes(plain)} in {len(found)} mappings of process {pid} ...")
    offset = 0
    for address, size in blocks(found, BLOCK_BYTES):
        read_memory(pid, address, memory[offset : offset + size])
        offset += size
    first_samples = scrape(metrics_url) if metrics_url else {}
    with progress() as bars:
        run = Demonstration(client, metrics_url, memory, back, bars)
        with scratch_pool(client, "demo-pages", chunk_pages=1) as single:
            unary = run.unary(single, sample)
        back[:] = bytes(len(back))
        with scratch_pool(client, "demo-extents", chunk_pages=16) as whole:
            rss_before = total(run.samples(), "process_resident_memory_bytes")
            streamed = run.stream(whole)
            rss_after = total(run.samples(), "process_resident_memory_bytes")
            stat = whole.stat()
            _compare(pid, found, back, bars)
            with scratch_pool(client, "demo-4k", chunk_pages=1) as small:
                bar = bars.add_task("ratio of 4 KiB chunks", total=len(run.extents))
                with small.batch() as batch:
                    for at in run.extents:
                        batch.put(1, at // PAGE_BYTES, memory[at : at + BLOCK_BYTES])
                        bars.advance(bar)
                ratio_4k = plain / small.stat().payload_bytes
                last_samples = run.samples()
    return {
        "plain_bytes": plain,
        "unary": unary.report(),
        "stream": streamed.report(),
        "stored_ratio_4k": ratio_4k,
        "stored_ratio_64k": plain / stat.payload_bytes,
        "server_rss_bytes_per_stored_byte": (rss_after - rss_before) / stat.payload_bytes if metrics_url else None,
        "identical": True,
        "metrics_moved": moved(first_samples, last_samples),
    }


def _compare(pid: int, found: list[Region], back: memoryview, bars: Progress) -> None:
    """Holds what came back against the process's memory, read anew."""
    again = memoryview(bytearray(BLOCK_BYTES))
    bar = bars.add_task("comparing every byte", total=len(back))
    offset = 0
    for address, size in blocks(found, BLOCK_BYTES):
        read_memory(pid, address, again[:size])
        if bytes(again[:size]) != bytes(back[offset : offset + size]):
            fail(f"the bytes at {address:#x} of process {pid} came back different", 1)
        offset += size
        bars.advance(bar, size)


def _print(report: dict[str, Any]) -> None:
    unary, stream = report["unary"], report["stream"]

    def row(title: str, key: str, form: str) -> list[str]:
        return [title, *("-" if way[key] is None else form.format(way[key]) for way in (unary, stream))]

    print_table(
        f"{format_bytes(report['plain_bytes'])} of a process with {report['records']:,} records, out and back: "
        "every byte identical",
        ["", "single pages (unary)", "extents (stream)"],
        [
            row("pages", "pages", "{:,}"),
            row("put, pages/s", "put_pages_s", "{:,.0f}"),
            row("get, pages/s", "get_pages_s", "{:,.0f}"),
            row("put, MB/s", "put_mb_s", "{:,.1f}"),
            row("get, MB/s", "get_mb_s", "{:,.1f}"),
            row("exchanges per 2 MiB put (server)", "put_exchanges_per_2mib", "{:.2f}"),
            row("exchanges per 2 MiB got (server)", "get_exchanges_per_2mib", "{:.2f}"),
            row("full-size copies per page put", "put_full_size_copies_per_page", "{:.2f}"),
            row("full-size copies per page got", "get_full_size_copies_per_page", "{:.2f}"),
            ["compression, 4 KiB chunks", f"{report['stored_ratio_4k']:.2f}", ""],
            ["compression, 64 KiB chunks", "", f"{report['stored_ratio_64k']:.2f}"],
            [
                "server RSS per stored byte",
                "",
                "-"
                if report["server_rss_bytes_per_stored_byte"] is None
                else f"{report['server_rss_bytes_per_stored_byte']:.2f}",
            ],
        ],
    )
    if report["metrics_moved"]:
        console.print("Lines of /metrics that moved:")
        for name, (before, after) in sorted(report["metrics_moved"].items()):
            console.print(f"  {name} {before:g} -> {after:g}")
