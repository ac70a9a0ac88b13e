"""What a daemon holds once its clients are gone: nothing."""

from collections.abc import Sequence
from functools import partial

from tests.waiting import wait_until

import tmem.client
from tmem.cli.conformance.gauges import leftovers
from tmem.cli.scrape import scrape
from tmem.client.testing import CaptiveDaemon


def assert_empties(daemon: CaptiveDaemon, tokens: Sequence[str | None] = (None,), seconds: float = 45.0) -> None:
    """Ends every pool that the daemon's clients, who are gone, left; then every gauge must be 0.

    The session of a client that went without a goodbye lives on for its time-out: so long this waits.
    """
    for token in tokens:
        with tmem.client.connect(daemon.target, token=token) as client:
            wait_until(partial(_all_parked, client), seconds)
            for pool in client.pools():
                client.destroy_parked(pool.pool_id)
    try:
        wait_until(lambda: not leftovers(scrape(daemon.metrics_url)), seconds)
    except AssertionError:
        raise AssertionError(f"after all is gone: {leftovers(scrape(daemon.metrics_url))}") from None


def _all_parked(client: tmem.client.Client) -> bool:
    return all(pool.parked for pool in client.pools())
