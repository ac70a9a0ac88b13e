"""The judge of the campaign's load: what it allows, and what it does not."""

import random
from types import SimpleNamespace
from typing import Any

from tests.faults.load import LOST, Load, Slot, _Worker

from tmem.client import Code, GetResult
from tmem.wire.handles import Extent


class _Idle(_Worker):
    """One that is told answers by hand."""

    def make_slots(self) -> list[Slot]:
        return [Slot(1, 0, 1)]

    def step(self) -> None:
        """Nothing."""


def idle() -> tuple[Load, _Idle, Slot]:
    load = Load("nowhere:1", 1, lone=False, batches=False)
    pool: Any = SimpleNamespace(name="pool")
    worker = _Idle(load, pool, pool, random.Random(1), 1)
    return load, worker, worker.slots[0]


def hit(worker: _Idle, slot: Slot, base: int, losing: int) -> None:
    result = GetResult(Extent(slot.obj, slot.first, slot.pages), take=False)
    result.pages = [Code.HIT]
    worker.get_answered(slot, result, memoryview(worker.plain(base, 1)), losing)


def test_a_get_that_was_answered_before_memory_was_lost_and_is_looked_at_after_that_is_right() -> None:
    load, worker, slot = idle()
    worker.put_answered(slot, 1024, None, load.begun_losses)
    before = load.begun_losses
    with load.losing():
        during = load.begun_losses

    hit(worker, slot, 1024, before)
    assert not worker.tally.wrong
    assert slot.may == {1024, LOST}
    hit(worker, slot, 1024, during)
    assert not worker.tally.wrong


def test_a_get_that_begins_after_memory_was_lost_must_not_find_what_was_there() -> None:
    load, worker, slot = idle()
    worker.put_answered(slot, 1024, None, load.begun_losses)
    with load.losing():
        pass

    hit(worker, slot, 1024, load.begun_losses)

    assert len(worker.tally.wrong) == 1


def test_a_put_that_is_answered_while_memory_is_being_lost_may_be_lost_or_not() -> None:
    load, worker, slot = idle()
    with load.losing():
        worker.put_answered(slot, 2048, None, load.begun_losses)
    load.age(slot)

    assert slot.may == {2048, LOST}
