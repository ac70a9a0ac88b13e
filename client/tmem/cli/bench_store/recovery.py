"""How soon a crashed daemon is back with its pages.

Owns: the seconds from the start of a daemon on a journal of so much payload, left by kill -9, until it is ready; beside those of a daemon
without a journal. Every page is compared afterwards.
"""

import json
import time

import tmem.client
from tmem.cli.bench_common.figures import at_most, exactly
from tmem.cli.bench_common.rig import MIB
from tmem.client import Pool
from tmem.client.testing import CaptiveDaemon
from tmem.wire.limits import BLOCK_BYTES, PAGE_BYTES

from .rig import Rig

__all__ = ["PLAIN_MIB", "measure"]

PLAIN_MIB = 256
_START_SECONDS = 300.0
_PUT_SECONDS = 60.0


def measure(rig: Rig) -> None:
    """Takes the figures."""
    target = rig.sizes.recovery * MIB
    memory = rig.memory(min(PLAIN_MIB, rig.sizes.recovery * 2) * MIB)
    with rig.directory() as directory:
        arguments = ("--memory-limit", "8GiB", "--journal", str(directory / "journal"))
        with rig.daemon(*arguments) as daemon:
            client = tmem.client.connect(daemon.target, write_timeout=_PUT_SECONDS)
            try:
                pool = client.create_pool("durable", durability="disk")
                turns = _fill(rig, pool, memory, target)
                stat, token, epoch = pool.stat(), pool.token, pool.info().epoch
                daemon.kill()
            finally:
                client.close()
        rig.say("recovery: starting again")
        begun = time.perf_counter()
        with rig.daemon() as daemon:
            empty_seconds = time.perf_counter() - begun
        begun = time.perf_counter()
        with rig.daemon(*arguments, timeout=_START_SECONDS) as daemon:
            seconds = time.perf_counter() - begun
            replayed = _replay_seconds(daemon)
            rig.say("recovery: comparing")
            with tmem.client.connect(daemon.target) as client:
                back = client.open_pool("durable", token, epoch)
                bad = _bad_blocks(back, memory, turns)
                pages = back.stat().pages
    add = rig.report.add
    add("recovery_seconds", "seconds from start to ready on a journal left by kill -9", round(seconds, 3), at_most(10))
    add("recovery_empty_seconds", "  without a journal", round(empty_seconds, 3))
    if replayed is not None:
        add("recovery_replay_seconds", "  of these, reading the journal", replayed)
    add("recovery_payload_bytes", "  payload", stat.payload_bytes)
    add("recovery_missing_pages", "pages fewer than before", stat.pages - pages, exactly(0))
    add("recovery_bad_blocks", "blocks that differ", bad, exactly(0))


def _fill(rig: Rig, pool: Pool, memory: memoryview, target: int) -> int:
    """Puts the memory into one object after another until there is that much payload; answers how many."""
    turns = 0
    while pool.stat().payload_bytes < target:
        rig.say(f"recovery: filling, {100 * pool.stat().payload_bytes // target} %")
        with pool.batch() as batch:
            for at in range(0, len(memory), BLOCK_BYTES):
                batch.put(turns, at // PAGE_BYTES, memory[at : at + BLOCK_BYTES])
        turns += 1
    return turns


def _replay_seconds(daemon: CaptiveDaemon) -> float | None:
    """What the daemon's log says of it."""
    for line in daemon.log().splitlines():
        if '"journal.recovered"' in line:
            return float(json.loads(line)["seconds"])
    return None


def _bad_blocks(pool: Pool, memory: memoryview, turns: int) -> int:
    into = memoryview(bytearray(BLOCK_BYTES))
    bad = 0
    for turn in range(turns):
        for at in range(0, len(memory), BLOCK_BYTES):
            plain = memory[at : at + BLOCK_BYTES]
            back = into[: len(plain)]
            if not pool.get_into(turn, at // PAGE_BYTES, back).hit or back != plain:
                bad += 1
    return bad
