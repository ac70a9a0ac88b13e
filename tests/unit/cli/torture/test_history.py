"""The model of a page: what it believes, and what it does not."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmem.cli.torture.history import Action, History, Operation, Outcome, Seen, check, shrink

PUT, GET, FLUSH, ACK, LOSS = Action.PUT, Action.GET, Action.FLUSH, Action.ACK, Action.LOSS
DONE, REFUSED, UNCHANGED, UNKNOWN = Outcome.DONE, Outcome.REFUSED, Outcome.UNCHANGED, Outcome.UNKNOWN


def op(
    begin: float,
    end: float,
    action: Action,
    value: int | Sequence[int] = 0,
    outcome: Outcome = DONE,
    *,
    first: int = 0,
    writer: str = "a",
    pool: str = "p",
) -> Operation:
    values = [value] if isinstance(value, int) else list(value)
    return Operation(writer, pool, action, 7, first, len(values), begin, end, outcome, values)


def wrong(*operations: Operation, ephemeral: bool = False, shared: bool = False) -> list[str]:
    pools = frozenset({"p"})
    history = History(list(operations), pools if ephemeral else frozenset(), pools if shared else frozenset())
    return [finding.why for finding in check(history)]


class TestBelieved:
    @pytest.mark.parametrize(
        "operations",
        [
            [op(1, 2, GET, Seen.MISS)],
            [op(1, 2, PUT, 5), op(3, 4, GET, 5), op(5, 6, GET, 5)],
            [op(1, 2, PUT, 5), op(3, 4, PUT, 6), op(5, 6, GET, 6)],
            # Overlapping: either page, in the order in which they were seen.
            [op(1, 9, PUT, 5), op(2, 8, PUT, 6), op(10, 11, GET, 5), op(12, 13, GET, 5)],
            [op(1, 2, PUT, 4), op(3, 9, PUT, 5), op(4, 5, GET, 4), op(6, 7, GET, 5), op(8, 10, GET, 5)],
            # Refused: the old page is gone; or nothing changed.
            [op(1, 2, PUT, 5), op(3, 4, PUT, 6, REFUSED), op(5, 6, GET, Seen.MISS)],
            [op(1, 2, PUT, 5), op(3, 4, PUT, 6, UNCHANGED), op(5, 6, GET, 5)],
            [op(1, 9, PUT, 5, REFUSED), op(2, 3, GET, 5), op(10, 11, GET, Seen.MISS)],
            # Not answered: the page before, this one, or none.
            [op(1, 2, PUT, 5), op(3, 4, PUT, 6, UNKNOWN), op(5, 6, GET, 5), op(7, 8, GET, 6)],
            [op(1, 2, PUT, 5), op(3, 4, PUT, 6, UNKNOWN), op(5, 6, GET, Seen.MISS)],
            [op(1, 2, PUT, 5), op(3, 4, FLUSH, 0, UNKNOWN), op(5, 6, GET, 5), op(7, 8, GET, Seen.MISS)],
            [op(1, 2, PUT, 5), op(3, 4, FLUSH), op(5, 6, GET, Seen.MISS), op(7, 8, PUT, 6), op(9, 10, GET, 6)],
            # A take that was not acknowledged, and one that was, with a put in between.
            [op(1, 2, PUT, 5), op(3, 4, GET, 5), op(5, 6, GET, 5), op(7, 8, ACK, 5), op(9, 10, GET, Seen.MISS)],
            [op(1, 2, PUT, 5), op(3, 4, GET, 5), op(5, 6, PUT, 6), op(7, 8, ACK, 5), op(9, 10, GET, 6)],
            [op(1, 2, PUT, 5), op(3, 4, LOSS), op(5, 6, GET, Seen.LOST), op(7, 8, PUT, 6), op(9, 10, GET, 6)],
            [op(1, 2, PUT, 5), op(3, 4, GET, Seen.REFUSED), op(5, 6, GET, 5)],
        ],
    )
    def test_what_can_be(self, operations: list[Operation]) -> None:
        assert wrong(*operations) == []

    def test_ephemeral_pages_go_at_any_time(self) -> None:
        assert wrong(op(1, 2, PUT, 5), op(3, 4, GET, 5), op(5, 6, GET, Seen.MISS), ephemeral=True) == []

    def test_another_s_unanswered_put_of_a_shared_page_may_come_late(self) -> None:
        late = [op(1, 2, PUT, 5, UNKNOWN), op(3, 4, PUT, 6, writer="b"), op(5, 6, GET, 5)]
        assert wrong(*late, shared=True, ephemeral=True) == []
        assert wrong(*late)


class TestNotBelieved:
    @pytest.mark.parametrize(
        ("operations", "why"),
        [
            ([op(1, 2, PUT, 5), op(3, 4, PUT, 6), op(5, 6, GET, 5)], "a newer write"),
            ([op(1, 2, PUT, 5), op(3, 4, FLUSH), op(5, 6, GET, 5)], "a newer write"),
            ([op(1, 2, PUT, 5), op(3, 4, PUT, 6, REFUSED), op(5, 6, GET, 5)], "a newer write"),
            ([op(1, 2, PUT, 5), op(3, 4, PUT, 6, REFUSED), op(5, 6, GET, 6)], "refused"),
            ([op(1, 2, PUT, 5), op(3, 4, GET, Seen.MISS)], "nothing has removed it"),
            ([op(1, 2, FLUSH), op(3, 4, PUT, 5), op(5, 6, GET, Seen.MISS)], "nothing has removed it"),
            ([op(1, 2, PUT, 5), op(3, 4, LOSS), op(5, 6, GET, Seen.MISS)], "nothing has removed it"),
            ([op(1, 2, PUT, 5), op(3, 4, LOSS), op(5, 6, GET, 5)], "a newer write"),
            ([op(1, 2, PUT, 5), op(3, 4, GET, Seen.LOST)], "no server has lost"),
            ([op(1, 2, PUT, 5), op(3, 4, GET, Seen.CORRUPT)], "CORRUPT"),
            ([op(1, 2, PUT, 5), op(3, 4, GET, Seen.OTHER)], "nobody's"),
            ([op(1, 2, PUT, 5), op(3, 4, GET, 6)], "another place"),
            ([op(1, 2, GET, 5), op(3, 4, PUT, 5)], "not asked for yet"),
            # Seen, unseen, seen again.
            ([op(1, 9, PUT, 5), op(2, 8, PUT, 6), op(10, 11, GET, 5), op(12, 13, GET, 6)], "an earlier get"),
            ([op(1, 2, PUT, 5), op(3, 4, ACK, 5), op(5, 6, GET, 5)], "taken"),
            ([op(1, 2, PUT, 6, UNKNOWN), op(3, 4, PUT, 5), op(5, 6, GET, 6)], "a newer write"),
        ],
    )
    def test_what_can_not_be(self, operations: list[Operation], why: str) -> None:
        (found,) = wrong(*operations)
        assert why in found

    def test_an_evicted_page_does_not_come_back(self) -> None:
        operations = [op(1, 2, PUT, 5), op(3, 4, GET, Seen.MISS), op(5, 6, GET, 5)]
        (found,) = wrong(*operations, ephemeral=True)
        assert "an earlier get" in found

    def test_each_page_of_a_run_is_looked_at(self) -> None:
        operations = [op(1, 2, PUT, [5, 6, 7], first=10), op(3, 4, GET, [5, Seen.MISS, 7], first=10)]
        (finding,) = check(History(operations))
        assert finding.page == (7, 11)
        assert "page 11: the page misses" in str(finding)


def test_a_failing_history_is_shrunk_to_what_contradicts() -> None:
    chance = random.Random(5)
    operations = [op(n, n + 0.5, PUT, 100 + n, first=chance.randrange(4)) for n in range(60)]
    operations += [op(70, 71, PUT, [1, 2, 3]), op(72, 73, PUT, 4, first=1), op(74, 75, GET, [1, 2, 3])]
    operations += [op(80 + n, 81 + n, GET, Seen.REFUSED) for n in range(20)]
    history = History(operations)
    (finding,) = check(history)
    least = shrink(history, finding)
    assert [str(operation.action) for operation in least.operations] == [str(PUT), str(PUT), str(GET)]
    assert [operation.pages for operation in least.operations] == [1, 1, 1]
    assert check(least)[0].why == finding.why


# ---- A register that is right, and one that is not ----

steps = st.lists(
    st.tuples(st.sampled_from(["put", "flush", "get", "refuse", "lost answer"]), st.integers(0, 9)), max_size=60
)


@given(steps, st.randoms(use_true_random=False))
def test_an_atomic_register_is_always_believed(plan: list[tuple[str, int]], chance: random.Random) -> None:
    """Operations overlap at random, and each takes effect at some moment between its asking and its answer."""
    history, state, moment = [], 0, 0.0
    for number, (what, spread) in enumerate(plan, 1):
        moment += 1
        begin, end = moment - 0.01 - chance.random() * spread, moment + 0.01 + chance.random() * spread
        if what == "get":
            history.append(op(begin, end, GET, state))
        elif what == "flush":
            state = 0
            history.append(op(begin, end, FLUSH))
        elif what == "refuse":
            state = 0
            history.append(op(begin, end, PUT, 1000 + number, REFUSED))
        else:
            lost = what == "lost answer"
            state = number if not lost or chance.random() < 0.5 else state
            # Nobody waits for a lost answer; the writer's next write comes after it.
            history.append(op(begin, moment if lost else end, PUT, number, UNKNOWN if lost else DONE))
    assert wrong(*history, shared=True) == []


@given(steps, st.randoms(use_true_random=False))
def test_one_old_value_among_operations_that_do_not_overlap_is_always_found(
    plan: list[tuple[str, int]], chance: random.Random
) -> None:
    history, values = [], []
    for number, (what, _) in enumerate(plan, 1):
        if what == "flush":
            history.append(op(number, number + 0.5, FLUSH))
            values.append(0)
        elif what in {"put", "refuse"}:
            history.append(op(number, number + 0.5, PUT, number))
            values.append(number)
    older = [value for value in values[:-1] if value and value != values[-1]]
    if not older:
        return
    history.append(op(100, 101, GET, chance.choice(older)))
    assert len(wrong(*history)) == 1
