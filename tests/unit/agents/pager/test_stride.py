"""What comes next."""

import random

import pytest

from tmem.agents.pager.stride import Strides


def touches(strides: Strides, *units: int) -> list[int]:
    """What is read ahead of these touches."""
    ahead: list[int] = []
    for unit in units:
        window = strides.note(unit, missed=unit not in ahead)
        ahead += window.units if window is not None else ()
    return ahead


@pytest.mark.parametrize("step", [1, -1, 2, 7, -16])
def test_a_stream_is_seen_whatever_its_step(step: int) -> None:
    begin = 5000
    ahead = touches(Strides(10_000, 32), *(begin + step * at for at in range(30)))
    assert ahead[:3] == sorted(ahead[:3], reverse=step < 0)
    assert {(unit - begin) % step for unit in ahead} == {0}
    assert len(set(ahead)) == len(ahead) > 20


def test_streams_in_between_each_other_are_told_apart() -> None:
    strides = Strides(100_000, 16)
    ahead = touches(strides, *(base + at for at in range(12) for base in (100, 20_000, 50_000, 90_000)))
    assert {unit // 10_000 for unit in ahead} == {0, 2, 5, 9}


def test_a_window_ends_with_the_region_and_grows_to_its_limit() -> None:
    strides = Strides(100, 16)
    ahead = touches(strides, *range(100))
    assert max(ahead) == 99
    assert min(touches(Strides(100, 16), *range(99, -1, -1))) == 0
    windows = []
    strides = Strides(100_000, 16)
    for unit in range(2000):
        window = strides.note(unit, missed=False)
        if window is not None:
            windows.append(window.length)
            assert window.marker in window.units
    assert windows[:3] == [4, 8, 16]
    assert max(windows) == 16


def test_what_wanders_is_no_stream() -> None:
    chance = random.Random(1)
    ahead = touches(Strides(1 << 20, 64), *(chance.randrange(1 << 20) for _ in range(2000)))
    assert len(ahead) < 50
    assert touches(Strides(100, 0), *range(50)) == []
    assert touches(Strides(100, 16), *([7] * 10)) == []
