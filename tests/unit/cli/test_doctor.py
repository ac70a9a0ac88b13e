"""What `tmem doctor` looks at."""

from collections import Counter

from tmem.agents.host.machine import Machine
from tmem.agents.swap.protocol import Features
from tmem.cli.doctor import look


def test_nothing_is_listed_twice(tmp_path):
    found = Counter(
        finding.what for finding in look(Machine(tmp_path, 0, lambda _: None), lambda: Features(1, 7, 45, 0, 0))
    )
    assert [what for what, times in found.items() if times > 1] == []
    assert found["hpack"] == 1
