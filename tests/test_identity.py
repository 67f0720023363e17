"""Processes with a wrong identity: a second process of a node, and a node with the store of another cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.local.ports import free_base_port
from replicator.log.kafka.admin import delete_topics, ensure_topics
from tests.process_cluster import Cluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(kafka: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(2)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def run(cluster: Cluster, id: str, dir: Path, name: str = "") -> str:
    """Start a process as node `id` with ports of its own; it must exit with code 1. Returns its stderr."""
    port = free_base_port(2)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "replicator", "node", "run", "--id", id, "--cluster", name or cluster.name),
            *("--bootstrap", cluster.bootstrap, "--dir", str(dir)),
            *("--resp", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{port + 1}"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr and "never retrieved" not in done.stderr
    return done.stderr


def test_a_second_process_of_a_node_exits_and_the_first_continues(cluster: Cluster, tmp_path: Path) -> None:
    leader = cluster.client(cluster.leader(["n1", "n2"]))
    leader.set("a", "1")
    before = {id: cluster.node(id) for id in ("n1", "n2")}
    for id in ("n1", "n2"):
        output = run(cluster, id, tmp_path / f"other-{id}")
        assert f"{id} of cluster {cluster.name} is already running at 127.0.0.1:" in output
    leader.set("a", "2")
    for id in ("n1", "n2"):
        after = cluster.node(id)
        for fact in ("incarnation", "members"):
            assert after[fact] == before[id][fact]
        assert (after["node"]["epoch"], after["node"]["leader"]) == (1, before[id]["node"]["leader"])
    assert {node["state"] for node in cluster.caught_up()} == {"serving"}


def test_a_store_of_another_cluster_is_refused(cluster: Cluster) -> None:
    cluster.run("node", "stop", "n2")
    other = f"{cluster.name}-other"
    folder = cluster.folder.node_dir("n2")
    assert "Check --bootstrap and --cluster" in run(cluster, "n2", folder, other)
    ensure_topics(cluster.bootstrap, other)
    try:
        assert f"belongs to cluster {cluster.name}, not {other}" in run(cluster, "n2", folder, other)
    finally:
        delete_topics(cluster.bootstrap, other)
    cluster.run("node", "start", "n2")
