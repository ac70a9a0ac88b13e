"""A device's pool, on a real server: how a worker comes to it, and what it makes of one that is gone."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.pages import text_page
from tests.unit.agents.swap.test_worker import PAGES, TOKEN, config_of
from tests.waiting import wait_until

import tmem.client.link
from tmem.agents.swap.config import Config
from tmem.agents.swap.remote import NewPool, Pool, presence_bytes
from tmem.agents.swap.shared import CONTROL_BYTES, Control, Identity, Word
from tmem.cli.scrape import scrape, total
from tmem.client import SharedPresence
from tmem.client.testing import CaptiveDaemon
from tmem.wire.errors import Unavailable


class Side:
    """What a holder keeps of a device, and its workers' pools."""

    def __init__(self, descriptor: int, target: str, token: bytes = TOKEN, epoch: int = 1, **changes: Any) -> None:
        self.config = config_of(target, **changes)
        self.control = Control.make(descriptor, PAGES, Identity(token, epoch))
        self.presence = bytearray(presence_bytes(PAGES))
        self.lost: list[tuple[int, int]] = []
        self.pools: list[Pool] = []

    def pool(self, meanwhile: Callable[[], object] = lambda: None) -> Pool:
        """The next worker's."""
        presence = memoryview(self.presence)
        self.pools.append(Pool(self.config, self.control, presence, lambda *what: self.lost.append(what), meanwhile))
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


def served(side: Side) -> Pool:
    """The next worker's pool, with an answer that it got."""
    pool = side.pool()
    assert pool.open() is None
    results: list[Any] = []
    pool.get([(0, memoryview(bytearray(4096)))], 10, results.extend)
    flushed: list[Any] = []
    pool.flush(0, 1, flushed.append)
    drive(pool, lambda: bool(results and flushed))
    return pool


def drive(pool: Pool, until: Callable[[], bool]) -> None:
    def ready() -> bool:
        pool.pump()
        return until()

    wait_until(ready, 30)


def names(daemon: CaptiveDaemon) -> dict[str, int]:
    with tmem.client.link.connect(daemon.target) as client:
        return {pool.name: pool.pool_id for pool in client.pools()}


def test_a_worker_that_takes_over_waits_for_no_resolver(start_daemon, make_side, monkeypatch):
    """It could take half a minute, in which nothing is read back."""
    daemon = start_daemon()
    port = daemon.target.rpartition(":")[2]
    with NewPool(f"localhost:{port}", None, "swap/test/t0") as made:
        made.create(PAGES, 1.0, "memory", 4)
    side = make_side(f"no-such-host.invalid:{port}", endpoints=made.endpoints, token=made.token, epoch=made.epoch)

    def unable(*_: object, **__: object) -> None:
        pytest.fail("the resolver was asked")

    monkeypatch.setattr(socket, "getaddrinfo", unable)
    pool = served(side)
    assert pool._client is not None
    pool._client._link.transport.lose(Unavailable("the connection broke"))
    assert pool.open() is None, "a call that waits for a new connection"
    pool.destroy()


def listings(daemon: CaptiveDaemon) -> float:
    return total(scrape(daemon.metrics_url), "tmem_rpc_requests_total", method="PoolsService/ListPages")


def written(daemon: CaptiveDaemon, make_side: Callable[..., Side], **changes: Any) -> Side:
    """A device of which a worker has stored a page."""
    with NewPool(daemon.target, None, "swap/test/t0") as made:
        made.create(PAGES, 1.0, "memory", 4)
    side = make_side(daemon.target, token=made.token, epoch=made.epoch, **changes)
    pool = opened(side)
    results: list[Any] = []
    pool.put([(7, memoryview(text_page(7)))], 10, results.extend)
    drive(pool, lambda: bool(results))
    assert results[0].stored
    return side


def opened(side: Side, meanwhile: Callable[[], object] = lambda: None) -> Pool:
    """The next worker's pool, once it is open."""
    pool = side.pool(meanwhile)

    def ready() -> bool:
        pool.open()
        return pool.ready

    wait_until(ready, 30)
    return pool


def page(pool: Pool, index: int) -> bytes | None:
    results: list[Any] = []
    buffer = bytearray(4096)
    pool.get([(index, memoryview(buffer))], 10, results.extend)
    drive(pool, lambda: bool(results))
    assert results[0].error is None
    return bytes(buffer) if results[0].hit else None


def test_openings_whose_answers_nobody_got_cost_the_next_worker_nothing(start_daemon, make_side, monkeypatch):
    """A listing of a big device takes longer than it has."""
    daemon = start_daemon()
    side = written(daemon, make_side)
    before = listings(daemon)
    real = SharedPresence.opened

    def killed(*_: Any, **__: Any) -> bool:
        raise Unavailable("it was killed here")

    for _ in range(3):
        monkeypatch.setattr(SharedPresence, "opened", killed)
        assert "killed" in (side.pool().open() or "")
    monkeypatch.setattr(SharedPresence, "opened", real)
    pool = opened(side)
    assert listings(daemon) == before
    assert page(pool, 7) == text_page(7)
    assert page(pool, 8) is None


def test_a_pool_that_somebody_else_has_written_to_is_listed_however_long_that_takes(
    start_daemon, make_side, monkeypatch
):
    daemon = start_daemon()
    side = written(daemon, make_side, io_deadline=3.0)  # so that calls give up after 0.2 s
    side.pools.pop()._client.close()
    with tmem.client.link.connect(daemon.target) as somebody:
        somebody.open_pool("swap/test/t0", side.control.identity.token).put(0, 8, text_page(8))
    real = SharedPresence.opened
    timers: list[threading.Timer] = []
    turns: list[int] = []

    def frozen(*arguments: Any, **words: Any) -> bool:
        asks = real(*arguments, **words)
        daemon.signal(signal.SIGSTOP)
        timers.append(threading.Timer(1.5, daemon.signal, (signal.SIGCONT,)))
        timers[-1].start()
        turns.clear()
        return asks

    monkeypatch.setattr(SharedPresence, "opened", frozen)
    pool = opened(side, lambda: turns.append(1))
    for timer in timers:
        timer.join()
    assert len(timers) == 1, "the listing was given up"
    assert len(turns) > 5, "nothing else was looked after"
    assert page(pool, 7) == text_page(7)
    assert page(pool, 8) == text_page(8)


def test_what_is_told_to_workers_is_read_back_as_it_was():
    config = config_of("127.0.0.1:1", endpoints=[(10, ("fe80::1%lo", 8636, 0, 1)), (1, "/run/tmem.sock")])
    descriptor = config.to_file()
    assert Config.from_file(descriptor) == config
    os.close(descriptor)


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
