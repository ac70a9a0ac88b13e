import grpc
import pytest

from tmem.server.rpc.status import status_of
from tmem.wire.errors import TABLE, Closed, MalformedBatch, ProtocolError, Unauthenticated, refusal
from tmem.wire.metadata import REASON


@pytest.mark.parametrize("reason", sorted(TABLE))
def test_a_refusal_carries_its_reason(reason: int) -> None:
    code, details, trailing = status_of(refusal(reason, "because"))

    row = TABLE[reason]  # type: ignore[index]
    assert (code.name, details, trailing) == (row.code, "because", ((REASON, row.error.reason.name),))


@pytest.mark.parametrize("error", [ProtocolError("garbage"), MalformedBatch(3, "contradiction")])
def test_garbage_is_an_invalid_argument(error: Exception) -> None:
    assert status_of(error) == (grpc.StatusCode.INVALID_ARGUMENT, str(error), ((REASON, "INVALID"),))


def test_strangers_are_unauthenticated() -> None:
    assert status_of(Unauthenticated("who?"))[0] is grpc.StatusCode.UNAUTHENTICATED


def test_anything_foreign_is_internal_and_keeps_its_text_to_itself() -> None:
    code, details, _ = status_of(KeyError("secret page bytes"))

    assert code is grpc.StatusCode.INTERNAL
    assert "secret" not in details


def test_the_rest_of_the_tree_is_a_failed_precondition() -> None:
    assert status_of(Closed("gone"))[0] is grpc.StatusCode.FAILED_PRECONDITION
