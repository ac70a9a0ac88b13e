"""deploy/prometheus: the configuration loads, the rules do what they say, and all that they name exists."""

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml  # type: ignore[import-untyped]

from tmem.cli.main import main as tmem_command
from tmem.server.config import Settings
from tmem.wire.results import Reason

RequireTool = Callable[[str], str]

# What Prometheus itself knows of a target.
_OF_PROMETHEUS = {"up"}


@pytest.fixture(scope="module")
def folder(deploy: Path) -> Path:
    return deploy / "prometheus"


@pytest.fixture(scope="module")
def rules(folder: Path) -> list[dict[str, Any]]:
    groups = yaml.safe_load((folder / "rules" / "tmem.yml").read_text("utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


@pytest.fixture(scope="module")
def alerts(rules: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for rule in rules if "alert" in rule}


@pytest.fixture(scope="module")
def cases(folder: Path) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = yaml.safe_load((folder / "tests" / "tmem_test.yml").read_text("utf-8"))["tests"]
    return tests


# ---- As Prometheus reads it ----


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "config", "prometheus.yml"), id="config"),
        pytest.param(("check", "rules", "--lint-fatal", "rules/tmem.yml"), id="rules"),
        pytest.param(("test", "rules", "tests/tmem_test.yml"), id="rules' own tests"),
    ],
)
def test_promtool_is_content(folder: Path, arguments: tuple[str, ...], require_tool: RequireTool) -> None:
    command = [require_tool("promtool"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("expr: avg_over_time(tmem_load_ratio", "expr: min_over_time(1 - tmem_load_ratio"),
        ("> 0.8\n", "> 0.95\n"),
        ("for: 1m", "for: 10m"),
    ],
)
def test_a_changed_rule_fails_its_test(
    folder: Path, tmp_path: Path, line: str, changed: str, require_tool: RequireTool
) -> None:
    text = (folder / "rules" / "tmem.yml").read_text("utf-8")
    assert line in text
    for name in ("rules", "tests"):
        (tmp_path / name).mkdir()
    (tmp_path / "rules" / "tmem.yml").write_text(text.replace(line, changed), "utf-8")
    test = tmp_path / "tests" / "tmem_test.yml"
    test.write_bytes((folder / "tests" / "tmem_test.yml").read_bytes())
    done = subprocess.run([require_tool("promtool"), "test", "rules", str(test)], capture_output=True, check=False)
    assert done.returncode != 0


def test_the_scrape_finds_a_daemon_with_default_settings(folder: Path) -> None:
    config = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))
    (scrape,) = config["scrape_configs"]
    assert scrape["static_configs"] == [{"targets": [Settings().metrics_listen]}]
    assert scrape.keys() == {"job_name", "static_configs"}, "the path is Prometheus' default, /metrics"


def test_the_rules_work_on_a_real_daemon(prometheus: Any, rules: list[dict[str, Any]]) -> None:
    """The shipped configuration, but for addresses and intervals, in a real Prometheus."""
    (up,) = prometheus.query('up{job="tmem"}')
    assert up["value"][1] == "1"
    evaluated = prometheus.rules()
    assert {rule["name"] for rule in evaluated} == {rule.get("record", rule.get("alert")) for rule in rules}
    assert [rule["lastError"] for rule in evaluated if rule["health"] != "ok"] == []
    for rule in rules:
        if "record" in rule:
            assert prometheus.query(rule["expr"]), f"{rule['record']} finds nothing on a busy daemon"


# ---- What the rules name ----


def test_every_metric_exists(rules: list[dict[str, Any]], exposition: Any, names: Callable[[str], set[str]]) -> None:
    known = exposition.samples | _OF_PROMETHEUS | {rule["record"] for rule in rules if "record" in rule}
    for rule in rules:
        found = names(rule["expr"])
        assert found, rule
        assert found <= known, rule


def test_every_value_of_a_label_exists(rules: list[dict[str, Any]], exposition: Any) -> None:
    known = exposition.labels | {
        "job": {"tmem"},
        "reason": {reason.name.lower() for reason in Reason},
        "code": {code.name for code in grpc.StatusCode},
    }
    seen = set()
    for rule in rules:
        for label, value in re.findall(r'(\w+)\s*(?:=~|!=|!~|=)\s*"([^"]*)"', rule["expr"]):
            seen.add(label)
            assert set(value.split("|")) <= known[label], rule
    assert {"result", "reason", "cause", "kind", "op", "code"} <= seen


def test_every_rule_selects_only_tmem(rules: list[dict[str, Any]], names: Callable[[str], set[str]]) -> None:
    """process_* and up are everybody's."""
    for rule in rules:
        expression = rule["expr"]
        raw = sum(len(re.findall(rf"\b{name}\b", expression)) for name in names(expression) if ":" not in name)
        assert expression.count('job="tmem"') == raw, rule


# ---- Alerts, their tests and their runbook ----


def test_every_alert_fires_in_one_case_and_does_not_in_another(
    alerts: dict[str, Any], cases: list[dict[str, Any]]
) -> None:
    evaluated = [test for case in cases for test in case.get("alert_rule_test", [])]
    assert {test["alertname"] for test in evaluated if test["exp_alerts"]} == set(alerts)
    assert {test["alertname"] for test in evaluated if not test["exp_alerts"]} == set(alerts)


def test_every_recording_rule_has_a_value_in_a_case(rules: list[dict[str, Any]], cases: list[dict[str, Any]]) -> None:
    compared = {
        name
        for case in cases
        for test in case.get("promql_expr_test", [])
        for name in re.findall(r"tmem:[a-z0-9_:]+", test["expr"])
        if test["exp_samples"]
    }
    assert compared == {rule["record"] for rule in rules if "record" in rule}


def test_every_alert_says_what_it_is_and_where_to_read_on(alerts: dict[str, Any], folder: Path, root: Path) -> None:
    text = (folder / "RUNBOOK.md").read_text("utf-8")
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL))
    assert set(sections) == set(alerts)
    for name, alert in alerts.items():
        assert alert["labels"]["severity"] in {"page", "warning"}
        annotations = alert["annotations"]
        assert annotations.keys() == {"summary", "description", "runbook"}
        path, _, anchor = annotations["runbook"].partition("#")
        assert root / path == folder / "RUNBOOK.md"
        assert anchor == name.lower()
        for part in ("**Means** ", "**Look at** ", "**Do** "):
            assert sections[name].count(part) == 1, f"{name} lacks {part}"


def test_what_loses_pages_calls_somebody(alerts: dict[str, Any]) -> None:
    for name in ("TmemDown", "TmemPagesLost", "TmemPagesCorrupt", "TmemStoreFailing"):
        assert alerts[name]["labels"]["severity"] == "page"


def test_the_runbook_names_what_exists(folder: Path, root: Path, exposition: Any) -> None:
    text = (folder / "RUNBOOK.md").read_text("utf-8")
    source = "".join(file.read_text("utf-8") for file in (root / "server").rglob("*.py"))
    events = set(re.findall(r"`((?:daemon|pool|stream|rpc|batch|session)\.[a-z_]+)`", text))
    assert len(events) > 10
    assert {event for event in events if f'"{event}"' not in source} == set()
    assert set(re.findall(r"`((?:tmem|process)_[a-z_]+)`", text)) <= exposition.samples | set(exposition.types)
    assert set(re.findall(r"`tmem ([a-z]+)", text)) <= set(tmem_command.commands)
    anchors = {heading.lower() for heading in re.findall(r"^## (\w+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]*)\)", text)) <= anchors
    settings = set(re.findall(r"`([a-z]+_[a-z_]+)`", text))
    assert {name for name in settings if not name.startswith(("tmem_", "process_"))} <= set(Settings.model_fields) | {
        "rule_files",
        "scrape_configs",
    }
