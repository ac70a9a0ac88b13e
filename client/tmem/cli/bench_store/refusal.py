"""What a daemon costs its clients while it refuses puts.

Owns: at 100 % of a quota, how long a refused put takes, and the p99 of lone gets meanwhile over the p99 with no puts. A third figure has the
same writer beside the getter, its puts accepted: what the refusing alone changes. The daemon has one CPU, both clients share another.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import tmem.client
from tmem.cli.bench_common.figures import at_most, percentile
from tmem.cli.bench_common.rig import MIB, Program, until
from tmem.client import Client, Pool
from tmem.client.testing import CaptiveDaemon
from tmem.wire.codec import Codec, EncodedChunks
from tmem.wire.copies import CopyCounter
from tmem.wire.errors import Refused
from tmem.wire.limits import BLOCK_BYTES, BLOCK_PAGES, PAGE_BYTES

from .latency import Getter, add_ratios, microseconds
from .rig import Rig

__all__ = ["measure"]

_OBJECT = 7
_REPORT_BYTES = 4 * MIB


def measure(rig: Rig) -> None:
    """Takes the figures."""
    memory = rig.memory(rig.sizes.refusal * MIB)
    with (
        rig.on_cpu(rig.client_cpu),
        rig.daemon("--memory-limit", "8GiB", pinned=True) as daemon,
        tmem.client.connect(daemon.target) as client,
    ):
        rig.say("refusal: filling")
        pool = client.create_pool("full", chunk_pages=16)
        with pool.batch() as batch:
            for at in range(0, len(memory), BLOCK_BYTES):
                batch.put(_OBJECT, at // PAGE_BYTES, memory[at : at + BLOCK_BYTES])
        stat = pool.stat()
        pool.resize(quota_bytes=stat.payload_bytes + stat.index_bytes)
        pages = len(memory) // PAGE_BYTES
        getter = Getter(pool, _OBJECT, lambda chance: chance.randrange(pages))
        getter.take(rig.sizes.samples // 2)
        _refused_puts(rig, pool, memory)
        _gets_meanwhile(rig, client, daemon, getter)


def _refused_puts(rig: Rig, pool: Pool, memory: memoryview) -> None:
    """One after the other, where nothing is, each waiting for its answer."""
    chance = random.Random(2)  # noqa: S311
    add = rig.report.add
    for key, title, pages in (
        ("page", "page", 1),
        ("extent", "run of 64 KiB", 16),
        ("block", "block of 2 MiB", 512),
    ):
        rig.say(f"refusal: puts of a {title}")
        seconds = []
        for number in range(rig.sizes.samples // (1 if pages < 512 else 10)):
            at = chance.randrange(len(memory) // PAGE_BYTES - pages) * PAGE_BYTES
            plain = memory[at : at + pages * PAGE_BYTES]
            begun = time.perf_counter()
            try:
                pool.put(_OBJECT + 1, number * BLOCK_PAGES, plain)
            except Refused:
                seconds.append(time.perf_counter() - begun)
        p99 = microseconds(percentile(seconds, 99)) if seconds else float("inf")
        add(f"refusal_put_{key}_p99_us", f"a refused put of a {title}, p99, us", p99, at_most(5000))
        add(f"refusal_put_{key}_refused", "  refused", len(seconds))
        alone = _compress_seconds(memory, pages, len(seconds))
        add(f"refusal_compress_{key}_p99_us", "  LZ4 alone, which is done before it is sent, p99, us", alone)
    rig.report.about["refusal_full_share"] = round(_used(pool) / pool.info().quota_bytes, 4)


def _compress_seconds(memory: memoryview, pages: int, count: int) -> float:
    """The p99 of compressing as much, in microseconds."""
    codec = Codec(CopyCounter())
    seconds = []
    for number in range(max(count, 1)):
        at = number * pages * PAGE_BYTES % (len(memory) - pages * PAGE_BYTES + 1) // PAGE_BYTES * PAGE_BYTES
        begun = time.perf_counter()
        codec.encode(memory[at : at + pages * PAGE_BYTES], 0, 16, EncodedChunks())
        seconds.append(time.perf_counter() - begun)
    return microseconds(percentile(seconds, 99))


def _used(pool: Pool) -> int:
    stat = pool.stat()
    return stat.payload_bytes + stat.index_bytes


def _gets_meanwhile(rig: Rig, client: Client, daemon: CaptiveDaemon, getter: Getter) -> None:
    p99: dict[str, list[float]] = {"quiet": [], "refused": [], "accepted": []}
    rates: dict[str, list[float]] = {"refused": [], "accepted": []}
    for number in range(rig.sizes.rounds):
        rig.say(f"refusal: gets, round {number + 1} of {rig.sizes.rounds}")
        p99["quiet"].append(microseconds(percentile(getter.take(rig.sizes.samples), 99)))
        for mode, done_per_second in rates.items():
            with _writer(client, daemon, mode, number) as writer:
                before = writer.hear()
                p99[mode].append(microseconds(percentile(getter.take(rig.sizes.samples), 99)))
                after = writer.hear()
                done = after["refused" if mode == "refused" else "stored"]
                done_per_second.append(done / after["seconds"])
                assert before["refused" if mode == "accepted" else "stored"] <= 1
    title = "get p99 while puts are refused over get p99 without puts"
    add_ratios(rig.report, "refusal_get", title, p99["refused"], p99["quiet"], at_most(2))
    beside = [refused / accepted for refused, accepted in zip(p99["refused"], p99["accepted"], strict=True)]
    add = rig.report.add_rounds
    add("refusal_get_p99_to_accepted_ratio", "  over get p99 while they are accepted", beside)
    add("refusal_get_p99_us", "  while refused, us", p99["refused"])
    add("refusal_accepted_get_p99_us", "  while accepted, us", p99["accepted"])
    add("refusal_quiet_get_p99_us", "  no puts, us", p99["quiet"])
    add("refusal_puts_s", "  refused puts of 64 KiB /s", rates["refused"])
    add("refusal_accepted_puts_s", "  accepted puts of 64 KiB /s", rates["accepted"])


@contextmanager
def _writer(client: Client, daemon: CaptiveDaemon, mode: str, number: int) -> Iterator[Program]:
    # A quota that is full from the beginning: no page fits into it.
    quota = PAGE_BYTES if mode == "refused" else 0
    settings = {"target": daemon.target, "pool": f"writer-{mode}-{number}", "mode": "fresh", "quota": quota}
    with Program("tmem.cli.bench_store.writer", **settings, report=_REPORT_BYTES) as writer:
        pool_id = writer.hear()["pool_id"]
        yield writer
    until(lambda: any(p.parked for p in client.pools() if p.pool_id == pool_id), 30, "the writer's pool is parked")
    client.destroy_parked(pool_id)
