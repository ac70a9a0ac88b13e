from typing import cast

import pytest

from tmem.server.store.pending import Pending, then


def test_callbacks_run_in_order_once_it_is_settled() -> None:
    pending: Pending[int] = Pending()
    seen: list[str] = []
    pending.when_settled(lambda value: seen.append(f"a{value}"))
    pending.when_settled(lambda value: seen.append(f"b{value}"))
    assert not seen

    pending.settle(3)

    assert seen == ["a3", "b3"]


def test_a_late_callback_runs_at_once() -> None:
    pending: Pending[int] = Pending()
    pending.settle(3)
    seen: list[int] = []

    pending.when_settled(seen.append)

    assert seen == [3]


def test_it_is_settled_once() -> None:
    pending: Pending[int] = Pending()
    pending.settle(3)
    with pytest.raises(AssertionError):
        pending.settle(4)


def test_then_of_what_is_there_is_there() -> None:
    assert then(3, lambda value: value + 1) == 4


def test_then_of_what_comes_later_comes_later() -> None:
    pending: Pending[int] = Pending()
    raised: int | Pending[int] = then(cast("int | Pending[int]", pending), lambda value: value + 1)
    result = then(raised, str)
    seen: list[str] = []
    assert isinstance(result, Pending)
    result.when_settled(seen.append)

    pending.settle(3)

    assert seen == ["4"]
