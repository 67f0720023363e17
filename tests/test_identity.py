"""Processes with a wrong identity: a second process of a node, and a node with the store of another cluster."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator.local.ports import free_base_port
from replicator.log.kafka.admin import delete_topics, ensure_topics
from tests.process_cluster import Cluster, stopped, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]


@pytest.fixture
def cluster(kafka: str, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "cluster", kafka)
    cluster.up(2)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def command(cluster: Cluster, id: str, dir: Path, port: int, name: str = "") -> list[str]:
    """Runs a process as node `id`, with the Redis protocol at `port` and HTTP at the next one."""
    return [
        *(sys.executable, "-m", "replicator", "node", "run", "--id", id, "--cluster", name or cluster.name),
        *("--bootstrap", cluster.bootstrap, "--dir", str(dir)),
        *("--resp", f"127.0.0.1:{port}", "--http", f"127.0.0.1:{port + 1}"),
    ]


def run(cluster: Cluster, id: str, dir: Path, name: str = "") -> str:
    """Start a process as node `id` with ports of its own; it must exit with code 1. Returns its stderr."""
    arguments = command(cluster, id, dir, free_base_port(2), name)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60)
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


@contextmanager
def started_elsewhere(cluster: Cluster, id: str, dir: Path) -> Iterator[int]:
    """The port of another process of this node, which stops at the end."""
    port = free_base_port(2)
    with subprocess.Popen(command(cluster, id, dir, port), stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


def test_a_process_that_was_paused_while_its_node_moved_stops_serving(cluster: Cluster, tmp_path: Path) -> None:
    leading = cluster.leader(["n1", "n2"])
    id = "n2" if leading == "n1" else "n1"
    cluster.run("replica", "set-mode", id, "sync")
    cluster.run("cluster", "policy", "--write", "suspend")
    leader, old = cluster.client(leading), cluster.client(id)
    leader.set("a", "1")
    old.execute_command("REPL.READ", "linearizable")
    assert old.get("a") == b"1"  # without asking the leader
    reader = cluster.client(id).connection_pool.get_connection()
    with started_elsewhere(cluster, id, tmp_path / "elsewhere") as port:
        pid = cluster.pid(id)
        with stopped(pid):
            wait_for(lambda: is_set(leader, "a", "2"))  # once the other process is registered
            reader.send_command("REPL.READ", "linearizable", "GET", "a")  # is received when the process resumes
            latest: Any = redis.Redis(port=port)
            assert latest.execute_command("REPL.READ", "linearizable", "GET", "a") == b"2"
        try:
            assert reader.read_response() == b"2"
        except redis.ResponseError as error:
            assert "another process runs" in str(error) or "STALE" in str(error)
        wait_for(lambda: cluster.node(id)["node"]["state"] == "replaced")
        trouble = cluster.node(id)["node"]["trouble"]
        assert f"another process runs as {id}, at 127.0.0.1:{port}, since 20" in trouble
        assert cluster.node(id, "/readyz")["error"] == f"replaced. {trouble}"
        assert cluster.node(id, "/healthz")["alive"] and cluster.pid(id) == pid
        for level in ("eventual", "linearizable"):
            with pytest.raises(redis.ResponseError, match=f"another process runs as {id}"):
                old.execute_command("REPL.READ", level, "GET", "a")
        leader.set("a", "3")
        assert latest.execute_command("REPL.READ", "linearizable", "GET", "a") == b"3"
        cluster.run("node", "stop", id)
        assert f"{id} of cluster {cluster.name} is already running at 127.0.0.1:{port + 1}" in run(
            cluster, id, cluster.folder.node_dir(id)
        )


def is_set(client: Any, key: str, value: str) -> bool:
    try:
        client.set(key, value)
    except redis.ResponseError as error:
        assert str(error).startswith(("NOREPLICAS", "UNKNOWN"))
        return False
    return True


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
