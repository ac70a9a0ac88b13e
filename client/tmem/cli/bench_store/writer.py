"""A client of its own that puts without end.

Owns: the load program behind `cleaning`, `refusal` and `weights`, run as `python -m tmem.cli.bench_store.writer`. Its first line of input is a JSON
object with the settings; it tells about every `report` bytes put. Ends with its input.

Modes
    endless    batches of extents in flight at random places of `pages` pages
    fresh      one extent of 16 pages after another, each where none was before, waiting for each answer
    overwrite  the same over and over `pages` pages, at random; says {"ready": ...} once all of them are there
"""

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator

import tmem.client
from tmem.client import Pool
from tmem.wire.errors import Refused
from tmem.wire.limits import PAGE_BYTES

__all__ = ["main"]

_OBJECT = 9
_EXTENT_PAGES = 16
_BATCH_EXTENTS = 32


def _end_with_input() -> None:
    for _ in sys.stdin:
        pass
    os._exit(0)


def _tell(**values: object) -> None:
    print(json.dumps(values), flush=True)


def _extents() -> list[memoryview]:
    """Half random bytes, half a pattern, so that they shrink to about a half; the same every time."""
    chance = random.Random(20110601)  # noqa: S311
    half = PAGE_BYTES // 2
    return [
        memoryview(b"".join(chance.randbytes(half) + bytes([page]) * half for page in range(_EXTENT_PAGES)))
        for _ in range(16)
    ]


def _put_endless(pool: Pool, pages: int, report: int) -> None:
    extents = _extents()
    chance = random.Random()  # noqa: S311
    done = 0
    while True:
        with pool.batch() as batch:
            for _ in range(_BATCH_EXTENTS):
                at = chance.randrange(pages // _EXTENT_PAGES) * _EXTENT_PAGES
                batch.put(_OBJECT, at, chance.choice(extents))
        before, done = done, done + _BATCH_EXTENTS * _EXTENT_PAGES * PAGE_BYTES
        if done // report > before // report:
            _tell(put=done)


def _places(mode: str, pages: int) -> Iterator[int]:
    if mode == "overwrite":
        yield from range(0, pages, _EXTENT_PAGES)
        _tell(ready=pages)
        chance = random.Random(1)  # noqa: S311
        while True:
            yield chance.randrange(pages // _EXTENT_PAGES) * _EXTENT_PAGES
    place = 0
    while True:
        yield place
        place += _EXTENT_PAGES


def _put_one_by_one(pool: Pool, mode: str, pages: int, report: int) -> None:
    extents = _extents()
    stored = refused = 0
    begun = time.perf_counter()
    for number, place in enumerate(_places(mode, pages)):
        try:
            pool.put(_OBJECT, place, extents[number % len(extents)])
            stored += 1
        except Refused:
            refused += 1
        if (number + 1) % (report // (_EXTENT_PAGES * PAGE_BYTES)) == 0:
            _tell(stored=stored, refused=refused, seconds=time.perf_counter() - begun)


def main() -> None:
    """Puts until its input ends."""
    settings = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_input, daemon=True).start()
    with tmem.client.connect(settings["target"], token=settings.get("token")) as client:
        pool = client.create_pool(
            settings["pool"],
            settings.get("kind", "persistent"),
            weight=settings.get("weight", 0),
            quota_bytes=settings.get("quota", 0),
        )
        _tell(pool_id=pool.info().pool_id)
        mode = settings["mode"]
        if mode == "endless":
            _put_endless(pool, settings["pages"], settings["report"])
        else:
            _put_one_by_one(pool, mode, settings.get("pages", 0), settings["report"])


if __name__ == "__main__":
    main()
