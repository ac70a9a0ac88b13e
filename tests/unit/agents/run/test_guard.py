"""The order in which a run is taken down, also when its program can't be ended."""

import pytest

from tmem.agents.host.cgroups import Group
from tmem.agents.run.guard import take_down


class Stuck(Group):
    """A group whose program waits for a page of the device: it ends when the device is gone."""

    def __init__(self, steps: list[str], *, ends: bool = False) -> None:
        self.steps = steps
        self.ends = ends

    limit = swap_forbidden = property(lambda self: None)

    def set_limit(self, size):
        raise NotImplementedError

    def forbid_swap(self):
        raise NotImplementedError

    def usage(self):
        raise NotImplementedError

    def end(self, seconds: float = 0) -> None:
        self.steps.append("end")
        if not self.ends:
            raise TimeoutError("processes do not end")


def test_a_program_that_ends_goes_before_its_device():
    steps: list[str] = []
    take_down(Stuck(steps, ends=True), lambda stuck: steps.append(f"detach {stuck}"))
    assert steps == ["end", "detach False"]


def test_a_program_that_waits_for_the_device_goes_after_it():
    steps: list[str] = []
    group = Stuck(steps)

    def detach(stuck: bool) -> None:
        steps.append(f"detach {stuck}")
        group.ends = True

    take_down(group, detach)
    assert steps == ["end", "detach True", "end"]


def test_a_device_that_can_t_be_detached_does_not_keep_the_program():
    steps: list[str] = []
    group = Stuck(steps)

    def detach(_stuck: bool) -> None:
        group.ends = True
        raise OSError("still in use")

    with pytest.raises(OSError, match="still in use"):
        take_down(group, detach)
    assert steps == ["end", "end"]


def test_what_is_left_is_told():
    with pytest.raises(TimeoutError):
        take_down(Stuck([]), lambda _: None)
