"""The hot paths take no more instructions than they did: a change that makes them slower is seen on any machine, busy or not."""

import json
import os
import shutil
import sys

import pytest
from tests.benchmarks.instructions import BUDGETS, REFERENCE, SLACK, WORKS, count, ratios
from tests.conftest import skip_or_fail


@pytest.mark.timeout(300)
def test_operations_stay_within_their_budgets_of_instructions() -> None:
    if shutil.which("valgrind") is None:
        skip_or_fail("valgrind is not installed (Debian: apt-get install valgrind)")
    if sys.version_info[:2] != (3, 11) and os.environ.get("CI") != "true":
        pytest.skip("the budgets are of CPython 3.11")
    budgets = json.loads(BUDGETS.read_text("utf-8"))
    assert set(budgets) == set(WORKS) - {REFERENCE}
    found = ratios(count())
    over = {name: (value, budgets[name]) for name, value in found.items() if value > budgets[name] * SLACK}
    assert over == {}, (
        "more instructions than the budget; if that is meant: python -m tests.benchmarks.instructions --write"
    )
