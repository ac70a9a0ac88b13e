"""An attempt to reach a target, beside the agent's work."""

import os
import threading
from collections.abc import Iterator
from typing import Any, cast

import pytest

from tmem.agents.pager.reaching import Reached, Reaching
from tmem.wire.errors import Closed, Unauthenticated, Unavailable

REACHED = cast("Reached", ("link", "pool"))


@pytest.fixture
def bell() -> Iterator[int]:
    descriptor = os.eventfd(0, os.EFD_NONBLOCK)
    yield descriptor
    os.close(descriptor)


def fail(error: Exception) -> Any:
    def work(_: Reaching) -> Reached:
        raise error

    return work


def test_the_bell_rings_once_there_is_an_outcome(bell: int) -> None:
    go_on = threading.Event()

    def work(_: Reaching) -> Reached:
        go_on.wait(30)
        return REACHED

    reaching = Reaching(work, bell)
    assert not reaching.over
    with pytest.raises(BlockingIOError):
        os.eventfd_read(bell)
    go_on.set()
    reaching.join(30)
    assert reaching.over
    assert reaching.reached == REACHED
    assert os.eventfd_read(bell) == 1
    assert not reaching.alive


@pytest.mark.parametrize(
    ("raised", "kind"), [(Unauthenticated("who are you"), Unauthenticated), (ValueError("a defect"), Unavailable)]
)
def test_whatever_an_attempt_ends_with_is_an_outcome(bell: int, raised: Exception, kind: type[Exception]) -> None:
    reaching = Reaching(fail(raised), bell)
    reaching.join(30)
    assert reaching.over
    assert reaching.reached is None
    assert isinstance(reaching.error, kind)
    assert str(raised) in str(reaching.error)
    assert os.eventfd_read(bell) == 1


def test_an_attempt_that_is_stopped_leaves_nothing_at_the_server_or_is_waited_for(bell: int) -> None:
    at, go_on = threading.Event(), threading.Event()

    def work(reaching: Reaching) -> Reached:
        at.set()
        go_on.wait(30)
        reaching.commit()
        return REACHED

    early = Reaching(work, bell)
    at.wait(30)
    assert not early.stop()  # nothing is there, nothing will be
    go_on.set()
    early.join(30)
    assert early.reached is None
    assert isinstance(early.error, Closed)

    late = Reaching(work, bell)
    late.join(30)
    assert late.stop()
    assert late.reached == REACHED
