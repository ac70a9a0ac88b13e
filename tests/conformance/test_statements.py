"""Every statement of the conformance kit, held against the store of this repository: one test each."""

import threading
from collections.abc import Iterator

import pytest

from tmem.cli.conformance import Endpoint, Statement, run, statements

# What is built later: moving a pool to another server while it is in use, and the block cache.
NOT_YET = {65, 84}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with Endpoint() as made:
        yield made


@pytest.mark.parametrize("statement", statements(), ids=lambda statement: f"{statement.number:02}")
def test_statement(statement: Statement, endpoint: Endpoint) -> None:
    outcome = run(statement, endpoint)
    if outcome.verdict == "not_run" and statement.number in NOT_YET:
        pytest.skip(outcome.why)
    assert (outcome.verdict, outcome.why) == ("passed", ""), statement.text
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("statement-")]


def test_the_statements_are_numbered_from_1_to_96() -> None:
    assert [statement.number for statement in statements()] == list(range(1, 97))
