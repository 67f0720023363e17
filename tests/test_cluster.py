"""A cluster of real processes on a real Kafka: use, administration and failures."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import redis

from replicator.intervals import OFFSET_COMMIT_MS
from replicator.local.kafka import LocalBroker
from replicator.log.kafka.admin import delete_topics, ensure_topics
from replicator.position import NodeId
from replicator.records.types import Timing
from tests.kafka_fixture import committed_offset
from tests.process_cluster import WAIT_S, Cluster, Writer, stopped, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")
    assert not cluster.dir.exists()


def test_writes_reach_every_node(cluster: Cluster) -> None:
    leader = cluster.client(cluster.leader(["n1", "n2", "n3"]))
    for number in range(200):
        leader.set(f"key:{number}", number)
    leader.hset("hash", mapping={"a": 1, "b": 2})
    assert leader.wait(2, 10_000) == 2
    for id in ("n1", "n2", "n3"):
        assert cluster.client(id).get("key:199") == b"199"
        assert cluster.client(id).hgetall("hash") == {b"a": b"1", b"b": b"2"}


def test_status_has_the_documented_fields(cluster: Cluster) -> None:
    cluster.caught_up()
    status = cluster.status()
    assert status.keys() == {
        "cluster", "timeline", "topic", "topic_id", "epoch", "leader", "elected", "lease_left_ms", "end_offset",
        "policy", "timing", "nodes", "record_version", "kafka_down_ms", "log_bytes", "leader_is_idle",
    }  # fmt: skip
    fields = {
        "id",
        "role",
        "mode",
        "resp",
        "http",
        "state",
        "source",
        "kafka_answers",
        "applied_offset",
        "lag_records",
        "lag_ms",
        "digest",
        "entries",
        "store_bytes",
        "publisher",
    }
    assert all(fields <= node.keys() for node in status["nodes"])
    assert [node["id"] for node in status["nodes"]] == ["n1", "n2", "n3"]
    text = cluster.run("status")
    assert "serving" in text and "n3" in text
    assert f"epoch {status['epoch']}: {status['leader']} has been leader for " in text
    assert ", lease left " in text or ", idle" in text
    port = cluster.folder.load().nodes[1]
    for connect in (f"127.0.0.1:{port.http_port}", f"127.0.0.1:{port.resp_port}"):
        done = subprocess.run(
            [sys.executable, "-m", "replicator", "status", "--json", "--connect", connect],
            capture_output=True,
            text=True,
            check=True,
        )
        assert json.loads(done.stdout)["topic_id"] == status["topic_id"]


def metrics(cluster: Cluster, id: str) -> dict[str, str]:
    """The values, by name and labels."""
    port = cluster.folder.load().node(id).http_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))


def test_http(cluster: Cluster) -> None:
    assert cluster.node("n2", "/healthz") == {"id": "n2", "alive": True}
    assert cluster.node("n2", "/readyz")["id"] == "n2"
    wait_for(lambda: "replicator_log_size_bytes" in metrics(cluster, "n1"))  # the first answer of a broker may be late
    samples = metrics(cluster, "n1")
    assert float(samples["replicator_epoch"]) >= 1
    assert 'replicator_writes_total{outcome="ok"}' in samples
    assert float(samples['replicator_stage_duration_seconds_count{stage="apply"}']) > 0


def test_doctor_reports_what_a_single_broker_lacks(cluster: Cluster) -> None:
    text = cluster.run("doctor", code=1)
    assert "unclean.leader.election.enable" in text
    findings = {it["name"]: it for it in json.loads(cluster.run("doctor", "--json", code=1))}
    slowest = findings["slowest replica above the start of the log"]
    assert re.fullmatch(r"n\d: \d+ records, \d+ s", slowest["value"]) and slowest["ok"]
    assert findings["cleanup.policy"]["ok"] and not findings["brokers"]["ok"]
    assert findings["replicator"]["value"] in ("interpreted", "compiled")


def test_a_replica_starts_from_a_snapshot_and_reads_on_after_its_offset(cluster: Cluster) -> None:
    leader = cluster.client(cluster.leader(["n1", "n2", "n3"]))
    manifest = json.loads(cluster.run("snapshot", "take", "--json"))
    leader.set("after the snapshot", "1")
    cluster.run("replica", "add", "n4", "--from-snapshot")
    assert f"n4 reads the log from offset {manifest['offset'] + 1} on" in cluster.folder.log_file("n4").read_text()
    assert cluster.client("n4").get("after the snapshot") == b"1"
    assert {node["id"] for node in cluster.caught_up()} == {"n1", "n2", "n3", "n4"}
    assert json.loads(cluster.run("snapshot", "list", "--json"))[0]["name"] == manifest["name"]
    assert "is in this cluster already" in cluster.run("replica", "add", "n4", code=1)
    wait_for(lambda: committed_offset(cluster.bootstrap, cluster.name, NodeId("n4")) is not None)
    cluster.run("replica", "remove", "n4")
    assert {node["id"] for node in cluster.caught_up()} == {"n1", "n2", "n3"}


def test_kafkas_tools_show_the_lag_of_each_node(cluster: Cluster) -> None:
    ids = ["n1", "n2", "n3"]
    leader = cluster.leader(ids)
    follower = next(id for id in ids if id != leader)

    def lag(id: str) -> int:
        committed = committed_offset(cluster.bootstrap, cluster.name, NodeId(id))
        return int(cluster.status()["end_offset"]) + 1 - (committed or 0)

    idle = OFFSET_COMMIT_MS // Timing().heartbeat_ms + 10  # heartbeats since the last commit
    wait_for(lambda: all(lag(id) <= idle for id in ids))
    with stopped(cluster.pid(follower)):
        client = cluster.client(leader)
        for number in range(2 * idle):
            client.set("lag", number)
        assert lag(follower) >= 2 * idle
    wait_for(lambda: lag(follower) <= idle)


def test_the_last_sync_member_cannot_be_removed_while_writes_wait_for_it(cluster: Cluster) -> None:
    leader = cluster.leader(["n1", "n2", "n3"])
    last = next(id for id in ("n3", "n2") if id != leader)
    assert "there would be none" in cluster.run("cluster", "policy", "--write", "sync", code=1)
    assert "snapshotter" in cluster.run("replica", "set-mode", last, "primary", code=2)
    cluster.run("replica", "set-mode", last, "sync")
    assert "quorum of 2" in cluster.run("cluster", "policy", "quorum:2", "--write", "sync", code=1)
    assert "writes are invalidate" in cluster.run("cluster", "policy", "--write", "invalidate")
    assert "writes are invalidate" in cluster.run("cluster", "policy", "all")
    cluster.run("cluster", "policy", "--write", "sync")
    assert "there would be none" in cluster.run("replica", "remove", last, code=1)
    assert cluster.folder.process(last) is not None
    cluster.client(leader).set("waits for", last)
    assert cluster.client(last).get("waits for") == last.encode()
    assert "writes are async" in cluster.run("cluster", "policy", "--write", "async")
    cluster.run("replica", "set-mode", last, "async")


def test_a_killed_follower_catches_up(cluster: Cluster) -> None:
    leader = cluster.leader(["n1", "n2", "n3"])
    victim = next(id for id in ("n3", "n2") if id != leader)
    writer = Writer([cluster.client(leader)])
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 100)
    cluster.kill(victim)
    wait_for(lambda: len(writer.acknowledged) > 500)
    cluster.run("node", "start", victim)
    writer.finish()
    cluster.caught_up()
    writer.check(cluster.client(victim))
    assert not writer.rejected and not writer.unknown


def test_a_leader_that_is_stopped_transfers_leadership_first(cluster: Cluster) -> None:
    ids = ["n1", "n2", "n3"]
    old = cluster.leader(ids)
    cluster.run("node", "stop", old)
    new = cluster.leader([id for id in ids if id != old])
    assert cluster.client(new).info("replicator")["term_why"] == f"{old} transferred leadership"
    cluster.run("node", "start", old)
    cluster.caught_up()


def test_a_killed_leader_loses_no_acknowledged_write(cluster: Cluster) -> None:
    ids = ["n1", "n2", "n3"]
    old = cluster.leader(ids)
    cluster.client(old).flushall()
    writer = Writer([cluster.client(id) for id in [old, *(it for it in ids if it != old)]])
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 300)
    cluster.kill(old)
    before = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) > before + 300)
    cluster.run("node", "start", old)
    writer.finish()
    cluster.caught_up()
    for id in ids:
        writer.check(cluster.client(id))
    assert cluster.leader(ids) != old


def test_a_second_process_for_a_node_is_refused(cluster: Cluster) -> None:
    entry = cluster.folder.load().node("n1")
    for resp, http, message in (
        (entry.resp_port, entry.http_port, "cannot listen"),
        (0, 0, "in use by another process"),
    ):
        done = subprocess.run(
            [
                *(sys.executable, "-m", "replicator", "node", "run", "--id", "n1", "--cluster", cluster.name),
                *("--bootstrap", cluster.bootstrap, "--dir", str(cluster.folder.node_dir("n1"))),
                *("--resp", f"127.0.0.1:{resp}", "--http", f"127.0.0.1:{http}"),
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert message in done.stderr and "Traceback" not in done.stderr


def test_failing_commands_report_the_reason(cluster: Cluster, tmp_path: Path) -> None:
    assert "n9 is not a node of this cluster (n1, n2, n3)" in cluster.run("node", "start", "n9", code=1)
    leader = cluster.leader(["n1", "n2", "n3"])
    assert "is the leader" in cluster.run("replica", "remove", leader, code=1)
    other = Cluster(tmp_path, cluster.bootstrap)
    assert "there is no cluster in" in other.run("status", code=1)
    other.base_port = cluster.base_port
    with pytest.raises(AssertionError, match="is not available"):
        other.up(1)
    assert "at 127.0.0.1:1 does not answer" in other.run("cluster", "up", "--bootstrap", "127.0.0.1:1", code=1)
    assert "invalid address 'nohost'" in other.run("cluster", "up", "--bootstrap", "nohost", code=2)
    assert not other.folder.exists()
    assert f"its name is {cluster.name}, not other" in cluster.run("cluster", "up", "--name", "other", code=1)


def test_all_nodes_follow_the_timing_in_the_log_whatever_their_config_says(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, kafka)
    cluster.up(2)
    try:
        assert json.loads(cluster.run("cluster", "timing", "--json")) == asdict(Timing())
        short = ("--heartbeat-ms", "100", "--lease-ms", "300", "--follower-lease-ms", "300")
        refused = cluster.run("cluster", "timing", *short, "--election-ms", "400", code=1)
        assert "election_ms (400) must be at least 660 in this change" in refused
        shown = cluster.run("cluster", "timing", "--lease-ms", "800", "--election-ms", "1000")
        assert "lease_ms 800\nelection_ms 1000\nstep_ms 150\n" in shown
        timing = asdict(Timing(lease_ms=800, election_ms=1000))
        wait_for(lambda: [cluster.node(id)["timing"] for id in ("n1", "n2")] == [timing, timing])
        cluster.run("node", "stop", "n2")
        cluster.environment["REPLICATOR_TIMING_LEASE_MS"] = "500"
        cluster.run("node", "start", "n2")
        status = cluster.node("n2")
        assert (status["timing"], status["node"]["ignored_timing"]) == (timing, {"lease_ms": 500})
        assert "n2: its config has lease_ms 500, but the cluster has 800" in cluster.run("status")
        log = cluster.folder.log_file("n2").read_text()
        assert log.count("timing.lease_ms is 500 in the config of this node, but the cluster has 800") == 1
        cluster.kill("n1")
        assert cluster.leader(["n2"]) == "n2"
        cluster.client("n2").set("a", "1")
        assert cluster.node("n2")["timing"] == timing
    finally:
        cluster.run("cluster", "down", "--purge")


def test_no_acknowledged_write_is_lost_when_the_broker_restarts(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path / "broker")
    cluster = Cluster(tmp_path / "cluster", broker.start())
    try:
        cluster.up(2)
        writer = Writer([cluster.client("n1"), cluster.client("n2")])
        writer.start()
        wait_for(lambda: len(writer.acknowledged) > 200)
        broker.kill()
        broker.start()
        before = len(writer.acknowledged)
        wait_for(lambda: len(writer.acknowledged) > before + 200)
        writer.finish()
        cluster.caught_up()
        for id in ("n1", "n2"):
            writer.check(cluster.client(id))
    finally:
        cluster.run("cluster", "down")
        broker.stop()


def test_nodes_wait_for_a_broker_that_starts_later(tmp_path: Path) -> None:
    broker = LocalBroker(tmp_path / "broker")
    cluster = Cluster(tmp_path / "cluster", broker.start())
    cluster.up(1)
    cluster.run("node", "stop", "n1")
    broker.stop()
    starting = threading.Thread(target=cluster.up, args=(1,))
    starting.start()
    try:
        wait_for(lambda: "is unavailable" in str(cluster.node("n1", "/readyz")))
        broker.start()
        starting.join(WAIT_S)
        assert cluster.client("n1").set("a", "1")
    finally:
        starting.join(WAIT_S)
        cluster.run("cluster", "down")
        broker.stop()


def test_nodes_stop_if_the_topic_is_recreated(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, kafka)
    cluster.up(2)
    try:
        cluster.client(cluster.leader(["n1", "n2"])).set("a", "1")
        delete_topics(kafka, cluster.name)
        ensure_topics(kafka, cluster.name)
        for id in ("n1", "n2"):
            wait_for(lambda id=id: cluster.node(id)["node"]["state"] == "failed")  # type: ignore[misc]
            with pytest.raises(redis.ResponseError, match=r"recreated|was deleted"):
                cluster.client(id).get("a")
        cluster.run("node", "stop", "n2")
        assert "recreated" in cluster.run("node", "start", "n2", code=1)
    finally:
        cluster.run("cluster", "down", "--purge")
