"""The public surface on a server of two shards: everything that holds on one holds on them."""

from collections.abc import Iterator

import pytest
from tests.faces import Face
from tests.integration.test_client import *  # noqa: F403  every test there, on the daemon below

from tmem.client.testing import CaptiveDaemon


@pytest.fixture(params=["sync", "aio"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = Face(request.param)
    yield made
    made.close()


@pytest.fixture(scope="module")
def daemon() -> Iterator[CaptiveDaemon]:
    with CaptiveDaemon("--shards", "2", "--log-level", "debug") as captive:
        yield captive
