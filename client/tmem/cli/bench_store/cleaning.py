"""What a get costs while the cleaner runs.

Owns: the p99 of lone gets while the cleaner runs over the p99 without, in pairs:

    idle   pages were flushed, nobody writes, and the daemon cleans up when it has time; beside the same with nothing to clean
    puts   another client overwrites pages, so that every put cleans as well; beside the same client putting where nothing was

The daemon has one CPU, both clients share another. A sample counts as taken while cleaning if dead bytes went down around it.
"""

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import tmem.client
from tmem.cli.bench_common.figures import at_most, percentile
from tmem.cli.bench_common.rig import MIB, Program, until
from tmem.client import Client
from tmem.client.testing import CaptiveDaemon
from tmem.wire.limits import BLOCK_PAGES

from .latency import Getter, add_ratios, microseconds
from .mixture import Mixture
from .rig import Rig

__all__ = ["measure"]

_GOAL = at_most(2)
_FLUSHED_SHARE = 0.4
_SLICE = 50
_CLEAN_SECONDS = 20.0
_REST_SECONDS = 60.0
_REPORT_BYTES = 8 * MIB


def measure(rig: Rig) -> None:
    """Takes the figures."""
    memory = rig.memory(rig.sizes.cleaning * MIB)
    with (
        rig.on_cpu(rig.client_cpu),
        rig.daemon("--memory-limit", "8GiB", pinned=True) as daemon,
        tmem.client.connect(daemon.target) as client,
    ):
        rig.say("cleaning: filling")
        mixture = Mixture(client, memory)
        mixture.fill()
        blocks = len(memory) // MIB // 2

        def draw(chance: random.Random) -> int:
            return chance.randrange(0, blocks, 2) * BLOCK_PAGES + chance.randrange(BLOCK_PAGES)

        getter = Getter(mixture.extents, mixture.object, draw)
        getter.take(rig.sizes.samples // 2)
        _idle(rig, mixture, getter)
        _puts(rig, client, daemon, getter)


def _idle(rig: Rig, mixture: Mixture, getter: Getter) -> None:
    quiet, cleaning = [], []
    counted = 0
    for number in range(rig.sizes.rounds):
        rig.say(f"cleaning: idle, round {number + 1} of {rig.sizes.rounds}")
        _rest(mixture)
        without = getter.take(rig.sizes.samples)
        mixture.flush_some(_FLUSHED_SHARE)
        meanwhile = _while_cleaning(mixture, getter, rig.sizes.samples)
        mixture.fill()
        if len(meanwhile) < _SLICE:
            continue  # it was too fast to be seen
        counted += len(meanwhile)
        quiet.append(microseconds(percentile(without, 99)))
        cleaning.append(microseconds(percentile(meanwhile, 99)))
    if not quiet:
        rig.report.skip("the cleaner had done before a get could be timed", "idle")
        return
    add = rig.report.add_rounds
    title = "get p99 while the daemon cleans, nobody writing, over without"
    add_ratios(rig.report, "cleaning_idle_get", title, cleaning, quiet, _GOAL)
    add("cleaning_idle_get_p99_us", "  while it cleans, us", cleaning)
    add("cleaning_idle_quiet_get_p99_us", "  with nothing to clean, us", quiet)
    rig.report.about["cleaning_idle_samples"] = counted


def _while_cleaning(mixture: Mixture, getter: Getter, most: int) -> list[float]:
    """Gets that were timed while dead bytes went down."""
    taken: list[float] = []
    deadline = time.monotonic() + _CLEAN_SECONDS
    dead = mixture.accounts()["dead"]
    begun = False
    while len(taken) < most and time.monotonic() < deadline:
        slice_ = getter.take(_SLICE)
        before, dead = dead, mixture.accounts()["dead"]
        if dead < before:
            begun = True
            taken += slice_
        elif begun:
            break
    return taken


def _rest(mixture: Mixture) -> None:
    seen: list[int] = []

    def at_rest() -> bool:
        seen.append(mixture.accounts()["dead"])
        return len(seen) > 12 and len(set(seen[-12:])) == 1

    until(at_rest, _REST_SECONDS, "the cleaner comes to rest", every=0.1)


def _puts(rig: Rig, client: Client, daemon: CaptiveDaemon, getter: Getter) -> None:
    """Both kinds of writer in turn, at the speed that one reaches that waits for each answer."""
    p99: dict[str, list[float]] = {"overwrite": [], "fresh": [], "quiet": []}
    rates: dict[str, list[float]] = {"overwrite": [], "fresh": []}
    for number in range(rig.sizes.rounds):
        rig.say(f"cleaning: puts, round {number + 1} of {rig.sizes.rounds}")
        p99["quiet"].append(microseconds(percentile(getter.take(rig.sizes.samples), 99)))
        for mode in ("fresh", "overwrite"):
            with _writer(rig, client, daemon, mode, number) as writer:
                before = writer.hear()
                p99[mode].append(microseconds(percentile(getter.take(rig.sizes.samples), 99)))
                after = writer.hear()
                rates[mode].append((after["stored"] - before["stored"]) / (after["seconds"] - before["seconds"]))
    add = rig.report.add_rounds
    title = "get p99 while puts overwrite and clean, over puts that don't"
    add_ratios(rig.report, "cleaning_puts_get", title, p99["overwrite"], p99["fresh"], _GOAL)
    add("cleaning_puts_get_p99_us", "  puts that overwrite, us", p99["overwrite"])
    add("cleaning_fresh_puts_get_p99_us", "  puts where nothing was, us", p99["fresh"])
    add("cleaning_no_puts_get_p99_us", "  no puts, us", p99["quiet"])
    add("cleaning_overwrites_extents_s", "  extents of 64 KiB overwritten /s", rates["overwrite"])
    add("cleaning_fresh_extents_s", "  extents of 64 KiB put afresh /s", rates["fresh"])


@contextmanager
def _writer(rig: Rig, client: Client, daemon: CaptiveDaemon, mode: str, number: int) -> Iterator[Program]:
    pages = rig.sizes.cleaning * MIB // 4 // 4096
    settings = {"target": daemon.target, "pool": f"writer-{mode}-{number}", "mode": mode, "pages": pages}
    with Program("tmem.cli.bench_store.writer", **settings, report=_REPORT_BYTES) as writer:
        pool_id = writer.hear()["pool_id"]
        if mode == "overwrite":
            while "ready" not in writer.hear():
                pass
            # Over a tenth must be dead before puts clean.
            until(
                lambda: client.stat_pool(pool_id).dead_bytes > 0 and writer.hear()["stored"] > 2 * pages // 16,
                _REST_SECONDS,
                "the writer has overwritten everything",
                every=0,
            )
        yield writer
    until(lambda: any(p.parked for p in client.pools() if p.pool_id == pool_id), 30, "the writer's pool is parked")
    client.destroy_parked(pool_id)
