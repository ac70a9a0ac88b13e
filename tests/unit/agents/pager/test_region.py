"""What outlives an agent."""

import os
from typing import Any

from tmem.agents.pager import latencies
from tmem.agents.pager.ledger import Figures
from tmem.agents.pager.region import PoolKey, Region
from tmem.agents.pager.settings import Settings, Target
from tmem.agents.pager.table import State

MIB = 1 << 20


def settings(**changes: Any) -> Settings:
    options: dict[str, Any] = {
        "size": 8 * MIB,
        "resident": MIB,
        "targets": (Target("a:1"), Target("b:2", "t")),
        "name": "n",
    }
    return Settings(**options | changes)


def test_what_one_process_writes_into_a_region_s_file_the_next_one_finds() -> None:
    first = Region.create(settings(), 0, 0)
    try:
        first.place(0x7F00_0000_0000, 4711)
        first.table.set_states(7, 2, State.REMOTE)
        first.table.sequences[7] = 0xFFFF_FFFF
        assert first.key(1) is None
        first.set_key(1, PoolKey("far-1", b"t" * 64, 1 << 63))
        first.note_agent(99)
        first.note_beat()
        first.note_accepting(2)
        first.write_figures(Figures(evicted=5, takeovers=3))
        latencies.note(first.latencies, 0.001)
        second = Region(first.descriptor)
        assert second.settings == settings()
        assert not second.outlives_giver
        assert (second.base, second.pid, second.agent, second.starts) == (0x7F00_0000_0000, 4711, 99, 1)
        assert (second.beat, second.accepting) == (1, 2)
        assert second.table.states[8] == State.REMOTE
        assert second.key(1) == PoolKey("far-1", b"t" * 64, 1 << 63)
        assert second.key(0) is None
        assert second.read_figures()["evicted"] == 5
        assert sum(second.latencies) == 1
        # `freed` is where who maps it alone is told.
        os.pwrite(first.descriptor, b"\1", first.freed_at + 9)
        assert second.table.freed[9] == 1
        for region in (first, second):
            region.close()
    finally:
        os.close(first.descriptor)
