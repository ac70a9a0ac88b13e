"""Memory that a pool is promised: through a real daemon, its restart, and its metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.pages import PAGE, random_page

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import InvalidRequest, OutOfCapacity

MIB = 1 << 20


def test_a_pool_gets_what_it_reserved_though_others_came_first(start_daemon: Callable[..., CaptiveDaemon]) -> None:
    daemon = start_daemon("--memory-limit", "16MiB")
    with tmem.client.connect(daemon.target) as client:
        pages = 1024
        reserved = pages * (PAGE + client.capabilities.limits.page_overhead_bytes)
        promised = client.create_pool("promised", reserved_bytes=reserved)
        greedy = client.create_pool("greedy")
        with greedy.batch() as batch:
            puts = [batch.put(1, number, random_page(number)) for number in range(4096)]
        assert not all(put.stored for put in puts)

        with promised.batch() as batch:
            kept = [batch.put(1, number, random_page(number)) for number in range(pages)]

        assert all(put.stored for put in kept)
        assert promised.info().reserved_bytes == reserved


def test_what_can_not_be_promised_is_refused_with_what_there_is(any_client: Any, pool_name: Callable[[], str]) -> None:
    limit = any_client.capabilities.limits.memory_limit_bytes
    with pytest.raises(OutOfCapacity, match="can't be reserved"):
        any_client.create_pool(pool_name(), reserved_bytes=limit)

    pool = any_client.create_pool(pool_name(), reserved_bytes=MIB)
    with pytest.raises(OutOfCapacity):
        pool.resize(reserved_bytes=limit)
    with pytest.raises(InvalidRequest, match="quota"):
        pool.resize(quota_bytes=MIB // 2)
    assert pool.info().reserved_bytes == MIB
    pool.resize(quota_bytes=MIB // 2, reserved_bytes=0)
    assert pool.info().reserved_bytes == 0
    pool.destroy()


def test_only_persistent_pools_reserve(any_client: Any, pool_name: Callable[[], str]) -> None:
    with pytest.raises(InvalidRequest, match="persistent"):
        any_client.create_pool(pool_name(), "ephemeral", reserved_bytes=MIB)


def test_a_reservation_survives_a_restart_and_a_daemon_that_is_too_small_for_it_does_not_start(
    start_daemon: Callable[..., CaptiveDaemon], tmp_path: Path
) -> None:
    first = start_daemon("--memory-limit", "64MiB", "--journal", str(tmp_path))
    with tmem.client.connect(first.target) as client:
        client.create_pool("kept", durability="disk", reserved_bytes=32 * MIB)
    first.kill()

    with pytest.raises(RuntimeError, match="33554432 bytes can't be reserved"):
        start_daemon("--memory-limit", "16MiB", "--journal", str(tmp_path))
    second = start_daemon("--memory-limit", "64MiB", "--journal", str(tmp_path))
    with tmem.client.connect(second.target) as client:
        assert [pool.reserved_bytes for pool in client.pools()] == [32 * MIB]
        assert total(scrape(second.metrics_url), "tmem_reserved_bytes", kind="persistent") == 32 * MIB
        with pytest.raises(OutOfCapacity):
            client.create_pool("more", reserved_bytes=32 * MIB)


def test_a_pool_that_is_made_again_on_an_empty_server_reserves_again(
    start_daemon: Callable[..., CaptiveDaemon],
) -> None:
    first = start_daemon("--memory-limit", "64MiB")
    with tmem.client.connect(first.target) as client:
        pool = client.create_pool("again", reserved_bytes=MIB)
        pool.resize(reserved_bytes=2 * MIB)
        first.kill()  # perhaps before the client's first stream is open
        second = start_daemon("--memory-limit", "64MiB", listen=first.target)

        pool.put(1, 0, random_page(1))

        assert pool.info().reserved_bytes == 2 * MIB
        second.kill()
