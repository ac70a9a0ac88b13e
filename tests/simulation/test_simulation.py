"""Scenarios of the simulation: many in the suite, very many on demand. A scenario that fails is repeated with its seed alone."""

import pytest
from tests.simulation.simulation import Simulation

from tmem.cli.torture.history import shrink
from tmem.server.rpc import conversation
from tmem.server.store.log import cleaner

STEPS = 120


class Quiet:
    """A logger that says nothing."""

    def debug(self, *_: object, **__: object) -> None: ...

    info = warning = debug


@pytest.fixture(autouse=True)
def busy_cleaner(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few pages are enough for the cleaner to work; and nobody reads what a thousand servers log."""
    monkeypatch.setattr(cleaner, "_MIN_DEAD_BYTES", 8 << 10)
    monkeypatch.setattr(cleaner, "MAX_RECORD_BYTES", 4 << 10)
    monkeypatch.setattr(conversation, "log", Quiet())


def scenario(seed: int) -> None:
    simulation = Simulation(seed)
    findings = simulation.run(STEPS)
    if findings:
        least = "\n".join(map(str, shrink(simulation.history(), findings[0]).operations))
        pytest.fail(f"seed {seed}: {findings[0]}\nthe least history that shows it:\n{least}")


@pytest.mark.parametrize("first", range(0, 200, 25))
def test_scenarios(first: int) -> None:
    for seed in range(first, first + 25):
        scenario(seed)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1000, 11000, 1000))
def test_thousands_of_scenarios(first: int) -> None:
    for seed in range(first, first + 1000):
        scenario(seed)


def test_a_seed_is_the_same_scenario_each_time() -> None:
    histories = []
    for _ in range(2):
        simulation = Simulation(7)
        simulation.run(STEPS)
        histories.append([str(operation) for operation in simulation.history().operations])
    assert histories[0] == histories[1]
    assert len(histories[0]) > 40
