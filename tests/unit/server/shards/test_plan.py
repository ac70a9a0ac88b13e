from pathlib import Path
from typing import Any

import pytest

from tmem.server.cli import _parser
from tmem.server.config import Settings, load
from tmem.server.shards.plan import check_journal, shard_flags, shard_listen, shard_target
from tmem.server.store.journal.entries import JournalError


def parsed(flags: list[str]) -> Settings:
    namespace = vars(_parser().parse_args(flags))
    for name in ("config", "dump_config", "check_config", "run"):
        namespace.pop(name)
    return load(namespace, {}).settings


@pytest.mark.parametrize(
    ("listen", "number", "expected"),
    [
        ("127.0.0.1:8636", 0, "127.0.0.1:8636"),
        ("127.0.0.1:8636", 1, "127.0.0.1:8638"),
        ("127.0.0.1:8636", 3, "127.0.0.1:8640"),
        ("[::1]:8636", 1, "[::1]:8638"),
        ("127.0.0.1:0", 2, "127.0.0.1:0"),
        ("unix:/run/tmemd.sock", 0, "unix:/run/tmemd.sock"),
        ("unix:/run/tmemd.sock", 2, "unix:/run/tmemd.sock.2"),
    ],
)
def test_where_a_shard_listens(listen: str, number: int, expected: str) -> None:
    assert shard_listen(listen, number) == expected


@pytest.mark.parametrize(
    ("listen", "target", "told"),
    [
        ("127.0.0.1:0", "127.0.0.1:4711", "127.0.0.1:4711"),
        ("0.0.0.0:8636", "0.0.0.0:8638", ":8638"),
        ("[::]:8636", "[::]:8638", ":8638"),
        ("unix:/a", "unix:/a.1", "unix:/a.1"),
    ],
)
def test_how_clients_are_told_of_it(listen: str, target: str, told: str) -> None:
    assert shard_target(listen, target) == told


def test_a_shard_runs_with_its_part_of_everything_and_with_all_else(tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "shards": 4,
        "memory_limit": 8 << 30,
        "spill": tmp_path / "spill",
        "spill_limit": 4 << 30,
        "journal": tmp_path / "journal",
        "journal_sync": "always",
        "tokens": tmp_path / "tokens",
        "loop": "asyncio",
        "log_level": "debug",
        "reflection": True,
        "persistent_grace_seconds": 7.5,
        "session_timeout_seconds": 12.0,
        "layers": ("logged", "delayed:seconds=0.01"),
        "max_window": 16 << 20,
        "recompress": "never",
    }
    settings = Settings(**values)

    shard = parsed(shard_flags(settings, 2, "127.0.0.1:99"))

    differing = {
        name: getattr(shard, name) for name in Settings.model_fields if getattr(shard, name) != getattr(settings, name)
    }
    assert differing == {
        "listen": "127.0.0.1:99",
        "metrics_listen": "127.0.0.1:0",
        "memory_limit": 2 << 30,
        "spill_limit": 1 << 30,
        "journal": tmp_path / "journal" / "shard-2",
        "shards": 1,
        "shard": "2/4",
    }


class TestJournal:
    def test_another_number_of_shards_is_refused_by_name(self, tmp_path: Path) -> None:
        check_journal(tmp_path / "journal", 3)
        check_journal(tmp_path / "journal", 3)
        for count in (1, 2):
            with pytest.raises(JournalError, match=f"journal: .*written by 3 shards, not {count}"):
                check_journal(tmp_path / "journal", count)

    def test_one_process_leaves_no_note_and_is_known_by_its_files(self, tmp_path: Path) -> None:
        check_journal(tmp_path, 1)
        assert list(tmp_path.iterdir()) == []
        (tmp_path / "journal-00000001").touch()
        check_journal(tmp_path, 1)
        with pytest.raises(JournalError, match="written by 1 shards, not 2"):
            check_journal(tmp_path, 2)

    def test_a_note_that_says_nothing_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "shards").write_text("{}", "utf-8")
        with pytest.raises(JournalError, match="shards: not a file"):
            check_journal(tmp_path, 2)

    def test_without_a_journal_there_is_nothing_to_check(self) -> None:
        check_journal(None, 5)
