"""Driving a link as an agent does."""

import time
from collections.abc import Callable
from typing import Any

from tests.faces import drive

import tmem.client.link


def drive_until(link: tmem.client.link.Client, ready: Callable[[], object], seconds: float = 30.0) -> None:
    """Drives a link as an agent's loop does, until something is so."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        drive(link, 0.2)


class Told:
    """A `done` that notes what it was told."""

    def __init__(self) -> None:
        self.results: list[Any] = []

    def __call__(self, result: Any) -> None:
        self.results.append(result)

    def __len__(self) -> int:
        return len(self.results)
