"""Snapshots of a cluster of real processes on a real Kafka: schedule, trimming, verification, and S3."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator.log.kafka.admin import trim
from replicator.position import Offset
from tests.process_cluster import Cluster, wait_for
from tests.s3_server import s3_server

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(kafka: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", kafka)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def metric(cluster: Cluster, id: str, name: str) -> float | None:
    port = cluster.folder.load().node(id).http_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(f"replicator_{name} "):
                return float(line.split()[1])
    return None


def write(cluster: Cluster, first: int, count: int) -> None:
    """Each is a record of its own."""
    leader = cluster.client(cluster.leader([entry.id for entry in cluster.folder.load().nodes]))
    for number in range(first, first + count):
        leader.set(f"key:{number}", "x" * 100)


def listed(cluster: Cluster) -> Any:
    return json.loads(cluster.run("snapshot", "list", "--json"))


def test_the_log_is_trimmed_and_new_replicas_start_from_snapshots(cluster: Cluster) -> None:
    cluster.environment |= {
        "REPLICATOR_SNAPSHOTS_EVERY_RECORDS": "200",
        "REPLICATOR_SNAPSHOTS_KEEP": "1",
        "REPLICATOR_SNAPSHOTS_TRIM": "yes",
    }
    cluster.up(2)
    follower = next(id for id in ("n1", "n2") if id != cluster.leader(["n1", "n2"]))
    cluster.run("replica", "add", "s1", "--mode", "snapshotter")
    write(cluster, 0, 250)
    wait_for(lambda: (metric(cluster, "s1", "log_start_offset") or 0) > 100)
    [only] = listed(cluster)
    assert only["verified_at_ms"] is not None
    assert metric(cluster, "s1", "snapshot_verified_offset") == only["offset"]
    output = cluster.run("replica", "add", "n4")
    assert f"restored snapshot {only['name']}: n4 reads the log from offset {only['offset'] + 1}" in output
    assert cluster.client("n4").get("key:0") == b"x" * 100

    cluster.run("node", "stop", follower)
    stopped_at = int(cluster.status()["end_offset"])
    write(cluster, 250, 500)
    wait_for(lambda: listed(cluster)[0]["offset"] > stopped_at + 100)
    needed = metric(cluster, "s1", "log_needed_offset")
    wait_for(lambda: "the log below" in cluster.folder.log_file("s1").read_text())
    assert needed is not None and needed <= stopped_at + 1  # the member that is stopped still needs the rest
    assert (metric(cluster, "s1", "log_start_offset") or 0) <= stopped_at + 1
    cluster.run("node", "start", follower)
    assert {it["id"] for it in cluster.caught_up()} == {"n1", "n2", "n4", "s1"}


def test_a_snapshot_is_verified_against_the_log(cluster: Cluster) -> None:
    cluster.up(1)
    write(cluster, 0, 50)
    taken = json.loads(cluster.run("snapshot", "take", "--json"))
    output = cluster.run("snapshot", "verify")
    for what in ("manifest", "checksums", "metadata", "digest", "log"):
        assert f"ok     {what}: " in output
    assert f"snapshot {taken['name']} is verified" in output
    assert json.loads(cluster.run("snapshot", "show", "--json"))["verified_at_ms"] is not None

    write(cluster, 50, 50)
    trim(cluster.bootstrap, cluster.name, Offset(taken["offset"] + 20))
    assert "FAILED log: the log begins at offset" in cluster.run("snapshot", "verify", taken["name"], code=1)

    folder = Path(taken["repository"]) / taken["name"]
    [part] = folder.glob("part-*")
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    output = cluster.run("snapshot", "verify", "--json", code=1)
    report = json.loads(output[output.index("{") :])
    assert [(it["what"], it["passed"]) for it in report["checks"]] == [("manifest", True), ("checksums", False)]
    [damaged] = listed(cluster)
    assert damaged["verified_at_ms"] is None and "does not match its checksum" in damaged["failure"]
    assert "failed" in cluster.run("snapshot", "list")
    assert "does not match its checksum" in cluster.run("snapshot", "show")
    refused = cluster.run("replica", "add", "n2", "--from-snapshot", code=1)
    assert f"there is no snapshot whose verification has not failed ({taken['name']}: " in refused
    assert "does not match its checksum" in refused and "snapshot delete NAME" in refused
    assert [it["id"] for it in cluster.status()["nodes"]] == ["n1"]
    assert not cluster.folder.node_dir("n2").exists()
    newer = take_verified(cluster)
    [part] = (Path(taken["repository"]) / newer).glob("part-*")
    good = part.read_bytes()
    part.write_bytes(good[:-1])
    assert f"snapshot {newer} cannot be restored" in cluster.run("replica", "add", "n2", code=1)
    part.write_bytes(good)
    write(cluster, 100, 10)
    newest = take_verified(cluster)
    [part] = (Path(taken["repository"]) / newest).glob("part-*")
    part.write_bytes(b"")
    output = cluster.run("replica", "add", "n2")
    assert f"snapshot {newest} cannot be restored" in output and f"restored snapshot {newer}" in output
    assert f"deleted snapshot {newest}" in cluster.run("snapshot", "delete", newest)
    assert "the only verified" in cluster.run("snapshot", "delete", newer, code=1)


def take_verified(cluster: Cluster) -> str:
    name = str(json.loads(cluster.run("snapshot", "take", "--json"))["name"])
    cluster.run("snapshot", "verify", name)
    return name


def test_names_that_are_none(cluster: Cluster) -> None:
    cluster.up(1)
    write(cluster, 0, 3)
    for name in ("../nodes/n1", "/etc", "latest"):
        assert "invalid name of a snapshot" in cluster.run("snapshot", "verify", name, code=1)
        assert "invalid name of a snapshot" in cluster.run("replica", "add", "n2", "--snapshot", name, code=1)
    missing = f"{1:020d}-{'0' * 8}"
    assert "there is no snapshot" in cluster.run("replica", "add", "n2", "--snapshot", missing, code=1)
    assert "there is no snapshot" in cluster.run("replica", "add", "n2", "--from-snapshot", code=1)
    assert "exclude each other" in cluster.run("replica", "add", "n2", "--from-snapshot", "--from-log", code=1)


def test_one_of_another_cluster_is_refused(cluster: Cluster, kafka: str, tmp_path: Path) -> None:
    other = Cluster(tmp_path / "other", kafka)
    other.up(1)
    try:
        write(other, 0, 3)
        taken = json.loads(other.run("snapshot", "take", "--json"))
        cluster.run(
            *("cluster", "up", "--nodes", "1", "--bootstrap", kafka, "--name", cluster.name),
            *("--base-port", str(cluster.base_port), "--snapshots", taken["repository"]),
        )
        assert f"is of cluster {other.name}" in cluster.run("replica", "add", "n2", "--snapshot", taken["name"], code=1)
        assert f"it is of cluster {other.name}" in cluster.run("snapshot", "verify", taken["name"], code=1)
        assert "there is no snapshot in" in cluster.run("replica", "add", "n2", "--from-snapshot", code=1)
        cluster.run("replica", "add", "n2")  # which reads the log
    finally:
        other.run("cluster", "down", "--purge")


def test_snapshots_in_s3(cluster: Cluster, kafka: str) -> None:
    with s3_server() as bucket:
        cluster.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
        cluster.run(
            *("cluster", "up", "--nodes", "2", "--bootstrap", kafka, "--name", cluster.name),
            *("--base-port", str(cluster.base_port), "--snapshots", f"{bucket}/shop"),
        )
        write(cluster, 0, 100)
        taken = json.loads(cluster.run("snapshot", "take", "--json"))
        assert taken["repository"] == f"{bucket}/shop"
        assert "is verified" in cluster.run("snapshot", "verify")
        output = cluster.run("replica", "add", "n3")
        assert f"n3 reads the log from offset {taken['offset'] + 1}" in output
        assert len(cluster.caught_up()) == 3
    output = cluster.run("snapshot", "take", code=1)
    assert f"repository {bucket}/shop cannot" in output
    assert len(cluster.caught_up()) == 3
