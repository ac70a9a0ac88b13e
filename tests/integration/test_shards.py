"""A server of several processes, as its operator meets it: started, scraped, killed in part, stopped."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.pages import PAGE, random_page
from tests.processes import run_tmemd
from tests.waiting import wait_until

import tmem.client
import tmem.client.link
from tmem.cli.scrape import scrape, total
from tmem.client import Code
from tmem.client.sync.shards import ShardedClient
from tmem.client.testing import CaptiveDaemon
from tmem.wire import errors
from tmem.wire.handles import shard_of

Start = Callable[..., CaptiveDaemon]


def shards_of(daemon: CaptiveDaemon) -> list[str]:
    """Where the shards are, by number."""
    with tmem.client.connect(daemon.target) as client:
        assert isinstance(client, ShardedClient)
        return [shard.target for shard in client.shards]


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
            assert isinstance(client, ShardedClient)
            assert [shard.target for shard in client.shards] == targets
            capabilities = client.shards[number].capabilities
            assert [shard.shard_id for shard in capabilities.shards if not shard.target] == [number]
            assert capabilities.limits.memory_limit_bytes == 32 << 20
            assert client.capabilities.limits.memory_limit_bytes == 96 << 20
    metrics = scrape(daemon.metrics_url)
    assert total(metrics, "tmem_memory_limit_bytes") == 96 << 20
    assert total(metrics, "tmem_shard_up") == 3


def test_the_death_of_one_is_its_loss_alone_and_it_comes_back_where_it_was(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    targets = shards_of(daemon)
    with tmem.client.connect(daemon.target) as client:
        assert isinstance(client, ShardedClient)
        kept, lost = client.shards[0].create_pool("kept"), client.shards[1].create_pool("lost")
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
        assert shards_of(daemon) == targets
        metrics = scrape(daemon.metrics_url)
        assert total(metrics, "tmem_shard_restarts_total", shard="1") == 1
        assert total(metrics, "tmem_shard_restarts_total", shard="0") == 0
    assert "shard.died" in daemon.log()


def test_what_is_scraped_never_goes_back_while_a_shard_is_dead_and_comes_again(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")

    def stored() -> float:
        return total(scrape(daemon.metrics_url), "tmem_put_pages_total", result="stored")

    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("spread")
        pages = spread_pages(pool)
        assert stored() == len(pages)

        os.kill(pids_of(daemon)[1], signal.SIGKILL)

        counts = [stored()]

        def is_back() -> bool:
            metrics = scrape(daemon.metrics_url)
            counts.append(total(metrics, "tmem_put_pages_total", result="stored"))
            return total(metrics, "tmem_shard_restarts_total") == 1 and total(metrics, "tmem_shard_up") == 2

        wait_until(is_back)
        again = spread_pages(pool)
        counts.append(stored())

    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (len(pages), len(pages) + len(again))


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
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("kept", durability="disk")
        pages = spread_pages(pool)
        token, epochs = pool.token, pool.epochs
    shards = pids_of(daemon).values()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in shards))

    refused = run_tmemd("--shards", "3", *journal, "--listen", "127.0.0.1:0", "--metrics-listen", "none")
    assert refused.returncode == 2
    assert "written by 2 shards, not 3" in refused.stderr

    again = start_daemon("--shards", "2", *journal)
    with tmem.client.connect(again.target) as client:
        assert codes_of(client.open_pool("kept", token, epochs), pages) == [Code.HIT] * len(pages)


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


# ---- Through a client ----

BLOCK = 512


def spread_pages(pool: tmem.client.Pool, count: int = 24) -> dict[int, bytes]:
    """Stores one page in each of many blocks; answers them by index."""
    pages = {block * BLOCK: random_page(block) for block in range(count)}
    with pool.batch() as batch:
        for index, page in pages.items():
            batch.put(1, index, page)
    return pages


def codes_of(pool: tmem.client.Pool, pages: dict[int, bytes]) -> list[Code]:
    codes = []
    for index, page in pages.items():
        into = bytearray(PAGE)
        got = pool.get_into(1, index, into)
        assert not got.hit or into == page
        codes.append(got.pages[0])
    return codes


def test_a_client_spreads_blocks_over_all_shards_and_finds_them_again(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "3")
    with tmem.client.connect(daemon.target) as client:
        assert isinstance(client, ShardedClient)
        pool = client.create_pool("spread", quota_bytes=3 << 20)
        pages = spread_pages(pool)
        assert pool.stat().pages == len(pages)
        held = [shard.pools()[0] for shard in client.shards]
        counts = [shard.stat_pool(info.pool_id).pages for shard, info in zip(client.shards, held, strict=True)]
        expected = [sum(shard_of(1, index // BLOCK, 3) == number for index in pages) for number in range(3)]
        assert counts == expected
        assert all(counts)
        assert [info.quota_bytes for info in held] == [1 << 20] * 3
        assert client.pools()[0].quota_bytes == pool.info().quota_bytes == 3 << 20
        assert codes_of(pool, pages) == [Code.HIT] * len(pages)
        assert pool.flush_object(1) == len(pages)
        assert [shard.stat_pool(info.pool_id).pages for shard, info in zip(client.shards, held, strict=True)] == [0] * 3


def test_what_a_dead_shard_held_is_lost_and_nothing_else(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    with tmem.client.connect(daemon.target) as client:
        pool = client.create_pool("spread")
        pages = spread_pages(pool)

        os.kill(pids_of(daemon)[1], signal.SIGKILL)

        expected = [Code.LOST if shard_of(1, index // BLOCK, 2) else Code.HIT for index in pages]
        assert codes_of(pool, pages) == expected
        assert pool.incomplete
        pages = spread_pages(pool)
        assert codes_of(pool, pages) == [Code.HIT] * len(pages)


def test_opening_a_pool_fences_its_writer_on_every_shard(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    with tmem.client.connect(daemon.target) as first, tmem.client.connect(daemon.target) as second:
        pool = first.create_pool("spread")
        pages = spread_pages(pool)
        again = second.open_pool("spread", pool.token, pool.epochs)
        assert codes_of(again, pages) == [Code.HIT] * len(pages)
        for block in range(8):
            with pytest.raises(errors.Fenced):
                pool.put(1, block * BLOCK, random_page(0))
        with pytest.raises(errors.InvalidOption, match="epochs"):
            second.open_pool("spread", pool.token, pool.epoch)


def test_a_pool_is_made_on_all_shards_or_on_none(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    with tmem.client.connect(shards_of(daemon)[1]) as whole:
        assert isinstance(whole, ShardedClient)
        alone = whole.shards[1].create_pool("taken")
        with pytest.raises(errors.PoolExists):
            whole.create_pool("taken")
        assert whole.shards[0].pools() == []
        assert whole.pools() == []
        alone.destroy()
        whole.create_pool("taken").destroy()


def test_a_pool_of_all_shards_goes_into_one_snapshot_and_comes_back(start_daemon: Start, tmp_path: Path) -> None:
    daemon = start_daemon("--shards", "3")
    file = tmp_path / "snapshot"
    environment = os.environ | {"TMEM_TARGET": daemon.target}
    command = [sys.executable, "-m", "tmem.cli", "snapshot"]
    with tmem.client.connect(daemon.target) as client:
        pages = spread_pages(client.create_pool("spread"))
        subprocess.run([*command, "export", "spread", str(file)], env=environment, check=True, capture_output=True)
        single = start_daemon()
        done = subprocess.run(
            [*command, "import", str(file), "--json"],
            env=os.environ | {"TMEM_TARGET": single.target},
            check=True,
            capture_output=True,
        )
        report = json.loads(done.stdout)
        assert report["pages"] == len(pages)
        with tmem.client.connect(single.target) as other:
            pool = other.open_pool("spread", bytes.fromhex(report["token"]))
            assert codes_of(pool, pages) == [Code.HIT] * len(pages)


def test_a_link_says_that_it_is_for_one_shard(start_daemon: Start) -> None:
    daemon = start_daemon("--shards", "2")
    with pytest.raises(errors.InvalidOption, match="2 shards"):
        tmem.client.link.connect(daemon.target)
