"""A device's pool, on a real server: how a worker comes to it, and what it makes of one that is gone."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.agents.swap.test_worker import PAGES, TOKEN, config_of

import tmem.client.link
from tmem.agents.swap.remote import Pool, presence_bytes
from tmem.agents.swap.shared import CONTROL_BYTES, Control, Identity, Word
from tmem.client.testing import CaptiveDaemon


class Side:
    """What a holder keeps of a device, and its workers' pools."""

    def __init__(self, descriptor: int, target: str, token: bytes = TOKEN, epoch: int = 1, **changes: Any) -> None:
        self.config = config_of(target, **changes)
        self.control = Control.make(descriptor, PAGES, Identity(token, epoch))
        self.presence = bytearray(presence_bytes(PAGES))
        self.lost: list[tuple[int, int]] = []
        self.pools: list[Pool] = []

    def pool(self) -> Pool:
        """The next worker's."""
        presence = memoryview(self.presence)
        self.pools.append(Pool(self.config, self.control, presence, lambda *what: self.lost.append(what)))
        return self.pools[-1]

    def close(self) -> None:
        for pool in self.pools:
            if pool._client is not None:
                pool._client.close()
        self.control.close()


@pytest.fixture
def make_side(tmp_path) -> Iterator[Callable[..., Side]]:
    made: list[Side] = []
    with (tmp_path / "control").open("w+b") as file:
        file.truncate(CONTROL_BYTES)

        def make(target: str, **changes: Any) -> Side:
            made.append(Side(file.fileno(), target, **changes))
            return made[-1]

        yield make
        for side in made:
            side.close()


def names(daemon: CaptiveDaemon) -> dict[str, int]:
    with tmem.client.link.connect(daemon.target) as client:
        return {pool.name: pool.pool_id for pool in client.pools()}


def test_a_pool_of_the_devices_name_that_it_did_not_begin_to_make_is_not_destroyed(start_daemon, make_side):
    daemon = start_daemon()
    with tmem.client.link.connect(daemon.target) as other:
        other.create_pool("swap/test/t0", token=b"o" * 32)
    before = names(daemon)
    side = make_side(daemon.target)
    pool = side.pool()
    assert "somebody else" in (pool.open() or "")
    assert pool.open() is None, "it is said once"
    assert not pool.ready
    assert names(daemon) == before


def test_a_pool_that_a_killed_worker_had_begun_to_make_is_made_again(start_daemon, make_side):
    daemon = start_daemon()
    with tmem.client.link.connect(daemon.target) as killed:
        killed.create_pool("swap/test/t0", token=b"k" * 32)
    before = names(daemon)
    side = make_side(daemon.target)
    side.control.words[Word.REMAKING] = 1
    pool = side.pool()
    assert pool.open() is None
    assert pool.ready
    assert not side.control.words[Word.REMAKING]
    assert names(daemon).keys() == before.keys()
    assert names(daemon) != before
    assert side.control.identity.token != TOKEN
