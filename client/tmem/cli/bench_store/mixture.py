"""Real pages in two pools, overwritten and flushed at random.

Owns: what is put where. Of the captured blocks every second one is put as extents into a pool with 64 KiB chunks, the others page by page into one
with 4 KiB chunks. Overwriting takes other pages of the same capture.

The mix of one turn, by bytes: half to each pool. Extents: whole blocks, and runs of 1..64 pages anywhere, as often as each
other; pages: 64 lone ones, scattered. Of seven operations one is a flush of as much.
"""

import random

from tmem.client import Batch, Client
from tmem.wire.limits import BLOCK_BYTES, BLOCK_PAGES, PAGE_BYTES

__all__ = ["Mixture"]

_OBJECT = 7
_SCATTERED = 64
_MOST_RUN = 64
_FLUSH_SHARE = 1 / 7


class Mixture:
    """Both pools.

    Args:
        memory: plain pages, a whole number of blocks.
    """

    def __init__(self, client: Client, memory: memoryview) -> None:
        self._memory = memory
        self._pages = len(memory) // PAGE_BYTES
        self._blocks = len(memory) // BLOCK_BYTES
        self.object = _OBJECT
        self.extents = client.create_pool("extents", chunk_pages=16)
        self.pages = client.create_pool("pages", chunk_pages=1)
        self._chance = random.Random(20110601)  # noqa: S311  the same every time

    def fill(self) -> None:
        """Puts everything."""
        with self.extents.batch() as batch:
            for block in range(0, self._blocks, 2):
                at = block * BLOCK_BYTES
                batch.put(_OBJECT, block * BLOCK_PAGES, self._memory[at : at + BLOCK_BYTES])
        for block in range(1, self._blocks, 2):
            with self.pages.batch() as batch:
                for page in range(block * BLOCK_PAGES, (block + 1) * BLOCK_PAGES):
                    batch.put(_OBJECT, page, self._source(page, 1))

    def _source(self, page: int, count: int) -> memoryview:
        return self._memory[page * PAGE_BYTES : (page + count) * PAGE_BYTES]

    def _other(self, count: int) -> memoryview:
        """Some pages of the capture."""
        return self._source(self._chance.randrange(self._pages - count + 1), count)

    def work(self, size: int) -> None:
        """Overwrites and flushes so many plain bytes at random, and waits until all is done."""
        left = {self.extents: size // 2, self.pages: size // 2}
        with self.extents.batch() as extents, self.pages.batch() as pages:
            while left[self.extents] > 0 or left[self.pages] > 0:
                if left[self.extents] > 0:
                    left[self.extents] -= PAGE_BYTES * self._write_run(extents)
                while left[self.pages] > left[self.extents]:
                    left[self.pages] -= PAGE_BYTES * self._write_scattered(pages)

    def _write_run(self, batch: Batch) -> int:
        first, count = self.random_run(whole=self._chance.random() < 0.5)
        if self._chance.random() < _FLUSH_SHARE:
            batch.flush(_OBJECT, first, count)
        else:
            batch.put(_OBJECT, first, self._other(count))
        return count

    def random_run(self, *, whole: bool) -> tuple[int, int]:
        """Some pages that lie in one block of extents: first and count."""
        base = self._chance.randrange(0, self._blocks, 2) * BLOCK_PAGES
        if whole:
            return base, BLOCK_PAGES
        count = self._chance.randint(1, _MOST_RUN)
        return base + self._chance.randrange(BLOCK_PAGES - count + 1), count

    def _write_scattered(self, batch: Batch) -> int:
        flush = self._chance.random() < _FLUSH_SHARE
        for _ in range(_SCATTERED):
            page = self.random_page()
            if flush:
                batch.flush(_OBJECT, page)
            else:
                batch.put(_OBJECT, page, self._other(1))
        return _SCATTERED

    def random_page(self) -> int:
        """A page of the pool of lone pages."""
        block = self._chance.randrange(1, self._blocks, 2) if self._blocks > 1 else 0
        return block * BLOCK_PAGES + self._chance.randrange(BLOCK_PAGES)

    def flush_some(self, share: float) -> None:
        """Flushes about that share of both pools, in short runs and lone pages."""
        with self.extents.batch() as extents, self.pages.batch() as pages:
            for _ in range(int(self._pages / 2 * share)):
                first, _ = self.random_run(whole=False)
                extents.flush(_OBJECT, first)
                pages.flush(_OBJECT, self.random_page())

    def accounts(self) -> dict[str, int]:
        """What the server says that both hold, in bytes; and pages."""
        stats = [self.extents.stat(), self.pages.stat()]
        return {
            "payload": sum(stat.payload_bytes for stat in stats),
            "index": sum(stat.index_bytes for stat in stats),
            "dead": sum(stat.dead_bytes for stat in stats),
            "pages": sum(stat.pages for stat in stats),
        }
