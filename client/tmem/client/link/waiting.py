"""Operations that can't be sent yet, and until when they may take.

Owns: `Waiting`, the order in which operations without credit or a free handle are sent later; `Deadlines`, which of those under way are
late. Pure: times are handed in.

Order: gets before writes. Writes in the order in which they came, but for one whose handles are taken: what touches none of those
goes past it. A get that comes while a write of its page waits may see the page before or after.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

from tmem.client._core.operations import Operation
from tmem.client._core.pool import PoolCore
from tmem.client._core.window import Window
from tmem.client._core.writer import Writer

__all__ = ["Deadlines", "Waiting"]

# So many waiting writes are looked at when the handles of the first are taken.
_LOOK_AHEAD = 32

Admit = Callable[[Operation], bool]


class Waiting:
    """Two queues."""

    def __init__(self) -> None:
        self._reads: OrderedDict[Operation, None] = OrderedDict()
        self._writes: OrderedDict[Operation, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reads) + len(self._writes)

    def __contains__(self, operation: Operation) -> bool:
        return operation in self._queue(operation)

    def _queue(self, operation: Operation) -> "OrderedDict[Operation, None]":
        return self._writes if operation.writes else self._reads

    def is_behind(self, operation: Operation) -> bool:
        """Whether others of its kind wait already, so that it must not go before them."""
        return bool(self._queue(operation))

    def add(self, operation: Operation) -> None:
        """Puts an operation at the end of its queue."""
        self._queue(operation)[operation] = None

    def remove(self, operation: Operation) -> bool:
        """Takes an operation away; False if it does not wait."""
        queue = self._queue(operation)
        if operation not in queue:
            return False
        del queue[operation]
        return True

    def clear(self) -> list[Operation]:
        """Takes all away."""
        operations = [*self._reads, *self._writes]
        self._reads.clear()
        self._writes.clear()
        return operations

    def admit_reads(self, admit: Admit) -> None:
        """Offers gets in order, until one must wait still; `admit` answers whether it need not."""
        reads = self._reads
        while reads:
            operation = next(iter(reads))
            if not admit(operation):
                return
            reads.pop(operation, None)

    def admit_writes(self, admit: Admit, window: Window, congested: Callable[[], bool]) -> None:
        """Offers writes in order, until there is no room for one; those whose handles are taken are passed over.

        Args:
            admit: answers whether an operation need not wait any more.
            window: the session's.
            congested: whether enough is on its way out already.
        """
        # The handles of writes that were passed over: a later write of one of them must stay behind.
        passed: dict[PoolCore, Writer] = {}
        for _, operation in zip(range(_LOOK_AHEAD), list(self._writes), strict=False):
            pool = operation.pool
            assert pool is not None
            if pool.error is None:
                if congested() or not window.has_room(operation.estimate(), write=True):
                    return
                footprints = operation.footprints()
                earlier = passed.get(pool)
                if (earlier is not None and earlier.conflicts(footprints)) or pool.writer.conflicts(footprints):
                    passed.setdefault(pool, Writer()).begin(footprints)
                    continue
            if admit(operation):
                self._writes.pop(operation, None)


class Deadlines:
    """When operations are to be given up.

    Most have one of two time-outs; those of equal time-outs end in the order in which they began, so that nothing has to be
    sorted, and what is done leaves nothing behind.
    """

    def __init__(self) -> None:
        self._groups: dict[float, OrderedDict[Operation, float]] = {}

    def add(self, operation: Operation, timeout: float, now: float) -> "OrderedDict[Operation, float]":
        """Notes an operation; answers the group from which it is to be removed when it is done."""
        group = self._groups.get(timeout)
        if group is None:
            self._groups = {key: value for key, value in self._groups.items() if value}
            group = self._groups[timeout] = OrderedDict()
        group[operation] = now + timeout
        return group

    def first(self) -> float | None:
        """When the next one is late; None if there is none."""
        return min((next(iter(group.values())) for group in self._groups.values() if group), default=None)

    def late(self, now: float) -> Iterator[Operation]:
        """Takes out those that are late."""
        for group in self._groups.values():
            while group:
                operation, deadline = next(iter(group.items()))
                if deadline > now:
                    break
                del group[operation]
                yield operation
