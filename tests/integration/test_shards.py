"""A server of several processes, as its operator meets it: started, scraped, killed in part, stopped."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pages import PAGE, random_page
from tests.processes import run_tmemd
from tests.waiting import wait_until

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]


def shards_of(daemon: CaptiveDaemon) -> list[str]:
    """Where the shards are, by number."""
    with tmem.client.connect(daemon.target) as client:
        return [shard.target or daemon.target for shard in client.capabilities.shards]


def pids_of(daemon: CaptiveDaemon) -> dict[int, int]:
    """The processes of the shards, by number."""
    found = {}
    for task in Path(f"/proc/{daemon.pid}/task").glob("*/children"):
        for pid in map(int, task.read_text("ascii").split()):
            match = re.search(rb"--shard\0(\d+)/", Path(f"/proc/{pid}/cmdline").read_bytes())
            if match is not None:
                found[int(match[1])] = pid
    return found


def test_every_shard_names_all_of_them_and_holds_its_part(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "3", "--memory-limit", "96MiB")
    targets = shards_of(daemon)
    assert len(set(targets)) == 3
    for number, target in enumerate(targets):
        with tmem.client.connect(target) as client:
            capabilities = client.capabilities
            named = [shard.target or target for shard in capabilities.shards]
            assert named == targets
            assert [shard.shard_id for shard in capabilities.shards if not shard.target] == [number]
            assert capabilities.limits.memory_limit_bytes == 32 << 20
    metrics = scrape(daemon.metrics_url)
    assert total(metrics, "tmem_memory_limit_bytes") == 96 << 20
    assert total(metrics, "tmem_shard_up") == 3


def test_the_death_of_one_is_its_loss_alone_and_it_comes_back_where_it_was(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    first, second = shards_of(daemon)
    with tmem.client.connect(first) as survivor, tmem.client.connect(second) as victim:
        kept, lost = survivor.create_pool("kept"), victim.create_pool("lost")
        kept.put(1, 0, random_page(1))
        lost.put(1, 0, random_page(2))
        before = pids_of(daemon)

        os.kill(before[1], signal.SIGKILL)

        page = bytearray(PAGE)
        assert kept.get_into(1, 0, page).hit
        assert page == random_page(1)
        assert lost.get_into(1, 0, page).lost
        lost.put(1, 0, random_page(3))
        assert lost.get_into(1, 0, page).hit
        after = pids_of(daemon)
        assert after[0] == before[0]
        assert after[1] != before[1]
        assert shards_of(daemon) == [first, second]
        metrics = scrape(daemon.metrics_url)
        assert total(metrics, "tmem_shard_restarts_total", shard="1") == 1
        assert total(metrics, "tmem_shard_restarts_total", shard="0") == 0
    assert "shard.died" in daemon.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_shard_outlives_the_server(start_daemon: Start, number: signal.Signals) -> None:
    daemon = start_daemon("--shards", "2")
    shards = pids_of(daemon).values()
    assert len(shards) == 2

    daemon.signal(number)

    assert daemon.wait() == (0 if number == signal.SIGTERM else -number)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shards))


def test_a_journal_comes_back_shard_by_shard_and_not_to_another_number_of_them(
    start_daemon: Start, tmp_path: Path
) -> None:
    journal = ("--journal", str(tmp_path / "journal"))
    daemon = start_daemon("--shards", "2", *journal)
    tokens = []
    for number, target in enumerate(shards_of(daemon)):
        with tmem.client.connect(target) as client:
            pool = client.create_pool("kept", durability="disk")
            pool.put(1, 0, random_page(number))
            tokens.append(pool.token)
    daemon.close()

    refused = run_tmemd("--shards", "3", *journal, "--listen", "127.0.0.1:0", "--metrics-listen", "none")
    assert refused.returncode == 2
    assert "written by 2 shards, not 3" in refused.stderr

    again = start_daemon("--shards", "2", *journal)
    for number, target in enumerate(shards_of(again)):
        with tmem.client.connect(target) as client:
            pool = client.open_pool("kept", tokens[number])
            page = bytearray(PAGE)
            assert pool.get_into(1, 0, page).hit
            assert page == random_page(number)


def test_a_shard_that_can_not_start_ends_the_server_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_tmemd(
        "--shards", "2", "--spill", str(tmp_path / "file"), "--listen", "127.0.0.1:0", "--metrics-listen", "none"
    )  # fmt: skip
    assert done.returncode == 2
    assert "--spill" in done.stderr
    assert re.search(r"shard \d could not be started", done.stderr)


def test_a_unix_socket_has_one_beside_it_for_each_shard(start_daemon: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    daemon = start_daemon("--shards", "2", listen=f"unix:{path}")
    assert shards_of(daemon) == [f"unix:{path}", f"unix:{path}.1"]
    daemon.close()
    assert list(tmp_path.iterdir()) == []
