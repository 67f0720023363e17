"""Procedures on a cluster of three processes, whose log has their calls: replicas, versions, restore and the past."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.process_cluster import Cluster, cluster, wait_for
from tests.test_past_view import opened

__all__ = ["cluster"]

IDS = ["n1", "n2", "n3"]
SOURCE = """
from replicator.procedures import Transaction, procedure


@procedure
def order(tx: Transaction, item: str) -> str:
    id = tx.uuid()
    tx.sql("INSERT INTO orders VALUES (?, ?, ?, ?)", [id, item, tx.now(), tx.random()])
    tx.call("INCRBY", "sold", 1)
    return id
"""
OTHER = SOURCE.replace('"INCRBY", "sold", 1', '"INCRBY", "sold", 2')


def orders(client: Any) -> Any:
    return client.execute_command("REPL.SQL", "SELECT * FROM orders ORDER BY id"), client.get("sold")


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_calls_are_repeated_by_replicas_and_after_a_restore(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "orders.py"
    file.write_text(SOURCE)
    options = ("--nodes", "3", "--base-port", str(cluster.base_port), "--name", cluster.name)
    cluster.run("cluster", "up", *options, "--bootstrap", cluster.bootstrap, "--procedures", str(file))
    cluster.run("cluster", "policy", "--replicate", "command")
    leader = cluster.leader(IDS)
    client = cluster.client(leader)
    client.execute_command("REPL.SQL", "CREATE TABLE orders (id TEXT PRIMARY KEY, item TEXT, at REAL, draw REAL)")
    for number in range(20):
        client.execute_command("REPL.CALL", "order", f"item {number}")
    cluster.caught_up()

    lost = next(id for id in IDS if id != leader)
    file.write_text(OTHER)
    cluster.kill(lost)
    cluster.run("node", "start", lost)
    client.execute_command("REPL.CALL", "order", "while a replica has another file")
    wait_for(lambda: cluster.node(lost)["node"]["state"] == "failed")
    assert "procedure order" in cluster.node(lost)["node"]["trouble"]
    file.write_text(SOURCE)
    cluster.run("node", "stop", lost)
    cluster.run("node", "start", lost)
    cluster.caught_up()

    taken = json.loads(cluster.run("snapshot", "take", "--json"))["name"]
    client.execute_command("REPL.CALL", "order", "after the snapshot")
    wanted = orders(client)
    written = cluster.caught_up()[0]["applied_offset"]
    with opened(cluster, taken, "--offset", str(written)) as (past, _):
        assert orders(past) == wanted
    for id in reversed(IDS):
        cluster.run("node", "stop", id)
    cluster.run("cluster", "restore", "--snapshot", taken, "--to-offset", str(written), "--yes")
    cluster.run("cluster", "up")
    client = cluster.client(cluster.leader(IDS))
    assert orders(client) == wanted and wanted[1] == b"22"
    client.execute_command("REPL.CALL", "order", "in the new cluster")
    cluster.caught_up()
