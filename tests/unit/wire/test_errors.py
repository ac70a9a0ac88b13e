import inspect

import grpc
import pytest

from tmem.wire import errors
from tmem.wire.errors import TABLE, OldPage, Refused, TmemError, explain, refusal
from tmem.wire.results import Reason


def tree() -> list[type[TmemError]]:
    return [value for _, value in inspect.getmembers(errors, inspect.isclass) if issubclass(value, TmemError)]


def test_every_class_stands_in_the_printed_tree_under_its_parent() -> None:
    lines = (errors.__doc__ or "").splitlines()
    depth_of: dict[str, int] = {}
    path: list[str] = []
    for line in lines:
        name = line.strip("│├└─ ").split(" ")[0]
        if name not in {cls.__name__ for cls in tree()}:
            continue
        depth = line.index(name) // 4
        depth_of[name] = depth
        path[depth - 1 :] = [name]
        cls = getattr(errors, name)
        if len(path) > 1:
            assert cls.__bases__[0].__name__ == path[-2], name
    assert set(depth_of) == {cls.__name__ for cls in tree()}


def test_every_reason_has_one_row_and_one_class() -> None:
    assert set(TABLE) == set(Reason) - {Reason.UNSPECIFIED}
    assert len({row.error for row in TABLE.values()}) == len(TABLE)
    for reason, row in TABLE.items():
        assert row.error.reason == reason
        assert hasattr(grpc.StatusCode, row.code)


def test_every_exported_name_exists_and_every_class_is_exported() -> None:
    assert set(errors.__all__) >= {cls.__name__ for cls in tree()}
    for name in errors.__all__:
        assert hasattr(errors, name)


def test_refusals_that_promise_to_change_nothing_are_those_of_the_contract() -> None:
    kept = {reason for reason, row in TABLE.items() if row.old_page is OldPage.KEPT}

    assert kept >= {Reason.FENCED, Reason.STALE, Reason.FORBIDDEN, Reason.NO_SUCH_POOL, Reason.INVALID}
    for reason in (Reason.QUOTA, Reason.CAPACITY, Reason.FROZEN, Reason.IO, Reason.REPLICAS):
        assert TABLE[reason].old_page is OldPage.GONE
    assert TABLE[Reason.UNSETTLED].old_page is OldPage.UNKNOWN


@pytest.mark.parametrize("reason", sorted(TABLE))
def test_a_reason_becomes_its_exception(reason: Reason) -> None:
    error = refusal(int(reason), "no")

    assert type(error) is TABLE[reason].error
    assert str(error) == "no"
    assert explain(int(reason)).startswith(reason.name)


def test_a_reason_of_a_newer_server_is_still_a_refusal() -> None:
    error = refusal(999, "no")

    assert type(error) is Refused
    assert "999" in str(error)
    assert "999" in explain(999)


def test_local_errors_are_value_errors_where_python_users_expect_them() -> None:
    for cls in (errors.InvalidHandle, errors.InvalidBuffer, errors.InvalidOption):
        assert issubclass(cls, ValueError)
