"""What a crash takes.

Owns: rounds of random writes to a pool of durability `disk`, each ended by kill -9 at a random moment with writes in flight, and the count of
acknowledged pages that are not back byte for byte from the daemon started on the same journal. A write without an answer may have happened
or not; every page must be what one of its possible last writes left.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import tmem.client
from tmem.cli.bench_common.figures import exactly
from tmem.cli.bench_common.rig import MIB
from tmem.client import Batch, Client, Code, FlushResult, Pool, PutResult
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .rig import Rig

__all__ = ["PLAIN_BYTES", "measure"]

PLAIN_BYTES = 8 * MIB
_OBJECT = 7
_SPACE_PAGES = 8 * BLOCK_PAGES
_MOST_RUN = 64
_FLUSH_SHARE = 0.1
_STAMP_BYTES = 8
_ABSENT = 0


@dataclass(slots=True)
class Write:
    """One write in flight: of which pages, with which stamps (0: flushed), and what became of it."""

    first: int
    stamps: list[int]
    results: list[PutResult] | list[FlushResult]

    @property
    def done(self) -> bool:
        """Whether it was answered."""
        return all(result.done for result in self.results)

    @property
    def acknowledged(self) -> bool:
        """Whether it was answered as done."""
        return all(result.done and result.error is None for result in self.results)


@dataclass(slots=True)
class Tally:
    """What was found."""

    acknowledged: int = 0
    unanswered: int = 0
    lost: int = 0
    wrong: int = 0
    revived: int = 0
    pages: int = 0


class Model:
    """What each page may be: stamps of writes that may be its last; _ABSENT for none."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.may_be = [{_ABSENT} for _ in range(_SPACE_PAGES)]
        self._stamp = 0

    def plain(self, stamp: int) -> bytes:
        """The page with that stamp: a real one, made unique."""
        at = stamp * PAGE_BYTES % len(self._memory)
        return stamp.to_bytes(_STAMP_BYTES, "little") + bytes(self._memory[at + _STAMP_BYTES : at + PAGE_BYTES])

    def draw_stamps(self, count: int) -> list[int]:
        """Stamps that no page ever had."""
        first = self._stamp + 1
        self._stamp += count
        return list(range(first, first + count))

    def take(self, writes: list[Write], tally: Tally) -> None:
        """Learns what became of writes, in their order."""
        for write in writes:
            for page, stamp in enumerate(write.stamps, write.first):
                if write.acknowledged:
                    self.may_be[page] = {stamp}
                    tally.acknowledged += 1
                else:
                    self.may_be[page].add(stamp)
                    tally.unanswered += 1

    def check(self, page: int, code: Code, plain: memoryview, tally: Tally) -> None:
        """Compares one page with what it may be; believes it from then on."""
        allowed = self.may_be[page]
        tally.pages += 1
        found = _ABSENT
        if code == Code.HIT:
            found = int.from_bytes(plain[:_STAMP_BYTES], "little")
            if found not in allowed or plain != self.plain(found):
                if allowed == {_ABSENT}:
                    tally.revived += 1
                else:
                    tally.wrong += 1
        elif _ABSENT not in allowed or code != Code.MISS:
            tally.lost += 1
        self.may_be[page] = {found}


def measure(rig: Rig) -> None:
    """Takes the figures."""
    memory = rig.memory(PLAIN_BYTES)
    model, tally = Model(memory), Tally()
    chance = random.Random(20110601)  # noqa: S311  the same every time
    with rig.directory() as directory:
        opened: tuple[bytes, int] | None = None
        for number in range(rig.sizes.crashes):
            rig.say(f"crashes: round {number + 1} of {rig.sizes.crashes}")
            opened = _round(rig, directory / "journal", model, tally, chance, opened)
        with (
            rig.daemon("--journal", str(directory / "journal")) as daemon,
            tmem.client.connect(daemon.target) as client,
        ):
            _verify(_pool(client, opened), model, tally)
    add = rig.report.add
    add("crashes_lost_pages", "acknowledged pages not back after kill -9", tally.lost, exactly(0))
    add("crashes_wrong_pages", "pages with other bytes than any last write's", tally.wrong, exactly(0))
    add("crashes_revived_pages", "pages back that were flushed", tally.revived, exactly(0))
    add("crashes_rounds", "  rounds", rig.sizes.crashes)
    add("crashes_acknowledged_pages", "  pages whose write was acknowledged", tally.acknowledged)
    add("crashes_unanswered_pages", "  pages whose write was in flight", tally.unanswered)
    add("crashes_checked_pages", "  pages looked at", tally.pages)


def _pool(client: Client, opened: tuple[bytes, int] | None) -> Pool:
    if opened is None:
        return client.create_pool("durable", durability="disk")
    return client.open_pool("durable", opened[0], opened[1])


def _round(
    rig: Rig, journal: Path, model: Model, tally: Tally, chance: random.Random, opened: tuple[bytes, int] | None
) -> tuple[bytes, int]:
    """Looks at what the round before left, writes, and kills the daemon."""
    writes: list[Write] = []
    with rig.daemon("--journal", str(journal)) as daemon:
        client = tmem.client.connect(daemon.target)
        try:
            pool = _pool(client, opened)
            _verify(pool, model, tally)
            opened = (pool.token, pool.info().epoch)
            limit = chance.randint(1, rig.sizes.crash_pages)
            batch = pool.batch()
            done = acknowledged = 0
            while acknowledged < limit:
                writes.append(_write(batch, model, chance))
                if chance.random() < 0.3:
                    batch.submit()
                while done < len(writes) and writes[done].done:
                    acknowledged += len(writes[done].stamps)
                    done += 1
            daemon.kill()
        finally:
            client.close()
    # What was answered up to the end counts as acknowledged: whoever got the answer relied on it.
    model.take(writes, tally)
    return opened


def _write(batch: Batch, model: Model, chance: random.Random) -> Write:
    count = chance.choice((1, 1, chance.randint(1, _MOST_RUN)))
    first = chance.randrange(_SPACE_PAGES // BLOCK_PAGES) * BLOCK_PAGES + chance.randrange(BLOCK_PAGES - count + 1)
    if chance.random() < _FLUSH_SHARE:
        return Write(first, [_ABSENT] * count, batch.flush(_OBJECT, first, count))
    stamps = model.draw_stamps(count)
    plain = memoryview(b"".join(map(model.plain, stamps)))
    return Write(first, stamps, [batch.put(_OBJECT, first, plain)])


def _verify(pool: Pool, model: Model, tally: Tally) -> None:
    """Reads every page, and each alone is compared."""
    back = memoryview(bytearray(BLOCK_PAGES * PAGE_BYTES))
    for first in range(0, _SPACE_PAGES, BLOCK_PAGES):
        result = pool.get_into(_OBJECT, first, back)
        for page, code in enumerate(result.pages):
            model.check(first + page, code, back[page * PAGE_BYTES : (page + 1) * PAGE_BYTES], tally)
