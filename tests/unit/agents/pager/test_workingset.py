"""A working set on paper."""

from pathlib import Path
from typing import Any

import pytest

from tmem.agents.pager.workingset import read_runs, write_runs
from tmem.wire.errors import InvalidOption


def test_a_working_set_is_written_whole_and_read_back_and_nonsense_is_told(tmp_path: Path) -> None:
    path = tmp_path / "set"
    write_runs(path, [(0, 4096), (1 << 40, 8192)])
    assert list(read_runs(path)) == [(0, 4096), (1 << 40, 8192)]

    def breaks() -> Any:
        yield (0, 1)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_runs(path, breaks())
    assert list(read_runs(path)) == [(0, 4096), (1 << 40, 8192)]
    assert [each.name for each in tmp_path.iterdir()] == ["set"]
    for text in (
        "",
        "something else\n",
        "tmem working set 1\n1 2 3\n",
        "tmem working set 1\n-1 2\n",
        "tmem working set 1\nx y\n",
    ):
        path.write_text(text, "ascii")
        with pytest.raises(InvalidOption):
            list(read_runs(path))
