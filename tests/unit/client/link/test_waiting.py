"""The order in which operations that had to wait are sent, and what is late."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tmem.client._core.operations import FlushOperation, Operation
from tmem.client._core.pool import PoolCore
from tmem.client._core.window import Window
from tmem.client.link.waiting import Deadlines, Waiting
from tmem.v1 import pools_pb2
from tmem.wire.errors import Closed
from tmem.wire.handles import Extent
from tmem.wire.results import PoolKind, enum_field


def make_pool() -> PoolCore:
    return PoolCore(pools_pb2.Pool(pool_id=1, kind=enum_field(PoolKind.PERSISTENT), chunk_pages=1), b"t", 1, None)


def write(pool: PoolCore, *pages: int) -> FlushOperation:
    operation = FlushOperation(pool)
    for page in pages:
        operation.add(Extent(7, page, 1))
    return operation


class Get(Operation):
    pass


class Sender:
    """Admits writes as the session does: it notes them with the pool's writer until they are settled."""

    def __init__(self, room: int = 1000) -> None:
        self.sent: list[Operation] = []
        self.room = room

    def __call__(self, operation: Operation) -> bool:
        if not self.room:
            return False
        if operation.pool is not None and operation.writes and operation.pool.error is None:
            operation.sequence = operation.pool.writer.begin(operation.footprints())
        self.sent.append(operation)
        self.room -= 1
        return True

    def settle(self, operation: Operation) -> None:
        assert operation.pool is not None
        operation.pool.writer.settle(operation.sequence)


def offer(waiting: Waiting, sender: Sender, window: Window | None = None, *, congested: bool = False) -> None:
    waiting.admit_reads(sender)
    waiting.admit_writes(sender, window or Window(1 << 20, 1000), lambda: congested)


def queued(*operations: Operation) -> Waiting:
    waiting = Waiting()
    for operation in operations:
        waiting.add(operation)
    return waiting


def test_gets_go_before_writes_and_each_in_its_order() -> None:
    pool = make_pool()
    operations: list[Operation] = [write(pool, 1), Get(pool), write(pool, 2), Get(pool)]
    waiting = queued(*operations)
    sender = Sender()
    offer(waiting, sender)

    assert sender.sent == [operations[1], operations[3], operations[0], operations[2]]
    assert not waiting


def test_a_get_that_has_no_room_holds_up_later_gets() -> None:
    pool = make_pool()
    operations = [Get(pool) for _ in range(3)]
    waiting = queued(*operations)
    sender = Sender(room=1)
    waiting.admit_reads(sender)
    assert sender.sent == operations[:1]
    assert [operation in waiting for operation in operations] == [False, True, True]


def test_writes_go_past_one_whose_page_is_taken_but_not_past_each_other() -> None:
    pool = make_pool()
    sender = Sender()
    under_way = write(pool, 1)
    sender(under_way)
    second, third, other, both, last = (write(pool, *pages) for pages in ((1,), (1, 2), (3,), (2, 4), (5,)))
    waiting = queued(second, third, other, both, last)
    offer(waiting, sender)
    # `both` touches a page of `third`, which waits.
    assert sender.sent == [under_way, other, last]

    sender.settle(under_way)
    offer(waiting, sender)
    assert sender.sent[3:] == [second]
    sender.settle(second)
    offer(waiting, sender)
    assert sender.sent[4:] == [third]
    sender.settle(third)
    offer(waiting, sender)
    assert sender.sent[5:] == [both]


def test_pools_do_not_hold_up_each_other() -> None:
    one, other = make_pool(), make_pool()
    sender = Sender()
    sender(write(one, 1))
    behind, free = write(one, 1), write(other, 1)
    waiting = queued(behind, free)
    offer(waiting, sender)
    assert sender.sent[1:] == [free]


def test_without_room_nothing_goes_past_the_first() -> None:
    """Or small writes would starve a large one."""
    pool = make_pool()
    large, small = write(pool, *range(100)), write(pool, 200)
    waiting = queued(large, small)
    window = Window(large.estimate() + 100, 10)
    window.take(window.max_bytes // 2)
    sender = Sender()
    offer(waiting, sender, window)
    assert not sender.sent


def test_writes_wait_while_enough_is_on_its_way() -> None:
    pool = make_pool()
    waiting = queued(write(pool, 1))
    sender = Sender()
    offer(waiting, sender, congested=True)
    assert not sender.sent


def test_a_write_of_a_pool_that_failed_is_offered_so_that_it_fails() -> None:
    pool = make_pool()
    sender = Sender()
    sender(write(pool, 1))
    operation = write(pool, 1)
    waiting = queued(operation)
    pool.error = Closed("destroyed")
    offer(waiting, sender, congested=True)
    assert sender.sent[1:] == [operation]


def test_what_is_removed_is_not_sent() -> None:
    pool = make_pool()
    operations: list[Operation] = [write(pool, 1), Get(pool)]
    waiting = queued(*operations)
    assert [waiting.is_behind(operation) for operation in operations] == [True, True]
    assert [waiting.remove(operation) for operation in operations * 2] == [True, True, False, False]
    assert not waiting
    waiting = queued(*operations)
    assert set(waiting.clear()) == set(operations)
    assert not waiting


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.lists(st.integers(0, 6), min_size=1, max_size=3, unique=True)),
            st.tuples(st.just("settle"), st.integers(0, 5)),
        ),
        max_size=40,
    )
)
def test_writes_of_one_page_are_sent_in_their_order_and_one_at_a_time(steps: list[tuple[str, Any]]) -> None:
    pool = make_pool()
    waiting = Waiting()
    sender = Sender()
    begun: list[FlushOperation] = []
    settled = 0
    for what, argument in steps:
        if what == "write":
            operation = write(pool, *argument)
            begun.append(operation)
            waiting.add(operation)
        elif argument < len(sender.sent) - settled:
            # Any of those under way may be answered first.
            under_way = sender.sent[settled:]
            sender.settle(under_way[argument])
            sender.sent[settled:] = [under_way.pop(argument), *under_way]
            settled += 1
        offer(waiting, sender)
        for page in range(7):
            touching = [operation for operation in sender.sent[settled:] if (7, page, 1) in operation.extents]  # type: ignore[attr-defined]
            assert len(touching) <= 1
    order = {operation: number for number, operation in enumerate(sender.sent[:settled])}
    for page in range(7):
        done = [order[operation] for operation in begun if (7, page, 1) in operation.extents and operation in order]
        assert done == sorted(done)


class TestDeadlines:
    def test_what_is_late_is_taken_out_in_order_of_its_group(self) -> None:
        deadlines = Deadlines()
        operations = [Get(None) for _ in range(4)]
        groups = [
            deadlines.add(operation, timeout, now)
            for operation, timeout, now in zip(operations, (1.0, 5.0, 1.0, 5.0), (10.0, 10.0, 11.0, 12.0), strict=True)
        ]
        assert deadlines.first() == 11.0
        assert list(deadlines.late(10.9)) == []
        assert list(deadlines.late(12.0)) == [operations[0], operations[2]]
        groups[1].pop(operations[1])
        assert deadlines.first() == 17.0
        assert list(deadlines.late(100.0)) == [operations[3]]
        assert deadlines.first() is None

    def test_what_was_given_up_meanwhile_is_not_late(self) -> None:
        """Whoever handles one that is late may end others."""
        deadlines = Deadlines()
        operations = [Get(None) for _ in range(3)]
        groups = [deadlines.add(operation, 1.0, 0.0) for operation in operations]
        found = []
        for operation in deadlines.late(2.0):
            found.append(operation)
            groups[1].pop(operations[1], None)
        assert found == [operations[0], operations[2]]
