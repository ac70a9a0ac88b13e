"""deploy/grafana/tmem.json: a dashboard whose every query finds something on a busy daemon."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[2] / "deploy" / "grafana" / "tmem.json"
_DASHBOARD: dict[str, Any] = json.loads(_FILE.read_text("utf-8"))
_PANELS: list[dict[str, Any]] = [panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"]
# What Grafana replaces, and what stands for it here.
_VARIABLES = {"$__rate_interval": "1m", "$__range": "1m", "$instance": ".*", "$pool": ".*"}


def queries() -> Iterator[Any]:
    for panel in _PANELS:
        for target in panel["targets"]:
            yield pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']}-{target['refId']}")
    for annotation in _DASHBOARD["annotations"]["list"]:
        yield pytest.param(annotation["expr"], annotation["titleFormat"], id=annotation["name"])


def variables_replaced(expression: str) -> str:
    for variable, value in _VARIABLES.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, "a variable that Grafana does not know"
    return expression


# ---- Its queries ----


@pytest.mark.parametrize(("expression", "legend"), [*queries()])
def test_every_metric_exists(expression: str, legend: str, exposition: Any, names: Callable[[str], set[str]]) -> None:
    found = names(variables_replaced(expression))
    assert found
    assert found <= exposition.samples


@pytest.mark.parametrize(("expression", "legend"), [*queries()])
def test_quantiles_are_of_histograms(expression: str, legend: str, exposition: Any) -> None:
    for inner in re.findall(r"histogram_quantile\((.*)", expression):
        match = re.search(r"by \(([a-z_, ]+)\) \(rate\(([a-z_]+)_bucket\{", inner)
        assert match is not None
        assert "le" in match[1].split(", ")
        assert exposition.types[match[2]] == "histogram"
    assert ("_bucket" in expression) == ("histogram_quantile" in expression)


@pytest.mark.parametrize(("expression", "legend"), [*queries()])
def test_rates_are_of_counters_and_levels_of_gauges(
    expression: str, legend: str, exposition: Any, names: Callable[[str], set[str]]
) -> None:
    rated = set(re.findall(r"(?:rate|increase)\(([a-z_]+)\{", expression))
    for name in names(variables_replaced(expression)):
        family = re.sub(r"_(bucket|sum|count)$", "", name)
        kind = exposition.types.get(name) or exposition.types[family]
        assert (kind in {"counter", "histogram"}) == (name in rated), name


@pytest.mark.parametrize(("expression", "legend"), [*queries()])
def test_every_query_finds_something(expression: str, legend: str, prometheus: Any) -> None:
    """On a real daemon that does a bit of everything, scraped by a real Prometheus."""
    samples = prometheus.query(variables_replaced(expression))
    if "changes(" in expression:
        assert samples == [], "nobody started the daemon anew"
        samples = prometheus.query(variables_replaced(expression).replace("> 0", ">= 0"))
    assert samples
    assert [sample for sample in samples if sample["value"][1] == "NaN"] == []
    # Else the legend shows nothing where the label should stand.
    labels = set(re.findall(r"\{\{(\w+)\}\}", legend))
    assert all(labels <= set(sample["metric"]) for sample in samples)
    if not labels:
        assert len(samples) == 1, "several lines with the same legend"


# ---- Its form ----


def test_it_says_what_it_is() -> None:
    assert _DASHBOARD["schemaVersion"] >= 39
    assert _DASHBOARD["id"] is None, "an id is one Grafana's own"
    assert _DASHBOARD["uid"] == "tmem"
    assert "__inputs" not in _DASHBOARD


def test_the_source_of_its_data_is_a_variable() -> None:
    variables = {variable["name"]: variable for variable in _DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert set(variables) == {"datasource", "instance", "pool"}
    text = _FILE.read_text("utf-8")
    uses = len(re.findall(r'"datasource": \{', text))
    assert uses == text.count('"uid": "${datasource}"') > len(_PANELS)


def test_its_variables_find_something(prometheus: Any) -> None:
    for variable in _DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert match is not None
            samples = prometheus.query(variables_replaced(match[1]))
            assert samples
            assert all(match[2] in sample["metric"] for sample in samples)


def test_every_panel_has_a_unit_a_description_and_a_place_of_its_own() -> None:
    ids = [panel["id"] for panel in _DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in _DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + right, place["y"] + down) for right in range(place["w"]) for down in range(place["h"])}
        assert max(x for x, _ in cells) < 24, panel["title"]
        assert not cells & taken, f"{panel['title']} lies over another"
        taken |= cells
    for panel in _PANELS:
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))


@pytest.mark.parametrize(
    "topic",
    [
        pytest.param("tmem_pages", id="pages held"),
        pytest.param("tmem_payload_bytes", id="bytes held"),
        pytest.param("tmem_put_pages_total", id="puts"),
        pytest.param("tmem_get_pages_total", id="gets"),
        pytest.param("tmem_flush_pages_total", id="flushes"),
        pytest.param("tmem_rpc_duration_seconds_bucket", id="latency of calls"),
        pytest.param("tmem_exchange_batch_duration_seconds_bucket", id="latency of batches"),
        pytest.param("tmem_memory_limit_bytes", id="limit"),
        pytest.param("tmem_sessions", id="sessions"),
        pytest.param("tmem_streams", id="streams"),
        pytest.param("tmem_exchange_messages_total", id="messages"),
        pytest.param("tmem_full_size_copies_total", id="copies"),
        pytest.param("tmem_evicted_pages_total", id="evictions"),
        pytest.param("tmem_load_ratio", id="load"),
    ],
)
def test_what_an_operator_asks_first_is_there(topic: str, names: Callable[[str], set[str]]) -> None:
    shown = {name for panel in _PANELS for target in panel["targets"] for name in names(target["expr"])}
    assert topic in shown
