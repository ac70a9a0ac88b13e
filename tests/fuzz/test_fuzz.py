"""Every fuzz target for a few seconds; `make fuzz` for as long as one likes."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz.targets import METHODS, TARGETS

ROOT = Path(__file__).parents[2]
SEEDS = Path(__file__).parent / "seeds"
# About two seconds each.
RUNS = {
    "unary": 4000,
    "exchange": 3000,
    "answer": 2500,
    "journal": 8000,
    "journal_entries": 5000,
    "splice": 12000,
    "chunk": 10000,
    "fuse": 4000,
    "http2": 6000,
}


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.run", name, "--runs", str(RUNS[name]), "--corpus", str(tmp_path / "corpus")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"{name}: {RUNS[name]:,} inputs" in done.stdout


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_there_and_go_through(name: str) -> None:
    seeds = sorted((SEEDS / name).iterdir())
    assert seeds
    for seed in seeds:
        TARGETS[name](seed.read_bytes())


def test_every_unary_call_of_the_contract_is_fuzzed() -> None:
    from tmem.v1 import capabilities_pb2, pages_pb2, pools_pb2

    modules = (capabilities_pb2, pages_pb2, pools_pb2)
    services = [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]
    assert {method.name for service in services for method in service.methods} == set(METHODS)
    assert {seed.name for seed in (SEEDS / "unary").iterdir()} >= set(METHODS)
