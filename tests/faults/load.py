"""Load that knows what it must find: on slots of its own, so that every page that comes back can be judged at once.

Owns: `Load`, threads that put, get and flush slots and hold each answer against what the slot may hold; and the floor: how many lone
pages and megabytes a second there must be before a fault, for what follows to mean anything.

A slot is a run of pages that is always written whole. It holds a base: page n of it has the stamp base + n. After a write that was not
answered it may hold either; after the server lost its memory it must be LOST.
"""

import itertools
import random
import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from tests.pages import PAGE

import tmem.client
from tmem.cli.torture.history import Outcome
from tmem.cli.torture.load import outcome_of, page_of
from tmem.client import Client, Code, GetResult, Pool
from tmem.wire.errors import TmemError

FLOOR_LONE_PAGES = 500
"""Lone page operations a second."""
FLOOR_BATCH_BYTES = 50_000_000
"""Plain bytes of batches a second."""
# More than the floor, and not so much that batches leave nothing of this process's one interpreter to the lone pages.
PACE_BATCH_BYTES = 90_000_000
# How long a thread may keep the interpreter while another waits: a lone page would wait for 5 ms at each turn.
_SWITCH_SECONDS = 0.0003
ABSENT, LOST = 0, -1
_END_SECONDS = 60.0


class Void(Exception):  # noqa: N818  a verdict
    """The load was below its floor, so that the fault would show nothing."""


_names = itertools.count(1)


@dataclass(eq=False)
class Slot:
    """A run of pages of one block.

    Attributes:
        may: bases that it may hold; ABSENT, LOST.
        losses: how many losses of the server's memory are taken into account.
    """

    obj: int
    first: int
    pages: int
    may: set[int] = field(default_factory=lambda: {ABSENT})
    losses: int = 0


@dataclass
class Tally:
    """What was done and found.

    Attributes:
        pages: page operations whose answer was checked, or acknowledged.
        outcomes: answers by kind.
        wrong: what can't be.
        last: when an operation was last carried out, by the monotonic clock.
    """

    pages: int = 0
    bytes: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    last: float = 0.0


class Load:
    """Threads against one target. Use it in a `with` statement.

    Args:
        target: the server, or a proxy before it.
        seed: of what is asked.
        durability: of persistent pools. kind: of all pools.
        lone, batches: whether there are lone pages, and batches.
        options: of the clients.
    """

    def __init__(
        self,
        target: str,
        seed: int,
        *,
        durability: str = "memory",
        kind: str = "persistent",
        lone: bool = True,
        batches: bool = True,
        **options: float,
    ) -> None:
        self._losing = 0  # losses that have begun
        self.losses = 0  # and ended
        self._stop = threading.Event()
        self._workers: list[_Worker] = []
        self._switch_seconds = sys.getswitchinterval()
        options = {"read_timeout": 20.0, "write_timeout": 20.0} | options
        for number, (wanted, worker) in enumerate(((lone, _Lone), (batches, _Batches))):
            if wanted:
                client = tmem.client.connect(target, name=f"load-{worker.__name__}", **options)
                pool = client.create_pool(f"load-{seed}-{next(_names)}", kind=kind, durability=durability)
                self._workers.append(worker(self, client, pool, random.Random(f"{seed}/{number}"), number + 1))

    def __enter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_SECONDS)
        for worker in self._workers:
            worker.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        sys.setswitchinterval(self._switch_seconds)
        for worker in self._workers:
            worker.thread.join(_END_SECONDS)
        for worker in self._workers:
            with suppress(TmemError):
                worker.pool.destroy()
            worker.client.close()

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    # ---- What is known of losses ----

    @contextmanager
    def losing(self) -> Iterator[None]:
        """The server loses its memory somewhere in this block."""
        self._losing += 1
        yield
        self.losses += 1

    def age(self, slot: Slot) -> None:
        """Takes losses into account that came since the slot was last looked at."""
        if slot.losses < self.losses:
            slot.may = {LOST if base > 0 else base for base in slot.may}
            slot.losses = self.losses

    def learn(self, slot: Slot, may: set[int], losing: int) -> None:
        """Something became known of a slot by an operation that began when so many losses had begun."""
        slot.may = set(may)
        slot.losses = self.losses
        self.doubt(slot, losing)

    def doubt(self, slot: Slot, losing: int) -> None:
        """Adds that the slot may be lost, if memory was lost since so many losses had begun; those are taken into account with that.

        What was done meanwhile may have been done by the server that lost its memory, or by the one that came after it.
        """
        if losing != self.losses or self._losing != self.losses:
            slot.may |= {LOST}
            slot.losses = self._losing

    @property
    def begun_losses(self) -> int:
        """How many losses there were before what begins now; -1, which is never so many, while one is under way."""
        begun = self._losing
        return begun if begun == self.losses else -1

    # ---- The floor ----

    def demand_floor(self, seconds: float = 1.0, patience: float = 4.0) -> tuple[float, float]:
        """Measures for a while; answers lone pages and batch bytes a second.

        Raises:
            Void: below the floor, again and again.
        """
        deadline = time.monotonic() + patience
        while True:
            before = [(worker.tally.pages, worker.tally.bytes) for worker in self._workers]
            begun = time.monotonic()
            self._stop.wait(seconds)
            took = time.monotonic() - begun
            lone = batches = 0.0
            low = False
            for worker, (pages, size) in zip(self._workers, before, strict=True):
                if isinstance(worker, _Lone):
                    lone = (worker.tally.pages - pages) / took
                    low = low or lone < FLOOR_LONE_PAGES
                else:
                    batches = (worker.tally.bytes - size) / took
                    low = low or batches < FLOOR_BATCH_BYTES
            self.check()
            if not low:
                return lone, batches
            if time.monotonic() > deadline:
                raise Void(
                    f"void: {lone:.0f} lone pages and {batches / 1e6:.0f} MB of batches a second before the fault; "
                    f"{FLOOR_LONE_PAGES} and {FLOOR_BATCH_BYTES / 1e6:.0f} are the floor"
                )

    # ---- What was found ----

    def check(self) -> None:
        """Raises AssertionError if anything was found that can't be, or a thread has ended by itself."""
        for worker in self._workers:
            assert not worker.tally.wrong, worker.tally.wrong[:3]
            assert worker.error is None, worker.error
            assert worker.thread.is_alive() or self.stopping or not worker.thread.ident

    def await_progress(self, since: float, seconds: float = 30.0) -> float:
        """Waits until every thread has carried out something after `since`; answers how long that took."""
        deadline = time.monotonic() + seconds
        for worker in self._workers:
            while not worker.has_succeeded_since(since):
                self.check()
                assert time.monotonic() < deadline, f"{worker.name} has not resumed within {seconds:g} s"
                time.sleep(0.005)
        return max(worker.first_after(since) for worker in self._workers) - since

    def finish(self) -> "Figures":
        """Stops, reads every slot once more, and answers what was done."""
        self._stop.set()
        for worker in self._workers:
            worker.thread.join(_END_SECONDS)
            assert not worker.thread.is_alive(), f"{worker.name} hangs"
        for worker in self._workers:
            worker.look()
        self.check()
        outcomes: Counter[str] = Counter()
        for worker in self._workers:
            outcomes += worker.tally.outcomes
        return Figures(sum(worker.tally.pages for worker in self._workers), dict(outcomes))


@dataclass(frozen=True)
class Figures:
    """What a load has done: checked page operations, and answers by kind."""

    pages: int
    outcomes: dict[str, int]


class _Worker:
    """One thread with a client and a pool of its own."""

    name = "load"

    def __init__(self, load: Load, client: Client, pool: Pool, chance: random.Random, number: int) -> None:
        self.load, self.client, self.pool, self.chance = load, client, pool, chance
        self.tally = Tally()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, name=self.name)
        self.slots = self.make_slots()
        self._bases = itertools.count(number << 44, 1024)
        self._successes: list[float] = []
        next(self._bases)

    def make_slots(self) -> list[Slot]:
        raise NotImplementedError

    def step(self) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        try:
            while not self.load.stopping:
                self.step()
        except BaseException as error:  # noqa: BLE001  `check` tells it
            self.error = error

    def base(self) -> int:
        return next(self._bases) + self.chance.randrange(512)

    @staticmethod
    def plain(base: int, pages: int) -> bytes:
        return b"".join([page_of(stamp) for stamp in range(base, base + pages)])

    def done(self, slot: Slot) -> None:
        now = time.monotonic()
        self.tally.pages += slot.pages
        self.tally.bytes += slot.pages * PAGE
        if not self._successes or now - self._successes[-1] > 0.005:
            self._successes.append(now)  # for whoever asks when things went on
        self.tally.last = now

    def has_succeeded_since(self, since: float) -> bool:
        return bool(self._successes) and self._successes[-1] > since

    def first_after(self, since: float) -> float:
        return self._successes[bisect_right(self._successes, since)]

    # ---- Answers ----

    def put_answered(self, slot: Slot, base: int, error: TmemError | None, losing: int) -> None:
        """Learns what a put has left."""
        outcome = outcome_of(error)
        self.tally.outcomes[f"put {outcome.value}{'' if error is None else ' ' + type(error).__name__}"] += 1
        if outcome == Outcome.DONE:
            self.load.learn(slot, {base}, losing)
            self.done(slot)
        elif outcome == Outcome.REFUSED:
            self.load.learn(slot, {ABSENT}, losing)
        elif outcome == Outcome.UNKNOWN:
            self.load.age(slot)
            slot.may |= {base, ABSENT}
            self.load.doubt(slot, losing)

    def flush_answered(self, slot: Slot, error: TmemError | None, losing: int) -> None:
        """Learns what a flush has left."""
        self.tally.outcomes[f"flush {'done' if error is None else type(error).__name__}"] += 1
        if error is None:
            self.load.learn(slot, {ABSENT}, losing)
            self.done(slot)
        else:
            self.load.age(slot)
            slot.may.add(ABSENT)

    def get_answered(self, slot: Slot, result: GetResult, buffer: memoryview, losing: int) -> None:
        """Holds what came back against what the slot may hold."""
        if result.error is not None:
            self.tally.outcomes[f"get {type(result.error).__name__}"] += 1
            return
        before = set(slot.may)
        self.load.age(slot)
        # It may be the answer of the server that lost its memory since: others of its batch had to wait for the next one.
        allowed = slot.may | (before | {LOST} if losing != self.load.losses else set())
        codes = set(result.pages)
        found: int | None = None
        if codes == {Code.HIT}:
            found = int.from_bytes(buffer[:8], "little")
            if buffer != self.plain(found, slot.pages):
                found = None
        elif codes == {Code.MISS}:
            found = ABSENT
        elif codes == {Code.LOST}:
            found = LOST
        if found is None or found not in allowed:
            names = sorted(code.name for code in codes)
            self.tally.wrong.append(
                f"{self.pool.name} object {slot.obj} pages {slot.first}+{slot.pages}: {names}, found {found}, allowed {allowed}"
            )
            return
        self.tally.outcomes[f"get {'hit' if found > 0 else 'miss' if found == ABSENT else 'lost'}"] += 1
        self.load.learn(slot, {found}, losing)
        self.done(slot)

    def look(self) -> None:
        """Reads every slot, with nothing else going on."""
        deadline = time.monotonic() + _END_SECONDS
        for slot in self.slots:
            while True:
                buffer = bytearray(slot.pages * PAGE)
                losing = self.load.begun_losses
                try:
                    result = self.pool.get_into(slot.obj, slot.first, buffer, False)
                except TmemError:
                    assert time.monotonic() < deadline, f"{self.name} can't read its pages"
                    time.sleep(0.05)
                    continue
                self.get_answered(slot, result, memoryview(buffer), losing)
                break


class _Lone(_Worker):
    """Single pages, one after the other; some by the unary calls."""

    name = "lone pages"

    def make_slots(self) -> list[Slot]:
        return [Slot(1 + number % 3, number * 5, 1) for number in range(300)]

    def step(self) -> None:
        chance = self.chance
        slot = chance.choice(self.slots)
        dice, unary = chance.random(), chance.random() < 0.1
        losing = self.load.begun_losses
        self.load.age(slot)
        error: TmemError | None = None
        if dice < 0.4:
            base = self.base()
            try:
                (self.pool.put_page_sync if unary else self.pool.put)(slot.obj, slot.first, page_of(base))
            except TmemError as failed:
                error = failed
            self.put_answered(slot, base, error, losing)
        elif dice < 0.95:
            buffer = bytearray(PAGE)
            get: Callable[..., GetResult] = self.pool.get_page_sync if unary else self.pool.get_into
            try:
                result = get(slot.obj, slot.first, buffer, False)
            except TmemError as failed:
                self.tally.outcomes[f"get {type(failed).__name__}"] += 1
                return
            self.get_answered(slot, result, memoryview(buffer), losing)
        else:
            try:
                self.pool.flush(slot.obj, slot.first)
            except TmemError as failed:
                error = failed
            self.flush_answered(slot, error, losing)


class _Batches(_Worker):
    """Extents, several in flight."""

    name = "batches"
    _next_at = 0.0

    def make_slots(self) -> list[Slot]:
        sizes = (512, 512, 512, 64, 128, 256, 16, 512)
        return [Slot(100 + number % 4, number * 512, sizes[number % 8]) for number in range(24)]

    def step(self) -> None:
        # As fast as the pace allows; what was missed is not made up for.
        wait = self._next_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        before = self.tally.bytes
        self._step()
        self._next_at = max(self._next_at, time.monotonic() - 0.05) + (self.tally.bytes - before) / PACE_BATCH_BYTES

    def _step(self) -> None:
        chance = self.chance
        losing = self.load.begun_losses
        puts, gets, flushes = [], [], []
        try:
            with self.pool.batch() as batch:
                for slot in chance.sample(self.slots, 6):
                    self.load.age(slot)
                    dice = chance.random()
                    if dice < 0.4:
                        base = self.base()
                        puts.append((slot, base, batch.put(slot.obj, slot.first, self.plain(base, slot.pages))))
                    elif dice < 0.97:
                        buffer = memoryview(bytearray(slot.pages * PAGE))
                        gets.append((slot, buffer, batch.get_into(slot.obj, slot.first, buffer, False)))
                    else:
                        flushes.append((slot, batch.flush(slot.obj, slot.first, slot.pages)[0]))
        except TmemError as error:
            self.tally.outcomes[f"batch {type(error).__name__}"] += 1
            failure: TmemError | None = error
        else:
            failure = None
        for slot, base, put in puts:
            self.put_answered(slot, base, put.error if put.done else failure or TmemError("not answered"), losing)
        for slot, flushed in flushes:
            self.flush_answered(slot, flushed.error if flushed.done else failure or TmemError("not answered"), losing)
        for slot, buffer, result in gets:
            if result.done:
                self.get_answered(slot, result, buffer, losing)
