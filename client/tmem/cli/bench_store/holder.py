"""A store in a process of its own: filled, asked for its accounts, timed.

Owns: the program behind `index` and `growth`, run as `python -m tmem.cli.bench_store.holder`: the bare store, set up as the daemon sets it
up, without a wire around it, so that nothing but it is in the figures. Each line of standard input is a JSON object with what to do;
each answer is one on standard output. Ends with its input.

Pages are small: bodies of a few bytes, which the store does not look into, and same-filled ones.
"""

import json
import random
import sys
import time
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from tmem.cli.bench_common.rig import own_resident_bytes
from tmem.server.host.memory import tame_collector
from tmem.server.store.interface import PoolPolicy
from tmem.server.store.log import LogStore
from tmem.server.store.pending import Pending
from tmem.wire.copies import CopyCounter
from tmem.wire.handles import Extent, Version
from tmem.wire.limits import BLOCK_PAGES, MAX_ANSWER_BYTES, OBJECT_ID_BITS, SAME_FILLED_BYTES
from tmem.wire.requests import Header, Put
from tmem.wire.results import Encoding, PoolKind

__all__ = ["main"]

_KEY = 1
_OBJECT = 7
_LIMIT_BYTES = 8 << 30
# Lone pages that come in one message.
_MESSAGE_PAGES = 64
# More than this is cleaned by puts (see tmem.server.store.log.cleaner).
_AGED_DEAD = 0.10


class Holder:
    """The store with one pool.

    Args:
        body: encoded bytes of a page that is not same-filled.
        same_filled: whether every other page is.
        seed: of everything random.
    """

    def __init__(self, body: int, *, same_filled: bool, seed: int = 20110601) -> None:
        self.store = LogStore(_LIMIT_BYTES, CopyCounter())
        self.store.add_pool(PoolPolicy(_KEY, PoolKind.PERSISTENT, "local"))
        self.chance = random.Random(seed)  # noqa: S311  the same every time
        self._sequence = 0
        self._body = body
        self._sizes = [SAME_FILLED_BYTES if same_filled and page % 2 else body for page in range(BLOCK_PAGES)]
        self._encodings = [
            int(Encoding.SAME_FILLED if same_filled and page % 2 else Encoding.LZ4) for page in range(BLOCK_PAGES)
        ]
        self._bytes = memoryview(self.chance.randbytes(BLOCK_PAGES * max(body, SAME_FILLED_BYTES)))
        self._crcs = array("I", [self.chance.getrandbits(32) for _ in range(BLOCK_PAGES)])
        self._order = array("I")

    def put(self, extents: list[Extent], pages: Sequence[int]) -> None:
        """Stores extents whose chunks have so many pages each."""
        self._sequence += 1
        chunks = len(pages)
        sizes = self._sizes[:chunks]
        body = self._bytes[: sum(sizes)]
        crcs = self._crcs[: sum(pages)]
        put = Put(Header(1, _KEY, 1, self._sequence), extents, sizes, list(pages), self._encodings[:chunks], crcs, body)
        stored = self.store.put(_KEY, Version(1, self._sequence), put, 1)
        assert not isinstance(stored, Pending)
        assert stored.reasons is None

    def prepare(self, pages: int) -> None:
        """Shuffles so many pages, before memory is measured."""
        order = list(range(pages))
        self.chance.shuffle(order)
        self._order = array("I", order)

    def fill(self, pattern: str, pages: int, chunk_pages: int) -> None:
        """Stores so many pages."""
        if pattern == "extents":
            chunks = [chunk_pages] * (BLOCK_PAGES // chunk_pages)
            for index in range(0, pages, BLOCK_PAGES):
                self.put([Extent(_OBJECT, index, BLOCK_PAGES)], chunks)
            return
        for extents in self._messages(pattern, pages):
            self.put(extents, [1] * len(extents))

    def _messages(self, pattern: str, pages: int) -> Iterator[list[Extent]]:
        for first in range(0, pages, _MESSAGE_PAGES):
            numbers = range(first, min(first + _MESSAGE_PAGES, pages))
            if pattern == "random":
                yield [Extent(_OBJECT, self._order[number], 1) for number in numbers]
            elif pattern == "pages":
                yield [Extent(_OBJECT, number, 1) for number in numbers]
            elif pattern == "blocks":
                yield [Extent(_OBJECT, number * BLOCK_PAGES + number % BLOCK_PAGES, 1) for number in numbers]
            else:
                assert pattern == "objects"
                yield [Extent(self.chance.getrandbits(OBJECT_ID_BITS), number % BLOCK_PAGES, 1) for number in numbers]

    def _random_extents(self, pages: int, messages: int) -> list[list[Extent]]:
        draw = self.chance.randrange
        return [[Extent(_OBJECT, draw(pages), 1) for _ in range(_MESSAGE_PAGES)] for _ in range(messages)]

    def time_puts(self, pages: int, messages: int) -> float:
        """Overwrites random pages; answers pages/s."""
        work = self._random_extents(pages, messages)
        ones = [1] * _MESSAGE_PAGES
        begun = time.perf_counter()
        for extents in work:
            self.put(extents, ones)
        return messages * _MESSAGE_PAGES / (time.perf_counter() - begun)

    def time_gets(self, pages: int, messages: int) -> float:
        """Reads random pages; answers pages/s."""
        work = self._random_extents(pages, messages)
        get = self.store.get
        begun = time.perf_counter()
        for extents in work:
            get(_KEY, extents, MAX_ANSWER_BYTES, 1)
        return messages * _MESSAGE_PAGES / (time.perf_counter() - begun)

    def age(self, pages: int) -> None:
        """Overwrites random pages until so much is dead that every put cleans too, or as many as there are."""
        ones = [1] * _MESSAGE_PAGES
        for _ in range(pages // _MESSAGE_PAGES):
            for extents in self._random_extents(pages, 1):
                self.put(extents, ones)
            counts = self.store.counts(_KEY)
            if counts.dead_bytes > _AGED_DEAD * (counts.payload_bytes + counts.index_bytes):
                return

    def accounts(self) -> dict[str, int]:
        """What the store says of itself, and what the system says of the process."""
        counts = self.store.counts(_KEY)
        return {
            "pages": counts.pages,
            "payload": counts.payload_bytes,
            "index": counts.index_bytes,
            "dead": counts.dead_bytes,
            "resident": own_resident_bytes(),
        }


def main() -> None:
    """Does what its input says."""
    settings = json.loads(sys.stdin.readline())
    holder = Holder(settings["body"], same_filled=settings["same_filled"])
    holder.prepare(settings["shuffled"])
    tame_collector()
    _answer(resident=own_resident_bytes())
    for line in sys.stdin:
        asked: dict[str, Any] = json.loads(line)
        what = asked.pop("do")
        if what in {"fill", "age"}:
            (holder.fill if what == "fill" else holder.age)(**asked)
            _answer(**holder.accounts())
        else:
            _answer(rate=(holder.time_puts if what == "puts" else holder.time_gets)(**asked))


def _answer(**values: float) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
