"""Whether what an operation costs depends on how much is stored.

Owns: rates of puts and gets of lone pages, scattered at random, at many stored pages over those at few, twice: of the bare store, with nothing
else in the figures, and of daemons through the client. Both sizes stand side by side and are timed in turn, so that both see the same
machine; the median of the pairs counts.
"""

import random
import time
from collections.abc import Callable

import tmem.client
from tmem.cli.bench_common.figures import at_least
from tmem.cli.bench_common.rig import Program
from tmem.client import Pool
from tmem.wire.limits import BLOCK_BYTES, BLOCK_PAGES, PAGE_BYTES

from .rig import Rig

__all__ = ["measure"]

_GOAL = at_least(0.9)
_BODY_BYTES = 40
_MESSAGES = 400  # in a round: of 64 pages each
_OBJECT = 7
_WIRE_PAGES = 20 * BLOCK_PAGES  # in a round: messages of 512 lone pages
_PUT_SECONDS = 60.0

# (what, pages stored) -> pages/s
Timing = Callable[[str, int], float]


def measure(rig: Rig) -> None:
    """Takes the figures."""
    few, many = rig.sizes.few_pages, rig.sizes.many_pages
    rig.report.about |= {"growth_few_pages": few, "growth_many_pages": many}
    _bare(rig, few, many)
    _wire(rig, few, many)


def _compare(rig: Rig, key: str, where: str, few: int, many: int, timing: Timing) -> None:
    rates: dict[str, list[list[float]]] = {"put": [[], []], "get": [[], []]}
    for number in range(-1, rig.sizes.rounds):
        rig.say(f"growth: {where}, round {number + 1} of {rig.sizes.rounds}")
        for what, values in rates.items():
            # Whoever is first may meet other caches: turn about.
            for side in (0, 1) if number % 2 else (1, 0):
                rate = timing(what, (few, many)[side])
                if number >= 0:
                    values[side].append(rate)
    for what, (at_few, at_many) in rates.items():
        ratios = [most / least for least, most in zip(at_few, at_many, strict=True)]
        title = f"{where}: {what} rate at {many:,} pages over that at {few:,}"
        rig.report.add_rounds(f"{key}_{what}_ratio", title, ratios, _GOAL)
        rig.report.add_rounds(f"{key}_{what}_few_pages_s", f"  {what}s/s at few", at_few)
        rig.report.add_rounds(f"{key}_{what}_many_pages_s", f"  {what}s/s at many", at_many)


def _bare(rig: Rig, few: int, many: int) -> None:
    with (
        rig.on_cpu(rig.server_cpu),
        Program("tmem.cli.bench_store.holder", body=_BODY_BYTES, same_filled=True, shuffled=0) as small,
        Program("tmem.cli.bench_store.holder", body=_BODY_BYTES, same_filled=True, shuffled=0) as large,
    ):
        holders = {few: small, many: large}
        for pages, holder in holders.items():
            rig.say(f"growth: {pages:,} pages")
            empty = holder.hear()["resident"]
            whole = -(-pages // BLOCK_PAGES) * BLOCK_PAGES
            filled = holder.ask(do="fill", pattern="extents", pages=whole, chunk_pages=1)
            # Until puts pay for cleaning, on both sides.
            aged = holder.ask(do="age", pages=pages)
        rig.report.about["growth_resident_bytes"] = filled["resident"] - empty
        rig.report.about["growth_dead_share"] = round(aged["dead"] / (aged["payload"] + aged["index"]), 4)

        messages = min(_MESSAGES, few // 64)

        def timing(what: str, pages: int) -> float:
            rate: float = holders[pages].ask(do=f"{what}s", pages=pages, messages=messages)["rate"]
            return rate

        _compare(rig, "growth", "bare store", few, many, timing)


class _Wire:
    """Pages of a daemon, stored and timed through a client."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._chance = random.Random(1)  # noqa: S311  the same every time
        words = [number.to_bytes(8, "little") * (PAGE_BYTES // 8) for number in range(BLOCK_PAGES)]
        # Every other page differs from a same-filled one by its first bytes, and shrinks to about as many.
        plain = [
            word if page % 2 else self._chance.randbytes(_BODY_BYTES // 2) + word[_BODY_BYTES // 2 :]
            for page, word in enumerate(words)
        ]
        self._block = memoryview(b"".join(plain))
        self._into = memoryview(bytearray(BLOCK_BYTES))

    def fill(self, pages: int) -> None:
        """Stores so many, in whole blocks."""
        with self._pool.batch() as batch:
            for index in range(0, pages, BLOCK_PAGES):
                batch.put(_OBJECT, index, self._block)
                if index // BLOCK_PAGES % 64 == 63:
                    batch.wait()  # what a batch remembers is bounded

    def put(self, pages: int) -> float:
        """Overwrites random pages; answers pages/s."""
        places = [self._chance.randrange(pages) for _ in range(min(_WIRE_PAGES, pages))]
        begun = time.perf_counter()
        with self._pool.batch() as batch:
            for place in places:
                at = place % BLOCK_PAGES * PAGE_BYTES
                batch.put(_OBJECT, place, self._block[at : at + PAGE_BYTES])
        return len(places) / (time.perf_counter() - begun)

    def get(self, pages: int) -> float:
        """Reads random pages; answers pages/s."""
        places = [self._chance.randrange(pages) for _ in range(min(_WIRE_PAGES, pages))]
        begun = time.perf_counter()
        with self._pool.batch() as batch:
            for number, place in enumerate(places):
                at = number % BLOCK_PAGES * PAGE_BYTES
                batch.get_into(_OBJECT, place, self._into[at : at + PAGE_BYTES])
        return len(places) / (time.perf_counter() - begun)


def _wire(rig: Rig, few: int, many: int) -> None:
    with (
        rig.on_cpu(rig.client_cpu),
        rig.daemon("--memory-limit", "8GiB", pinned=True) as small,
        rig.daemon("--memory-limit", "8GiB", pinned=True) as large,
        tmem.client.connect(small.target, write_timeout=_PUT_SECONDS) as small_client,
        tmem.client.connect(large.target, write_timeout=_PUT_SECONDS) as large_client,
    ):
        wires = {}
        for pages, client in ((few, small_client), (many, large_client)):
            rig.say(f"growth: {pages:,} pages of a daemon")
            wires[pages] = _Wire(client.create_pool("pages", chunk_pages=1))
            wires[pages].fill(pages)

        def timing(what: str, pages: int) -> float:
            return wires[pages].put(pages) if what == "put" else wires[pages].get(pages)

        _compare(rig, "growth_wire", "daemon", few, many, timing)
