"""Doubles for the pager's core: the kernel's userfaultfd and a set of targets, as far as the core can tell.

They are held against the real ones: tests/agents runs the same core on both. Nothing here waits or sleeps; what happens next is
the test's to choose. Units are of one page unless a test says otherwise.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from tmem.agents.pager.ports import AgainError, Fault, Got, NoRoomError, Put
from tmem.agents.pager.table import Table

PAGE = 4096


class Crash(BaseException):
    """The agent is killed here."""


class Killer:
    """Counts the agent's instructions, and kills it at one of them."""

    def __init__(self) -> None:
        self.left: int | None = None

    def tick(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left = None
                raise Crash


class _Bytes:
    """A byte array of the table: each store is an instruction, and of a long one only the beginning may be done."""

    def __init__(self, data: Any, killer: Killer) -> None:
        self._data = data
        self._killer = killer

    def __getitem__(self, where: Any) -> Any:
        return self._data[where]

    def __setitem__(self, where: Any, value: Any) -> None:
        self._killer.tick()
        if isinstance(where, slice) and self._killer.left is not None and self._killer.left < len(value):
            part = self._killer.left
            begin = where.start or 0
            self._data[begin : begin + part] = value[:part]
            self._killer.left = 0
            self._killer.tick()
        self._data[where] = value

    def find(self, *arguments: Any) -> int:
        return self._data.find(*arguments)

    def store(self, where: int, value: int) -> None:
        """By the program, which nobody kills."""
        self._data[where] = value


class MortalTable(Table):
    """A table whose writer can be killed between any two stores."""

    def __init__(self, units: int, killer: Killer) -> None:
        super().__init__(units)
        self.states: Any = _Bytes(self.states, killer)
        self.targets: Any = _Bytes(self.targets, killer)
        self.flags: Any = _Bytes(self.flags, killer)
        self.freed: Any = _Bytes(self.freed, killer)


class Bus(Exception):  # noqa: N818
    """The program got SIGBUS."""


@dataclass
class Waiting:
    """A thread of the program that waits in a fault."""

    unit: int
    write: bool


class FakeKernel:
    """One region: the file, the program's page table, the message queue.

    Attributes:
        room: units of memory that may still be allocated; None = enough.
        changing: removals that are under way: until each has gone on, changes of the page table are refused.
    """

    def __init__(self, units: int, killer: Killer, unit_pages: int = 1) -> None:
        self.units = units
        self.unit_pages = unit_pages
        self._bytes = PAGE * unit_pages
        self.file = bytearray(units * self._bytes)
        self.present = [False] * units
        self.mapped = [False] * units
        self.protected = [False] * units
        self.poisoned = [False] * units
        self.queue: deque[tuple[str, int, int]] = deque()
        self.threads: dict[str, Waiting] = {}
        self.changing = 0
        self.room: int | None = None
        self.hiding = True
        self._killer = killer

    # ---- The program ----

    def access(self, thread: str, unit: int, *, write: bool) -> memoryview | None:
        """The unit's bytes, or None: the thread waits from now on."""
        if self.poisoned[unit]:
            raise Bus(unit)
        if self.mapped[unit] and not (write and self.protected[unit]):
            return memoryview(self.file)[unit * self._bytes : (unit + 1) * self._bytes]
        flags = Fault.WRITE if write else Fault(0)
        if self.mapped[unit]:
            flags |= Fault.WP
        elif self.present[unit]:
            flags |= Fault.MINOR
        self.queue.append(("touch", unit, int(flags)))
        self.threads[thread] = Waiting(unit, write)
        return None

    def woken(self, thread: str) -> bool:
        return thread not in self.threads

    def remove(self, unit: int, count: int) -> None:
        """The first half of a removal: it waits until its message is read."""
        self.queue.append(("remove", unit * self.unit_pages, count * self.unit_pages))
        self.changing += 1

    def remove_on(self) -> None:
        """The program goes on: page tables may be changed again."""
        self.changing -= 1

    def remove_end(self, unit: int, count: int) -> None:
        """The second half."""
        self._punch(unit, count)

    # ---- The agent: the Memory port ----

    def read(self, most: int) -> list[tuple[str, int, int]]:
        self._killer.tick()
        return [self.queue.popleft() for _ in range(min(most, len(self.queue)))]

    def _change(self) -> None:
        self._killer.tick()
        if self.changing:
            raise AgainError

    def _wake(self, unit: int) -> None:
        for thread in [thread for thread, waiting in self.threads.items() if waiting.unit == unit]:
            del self.threads[thread]

    def _allocate(self, unit: int) -> None:
        if not self.present[unit]:
            if self.room is not None:
                if self.room <= 0:
                    raise NoRoomError
                self.room -= 1
            self.present[unit] = True

    def protect(self, first: int, count: int) -> None:
        self._change()
        for unit in range(first, first + count):
            self.protected[unit] = True

    def unprotect(self, first: int, count: int) -> None:
        self._change()
        for unit in range(first, first + count):
            self.protected[unit] = False
            self._wake(unit)

    def view(self, page: int, count: int) -> memoryview:
        for unit in range(page // self.unit_pages, (page + count - 1) // self.unit_pages + 1):
            self._allocate(unit)
        return memoryview(self.file)[page * PAGE : (page + count) * PAGE]

    def missing(self, first: int, count: int) -> Sequence[int]:
        self._change()
        return [unit for unit in range(first, first + count) if not self.present[unit]]

    def reserve(self, unit: int) -> None:
        self._killer.tick()
        self._allocate(unit)

    def punch(self, first: int, count: int) -> None:
        self._killer.tick()
        self._punch(first, count)

    def _punch(self, first: int, count: int) -> None:
        for unit in range(first, first + count):
            if self.present[unit] and self.room is not None:
                self.room += 1
            self.present[unit] = self.mapped[unit] = False
            self.file[unit * self._bytes : (unit + 1) * self._bytes] = bytes(self._bytes)

    def resume(self, first: int, count: int) -> Sequence[int]:
        absent = []
        for unit in range(first, first + count):
            self._change()
            if self.present[unit] and not self.mapped[unit]:
                self.mapped[unit] = True
                self.protected[unit] = self.poisoned[unit] = False
            elif not self.present[unit]:
                absent.append(unit)
                continue
            self._wake(unit)
        return absent

    def zero(self, first: int, count: int) -> None:
        for unit in range(first, first + count):
            old = self.present[unit] and any(self.file[unit * self._bytes : (unit + 1) * self._bytes])
            assert not old, f"unit {unit} is to be zeros, and its old bytes are still in the file"
            self._change()
            if not self.present[unit]:
                self._allocate(unit)
                self.mapped[unit] = True
                self.protected[unit] = self.poisoned[unit] = False
            self._wake(unit)

    def poison(self, first: int, count: int) -> None:
        for unit in range(first, first + count):
            self._change()
            if not self.mapped[unit]:
                self.poisoned[unit] = True
            self._wake(unit)

    def wake(self, first: int, count: int) -> None:
        self._killer.tick()
        for unit in range(first, first + count):
            self._wake(unit)

    def hide(self, first: int, count: int) -> bool:
        self._killer.tick()
        if self.hiding:
            for unit in range(first, first + count):
                self.mapped[unit] = False
        return self.hiding


@dataclass
class Pending:
    """One exchange that is not answered yet."""

    kind: str
    target: int
    page: int
    count: int
    plain: bytes
    into: memoryview | None
    done: Callable[[Any], None]


class FakePuts:
    """Puts that are gathered: what is put is what is in the memory when they are sent, unless it was detached before.

    What is added must be protected: the real one compresses it there and then, several pages in one go.
    """

    def __init__(self, remote: "FakeRemote", target: int) -> None:
        self._remote = remote
        self._target = target
        self._runs: list[tuple[int, memoryview | bytes]] = []

    def has_room(self, pages: int) -> bool:
        return sum(len(plain) for _, plain in self._runs) // PAGE + pages <= 512

    def add(self, page: int, plain: memoryview) -> None:
        assert self.has_room(len(plain) // PAGE)
        assert page // 512 == (page + len(plain) // PAGE - 1) // 512
        kernel = self._remote.kernel
        units = range(page // kernel.unit_pages, (page + len(plain) // PAGE - 1) // kernel.unit_pages + 1)
        assert all(kernel.protected[unit] for unit in units), "the program may write to what is being compressed"
        self._runs.append((page, plain))

    def detach(self) -> None:
        self._runs = [(page, bytes(plain)) for page, plain in self._runs]

    def send(self, done: Callable[[Sequence[Put]], None]) -> None:
        answers: dict[int, Put] = {}
        runs = self._runs

        def answered(page: int, put: Put) -> None:
            answers[page] = put
            if len(answers) == len(runs):
                done([answers[page] for page, _ in runs])

        for page, plain in runs:
            pages = len(plain) // PAGE
            self._remote.known[self._target].update(range(page, page + pages))
            done_one = partial(answered, page)
            self._remote.pending.append(Pending("put", self._target, page, pages, bytes(plain), None, done_one))


class FakeRemote:
    """Targets in memory. The test answers what is pending, in an order that the real ones may choose too.

    Attributes:
        pages: what each target holds, by page.
        up: which targets accept.
        kept_back: pages that a target pretends to have lost.
    """

    def __init__(self, kernel: FakeKernel, targets: int = 1) -> None:
        self.kernel = kernel
        self.count = targets
        self.pages: list[dict[int, bytes]] = [{} for _ in range(targets)]
        self.known: list[set[int]] = [set() for _ in range(targets)]  # the presence map
        self.up = [True] * targets
        self.pending: list[Pending] = []
        self.exchanges: dict[str, int] = defaultdict(int)

    @property
    def targets(self) -> int:
        return self.count

    def accepting(self, target: int) -> bool:
        return self.up[target]

    def held(self, target: int) -> Iterator[tuple[int, int]]:
        return ((page, 1) for page in sorted(self.known[target]))

    def gather(self, target: int) -> "FakePuts":
        return FakePuts(self, target)

    def get(
        self,
        target: int,
        runs: Sequence[tuple[int, memoryview]],
        timeout: float,
        done: Callable[[Sequence[Sequence[Got]]], None],
    ) -> None:
        assert timeout > 0
        assert sum(len(into) for _, into in runs) <= 512 * PAGE
        answers: dict[int, Sequence[Got]] = {}

        def answered(page: int, codes: Sequence[Got]) -> None:
            answers[page] = codes
            if len(answers) == len(runs):
                done([answers[page] for page, _ in runs])

        for page, into in runs:
            assert page // 512 == (page + len(into) // PAGE - 1) // 512
            done_one = partial(answered, page)
            self.pending.append(Pending("get", target, page, len(into) // PAGE, b"", into, done_one))

    def flush(self, target: int, runs: Sequence[tuple[int, int]], done: Callable[[bool], None]) -> None:
        assert 0 < len(runs) <= 512
        left = len(runs)
        confirmed = True

        def answered(one: bool) -> None:
            nonlocal left, confirmed
            left -= 1
            confirmed = confirmed and one
            if not left:
                done(confirmed)

        for page, count in runs:
            assert page // 512 == (page + count - 1) // 512
            self.pending.append(Pending("flush", target, page, count, b"", None, answered))

    # ---- The test's side ----

    def choices(self) -> list[Pending]:
        """What may be answered next: writes of a page in the order of the calls."""
        found, busy = [], set()
        for each in self.pending:
            pages = {(each.target, page) for page in range(each.page, each.page + each.count)}
            if each.kind == "get" or not pages & busy:
                found.append(each)
            if each.kind != "get":
                busy |= pages
        return found

    def apply(self, each: Pending) -> None:
        """The target does what a write says."""
        for number in range(each.count):
            page = each.page + number
            if each.kind == "put":
                self.pages[each.target][page] = each.plain[number * PAGE : (number + 1) * PAGE]
            else:
                self.pages[each.target].pop(page, None)

    def answer(self, each: Pending, answer: Any = None) -> None:
        """Answers one: `answer` is a Put, a bool, or a Got for each page; None = all is well."""
        self.pending.remove(each)
        self.exchanges[each.kind] += 1
        held = self.pages[each.target]
        pages = range(each.page, each.page + each.count)
        if each.kind == "put":
            outcome = Put.STORED if answer is None else answer
            if outcome is Put.STORED:
                self.apply(each)
            elif outcome is Put.REFUSED:
                for page in pages:
                    held.pop(page, None)
                self._gone(each)
            each.done(outcome)
        elif each.kind == "flush":
            confirmed = answer is None or answer
            if confirmed:
                self.apply(each)
                self._gone(each)
            each.done(confirmed)
        else:
            assert each.into is not None
            codes = [Got.HIT if page in held else Got.LOST for page in pages] if answer is None else answer
            for number, (page, code) in enumerate(zip(pages, codes, strict=True)):
                if code == Got.HIT:
                    self._arrives(each, number, held[page])
            each.done(codes)

    def _gone(self, each: Pending) -> None:
        """The target holds these no more, unless a put of them is to follow."""
        known = self.known[each.target]
        known.difference_update(range(each.page, each.page + each.count))
        for other in self.pending:
            if other.kind == "put" and other.target == each.target:
                known.update(range(other.page, other.page + other.count))

    def _arrives(self, each: Pending, number: int, data: bytes) -> None:
        assert each.into is not None
        self.kernel.view(each.page + number, 1)  # writing to it brings it into the file, whoever punched it meanwhile
        each.into[number * PAGE : (number + 1) * PAGE] = data

    def forget_agent(self, chance: random.Random) -> None:
        """The agent was killed: of what it had sent some was done."""
        sent = self.choices()  # a second write of a page is not sent before the first is answered
        self.pending = []
        for each in sent:
            if each.kind == "get":
                if chance.random() < 0.5:  # half of it had arrived
                    self._arrives(each, 0, b"\xa5" * PAGE)
            elif chance.random() < 0.5:
                self.apply(each)
