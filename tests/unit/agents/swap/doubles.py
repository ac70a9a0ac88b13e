"""The two ends of the core, in memory: a pool whose answers come when the test says so, and a kernel that keeps what it is told.

The pool keeps the client's promises: writes and removals of a page take effect in the order in which they were submitted,
gets see what is there when they are carried out, a page that it says is lost was stored once.
"""

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tmem.agents.swap.ports import Buffer, Piece
from tmem.agents.swap.protocol import HEADER_BYTES
from tmem.agents.swap.reads import MAX_READ_PAGES
from tmem.client import Code, FlushResult, GetResult, PutResult
from tmem.wire.errors import TmemError
from tmem.wire.handles import Extent
from tmem.wire.limits import PAGE_BYTES


class Call:
    """Something that was asked of the pool, to be carried out later."""

    def __init__(self, kind: str, run: Callable[[], None], fail: Callable[[TmemError], None], pages: set[int]) -> None:
        self.kind = kind
        self.run = run
        self.fail = fail
        self.pages = pages


class Pool:
    """ports.Remote over a dict."""

    def __init__(self, store: dict[int, bytes] | None = None) -> None:
        self.store: dict[int, bytes] = {} if store is None else store
        self.lost: set[int] = set()
        self.corrupt: set[int] = set()
        self.ready = True
        self.at_once = False
        self.calls: deque[Call] = deque()
        self.refusal: TmemError | None = None
        self.refused: set[int] | None = None  # of which pages; None = of all
        self.messages: list[tuple[str, list[tuple[int, int]]]] = []
        self.seconds: list[float] = []  # that gets and puts were given

    def _take(self, call: Call) -> None:
        if self.at_once:
            call.run()
        else:
            self.calls.append(call)

    def get(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[GetResult]], None]) -> None:
        assert seconds > 0
        self.seconds.append(seconds)
        results = [GetResult(Extent(0, index, len(memory) // PAGE_BYTES), take=False) for index, memory in pieces]
        self.messages.append(("get", [(result.extent.index, result.extent.pages) for result in results]))

        def run() -> None:
            for (index, memory), result in zip(pieces, results, strict=True):
                for page in range(result.extent.pages):
                    number = index + page
                    if number in self.corrupt:
                        result.pages[page] = Code.CORRUPT
                    elif number in self.lost:
                        result.pages[page] = Code.LOST
                    elif number in self.store:
                        memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES] = self.store[number]
                        result.pages[page] = Code.HIT
                    else:
                        result.pages[page] = Code.MISS
                result.done = True
            done(results)

        self._take(Call("get", run, lambda error: _fail(results, error, done), _pages(pieces)))

    def put(self, pieces: Sequence[Piece], seconds: float, done: Callable[[Sequence[PutResult]], None]) -> None:
        assert seconds > 0
        self.seconds.append(seconds)
        results = [PutResult(Extent(0, index, len(memory) // PAGE_BYTES)) for index, memory in pieces]
        copies = [(index, bytes(memory)) for index, memory in pieces]
        self.messages.append(("put", [(result.extent.index, result.extent.pages) for result in results]))

        def run() -> None:
            for (index, data), result in zip(copies, results, strict=True):
                touched = set(range(index, index + result.extent.pages))
                if self.refusal is not None and (self.refused is None or touched & self.refused):
                    for page in range(result.extent.pages):
                        self.store.pop(index + page, None)
                    result.fail(self.refusal)
                    continue
                for page in range(result.extent.pages):
                    self.store[index + page] = data[page * PAGE_BYTES : (page + 1) * PAGE_BYTES]
                    self.lost.discard(index + page)
                result.settle(0)
            done(results)

        self._take(Call("put", run, lambda error: _fail(results, error, done), _pages(pieces)))

    def flush(self, index: int, count: int, done: Callable[[FlushResult], None]) -> None:
        result = FlushResult(f"{index}+{count}")
        self.messages.append(("flush", [(index, count)]))

        def run() -> None:
            found = [self.store.pop(page, None) for page in range(index, index + count)]
            self.lost -= set(range(index, index + count))
            result.settle(len(found) - found.count(None), 0)
            done(result)

        def fail(error: TmemError) -> None:
            result.fail(error)
            done(result)

        self._take(Call("flush", run, fail, set(range(index, index + count))))

    def absent(self, index: int, count: int) -> bool:
        wanted = range(index, index + count)
        waiting = any(call.kind != "get" and not call.pages.isdisjoint(wanted) for call in self.calls)
        return not waiting and not any(page in self.store or page in self.lost for page in wanted)

    # ---- For tests ----

    def runnable(self) -> list[Call]:
        """Those whose turn has come: writes wait for earlier writes of the same pages."""
        found = []
        taken: set[int] = set()
        for call in self.calls:
            if call.kind == "get":
                found.append(call)
            else:
                if taken.isdisjoint(call.pages):
                    found.append(call)
                taken |= call.pages
        return found

    def finish(self, call: Call, error: TmemError | None = None) -> None:
        """Carries one out, or fails it."""
        self.calls.remove(call)
        if error is None:
            call.run()
        else:
            call.fail(error)

    def finish_all(self) -> None:
        """Carries out all, also what comes of them."""
        while self.calls:
            self.finish(self.calls[0])


def _pages(pieces: Sequence[Piece]) -> set[int]:
    return {index + page for index, memory in pieces for page in range(len(memory) // PAGE_BYTES)}


def _fail(results: Sequence[Any], error: TmemError, done: Callable[[Any], None]) -> None:
    for result in results:
        result.fail(error)
    done(results)


class Room:
    """ports.Buffer; what lies in it from before is no zeros."""

    def __init__(self) -> None:
        self.data = memoryview(bytearray(b"\xee" * (MAX_READ_PAGES + 1) * PAGE_BYTES))


class Kernel:
    """ports.Answers that keeps the answers: by request number, an errno or bytes."""

    def __init__(self, buffers: int = 20) -> None:
        self.answers: dict[int, int | bytes] = {}
        self.told: list[tuple[str, TmemError]] = []
        self.free = [Room() for _ in range(buffers)]

    def send(self, unique: int, message: bytes) -> None:
        length, error, number = struct.unpack_from("<IiQ", message)
        assert length == len(message)
        assert number == unique
        assert unique not in self.answers, "answered twice"
        self.answers[unique] = -error if error else message[HEADER_BYTES:]

    def send_data(self, unique: int, buffer: Buffer, start: int, size: int) -> None:
        assert unique not in self.answers, "answered twice"
        self.answers[unique] = bytes(buffer.data[start : start + size])
        self.give_buffer(buffer)

    def tell(self, what: str, error: TmemError) -> None:
        self.told.append((what, error))

    def take_buffer(self) -> Room | None:
        return self.free.pop() if self.free else None

    def give_buffer(self, buffer: Buffer) -> None:
        assert isinstance(buffer, Room)
        buffer.data[:] = b"\xee" * len(buffer.data)  # whoever answers from it once more is found out
        self.free.append(buffer)


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_seconds(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)
