"""One client in a process of its own.

Owns: the program that drives one store, run as `python -m tmem.cli.bench_peers.worker`, and the loop that times it: every store goes through the same. Each
line of standard input is a JSON object with what to do; each answer is one on standard output. Ends with its input.

    first line   {"pages": file, "store": name, "target": ..., "port": ..., ...}: see `open_store`; "also" has more of the same, without pages, for
                 stores that commands name: {"do": "get", "store": "redis", ...}
    fill         every page once, there and back: {"do": "fill", "unit": 16}
    put, get     batches of so many pages for so many seconds: {"do": "get", "batch": 512, "unit": 16, "seconds": 0.3}; with "detail": true the answer
                 has what each batch took
    lone         so many gets of random single pages, one after the other: {"do": "lone", "calls": 100}
    load         other pages: {"do": "load", "pages": file}
    at           seconds of the monotonic clock at which put and get begin: {"do": "put", "at": 1234.5, ...}

What came back is compared byte for byte with what was put, outside the time; pages that are not right are counted as `bad`.
"""

import json
import mmap
import os
import random
import sys
import time
from array import array
from collections.abc import Iterator
from typing import Any

from tmem.wire.allocator import keep_freed_messages
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .limits import Copy, GrpcEcho, Lz4Alone, RawStream, SocketEcho, compressed_sizes
from .peers import PEERS
from .stores import AioStore, BlockingStore, LinkStore, Store

__all__ = ["Driver", "main", "open_store"]

_WARM_CALLS = 8
_MICROSECOND_DIGITS = 1


def open_store(settings: dict[str, Any], plain: memoryview) -> Store:
    """The store that a worker's first line asks for."""
    name = settings["store"]
    if name in PEERS:
        return PEERS[name][1](settings["port"], settings["prefix"])
    target = settings.get("target", "")
    if name in {"blocking", "link"}:
        return (BlockingStore if name == "blocking" else LinkStore)(
            target,
            unary=settings.get("unary", False),
            depth=settings.get("depth", 0),
            scattered=settings.get("scattered", False),
            codec_threads=settings.get("codec_threads", 0),
        )
    if name == "aio":
        return AioStore(target, window_batches=settings.get("window_batches"), apart=settings.get("apart", False))
    if name == "raw":
        return RawStream(target, plain)
    if name == "lz4":
        return Lz4Alone(plain)
    if name == "copy":
        return Copy(plain)
    sizes = compressed_sizes(plain, 1)
    if name == "grpc_echo":
        return GrpcEcho(target, sizes)
    assert name == "socket_echo"
    return SocketEcho(settings["port"], sizes)


def map_file(path: str) -> memoryview:
    """A file's bytes."""
    with open(path, "rb") as file:  # noqa: PTH123  mmap wants its descriptor
        return memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))


class Driver:
    """A store and the pages that are put into it.

    Args:
        settings: see `open_store`.
        pages: a file of whole blocks.
    """

    def __init__(self, settings: dict[str, Any], pages: str) -> None:
        self._settings = settings
        self._chance = random.Random(1)  # noqa: S311  the same every time
        self._take_pages(pages)
        self.store = open_store(settings, self._plain)

    def _take_pages(self, path: str) -> None:
        self._plain = map_file(path)
        self._count = len(self._plain) // PAGE_BYTES
        self._back = memoryview(bytearray(len(self._plain)))
        # Which page of the file lies at each place, by unit; each put moves them by a block, so that an old page is not taken for a new one.
        self._held: dict[int, array[int]] = {}
        self._turn = 0
        self._next = {"put": 0, "get": 0}

    # ---- What it is asked ----

    def load(self, pages: str) -> dict[str, Any]:
        """Takes other pages; what limits know of the old ones is forgotten."""
        self._take_pages(pages)
        self.store.load(self._plain)
        return {"pages": self._count}

    def fill(self, unit: int) -> dict[str, Any]:
        """Puts every page once and gets it; what a client does only once is done then."""
        bad = self.put(BLOCK_PAGES, unit, pages=self._count)["bad"]
        return {"bad": bad + self.get(BLOCK_PAGES, unit, pages=self._count)["bad"]}

    def put(self, batch: int, unit: int, seconds: float = 0.0, pages: int = 0, **how: Any) -> dict[str, Any]:
        """Puts batches of so many pages, in units of so many, for so many seconds, or so many pages in all."""
        self._turn += 1
        first, plain, count = self._next["put"], self._plain, self._count
        shift = self._turn * BLOCK_PAGES

        def source(place: int) -> memoryview:
            at = (place + shift) % count * PAGE_BYTES
            return plain[at : at + batch * PAGE_BYTES]

        clock = _Clock(first, count, batch, seconds, pages)
        answer = self._time(
            clock, lambda: self.store.put(((place, source(place)) for place in clock.places()), unit), **how
        )
        held = self._held.setdefault(unit, array("I", range(count)))
        for place in clock.touched(batch):
            here = (place + shift) % count
            held[place : place + batch] = array("I", range(here, here + batch))
        self._next["put"] = clock.next
        return answer

    def get(self, batch: int, unit: int, seconds: float = 0.0, pages: int = 0, **how: Any) -> dict[str, Any]:
        """Gets batches likewise, and compares them."""
        back, size = self._back, batch * PAGE_BYTES
        back[:] = bytes(len(back))
        clock = _Clock(self._next["get"], self._count, batch, seconds, pages)

        def batches() -> Iterator[tuple[int, memoryview]]:
            for place in clock.places():
                at = place * PAGE_BYTES
                yield place, back[at : at + size]

        answer = self._time(clock, lambda: self.store.get(batches(), unit), **how)
        self._next["get"] = clock.next
        if self._settings["store"] not in {"raw", "lz4", "copy"}:
            answer["bad"] += self._differing(clock.touched(batch), batch, unit)
        return answer

    def lone(self, calls: int) -> dict[str, Any]:
        """Gets of single pages; answers the microseconds of each."""
        store, count, draw = self.store, self._count, self._chance.randrange
        get_page = store.get_page
        into = memoryview(bytearray(PAGE_BYTES))
        compares = self._settings["store"] not in {"grpc_echo", "socket_echo"}
        taken = []
        bad = 0
        for call in range(-_WARM_CALLS, calls):
            page = draw(count)
            begun = time.perf_counter()
            get_page(page, into)
            seconds = time.perf_counter() - begun
            if call >= 0:
                taken.append(round(seconds * 1e6, _MICROSECOND_DIGITS))
            if compares:
                bad += bytes(into) != self._wanted(page, 1)
                into[:8] = bytes(8)
        return {"us": taken, "bad": bad + self._take_bad()}

    # ---- How ----

    def _time(self, clock: "_Clock", work: Any, *, detail: bool = False, at: float = 0.0) -> dict[str, Any]:
        self.store.latencies.clear()
        if at:
            time.sleep(max(0.0, at - time.monotonic()))
        clock.start()
        cpu = time.process_time()
        begun = time.perf_counter()
        work()
        seconds = time.perf_counter() - begun
        cpu = time.process_time() - cpu
        answer: dict[str, Any] = {"pages": clock.pages, "seconds": seconds, "cpu_seconds": cpu, "bad": self._take_bad()}
        if detail:
            latencies = self.store.latencies or clock.latencies(begun + seconds)
            answer |= {
                "begun": begun,
                "ended": begun + seconds,
                "latencies_us": [round(each * 1e6, _MICROSECOND_DIGITS) for each in latencies],
            }
        return answer

    def _take_bad(self) -> int:
        bad, self.store.bad = self.store.bad, 0
        return bad

    def _wanted(self, page: int, unit: int) -> bytes:
        """The page that is to lie at a place."""
        at = self._held[unit][page] * PAGE_BYTES
        return bytes(self._plain[at : at + PAGE_BYTES])

    def _differing(self, places: Iterator[int], batch: int, unit: int) -> int:
        """How many pages are not what was put."""
        bad = 0
        for place in places:
            for page in range(place, place + batch):
                at = page * PAGE_BYTES
                # As bytes, because views are compared item by item.
                bad += bytes(self._back[at : at + PAGE_BYTES]) != self._wanted(page, unit)
        return bad


class _Clock:
    """Hands out places until it is time to stop, and notes when.

    Args:
        first: the first place. count: how many there are; then it begins again. batch: pages from one to the next.
        seconds, pages: until so much time has passed, and so many pages were handed out.
    """

    def __init__(self, first: int, count: int, batch: int, seconds: float, pages: int) -> None:
        self._first = first - first % batch
        self._count = count
        self._batch = batch
        self._seconds = seconds
        self._deadline = 0.0
        self._least = pages
        self._times: list[float] = []
        self.pages = 0
        self.next = first

    def start(self) -> None:
        """The time runs from now on."""
        self._deadline = time.perf_counter() + self._seconds

    def places(self) -> Iterator[int]:
        """Where to put or get a batch next."""
        now = time.perf_counter
        place, batch, count, times = self._first, self._batch, self._count, self._times
        deadline = self._deadline
        handed = 0
        while True:
            moment = now()
            if handed >= self._least and handed and moment >= deadline:
                break
            times.append(moment)
            yield place
            handed += batch
            place = (place + batch) % count
        self.pages = handed
        self.next = place

    def latencies(self, ended: float) -> list[float]:
        """Seconds from each batch to the next: what it took, if batches are done one after the other."""
        return [after - before for before, after in zip(self._times, [*self._times[1:], ended], strict=True)]

    def touched(self, batch: int) -> Iterator[int]:
        """The places that were handed out, each once."""
        for number in range(min(self.pages, self._count) // batch):
            yield (self._first + number * batch) % self._count


def main() -> None:
    """Does what its input says."""
    keep_freed_messages()
    descriptor = sys.stdin.fileno()
    pending = b""
    drivers: dict[str, Driver] = {}
    while True:
        line, found, rest = pending.partition(b"\n")
        if found:
            pending = rest
            asked: dict[str, Any] = json.loads(line)
            if drivers:
                driver = drivers[asked.pop("store", next(iter(drivers)))]
                _answer(**getattr(driver, asked.pop("do"))(**asked), chosen=getattr(driver.store, "chosen", {}))
            else:
                stores = [asked, *asked.pop("also", [])]
                drivers = {settings["store"]: Driver(settings, asked["pages"]) for settings in stores}
                _answer(ready=True)
            continue
        if drivers:
            # Only the first one may have a connection that wants to be seen to.
            next(iter(drivers.values())).store.rest(descriptor)
        received = os.read(descriptor, 1 << 16)
        if not received:
            break
        pending += received
    for driver in drivers.values():
        driver.store.close()


def _answer(**values: Any) -> None:
    print(json.dumps(values), flush=True)


if __name__ == "__main__":
    main()
