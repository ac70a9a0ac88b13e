"""Settings of a region."""

from typing import Any

import pytest

from tmem.agents.pager.settings import Pages, Settings, Target, default_prefetch

MIB = 1 << 20


def settings(**changes: Any) -> Settings:
    options: dict[str, Any] = {
        "size": 8 * MIB,
        "resident": MIB,
        "targets": (Target("a:1"), Target("b:2", "t")),
        "name": "n",
    }
    return Settings(**options | changes)


@pytest.mark.parametrize("pages", Pages)
def test_settings_survive_their_encoding_and_know_their_units(pages: Pages) -> None:
    made = settings(pages=pages, resident=8 * MIB)
    assert Settings.decode(made.encode()) == made
    assert made.unit == (4096 if pages is Pages.BASE else 2 * MIB)
    assert made.units * made.unit == made.size
    assert made.kernel_page == (2 * MIB if pages is Pages.HUGETLB else 4096)
    assert default_prefetch(pages) >= made.unit
