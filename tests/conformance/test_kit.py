"""The kit itself: what it says of servers that are wrong, hang, or are somebody else's."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

import tmem.client
from tmem.cli.conformance import Endpoint, Statement, kit, run, statements
from tmem.cli.conformance.expect import CannotRun, Violation, expect
from tmem.cli.conformance.stage import PREFIX, Stage
from tmem.cli.main import main
from tmem.client.testing import CaptiveDaemon

Start = Callable[..., CaptiveDaemon]


def conformance(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["conformance", *arguments])


def check_of(check: Callable[[Stage], None]) -> Statement:
    return Statement(1000, "A statement of the tests.", added=False, check=check)


def hold(number: int, *flags: str) -> Any:
    """The outcome of one statement on daemons with these flags."""
    with Endpoint(flags=flags) as endpoint:
        return run(statements([number])[0], endpoint)


class TestVerdicts:
    def test_what_does_not_hold_says_what_was_found(self) -> None:
        outcome = hold(14, "--layer", "faulty:get_lost=1")
        assert outcome.verdict == "failed"
        assert "wanted" in outcome.why
        assert "LOST" in outcome.why

    def test_a_server_that_refuses_everything_fails(self) -> None:
        assert hold(29, "--layer", "faulty:put_refused=1").verdict == "failed"

    def test_what_can_not_run_says_why_and_does_not_pass(self) -> None:
        def check(stage: Stage) -> None:
            raise CannotRun("there is no moon")

        outcome = run(check_of(check), Endpoint())
        assert (outcome.verdict, outcome.why) == ("not_run", "there is no moon")

    @pytest.mark.parametrize("error", [Violation("no"), ValueError("odd"), RuntimeError("worse")])
    def test_a_check_that_raises_has_failed(self, error: Exception) -> None:
        def check(stage: Stage) -> None:
            raise error

        outcome = run(check_of(check), Endpoint())
        assert outcome.verdict == "failed"
        assert str(error) in outcome.why

    def test_a_check_that_hangs_has_failed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import threading

        monkeypatch.setattr(kit, "_MAX_SECONDS", 0.1)
        release = threading.Event()

        def check(stage: Stage) -> None:
            release.wait(60)

        outcome = run(check_of(check), Endpoint())
        release.set()
        assert outcome.verdict == "failed"
        assert "did not end" in outcome.why

    def test_a_number_is_used_once(self) -> None:
        with pytest.raises(ValueError, match="twice"):
            kit.statement(14, "Again.")(lambda stage: None)

    def test_expect_works_however_the_interpreter_is_told_to_optimise(self) -> None:
        with pytest.raises(Violation, match="so"):
            expect(False, "not so")


class TestNamedServer:
    def test_a_server_that_was_named_is_left_as_it_was(self, start_daemon: Start) -> None:
        daemon = start_daemon()
        with tmem.client.connect(daemon.target) as client:
            mine = client.create_pool("mine", kind="ephemeral")
            mine.put(7, 0, bytes(range(256)) * 16)
            done = conformance("--target", daemon.target, "--metrics-url", daemon.metrics_url, "--json")
            assert done.exit_code == 0, done.stderr
            report = json.loads(done.stdout)
            assert not report["failed"]
            assert len(report["passed"]) >= 45
            # Nothing that fills, breaks or restarts a server, and nothing that would drop others' pages.
            assert {2, 33, 40, 42, 51, 67, 72, 73, 94} <= set(report["not_run"])
            assert all(report["why"][str(number)] for number in report["not_run"])
            assert sorted(report["passed"] + report["not_run"]) == list(range(1, 97))
            assert [pool.name for pool in client.pools()] == ["mine"]
            assert mine.stat().pages == 1

    def test_a_second_tenant_lets_more_run(self, start_daemon: Start, tmp_path: Any) -> None:
        tokens = {name: f"a-token-of-{name}-0001" for name in ("alice", "bob")}
        file = tmp_path / "tokens.toml"
        file.write_text("".join(f'[tenants.{name}]\ntokens = ["{token}"]\n' for name, token in tokens.items()), "utf-8")
        for name, token in tokens.items():
            (tmp_path / name).write_text(token, "utf-8")
        target = start_daemon("--tokens", str(file)).target
        alone = conformance("13", "53", "--target", target, "--token-file", str(tmp_path / "alice"), "--json")
        assert json.loads(alone.stdout)["not_run"] == [13, 53]
        arguments = ("--token-file", str(tmp_path / "alice"), "--second-token-file", str(tmp_path / "bob"), "--json")
        both = conformance("1", "13", "49", "53-57", "59", "--target", target, *arguments)
        report = json.loads(both.stdout)
        assert report["passed"] == [1, 13, 49, 53, 54, 55, 56, 57, 59], report["why"]

    def test_what_a_check_left_behind_is_swept_away(self, start_daemon: Start) -> None:
        daemon = start_daemon()
        with Endpoint(daemon.target) as endpoint, tmem.client.connect(daemon.target) as client:
            client.create_pool(endpoint.name(7))
            client.create_pool(f"{PREFIX}-another-run")
        with tmem.client.connect(daemon.target) as client:
            assert [pool.name for pool in client.pools()] == [f"{PREFIX}-another-run"]

    def test_nobody_there_is_said_at_once(self) -> None:
        done = conformance("--target", "127.0.0.1:1", "--json")
        assert done.exit_code == 3
        assert "can't be reached" in done.stderr


class TestCommand:
    def test_the_list(self) -> None:
        lines = conformance("--list").stdout.splitlines()
        assert len(lines) == 96
        assert lines[13].startswith(" 14  A page of a persistent pool")
        assert lines[92].startswith(" 93* ")
        listed = json.loads(conformance("--list", "--json", "7", "14-16").stdout)
        assert [item["number"] for item in listed] == [7, 14, 15, 16]

    def test_a_statement_that_does_not_hold_is_shown_and_ends_with_1(self) -> None:
        done = conformance("14", "15", "--daemon-flag", "--layer", "--daemon-flag", "faulty:get_lost=1")
        assert done.exit_code == 1
        assert "FAILED  14 " in done.stdout
        assert "0 of 2 statements hold, 2 do not" in done.stdout

    @pytest.mark.parametrize("arguments", [["97"], ["x"], ["3-"], ["--target", "nowhere"]])
    def test_wrong_usage(self, arguments: list[str]) -> None:
        assert conformance(*arguments).exit_code == 2
