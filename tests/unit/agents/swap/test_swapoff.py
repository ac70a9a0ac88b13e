"""Bringing back what is out, where the kernel refuses."""

import errno
from pathlib import Path
from typing import Any

import pytest

from tmem.agents.host import swaps
from tmem.agents.host.swaps import SwapArea
from tmem.agents.swap import device
from tmem.agents.swap.state import Site
from tmem.wire.errors import NoRoom


class Kernel:
    """One whose swapoff fails so many times."""

    def __init__(self, failures: int, number: int = errno.ENOMEM) -> None:
        self.calls = 0
        self._failures = failures
        self._number = number

    def swapoff(self, _path: str) -> None:
        self.calls += 1
        if self.calls <= self._failures:
            raise OSError(self._number, "refused")


@pytest.fixture
def swap_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    area = SwapArea("/dev/loop0", 1 << 20, 4096, 1)
    monkeypatch.setattr(swaps, "find_area", lambda _path: area)
    monkeypatch.setattr(swaps, "list_areas", lambda: [area])

    def run(kernel: Kernel, *obstacles: str) -> None:
        monkeypatch.setattr(device, "kernel", kernel)
        monkeypatch.setattr(device, "obstacles", lambda *_args, **_options: list(obstacles))
        device._swap_off_for(Site(tmp_path, "t0"), area, 0, lambda _left: None, None)

    return run


def test_a_kernel_that_finds_no_memory_for_a_page_that_a_program_came_for_is_asked_again(swap_off: Any) -> None:
    kernel = Kernel(2)
    swap_off(kernel)
    assert kernel.calls == 3


def test_what_does_not_fit_is_not_asked_for_again_and_the_reason_is_told(swap_off: Any) -> None:
    kernel = Kernel(1)
    with pytest.raises(NoRoom, match="no room"):
        swap_off(kernel, "no room")
    assert kernel.calls == 1


def test_it_is_not_asked_for_ever(swap_off: Any) -> None:
    kernel = Kernel(1000)
    with pytest.raises(NoRoom):
        swap_off(kernel)
    assert kernel.calls < 10


def test_another_failure_is_told_as_it_is(swap_off: Any) -> None:
    kernel = Kernel(1, errno.EINTR)
    with pytest.raises(OSError, match="refused"):
        swap_off(kernel)
    assert kernel.calls == 1
