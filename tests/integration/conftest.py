"""Fixtures of tests with tenants."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.guarded import ALICE, BOB, Guarded

import tmem.client
from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]


@pytest.fixture
def guarded(start_daemon: Start, tmp_path: Path) -> Guarded:
    return Guarded(start_daemon, tmp_path / "tokens.toml")


@pytest.fixture
def alice(guarded: Guarded) -> Iterator[tmem.client.Client]:
    with tmem.client.connect(guarded.target, token=ALICE) as client:
        yield client


@pytest.fixture
def bob(guarded: Guarded) -> Iterator[tmem.client.Client]:
    with tmem.client.connect(guarded.target, token=BOB) as client:
        yield client
