"""A checksumming hog in far memory, while agents are killed and servers freeze or die: not one wrong byte.

Each test has a short form, and one of a minute that `make test-long` runs.
"""

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import MIB, Hogging, await_gone, descendants

Hog = Callable[..., Hogging]

KINDS = {
    "4KiB": {"size": 24 * MIB, "resident": 6 * MIB},
    "thp": {"size": 32 * MIB, "resident": 12 * MIB},
    "hugetlb": {"size": 32 * MIB, "resident": 12 * MIB},
}
LENGTHS = [pytest.param(2.0, 2, id="short"), pytest.param(60.0, 10, id="minute", marks=pytest.mark.long)]


def check(found: dict[str, Any]) -> None:
    """Nothing was wrong, and it was really far."""
    assert found["bad"] == 0
    assert found["stats"]["lost_bytes"] == 0
    assert found["stats"]["poisoned"] == 0
    assert found["stats"]["evicted"] > 20
    assert found["stats"]["remote_bytes"] > 0


@pytest.mark.parametrize("pages", KINDS, indirect=True)
@pytest.mark.parametrize(("seconds", "kills"), LENGTHS)
def test_agents_are_killed_and_no_byte_is_wrong(
    seconds: float, kills: int, pages: str, start_hog: Hog, start_daemon: Callable[..., Any]
) -> None:
    daemon = start_daemon("--memory-limit", "256MiB")
    hog = start_hog(target=daemon.target, pages=pages, **KINDS[pages])
    hog.until(lambda line: line["evicted"] > 20)
    begun = time.monotonic()
    for number in range(kills):
        hog.kill_agent()  # when it has served, however long that takes on a busy machine
        pause = seconds * (number + 1) / kills
        hog.until(lambda _, pause=pause: time.monotonic() - begun > pause)  # type: ignore[misc]
    found = hog.result()
    check(found)
    assert found["stats"]["agents"] == kills + 1
    assert found["stats"]["takeovers"] == kills


@pytest.mark.parametrize(
    ("seconds", "frozen"),
    [pytest.param(5.0, 2.0, id="short"), pytest.param(60.0, 5.0, id="minute", marks=pytest.mark.long)],
)
def test_the_server_is_frozen_and_goes_on(
    seconds: float, frozen: float, start_hog: Hog, start_daemon: Callable[..., Any]
) -> None:
    daemon = start_daemon("--memory-limit", "256MiB")
    hog = start_hog(target=daemon.target, **KINDS["4KiB"])
    hog.until(lambda line: line["evicted"] > 1000)
    daemon.signal(signal.SIGSTOP)
    begun = time.monotonic()
    try:
        hog.until(lambda _: time.monotonic() - begun > frozen)
    finally:
        daemon.signal(signal.SIGCONT)
    restored = hog.last["restored"]
    hog.until(lambda line: time.monotonic() - begun > seconds and line["restored"] > restored)
    found = hog.result()
    check(found)
    assert found["stats"]["agents"] == 1
    assert found["longest_ns"] > frozen * 0.5e9  # somebody did wait for it


def test_a_dead_server_is_sigbus_within_the_deadline_and_nothing_is_left(
    start_hog: Hog, start_daemon: Callable[..., Any]
) -> None:
    daemon = start_daemon("--memory-limit", "256MiB")
    hog = start_hog(target=daemon.target, deadline=2.0, **KINDS["4KiB"])
    hog.until(lambda line: line["evicted"] > 1000)
    processes = descendants(hog.process.pid)
    assert len(processes) >= 2
    daemon.kill()
    # The deadline, and time for a busy machine: far less than the hog would go on for, or a hang would last.
    assert hog.process.wait(25) == -signal.SIGBUS
    await_gone(processes)
