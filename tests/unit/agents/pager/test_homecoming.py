"""When pages come home."""

from tmem.agents.pager.homecoming import Homecoming


def test_home_after_the_inertia_in_portions_that_end() -> None:
    home = Homecoming(10.0, 16, now=0.0)
    assert home.due(1000, 1000, 9.9) == 0
    assert home.due(1000, 1000, 10.0) == 62
    assert home.due(1000, 1000, 10.05) == 0
    assert home.due(938, 5, 10.1) == 5
    assert home.due(20, 1000, 10.2) == 16
    assert home.due(4, 1000, 10.3) == 4
    home.grew(10.3)
    assert home.due(100, 1000, 20.2) == 0
    assert home.due(100, 1000, 20.3) == 16
    assert home.next_time(0) == float("inf")
    assert home.due(100, 0, 40.0) == 0
