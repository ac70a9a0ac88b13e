"""Disks for tests that decide when something happens."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tmem.server.host.scratch import ScratchFile
from tmem.server.store.pending import Pending

T = TypeVar("T")


class LateScratch(ScratchFile):
    """A disk that does nothing before it is told to, and then the oldest thing first."""

    def __init__(self, directory: Path, slot_bytes: int, limit_bytes: int) -> None:
        super().__init__(directory, slot_bytes, limit_bytes, post=lambda _: None)
        self.jobs: list[Callable[[], None]] = []

    def _do(self, executor: object, work: Callable[[], T]) -> Pending[T]:
        pending: Pending[T] = Pending()
        self.jobs.append(lambda: pending.settle(work()))
        return pending

    def turn(self) -> bool:
        if self.jobs:
            self.jobs.pop(0)()
            return True
        return False

    def finish(self) -> None:
        while self.turn():
            pass
