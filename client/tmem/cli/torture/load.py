"""Random operations of several clients on few pages, every one recorded.

Owns: what is asked, by whom, and how answers become outcomes of the history. Each client has a private pool (a persistent one, or an ephemeral one)
and a part in a shared pool; each has several threads. What a thread asks follows from the seed alone; when it asks does not.

Every page carries its stamp and is made from it, so that any other byte is seen.
"""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from typing import Any, Protocol, Self

from tmem.client import Client, Code, GetResult, Pool
from tmem.wire.errors import TABLE, Closed, DeadlineExceeded, OldPage, Refused, TmemError, Unavailable
from tmem.wire.limits import BLOCK_PAGES, PAGE_BYTES

from .history import Action, History, Operation, Outcome, Seen

__all__ = ["Load", "Plan", "Recorder", "page_of", "stamp_of"]

_END_SECONDS = 90.0
_CODES = {Code.MISS: Seen.MISS, Code.LOST: Seen.LOST, Code.CORRUPT: Seen.CORRUPT, Code.REFUSED: Seen.REFUSED}
_FILLING = random.Random(20110601).randbytes(PAGE_BYTES)  # noqa: S311  the same bytes every time
_WORDS = (b"put get flush take page block extent pool epoch segment " * 80)[:PAGE_BYTES]


@lru_cache(maxsize=4096)
def page_of(stamp: int) -> bytes:
    """The page with that stamp: of a kind that the stamp says, and with it at both ends."""
    mark = stamp.to_bytes(8, "little")
    kind = stamp % 4
    if kind == 0:
        return mark * (PAGE_BYTES // 8)
    middle = _FILLING if kind == 1 else _WORDS if kind == 2 else _FILLING[: PAGE_BYTES // 2] + bytes(PAGE_BYTES // 2)
    return mark + middle[8:-8] + mark


def stamp_of(page: bytes | memoryview) -> int:
    """The stamp of a page, or Seen.OTHER if it was made from none."""
    stamp = int.from_bytes(page[:8], "little")
    return stamp if page == page_of(stamp) else Seen.OTHER


class Recorder:
    """Notes operations and the moments of their asking and answer; from any thread."""

    def __init__(self) -> None:
        self._moments = itertools.count(1)
        self.operations: list[Operation] = []

    def begin(
        self, writer: str, pool: str, action: Action, obj: int, first: int, pages: int, values: Sequence[int] = ()
    ) -> Operation:
        """An operation is about to be asked for."""
        operation = Operation(
            writer, pool, action, obj, first, pages, next(self._moments), inf, Outcome.UNKNOWN, values
        )
        self.operations.append(operation)
        return operation

    def end(self, operation: Operation, outcome: Outcome) -> None:
        """It was answered, or nobody waits for it any more."""
        operation.outcome = outcome
        operation.end = next(self._moments)

    def loss(self, pool: str = "") -> Callable[[], None]:
        """The server is about to lose its memory; call what this returns when it is there again."""
        operation = self.begin("fault", pool, Action.LOSS, 0, 0, 0)
        return lambda: self.end(operation, Outcome.DONE)


def outcome_of(error: TmemError | None) -> Outcome:
    """What an error says of the write that met it."""
    if error is None:
        return Outcome.DONE
    if isinstance(error, Refused) and error.reason in TABLE:
        old = TABLE[error.reason].old_page
        return {OldPage.GONE: Outcome.REFUSED, OldPage.KEPT: Outcome.UNCHANGED}.get(old, Outcome.UNKNOWN)
    return Outcome.UNKNOWN


@dataclass(frozen=True, slots=True)
class Plan:
    """How much of what.

    Attributes:
        clients: how many; threads: of each.
        objects, pages: how many places there are in each pool: few, so that operations meet.
        hurried: how often an operation gets a deadline that it may well miss.
        operator: how often a private pool is frozen, thawed or resized instead.
    """

    seed: int
    clients: int = 3
    threads: int = 2
    objects: int = 2
    pages: int = 24
    hurried: float = 0.03
    operator: float = 0.01


class Connect(Protocol):
    """Makes a client."""

    def __call__(self, **options: Any) -> Client: ...


@dataclass
class _Party:
    """One client, and what its threads share."""

    name: str
    client: Client
    private: Pool
    shared: Pool


@dataclass
class Load:
    """A run.

    Args:
        connect: makes clients.
        plan: of it.
        pool_name: makes names for pools.

    Attributes:
        recorder: of all operations. tally: how many of each action and outcome.
        errors: what no operation may end with.
    """

    connect: Connect
    plan: Plan
    pool_name: Callable[[str], str]
    recorder: Recorder = field(default_factory=Recorder)
    tally: Counter[str] = field(default_factory=Counter)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._parties: list[_Party] = []
        self._ephemeral: set[str] = set()
        self._shared: set[str] = set()

    def __enter__(self) -> Self:
        """Makes clients and pools."""
        try:
            uuid = b""
            for number in range(self.plan.clients):
                name = f"client{number}"
                client = self.connect(name=f"tmem-torture-{name}")
                kind = "ephemeral" if number % 3 == 1 else "persistent"
                private = client.create_pool(self.pool_name(name), kind=kind, chunk_pages=(16, 1, 4)[number % 3])
                if kind == "ephemeral":
                    self._ephemeral.add(private.name)
                if uuid:
                    shared = client.join_pool(uuid)
                else:
                    shared = client.create_pool(self.pool_name("shared"), kind="shared")
                    uuid = shared.uuid
                    self._ephemeral.add(shared.name)
                    self._shared.add(shared.name)
                self._parties.append(_Party(name, client, private, shared))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the run, its pools and clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_END_SECONDS)
        for number, party in enumerate(self._parties):
            with suppress(TmemError):
                party.private.destroy()
            with suppress(TmemError):
                party.shared.leave() if number else party.shared.destroy()
        for party in self._parties:
            party.client.close()
        self._parties = []

    # ---- The run ----

    def start(self, operations: int) -> None:
        """Begins; each thread ends after so many operations, or when it is stopped."""
        for number, party in enumerate(self._parties):
            for thread_number in range(self.plan.threads):
                chance = random.Random(f"{self.plan.seed}/{number}/{thread_number}")  # noqa: S311  seeds make it repeatable
                worker = _Worker(self, party, thread_number, number * 16 + thread_number, chance)
                thread = threading.Thread(target=self._work, args=(worker, operations), name=worker.name)
                self._threads.append(thread)
                thread.start()

    def _work(self, worker: "_Worker", operations: int) -> None:
        try:
            for _ in range(operations):
                if self._stop.is_set():
                    return
                worker.step()
            worker.finish()
        except BaseException as error:  # noqa: BLE001  told by `wait`
            self.errors.append(error)
            self._stop.set()

    def wait(self, seconds: float = inf) -> None:
        """Waits until every thread has ended; after so many seconds they are told to.

        Raises:
            TimeoutError: one hangs.
        """
        if seconds < inf:
            self._stop.wait(seconds)
            self._stop.set()
        for thread in self._threads:
            thread.join(None if not self._stop.is_set() else _END_SECONDS)
            if thread.is_alive():
                raise TimeoutError(f"{thread.name} hangs")
        self._threads = []
        if self.errors:
            raise self.errors[0]

    def look(self) -> None:
        """Reads every page of every pool once more, when nothing else happens."""
        for party in self._parties:
            worker = _Worker(self, party, 99, 0, random.Random(0))  # noqa: S311  it draws nothing
            for pool in (party.private, party.shared):
                for obj in range(self.plan.objects):
                    worker.get(pool, obj, self.first_page, self.plan.pages, patient=True)

    @property
    def first_page(self) -> int:
        """The index of the first place; places lie on both sides of the end of a block."""
        return BLOCK_PAGES - self.plan.pages // 2

    def history(self) -> History:
        """What was recorded."""
        return History(list(self.recorder.operations), frozenset(self._ephemeral), frozenset(self._shared))


class _Worker:
    """One thread."""

    def __init__(self, load: Load, party: _Party, number: int, stamps: int, chance: random.Random) -> None:
        self._load = load
        self._party = party
        self._chance = chance
        self._stamps = itertools.count(((stamps + 1) << 32) + 1)
        self._taken: list[tuple[Pool, int, int, GetResult, list[int]]] = []
        self.name = f"{party.name}.{number}"

    def step(self) -> None:
        """One operation."""
        chance, plan = self._chance, self._load.plan
        pool = self._party.shared if chance.random() < 0.4 else self._party.private
        if pool is self._party.private and chance.random() < plan.operator:
            self._operate(pool)
            return
        obj = chance.randrange(plan.objects)
        pages = chance.choice((1, 1, 1, 2, 3, 5, 12))
        first = self._load.first_page + chance.randrange(plan.pages)
        # An extent ends with its block.
        pages = min(pages, BLOCK_PAGES - first % BLOCK_PAGES, self._load.first_page + plan.pages - first)
        dice = chance.random()
        if dice < 0.36:
            self._put(pool, obj, first, pages)
        elif dice < 0.74:
            self.get(pool, obj, first, pages)
        elif dice < 0.82:
            self._take(pool, obj, first, pages)
        elif dice < 0.90:
            which = chance.random()  # drawn whether or not there is something: what is asked follows from the seed
            if self._taken:
                self._ack(*self._taken.pop(int(which * len(self._taken))))
        elif dice < 0.97:
            self._flush(pool, obj, first, pages)
        else:
            self._flush_object(pool, obj)

    def finish(self) -> None:
        """Acknowledges what is left."""
        for taken in self._taken:
            self._ack(*taken)
        self._taken = []

    def _timeout(self) -> float | None:
        return self._chance.uniform(0.0005, 0.02) if self._chance.random() < self._load.plan.hurried else None

    def _begin(
        self, pool: Pool, action: Action, obj: int, first: int, pages: int, values: Sequence[int] = ()
    ) -> Operation:
        return self._load.recorder.begin(self._party.name, pool.name, action, obj, first, pages, values)

    def _end(self, operation: Operation, error: TmemError | None) -> None:
        outcome = outcome_of(error)
        self._load.recorder.end(operation, outcome)
        name = f" {type(error).__name__}" if error is not None else ""
        self._load.tally[f"{operation.action.value} {outcome.value}{name}"] += 1
        if isinstance(error, Closed):
            raise error

    # ---- Operations ----

    def _put(self, pool: Pool, obj: int, first: int, pages: int) -> None:
        stamps = [next(self._stamps) for _ in range(pages)]
        plain = b"".join(map(page_of, stamps))
        timeout = self._timeout()
        unary = pages == 1 and self._chance.random() < 0.3
        operation = self._begin(pool, Action.PUT, obj, first, pages, stamps)
        error: TmemError | None = None
        try:
            (pool.put_page_sync if unary else pool.put)(obj, first, plain, timeout=timeout)
        except TmemError as failed:
            error = failed
        self._end(operation, error)

    def get(self, pool: Pool, obj: int, first: int, pages: int, *, patient: bool = False) -> None:
        """Reads; at the end of a block in two parts."""
        left = min(pages, BLOCK_PAGES - first % BLOCK_PAGES)
        if left < pages:
            self.get(pool, obj, first + left, pages - left, patient=patient)
            pages = left
        timeout = None if patient else self._timeout()
        buffer = bytearray(pages * PAGE_BYTES)
        unary = pages == 1 and not patient and self._chance.random() < 0.3
        operation = self._begin(pool, Action.GET, obj, first, pages)
        try:
            call = pool.get_page_sync if unary else pool.get_into
            result = call(obj, first, buffer, False, timeout=timeout)
        except TmemError as error:
            operation.values = [Seen.REFUSED] * pages
            self._end(operation, error)
            return
        self._end(operation, None)
        operation.values = values_of(result, buffer)

    def _take(self, pool: Pool, obj: int, first: int, pages: int) -> None:
        buffer = bytearray(pages * PAGE_BYTES)
        operation = self._begin(pool, Action.GET, obj, first, pages)
        try:
            with pool.batch() as batch:
                result = batch.get_into(obj, first, buffer, True)
        except TmemError as error:
            operation.values = [Seen.REFUSED] * pages
            self._end(operation, error)
            return
        self._end(operation, result.error)
        operation.values = values = values_of(result, buffer)
        if any(value > 0 for value in values):
            self._taken.append((pool, obj, first, result, values))

    def _ack(self, pool: Pool, obj: int, first: int, result: GetResult, values: list[int]) -> None:
        operation = self._begin(pool, Action.ACK, obj, first, len(values), values)
        error: TmemError | None = None
        try:
            result.ack()
        except TmemError as failed:
            error = failed
        self._end(operation, error)

    def _flush(self, pool: Pool, obj: int, first: int, pages: int) -> None:
        operation = self._begin(pool, Action.FLUSH, obj, first, pages)
        error: TmemError | None = None
        try:
            pool.flush(obj, first, pages, timeout=self._timeout())
        except TmemError as failed:
            error = failed
        self._end_flush(operation, error)

    def _flush_object(self, pool: Pool, obj: int) -> None:
        operation = self._begin(pool, Action.FLUSH, obj, self._load.first_page, self._load.plan.pages)
        error: TmemError | None = None
        try:
            pool.flush_object(obj)
        except TmemError as failed:
            error = failed
        self._end_flush(operation, error)

    def _end_flush(self, operation: Operation, error: TmemError | None) -> None:
        self._end(operation, error)
        if operation.outcome == Outcome.REFUSED:
            operation.outcome = Outcome.UNKNOWN  # what a reason says of the old page it says of a put's

    def _operate(self, pool: Pool) -> None:
        """What a person may do to a pool while it is used."""
        with suppress(Refused, Unavailable, DeadlineExceeded):
            action = self._chance.randrange(4)
            if action == 0:
                pool.freeze()
            elif action == 1:
                pool.resize(quota_bytes=self._chance.choice((1, 20_000, 60_000)))
            else:
                pool.thaw()
                pool.resize(quota_bytes=0)


def values_of(result: GetResult, buffer: bytearray) -> list[int]:
    """What each page of a get was; what was not hit must have left the buffer alone, or zeros."""
    values = []
    view = memoryview(buffer)
    for number, code in enumerate(result.pages):
        page = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        if code == Code.HIT:
            values.append(stamp_of(bytes(page)))
        else:
            values.append(_CODES.get(code, Seen.OTHER) if not any(page) else Seen.OTHER)
    return values
