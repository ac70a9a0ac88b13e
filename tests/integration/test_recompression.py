"""Recompression by a real daemon: when it has nothing else to do, and unseen by readers."""

from collections.abc import Callable

from tests.pages import PAGE, text_page
from tests.waiting import wait_until

import tmem.client
from tmem.cli.scrape import scrape, total
from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]
BLOCK = b"".join(text_page(seed) for seed in range(512))


def fill(client: tmem.client.Client) -> tmem.client.Pool:
    pool = client.create_pool("pages")
    for block in range(8):
        pool.put(7, block * 512, BLOCK)
    return pool


def test_an_idle_daemon_makes_smaller_what_it_holds_unless_it_is_told_not_to(start_daemon: Start) -> None:
    daemon, other = start_daemon("--memory-limit", "64MiB"), start_daemon("--recompress", "never")
    with tmem.client.connect(daemon.target) as client, tmem.client.connect(other.target) as beside:
        left_alone = fill(beside)
        pool = fill(client)
        before = pool.stat()

        wait_until(lambda: pool.stat().payload_bytes < 0.9 * before.payload_bytes)

        assert total(scrape(daemon.metrics_url), "tmem_recompression_bytes_total", result="saved") > 0
        assert pool.stat().pages == before.pages
        into = bytearray(512 * PAGE)
        for block in range(8):
            assert pool.get_into(7, block * 512, into).hit
            assert into == BLOCK
        # As much time has passed there.
        assert left_alone.stat().payload_bytes == before.payload_bytes
        assert total(scrape(other.metrics_url), "tmem_recompression_bytes_total", result="tried") == 0
