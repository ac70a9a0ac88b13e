"""Waiting for what happens in another process, where nothing tells that it has."""

import time
from collections.abc import Callable

_INTERVAL_SECONDS = 0.02


def wait_until(ready: Callable[[], object], seconds: float = 20.0) -> None:
    """Asks again and again until it is so; fails when it is not so for so long."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"not so after {seconds:g} s"
        time.sleep(_INTERVAL_SECONDS)
