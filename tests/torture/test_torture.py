"""The random tester on real daemons: nothing is found where nothing is wrong, and something where something is."""

import json
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result
from tests.gauges import assert_empties

import tmem.client
from tmem.cli.main import main
from tmem.cli.torture.history import check, shrink
from tmem.cli.torture.load import Load, Plan, page_of, stamp_of
from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]


def torture(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["torture", *arguments])


@pytest.mark.parametrize(
    ("seed", "flags"),
    [
        (1, ["--memory-limit", "1MiB"]),
        (2, ["--memory-limit", "64MiB", "--layer", "delayed:seconds=0,jitter_seconds=0.01"]),
        (3, ["--memory-limit", "2MiB", "--loop", "asyncio", "--layer", "faulty:put_refused=0.05,get_refused=0.02"]),
    ],
    ids=["evicting", "out of order", "refusing"],
)
def test_a_server_in_whatever_state_answers_nothing_that_can_not_be(
    start_daemon: Start, seed: int, flags: list[str]
) -> None:
    daemon = start_daemon(*flags)
    with Load(lambda **options: tmem.client.connect(daemon.target, **options), Plan(seed), str) as load:
        load.start(350)
        load.wait()
        load.look()
        history = load.history()
    findings = check(history)
    for finding in findings[:2]:
        print(finding, *shrink(history, finding).operations, sep="\n")
    assert not findings
    for name in ("put done", "get done", "flush done", "ack done"):
        assert load.tally[name] > 10, load.tally
    assert_empties(daemon)


@pytest.mark.parametrize(
    ("layer", "what"),
    [
        ("faulty:get_lost=0.01", "LOST"),
        ("faulty:get_corrupt=0.01", "CORRUPT"),
    ],
)
def test_a_server_that_is_wrong_now_and_then_is_found_out(layer: str, what: str) -> None:
    done = torture("--seconds", "3", "--seed", "5", "--daemon-flag", "--layer", "--daemon-flag", layer, "--json")
    assert done.exit_code == 1
    report = json.loads(done.stdout)
    assert report["wrong"] >= 1
    assert what in report["findings"][0]["what"]
    assert "ask again with --seed 5" in done.stderr
    assert len(report["findings"][0]["history"]) <= 3


def test_a_seed_asks_the_same(start_daemon: Start) -> None:
    daemon = start_daemon()
    asked = []
    for _ in range(2):
        with Load(lambda **o: tmem.client.connect(daemon.target, **o), Plan(7, clients=2, threads=1), str) as load:
            load.start(60)
            load.wait()
            by_writer: dict[str, list[tuple[object, ...]]] = {}
            for operation in load.recorder.operations:
                key = (operation.pool, operation.action, operation.obj, operation.first, operation.pages)
                if operation.action.value in {"put", "flush"}:
                    by_writer.setdefault(operation.writer, []).append(key)
            asked.append(by_writer)
    assert asked[0] == asked[1]


def test_the_command_on_a_server_that_was_named_leaves_nothing(start_daemon: Start) -> None:
    daemon = start_daemon()
    done = torture("--target", daemon.target, "--seconds", "1", "--seed", "3")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("seed 3: ")
    assert "0 answers that can't be true" in done.stdout
    with tmem.client.connect(daemon.target) as client:
        assert client.pools() == []


def test_pages_tell_their_stamps() -> None:
    for stamp in (1, 2, 3, 4, 1 << 40, (1 << 64) - 1):
        page = page_of(stamp)
        assert stamp_of(page) == stamp
        assert stamp_of(page[:4000] + b"\x99" + page[4001:]) < 0
