"""The alert rules of compose/prometheus, by `promtool` and the metrics of a node, and the section of each alert."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.prometheus_names import EXPORTED, names_in

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "compose" / "prometheus"
RULES, CONFIG = FOLDER / "alerts.yml", FOLDER / "prometheus.yml"
N1, N2 = "{job='replicator', instance='n1:8001'}", "{job='replicator', instance='n2:8001'}"
AT_N1 = {"job": "replicator", "instance": "n1:8001"}
JOB = {"job": "replicator"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool (Debian: package prometheus)")


def alert_rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


def labelled(metric: str, labels: str, more: str) -> str:
    return f"{metric}{labels[:-1]}, {more}}}"


N3 = "{job='replicator', instance='n3:8001'}"
ELECTIONS = [labelled("replicator_claims_total", node, "reason='election'") for node in (N1, N2, N3)]
STARTED = [f"process_start_time_seconds{node}" for node in (N1, N2, N3)]
FIVE = "0x10 1x10 2x10 3x10 4x10 5x10 5x60"
REJECTED = labelled("replicator_rejected_writes_total", N1, "code='NOREPLICAS'")
HEALED = labelled("replicator_last_heal_timestamp_seconds", N1, "cause='diverged'")
UNKNOWN = labelled("replicator_writes_total", N1, "outcome='unknown'")
WITHIN_1_S = labelled("replicator_command_duration_seconds_bucket", N1, "kind='write', le='1'")
WITHIN_2_S = labelled("replicator_command_duration_seconds_bucket", N1, "kind='write', le='2.5'")
ALL = labelled("replicator_command_duration_seconds_bucket", N1, "kind='write', le='+Inf'")
LAG_OF_N2 = labelled("replicator_replica_lag_seconds", N1, "replica='n2'")
PUBLISHING = labelled("replicator_change_stream", N1, "state='publishing'")
STANDBY = labelled("replicator_change_stream", N2, "state='standby'")
FAILED = labelled("replicator_change_stream", N1, "state='failed'")
PUBLISHING_2 = labelled("replicator_change_stream", N2, "state='publishing'")
# of a publisher that always fails, every 5 s: it is started again after 30 s, and is on standby until it fails
FAILS = " ".join(["1 1 1 1 1 1 0"] * 60)
STANDBY_FIRST = " ".join(["0 0 0 0 0 0 1"] * 60)
SINK = "{job='replicator-sink', instance='sink:8001', sink='copy'}"
BUILD_1, BUILD_2 = (f"replicator_build_info{{job='replicator', version='{it}'}}" for it in ("1", "2"))


@dataclass(frozen=True)
class Case:
    """Samples every `interval`, as `promtool test rules` writes them."""

    alert: str
    fires: Mapping[str, str]
    quiet: Mapping[str, str]
    labels: Mapping[str, str]
    summary: str
    at: str = "30m"
    interval: str = "30s"
    severity: str = field(default="warning")


CASES = [
    Case("NodeDown", {f"up{N1}": "0x60"}, {f"up{N1}": "0 1x60"}, AT_N1, "n1:8001 does not answer"),
    Case(
        "NoLeader",
        {f"replicator_leader{N1}": "1x10 0x60", f"up{N1}": "1x60"},
        {f"replicator_leader{N1}": "0x60", f"replicator_leader{N2}": "1x60", f"up{N1}": "1x60"},
        JOB,
        "the cluster of replicator has no leader",
        severity="critical",
    ),
    Case(
        "NoLeader",
        {f"up{N1}": "0x60", f"up{N2}": "0x60"},  # all are starting
        {f"replicator_leader{N1}": "1x60", f"up{N1}": "1x60", f"up{N2}": "0x60"},
        JOB,
        "the cluster of replicator has no leader",
        severity="critical",
    ),
    Case(
        "SeveralLeaders",
        {f"replicator_leader{N1}": "1x60", f"replicator_leader{N2}": "1x60"},
        {f"replicator_leader{N1}": "1x57 0x3", f"replicator_leader{N2}": "0x57 1x3"},
        JOB,
        "2 nodes of replicator report that they are leader",
    ),
    Case(
        "NotServing",
        {f"replicator_serving{N1}": "0x60"},
        {f"replicator_serving{N1}": "1x57 0x3"},
        AT_N1,
        "n1:8001 answers no reads",
    ),
    Case(
        "Healing",
        {f"replicator_healing{N1}": "1x60"},
        {f"replicator_healing{N1}": "1x20 0x40"},
        AT_N1,
        "n1:8001 cannot rebuild its store",
    ),
    Case(
        "Healed",
        {HEALED: "-500000x2890 _x4 86800x110"},  # days ago, and when the process was started again
        {HEALED: "0x1000 2000x2000"},  # more than a day ago
        {**AT_N1, "cause": "diverged"},
        "n1:8001 has rebuilt its store (diverged)",
        at="25h",
    ),
    Case(
        "KafkaUnavailable",
        {f"replicator_kafka_up{N1}": "0x60"},
        {f"replicator_kafka_up{N1}": "1x59 0x1"},
        AT_N1,
        "Kafka does not answer n1:8001",
        severity="critical",
    ),
    Case(
        "FrequentElections",
        dict.fromkeys(ELECTIONS, FIVE) | dict.fromkeys(STARTED, "60x120"),  # all have started within the hour
        # n3 has started, and reads claims of the past
        {ELECTIONS[0]: "1x120", STARTED[0]: "-9000x120", ELECTIONS[2]: "0x10 9x110", STARTED[2]: "60x120"},
        JOB,
        "replicator has had 5 elections within an hour",
        at="60m",
    ),
    Case(
        "FrequentElections",
        # n3 is cut off from Kafka, and reads no claims
        {**dict.fromkeys(ELECTIONS[:2], FIVE), ELECTIONS[2]: "7x120", **dict.fromkeys(STARTED, "-9000x120")},
        # n3 has reached Kafka again, or rebuilt its store, and reads those of some hours
        {**dict.fromkeys(ELECTIONS[:2], "1x120"), ELECTIONS[2]: "0x80 9x40", **dict.fromkeys(STARTED, "-9000x120")},
        JOB,
        "replicator has had 5 elections within an hour",
        at="60m",
    ),
    Case(
        "ReplicaLagging",
        {LAG_OF_N2: "90x60"},
        {LAG_OF_N2: "0.2x60"},
        {**AT_N1, "replica": "n2"},
        "n2 is 1m 30s behind the leader",
    ),
    Case(
        "WritesRejected",
        {REJECTED: "0+10x60"},
        {REJECTED: "5x60", labelled("replicator_rejected_writes_total", N2, "code='READONLY'"): "0+10x60"},
        {**JOB, "code": "NOREPLICAS"},
        "writes to replicator are rejected with NOREPLICAS",
        severity="critical",
    ),
    Case(
        "WritesUnknown",
        {UNKNOWN: "0x50 19x10"},
        {UNKNOWN: "19x60"},
        JOB,
        "19 writes to replicator have ended with UNKNOWN",
    ),
    Case(
        "SlowWrites",
        {WITHIN_1_S: "0+90x60", WITHIN_2_S: "0+100x60", ALL: "0+100x60"},
        {WITHIN_1_S: "0+100x60", WITHIN_2_S: "0+100x60", ALL: "0+100x60"},
        JOB,
        "the slowest 1 % of the writes to replicator take 2.35s",
    ),
    Case(
        "ClientsRefused",
        {f"replicator_refused_connections_total{N1}": "0+1x60"},
        {f"replicator_refused_connections_total{N1}": "7x60"},
        AT_N1,
        "n1:8001 refuses Redis clients",
    ),
    Case(
        "FewFileDescriptors",
        {f"process_open_fds{N1}": "95x60", f"process_max_fds{N1}": "100x60"},
        {f"process_open_fds{N1}": "50x60", f"process_max_fds{N1}": "100x60"},
        AT_N1,
        "n1:8001 uses 95% of its file descriptors",
    ),
    Case(
        "NoSnapshot",
        {f"replicator_snapshots{N1}": "0x240"},
        {f"replicator_snapshots{N1}": "0x240", f"replicator_snapshots{N2}": "1x240"},
        JOB,
        "replicator has no snapshot",
        at="2h",
    ),
    Case(
        "SnapshotTooOld",
        {f"replicator_snapshot_timestamp_seconds{N1}": "-180000x60"},
        {
            f"replicator_snapshot_timestamp_seconds{N1}": "-180000x60",
            f"replicator_snapshot_timestamp_seconds{N2}": "0x60",
        },
        JOB,
        "the newest snapshot of replicator is 2d 2h 30m 0s old",
    ),
    Case(
        "SnapshotTrouble",
        {f"replicator_snapshot_trouble{N1}": "1x60"},
        {f"replicator_snapshot_trouble{N1}": "0x40 1x20"},
        AT_N1,
        "n1:8001 fails to take, verify or delete snapshots",
    ),
    Case(
        "ChangeStreamFailed",
        {FAILED: "1x60"},
        {FAILED: "1x10 0x50"},
        {**AT_N1, "state": "failed"},
        "n1:8001 cannot publish the change stream",
        severity="critical",
    ),
    Case(
        "ChangeStreamFailed",
        {
            FAILED: FAILS,
            labelled("replicator_change_stream", N1, "state='standby'"): STANDBY_FIRST,
            PUBLISHING: "0x420",
        },
        {FAILED: FAILS, PUBLISHING: "0x420", PUBLISHING_2: "1x420"},
        {**AT_N1, "state": "failed"},
        "n1:8001 cannot publish the change stream",
        at="29m5s",
        interval="5s",
        severity="critical",
    ),
    Case(
        "ChangeStreamStopped",
        {PUBLISHING: "0x60", STANDBY: "1x60"},
        {PUBLISHING: "1x60", STANDBY: "1x60"},
        JOB,
        "no node publishes the change stream of replicator",
        severity="critical",
    ),
    Case(
        "ChangeStreamStopped",
        {PUBLISHING: "1x20 0x40", STANDBY: "1x60"},
        {PUBLISHING: "0x60", STANDBY: "0x60"},  # it is disabled
        JOB,
        "no node publishes the change stream of replicator",
        severity="critical",
    ),
    Case(
        "ChangeStreamLagging",
        {f"replicator_change_stream_lag_seconds{N1}": "75x60"},
        {f"replicator_change_stream_lag_seconds{N1}": "0.1x60"},
        AT_N1,
        "the change stream is 1m 15s behind the log",
    ),
    Case(
        "SinkDown",
        {f"replicator_sink_up{SINK}": "0x60"},
        {f"replicator_sink_up{SINK}": "1x60"},
        {"job": "replicator-sink", "instance": "sink:8001", "sink": "copy"},
        "the sink at sink:8001 does not copy changes",
    ),
    Case(
        "SinkDown",
        {"up{job='replicator-sink', instance='sink:8001'}": "0x60"},
        {"up{job='replicator-sink', instance='sink:8001'}": "1x60", f"up{N1}": "0x60"},
        {"job": "replicator-sink", "instance": "sink:8001"},
        "the sink at sink:8001 does not copy changes",
    ),
    Case(
        "SinkLagging",
        {f"replicator_sink_lag_seconds{SINK}": "75x60"},
        {f"replicator_sink_lag_seconds{SINK}": "1x60"},
        {"job": "replicator-sink", "instance": "sink:8001", "sink": "copy"},
        "the sink copy is 1m 15s behind",
    ),
    Case(
        "MixedVersions",
        {BUILD_1: "1x3000", BUILD_2: "1x3000"},
        {BUILD_1: "1x60 stale", BUILD_2: "1x3000"},
        JOB,
        "nodes of replicator run 2 versions",
        at="25h",
    ),
]


def unit_test(case: Case, rule: Mapping[str, Any], *, fires: bool) -> dict[str, Any]:
    """One test of `promtool test rules`."""
    labels = {**case.labels, "severity": case.severity}
    alert = {"exp_labels": labels, "exp_annotations": {**rule["annotations"], "summary": case.summary}}
    series = case.fires if fires else case.quiet
    return {
        "interval": case.interval,
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": case.at, "alertname": rule["alert"], "exp_alerts": [alert] if fires else []},
        ],
    }


def promtool(*words: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@needs_promtool
def test_the_rules_and_the_configuration_are_valid() -> None:
    assert f"SUCCESS: {len(alert_rules())} rules found" in promtool("check", "rules", RULES)
    assert "SUCCESS: 1 rule files found" in promtool("check", "config", CONFIG)


@needs_promtool
def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    rules = {rule["alert"]: rule for rule in alert_rules()}
    assert {f"Replicator{case.alert}" for case in CASES} == rules.keys()
    tests = [
        unit_test(case, rules[f"Replicator{case.alert}"], fires=fires) for case in CASES for fires in (True, False)
    ]
    file = tmp_path / "alerts_test.yml"
    file.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "30s", "tests": tests}))
    promtool("test", "rules", file)


@pytest.mark.parametrize("rule", alert_rules(), ids=lambda rule: rule["alert"])
def test_an_alert_queries_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert names_in(rule["expr"]) <= EXPORTED
    assert rule["labels"].keys() == {"severity"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert anchor == rule["alert"].lower()
    section = re.search(rf"^### {rule['alert']}\n(.*?)(?=^##|\Z)", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    assert section is not None and len(section[1].split()) > 15, f"{page} does not say what {rule['alert']} means"


def test_no_section_is_about_an_alert_that_does_not_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert re.findall(r"^### (Replicator\w+)$", page, re.MULTILINE) == [rule["alert"] for rule in alert_rules()]
