"""What was asked of a service and what it answered, and whether that can be true.

Owns: `History`, a record of operations with the moments of their asking and their answer, and `check`, which holds it against a model of each
page by itself: which values a get may return, given writes that overlapped, were refused, were never answered, were taken back, or were
undone by eviction and loss. Every put has a stamp of its own, so a value names the one write that made it.

The model of a page, for a get that answers the stamp of write w:
    w was asked before the get was answered, and was not refused (but a put whose answer was lost may be refused when it is sent again:
    until then its page was there)
    no other write that certainly took effect lies wholly between w and the get
    no earlier get, behind w, has already seen something else
and for a get that misses: some removal (or the beginning) may have been the last write before it. Ephemeral pages may go at any time, but
do not come back. Persistent pages may be LOST only after the server lost its memory, and never miss for that.

Pure: no I/O, no clock; moments are numbers that count up. Must not know: clients, pools of a server.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from math import inf

__all__ = ["Action", "Finding", "History", "Operation", "Outcome", "Seen", "check", "shrink"]

Page = tuple[int, int]
"""Object and index."""


class Action(Enum):
    """What was asked."""

    PUT = "put"
    GET = "get"
    FLUSH = "flush"
    ACK = "ack"  # the second half of a take: removes what a get returned, if it is still that
    LOSS = "loss"  # nobody asked: the server lost its memory


class Outcome(Enum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"  # the old page is gone
    UNCHANGED = "unchanged"  # refused, and nothing changed
    UNKNOWN = "unknown"  # not answered, or the answer says that it is not known


class Seen:
    """What a get answered for a page, where that is no stamp. Stamps are above 0."""

    MISS = 0
    LOST = -1
    CORRUPT = -2
    REFUSED = -3
    OTHER = -4  # bytes that nobody put


@dataclass(slots=True, eq=False)
class Operation:
    """One operation on a run of pages.

    Attributes:
        writer: who asked; writes of one writer on one page are carried out one after the other.
        pool: whose pages. obj, first, pages: which.
        values: put: the stamp of each page; get: what each page was; ack: the stamps that are given up.
        begin, end: when it was asked and answered; end is inf while it is not.
    """

    writer: str
    pool: str
    action: Action
    obj: int
    first: int
    pages: int
    begin: float
    end: float = inf
    outcome: Outcome = Outcome.UNKNOWN
    values: Sequence[int] = ()

    def __str__(self) -> str:
        where = f"{self.pool} object {self.obj} page {self.first}" + (
            f"..{self.first + self.pages - 1}" * (self.pages > 1)
        )
        what = " ".join(map(_show, self.values)) if self.pages <= 4 else f"{len(self.values)} values"
        end = "never" if self.end == inf else f"{self.end:.0f}"
        return f"{self.begin:>8.0f} .. {end:<8} {self.writer:<12} {self.action.value:<5} {where}: {self.outcome.value} {what}"


def _show(value: int) -> str:
    names = {getattr(Seen, name): name for name in ("MISS", "LOST", "CORRUPT", "REFUSED", "OTHER")}
    return names.get(value, f"#{value:x}")


@dataclass
class History:
    """All operations of a run, in any order.

    Attributes:
        ephemeral: pools whose pages may go at any time.
        shared: pools that several writers write to: one's unanswered write may come after another's later one.
    """

    operations: list[Operation] = field(default_factory=list)
    ephemeral: frozenset[str] = frozenset()
    shared: frozenset[str] = frozenset()

    def of_pages(self) -> dict[tuple[str, Page], list["_Event"]]:
        """The operations on each page by itself."""
        by_page: dict[tuple[str, Page], list[_Event]] = defaultdict(list)
        losses = [operation for operation in self.operations if operation.action == Action.LOSS]
        for operation in self.operations:
            if operation.action == Action.LOSS:
                continue
            for number in range(operation.pages):
                value = operation.values[number] if operation.values else 0
                by_page[operation.pool, (operation.obj, operation.first + number)].append(_Event(operation, value))
        for (pool, _), events in by_page.items():
            events += [_Event(loss, 0) for loss in losses if loss.pool in {"", pool}]
        return by_page

    def pages(self) -> int:
        """How many page operations there are."""
        return sum(operation.pages for operation in self.operations)


@dataclass(slots=True, eq=False)
class _Event:
    """One operation as one page sees it."""

    operation: Operation
    value: int


@dataclass(frozen=True, slots=True)
class Finding:
    """A get that can't be true.

    Attributes:
        pool, page: of which page.
        why: what is wrong.
        get: the operation that answered it; others: operations that contradict it.
    """

    pool: str
    page: Page
    why: str
    get: Operation
    others: tuple[Operation, ...] = ()

    def __str__(self) -> str:
        obj, index = self.page
        lines = [f"{self.pool}, object {obj}, page {index}: {self.why}", f"    {self.get}"]
        return "\n".join([*lines, *(f"    {other}" for other in self.others)])


def check(history: History) -> list[Finding]:
    """Everything that can't be true, one finding a get."""
    findings: list[Finding] = []
    for (pool, page), events in history.of_pages().items():
        findings += _PageModel(pool, page, events, pool in history.ephemeral, pool in history.shared).findings()
    return findings


class _Spans:
    """Intervals, asked for one that lies wholly between two moments."""

    def __init__(self, spans: Iterable[tuple[float, float, Operation]]) -> None:
        self._spans = sorted(spans, key=lambda span: span[0])
        self._begins = [begin for begin, _, _ in self._spans]
        # For each place the span from there on that ends first.
        self._first_end: list[tuple[float, Operation]] = []
        best: tuple[float, Operation] | None = None
        for _, end, operation in reversed(self._spans):
            if best is None or end < best[0]:
                best = end, operation
            self._first_end.append(best)
        self._first_end.reverse()

    def between(self, after: float, before: float) -> Operation | None:
        """One that begins at `after` or later and ends at `before` or earlier."""
        at = bisect_left(self._begins, after)
        if at == len(self._begins) or self._first_end[at][0] > before:
            return None
        return self._first_end[at][1]


class _PageModel:
    """One page."""

    def __init__(self, pool: str, page: Page, events: list[_Event], ephemeral: bool, shared: bool) -> None:
        self._pool, self._page, self._ephemeral = pool, page, ephemeral
        self._gets: list[tuple[Operation, int]] = []
        # By stamp: the put, and when no later write of its writer can come before it any more.
        self._puts: dict[int, tuple[Operation, float]] = {}
        self._refused: dict[int, Operation] = {}
        self._acks: dict[int, list[Operation]] = defaultdict(list)
        self._losses: list[Operation] = []
        stores: list[tuple[float, float, Operation]] = []
        removals: list[tuple[float, float, Operation]] = []
        # (begin, over): what may have left the page absent.
        self._absences: list[tuple[float, float]] = [(-inf, -inf)]
        for event in events:
            operation, value = event.operation, event.value
            begin, end, outcome = operation.begin, operation.end, operation.outcome
            # An unanswered write of a private pool is over before the writer's next write of the page takes effect.
            over = inf if outcome == Outcome.UNKNOWN and (shared or end == inf) else end
            if operation.action == Action.GET:
                self._gets.append((operation, value))
            elif operation.action == Action.LOSS:
                self._losses.append(operation)
                removals.append((begin, end, operation))
                if ephemeral:
                    self._absences.append((begin, end))
            elif operation.action == Action.PUT:
                if outcome == Outcome.DONE:
                    self._puts[value] = operation, end
                    stores.append((begin, end, operation))
                elif outcome == Outcome.UNKNOWN:
                    self._puts[value] = operation, over
                    self._absences.append((begin, over))
                else:
                    self._refused[value] = operation
                    if outcome == Outcome.REFUSED:
                        removals.append((begin, end, operation))
                        self._absences.append((begin, end))
            elif operation.action == Action.FLUSH:
                if outcome == Outcome.DONE:
                    removals.append((begin, end, operation))
                if outcome in {Outcome.DONE, Outcome.UNKNOWN}:
                    self._absences.append((begin, over))
            elif value > 0:  # ACK
                if outcome == Outcome.DONE:
                    self._acks[value].append(operation)
                if outcome in {Outcome.DONE, Outcome.UNKNOWN}:
                    self._absences.append((begin, over))
        self._stores = _Spans(stores)
        self._writes = _Spans([*stores, *removals])

    def findings(self) -> Iterator[Finding]:
        """What is wrong with each get."""
        for get, value in self._gets:
            if value == Seen.REFUSED:
                continue
            if value > 0:
                wrong = self._wrong_value(get, value)
            elif value == Seen.MISS:
                wrong = self._wrong_miss(get)
            elif value == Seen.LOST:
                lost = not self._ephemeral and any(loss.begin < get.end for loss in self._losses)
                wrong = None if lost else ("the page is LOST, and no server has lost anything", ())
            elif value == Seen.CORRUPT:
                wrong = "the page is CORRUPT", ()
            else:
                wrong = "the bytes are nobody's", ()
            if wrong is not None:
                yield Finding(self._pool, self._page, wrong[0], get, wrong[1])

    def _wrong_value(self, get: Operation, stamp: int) -> tuple[str, tuple[Operation, ...]] | None:
        if stamp in self._refused:
            put = self._refused[stamp]
            if put.begin < get.end and get.begin < put.end and put.outcome == Outcome.REFUSED:
                return None  # stored, the answer lost, sent again, refused: it was there for a while
            return "the page is of a put that was refused", (put,)
        if stamp not in self._puts:
            return "the page is of another place, or of no put at all", ()
        put, over = self._puts[stamp]
        if put.begin > get.end:
            return "the page is of a put that was not asked for yet", (put,)
        newer = self._writes.between(over, get.begin)
        if newer is not None:
            return "the page is old: a newer write was done before this get began", (put, newer)
        for ack in self._acks.get(stamp, ()):
            if ack.end <= get.begin:
                return "the page was taken, and that acknowledged, before this get began", (put, ack)
        applied = put.end if put.outcome == Outcome.DONE else inf
        for other, seen in self._gets:
            if applied <= other.begin and other.end <= get.begin and seen not in {stamp, Seen.REFUSED, Seen.CORRUPT}:
                return "the page is old: an earlier get has seen what came after it", (put, other)
        return None

    def _wrong_miss(self, get: Operation) -> tuple[str, tuple[Operation, ...]] | None:
        if self._ephemeral:
            return None
        latest = max(over for begin, over in self._absences if begin < get.end)
        stored = self._stores.between(latest, get.begin)
        if stored is None:
            return None
        return "the page misses, and nothing has removed it since it was stored", (stored,)


def shrink(history: History, finding: Finding) -> History:
    """The least of a history in which the same page is still wrong: operation by operation is left out as long as it can be."""
    obj, index = finding.page

    def touches(operation: Operation) -> bool:
        if operation.action == Action.LOSS:
            return operation.pool in {"", finding.pool}
        first, end = operation.first, operation.first + operation.pages
        return operation.pool == finding.pool and operation.obj == obj and first <= index < end

    def lone(operation: Operation) -> Operation:
        if operation.action == Action.LOSS:
            return operation
        number = index - operation.first
        values = [operation.values[number]] if operation.values else []
        return Operation(
            operation.writer,
            operation.pool,
            operation.action,
            obj,
            index,
            1,
            operation.begin,
            operation.end,
            operation.outcome,
            values,
        )

    kept = [lone(operation) for operation in history.operations if touches(operation)]
    kept.sort(key=lambda operation: operation.begin)

    def wrong(operations: list[Operation]) -> bool:
        return any(
            found.why == finding.why and found.get.begin == finding.get.begin
            for found in check(History(operations, history.ephemeral, history.shared))
        )

    size = max(len(kept) // 2, 1)
    while True:
        at = 0
        while at < len(kept):
            rest = kept[:at] + kept[at + size :]
            if wrong(rest):
                kept = rest
            else:
                at += size
        if size == 1:
            return History(kept, history.ephemeral, history.shared)
        size = max(size // 2, 1)
