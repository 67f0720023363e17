"""Nodes that receive records from followers, as processes on a real Kafka."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.process_cluster import Cluster, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


def test_a_cascade_whose_middle_is_killed(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, kafka)
    cluster.up(2)
    try:
        leader = cluster.leader(["n1", "n2"])
        [middle] = {"n1", "n2"} - {leader}
        assert "n9 is not a node of this cluster (n1, n2)" in cluster.run(
            "replica", "add", "n3", "--upstream", "n9", code=1
        )
        cluster.run("replica", "add", "n3", "--upstream", middle)
        cluster.run("replica", "add", "n4", "--upstream", "auto")
        wait_for(lambda: cluster.node("n3")["node"]["upstream"] == middle)
        wait_for(lambda: cluster.node("n4")["node"]["upstream"] == leader)
        assert "└── n3" in cluster.run("status")
        cluster.run("replica", "set-mode", "n3", "sync")
        cluster.run("cluster", "policy", "all", "--write", "sync")
        client = cluster.client(leader)
        assert client.set("a", "1") and cluster.client("n3").get("a") == b"1"
        cluster.kill(middle)
        assert client.set("a", "2") and cluster.client("n3").get("a") == b"2"
        wait_for(lambda: cluster.node("n3")["node"]["upstream"] == leader)
        cluster.run("node", "start", middle)
        wait_for(lambda: cluster.node("n3")["node"]["upstream"] == middle)
        assert client.set("a", "3") and cluster.client("n3").get("a") == b"3"
        assert len({it["digest"] for it in cluster.caught_up()}) == 1
    finally:
        cluster.run("cluster", "down", "--purge")
