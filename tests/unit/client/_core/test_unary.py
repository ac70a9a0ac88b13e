"""The classical calls against a real server's handlers, delivered by hand."""

import random
from typing import Any

import pytest
from tests.pages import PAGE, text_page
from tests.sim import PureClient, PureServer

from tmem.client._core.unary import UnaryGet, UnaryPut
from tmem.server.rpc.pages import PagesHandlers
from tmem.wire.handles import Extent, Version
from tmem.wire.results import Code

A, B = text_page(1), text_page(2)
HERE = Extent(7, 0, 1)


@pytest.fixture
def client() -> PureClient:
    made = PureClient(PureServer(random.Random(1)))
    made.connect()
    return made


def carry(client: PureClient, call: Any) -> bytes:
    """Brings a request to the server and its answer back."""
    handlers = PagesHandlers(client.server.service)
    function = handlers.put if isinstance(call, UnaryPut) else handlers.get
    try:
        function(client.server.tenant, call.request()).send(None)
    except StopIteration as answered:
        answer: bytes = answered.value
        return answer
    raise AssertionError("not answered at once")


def put(client: PureClient, pool: Any, plain: bytes) -> None:
    call = UnaryPut(pool, HERE, memoryview(plain), client.codec)
    assert call.start()
    call.take(carry(client, call))
    call.settle()
    assert call.result.stored


def asked(pool: Any) -> UnaryGet:
    """A get that has looked at the presence map, and is not delivered yet."""
    call = UnaryGet(pool, HERE, memoryview(bytearray(PAGE)), take=False)
    assert call.start()
    return call


def answered(client: PureClient, call: UnaryGet) -> list[Code]:
    call.take(carry(client, call), client.codec)
    call.settle()
    return call.result.pages


def test_a_page_goes_there_and_back(client: PureClient) -> None:
    pool = client.create_pool("a")
    client.settle()
    put(client, pool, A)
    assert answered(client, asked(pool)) == [Code.HIT]


def test_a_get_that_a_flush_overtakes_misses_and_is_not_lost(client: PureClient) -> None:
    pool = client.create_pool("a")
    client.settle()
    put(client, pool, A)
    call = asked(pool)
    client.flush(pool, 7, 0)
    client.settle()

    assert answered(client, call) == [Code.MISS]


def test_a_get_after_which_a_flush_is_on_its_way_misses_and_is_not_lost(client: PureClient) -> None:
    pool = client.create_pool("a")
    client.settle()
    put(client, pool, A)
    call = asked(pool)
    client.flush(pool, 7, 0)
    assert client.stream is not None
    client.stream.deliver_to_server()  # done, and not answered yet

    assert answered(client, call) == [Code.MISS]


def test_a_page_that_vanished_is_lost(client: PureClient) -> None:
    pool = client.create_pool("a")
    client.settle()
    put(client, pool, A)
    client.server.store.flush_object(1, Version(9, 9), [7])

    assert answered(client, asked(pool)) == [Code.LOST]


def test_a_page_of_a_pool_that_was_made_again_is_lost_even_if_a_put_of_it_is_on_its_way(client: PureClient) -> None:
    pool = client.create_pool("a")
    client.settle()
    put(client, pool, A)
    client.disconnect()
    client.server.restart()
    client.settle()
    call = asked(pool)
    client.put(pool, 7, 0, B)

    assert answered(client, call) == [Code.LOST]
