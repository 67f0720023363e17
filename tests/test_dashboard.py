"""The dashboard of compose/grafana: its queries, and that Grafana finds what it needs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_names import EXPORTED, names_in

ROOT = Path(__file__).parents[1]
GRAFANA, PROMETHEUS = ROOT / "compose" / "grafana", ROOT / "compose" / "prometheus" / "prometheus.yml"
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "replicator.json").read_text())
PANELS: list[dict[str, Any]] = [it for it in DASHBOARD["panels"] if it["type"] != "row"]
COLUMNS = 24


def provisioned(kind: str) -> dict[str, Any]:
    [file] = (GRAFANA / "provisioning" / kind).glob("*.yml")
    return dict(yaml.safe_load(file.read_text()))


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
    texts = [text.replace("$__rate_interval", "1m").replace("$job", "replicator") for text in expressions()]
    recorded = [{"record": f"panel:{number}", "expr": text} for number, text in enumerate(texts)]
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
