"""The dashboard of compose/grafana: its queries, and that Grafana finds what it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from replicator.local.ports import random_free_ports
from tests.process_cluster import Cluster, wait_for
from tests.prometheus_names import EXPORTED, names_in

ROOT = Path(__file__).parents[1]
GRAFANA, PROMETHEUS = ROOT / "compose" / "grafana", ROOT / "compose" / "prometheus" / "prometheus.yml"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "replicator.json").read_text())
PANELS: list[dict[str, Any]] = [it for it in DASHBOARD["panels"] if it["type"] != "row"]
ABSENT = ("replicator_sink_", "replicator_snapshot_verified_offset", "ALERTS")
"""There is no sink, no snapshotter and no alert."""
COLUMNS = 24


def provisioned(kind: str) -> dict[str, Any]:
    [file] = (GRAFANA / "provisioning" / kind).glob("*.yml")
    return dict(yaml.safe_load(file.read_text()))


def prepared(expression: str) -> str:
    """With the variables as Grafana replaces them."""
    return expression.replace("$__rate_interval", "10s").replace("$job", "replicator")


def expressions() -> list[str]:
    found = [target["expr"] for panel in PANELS for target in panel["targets"]]
    found += [it["expr"] for it in DASHBOARD["annotations"]["list"]]
    for variable in DASHBOARD["templating"]["list"]:
        [text] = re.findall(r"^label_values\((.*), \w+\)$", variable["query"]["query"])
        found.append(text)
    return found


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_queries_metrics_that_exist(panel: dict[str, Any]) -> None:
    assert panel["targets"]
    for target in panel["targets"]:
        names = names_in(target["expr"])
        assert names and names <= EXPORTED
        assert set(re.findall(r"\$\w+", target["expr"])) <= {"$job", "$__rate_interval"}
        for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
            assert label in {"instance", "outcome", "code", "stage", "replica", "sink", "of"}
    assert panel["fieldConfig"]["defaults"].get("unit") or panel["type"] == "state-timeline"


def test_all_expressions_query_metrics_that_exist() -> None:
    assert len(expressions()) > len(PANELS)
    for expression in expressions():
        assert names_in(expression) <= EXPORTED, expression


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: package prometheus)")
def test_prometheus_can_parse_the_expressions(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yml"
    recorded = [{"record": f"panel:{number}", "expr": prepared(text)} for number, text in enumerate(expressions())]
    rules.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": recorded}]}))
    check = subprocess.run(["promtool", "check", "rules", str(rules)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stdout + check.stderr


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    ids = [it["id"] for it in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0 and place["x"] + place["w"] <= COLUMNS
    for one, other in combinations((it["gridPos"] for it in DASHBOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]


def test_the_data_source_is_the_one_that_is_provisioned() -> None:
    [source] = provisioned("datasources")["datasources"]
    assert (source["type"], source["url"]) == ("prometheus", "http://prometheus:9090")
    used = [it["datasource"] for it in (*PANELS, *DASHBOARD["templating"]["list"], *DASHBOARD["annotations"]["list"])]
    used += [target["datasource"] for panel in PANELS for target in panel["targets"]]
    assert all(it == {"type": "prometheus", "uid": source["uid"]} for it in used)
    interval = yaml.safe_load(PROMETHEUS.read_text())["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval


def test_the_dashboard_is_provisioned() -> None:
    [provider] = provisioned("dashboards")["providers"]
    assert (provider["type"], provider["options"]["path"]) == ("file", "/var/lib/grafana/dashboards")
    assert DASHBOARD["uid"] == "replicator"
    assert "id" not in DASHBOARD  # it is the one of another database


@pytest.fixture
def prometheus(kafka: str, tmp_path: Path) -> Iterator[str]:
    """The address of one that scrapes two nodes, with the configuration of the stack."""
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(2)
    try:
        cluster.run("stream", "enable")
        cluster.run("snapshot", "take")
        settings = yaml.safe_load(PROMETHEUS.read_text())
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        ports = [cluster.folder.load().node(id).http_port for id in ("n1", "n2")]
        settings["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
        settings["rule_files"] = [str(PROMETHEUS.parent / it) for it in settings["rule_files"]]
        file = tmp_path / "prometheus.yml"
        file.write_text(json.dumps(settings))
        [port] = random_free_ports(1)
        options = [
            f"--config.file={file}",
            f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with subprocess.Popen(["prometheus", "--log.level=error", *options]) as process:
            yield f"127.0.0.1:{port}"
            process.terminate()
    finally:
        cluster.run("cluster", "down", "--purge")


def answer(prometheus: str, path: str, **parameters: str) -> Any:
    try:
        url = f"http://{prometheus}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as reply:
            return json.load(reply)["data"]
    except OSError:  # it is starting
        return {}


@pytest.mark.kafka
@pytest.mark.timeout(240)
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="no prometheus (Debian: package prometheus)")
def test_each_query_has_a_result_on_a_real_cluster(prometheus: str) -> None:
    for expression in expressions():
        if not any(it in expression for it in ABSENT):
            query = prepared(expression)
            wait_for(lambda query=query: bool(answer(prometheus, "query", query=query).get("result")))  # type: ignore[misc]
    rules = answer(prometheus, "rules")["groups"][0]["rules"]
    assert {it["health"] for it in rules} == {"ok"}
    assert [it["name"] for it in rules if it["state"] == "firing"] == []
