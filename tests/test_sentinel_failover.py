"""Unchanged clients of Redis Sentinel continue to write after the leader is killed, and lose no acknowledged write."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.sentinel import Sentinel

from tests.process_cluster import Cluster, Writer, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

IDS = ["n1", "n2", "n3"]
GO_CLIENT = Path(__file__).parent / "clients" / "go"
BEFORE, AFTER = 300, 300  # writes


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


def addresses(cluster: Cluster, first: str) -> list[tuple[str, int]]:
    """Where to ask who leads; the one that will be killed is asked first."""
    folder = cluster.folder.load()
    return [("127.0.0.1", folder.node(id).resp_port) for id in sorted(IDS, key=lambda id: id != first)]


def revive(cluster: Cluster, id: str) -> None:
    cluster.run("node", "start", id)
    cluster.caught_up()


def test_redis_py_writes_on_when_the_leader_is_killed(cluster: Cluster) -> None:
    old = cluster.leader(IDS)
    places = addresses(cluster, old)
    sentinel = Sentinel(places)  # type: ignore[no-untyped-call]
    survivor = redis.Redis(*places[1], decode_responses=True)
    events: Any = survivor.pubsub()  # type: ignore[no-untyped-call]
    events.subscribe("+switch-master")
    assert events.get_message(timeout=10)["type"] == "subscribe"
    writer = Writer([sentinel.master_for(cluster.name)])  # type: ignore[no-untyped-call]
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > BEFORE)
    cluster.kill(old)
    before = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) > before + AFTER)
    writer.finish()
    told = events.get_message(timeout=10)["data"].split()
    assert told[:3] == [cluster.name, *map(str, places[0])]
    assert (told[3], int(told[4])) == sentinel.discover_master(cluster.name)  # type: ignore[no-untyped-call]
    revive(cluster, old)
    for id in IDS:
        writer.check(cluster.client(id))
    assert sentinel.slave_for(cluster.name).role()[0] == b"slave"  # type: ignore[no-untyped-call]
    events.close()
    survivor.close()


@pytest.fixture(scope="module")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed (Debian: golang-go)")
    program = tmp_path_factory.mktemp("go") / "failover"
    done = subprocess.run(
        [go, "build", "-buildvcs=false", "-o", program, "."],
        cwd=GO_CLIENT,
        env={**os.environ, "CGO_ENABLED": "0"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return program


def test_go_redis_writes_on_when_the_leader_is_killed(cluster: Cluster, go_client: Path) -> None:
    old = cluster.leader(IDS)
    places = addresses(cluster, old)
    sentinels = ",".join(f"{host}:{port}" for host, port in places)
    survivor = redis.Redis(*places[1])
    line = [str(go_client), "-name", cluster.name, "-sentinels", sentinels]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        wait_for(lambda: bool(survivor.exists(f"go:{BEFORE}")))
        cluster.kill(old)
        wait_for(lambda: survivor.sentinel_get_master_addr_by_name(cluster.name) != places[0])
        before = survivor.dbsize()
        wait_for(lambda: survivor.dbsize() > before + AFTER)
        out, _ = writer.communicate(timeout=60)
    report: dict[str, Any] = json.loads(out)
    assert len(report["acknowledged"]) > BEFORE + AFTER and report["longest_pause_ms"] < 30_000, report["errors"]
    revive(cluster, old)
    for id in IDS:
        found = {int(key[3:]) for key in cluster.client(id).scan_iter("go:*", count=1000)}
        lost = set(report["acknowledged"]) - found
        assert not lost, f"lost: {sorted(lost)[:10]}"
