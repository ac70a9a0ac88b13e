import random

import pytest
from tests.sim import PureServer

from tmem.server.rpc.sessions import Session, SessionTable
from tmem.server.store.pools import PoolRequest
from tmem.wire.errors import Fenced


@pytest.fixture
def server() -> PureServer:
    return PureServer(random.Random(1))


@pytest.fixture
def table(server: PureServer) -> SessionTable:
    return server.service.sessions


def session(name: bytes = b"s") -> Session:
    return Session("local", name * 16, "test", 1000, 4, 0.0)


def test_credit_is_charged_and_released() -> None:
    one = session()

    assert one.charge(600)
    assert one.charge(400)
    one.release(600)
    assert one.charge(600)
    assert not one.charge(1)


def test_batches_are_limited_too() -> None:
    one = session()
    assert all(one.charge(1) for _ in range(4))
    assert not one.charge(1)


def test_a_pool_is_worked_on_by_one_session(server: PureServer, table: SessionTable) -> None:
    pool, member = server.service.lifecycle.create("local", PoolRequest("a", 2), 0.0)
    first, second = session(b"1"), session(b"2")
    table.add(first)
    table.add(second)
    table.bind(first, pool, member)
    table.bind(first, pool, member)

    with pytest.raises(Fenced, match="open the pool again"):
        table.bind(second, pool, member)
    table.end(first, 1.0)
    table.bind(second, pool, member)


def test_an_ended_session_parks_its_pools(server: PureServer, table: SessionTable) -> None:
    pool, member = server.service.lifecycle.create("local", PoolRequest("a", 2), 0.0)
    one = session()
    table.add(one)
    table.bind(one, pool, member)
    assert not pool.parked

    table.end(one, 7.0)

    assert pool.parked
    assert member.parked_since == 7.0
    assert table.find("local", one.session_id) is None
    assert len(table) == 0


def test_ending_a_session_that_was_replaced_changes_nothing(server: PureServer, table: SessionTable) -> None:
    pool, member = server.service.lifecycle.create("local", PoolRequest("a", 2), 0.0)
    old, new = session(), session()
    table.add(old)
    table.add(new)
    table.bind(new, pool, member)

    table.end(old, 7.0)

    assert table.find("local", new.session_id) is new
    assert not pool.parked


def test_silence_is_noticed(table: SessionTable) -> None:
    quiet, loud = session(b"q"), session(b"l")
    table.add(quiet)
    table.add(loud)
    loud.last_seen = 25.0

    assert table.silent(30.0) == []
    assert table.silent(31.0) == [quiet]
