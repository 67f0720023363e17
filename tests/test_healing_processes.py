"""Replicas heal themselves: real processes, a real Kafka, and damage in the files of their stores, or of the log."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from replicator.intervals import CHECKPOINT_MS
from replicator.local.admin_client import find_cluster
from replicator.local.comparison import DIFFERS, compare_stores
from replicator.local.kafka import LocalBroker
from replicator.log.kafka.admin import trim
from replicator.position import Offset
from replicator.store import replacement
from tests.damage import flip
from tests.kafka_damage import lose_from
from tests.process_cluster import Cluster, Writer, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]
IDS = ["n1", "n2", "n3"]


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("healing"), kafka)
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


@pytest.fixture(autouse=True)
def forgotten(cluster: Cluster) -> None:
    """Each test may rebuild stores at once, and as often as the first one."""
    for id in IDS:
        (cluster.folder.node_dir(id) / replacement.HEALS).unlink(missing_ok=True)


def roles(cluster: Cluster) -> tuple[str, str, str]:
    """The leader, and the others."""
    leader = cluster.leader(IDS)
    first, second = (id for id in IDS if id != leader)
    return leader, first, second


def node(cluster: Cluster, id: str) -> Any:
    return cluster.node(id)["node"]


def heals(cluster: Cluster, id: str) -> list[Any]:
    """Of the store of a node, the latest last."""
    return replacement.heals(cluster.folder.node_dir(id))


def store(cluster: Cluster, id: str) -> Path:
    return cluster.folder.node_dir(id) / "store"


def healed(cluster: Cluster, id: str, times: int) -> Any:
    """Wait until the store of the node was rebuilt so often, and it serves. Returns its status."""
    wait_for(lambda: len(heals(cluster, id)) >= times and node(cluster, id)["state"] == "serving")
    return node(cluster, id)


def metric(cluster: Cluster, id: str, name: str) -> float:
    port = cluster.folder.load().node(id).http_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        [value] = re.findall(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)


def test_a_follower_with_a_flipped_byte_notices_it_within_a_checkpoint_interval(cluster: Cluster) -> None:
    leader, follower, _ = roles(cluster)
    client = cluster.client(leader)
    client.set("flipped", "<the right value>")
    cluster.caught_up()
    before = len(heals(cluster, follower))
    assert flip(store(cluster, follower), b"<the right value")
    began_s = time.monotonic()
    wait_for(lambda: (store(cluster, follower) / "damaged.json").exists() or len(heals(cluster, follower)) > before)
    noticed_s = time.monotonic() - began_s
    status = healed(cluster, follower, before + 1)
    assert noticed_s < CHECKPOINT_MS / 1000
    assert "the disk or the memory of this machine is faulty" in status["healed"]["damage"]["error"]
    assert cluster.client(follower).get("flipped") == b"<the right value>"
    assert len(cluster.caught_up()) == len(IDS)
    assert metric(cluster, follower, 'replicator_heals_total{cause="diverged"}') >= 1
    assert metric(cluster, follower, "replicator_healing") == 0
    kept = replacement.quarantined(cluster.folder.node_dir(follower))
    assert kept is not None and b"<the right valud" in (kept / "data.mdb").read_bytes()
    print(f"noticed after {noticed_s:.2f} s")


def test_a_store_that_is_deleted_under_a_follower_is_noticed_and_rebuilt(cluster: Cluster) -> None:
    leader, follower, _ = roles(cluster)
    cluster.client(leader).set("deleted", "1")
    cluster.caught_up()
    before = len(heals(cluster, follower))
    shutil.rmtree(store(cluster, follower))
    status = healed(cluster, follower, before + 1)
    assert "data.mdb was deleted" in status["healed"]["damage"]["error"]
    assert cluster.client(follower).get("deleted") == b"1"
    assert "Traceback" not in cluster.folder.log_file(follower).read_text()
    assert len(cluster.caught_up()) == len(IDS)


def test_a_store_that_is_damaged_while_its_node_is_stopped_is_rebuilt(cluster: Cluster) -> None:
    leader, follower, _ = roles(cluster)
    cluster.client(leader).set("stopped", "<the right value>")
    cluster.caught_up()
    before = len(heals(cluster, follower))
    cluster.run("node", "stop", follower)
    assert flip(store(cluster, follower), b"<the right value")
    cluster.run("node", "start", follower)
    healed(cluster, follower, before + 1)
    assert cluster.client(follower).get("stopped") == b"<the right value>"


def test_a_leader_with_a_flipped_byte_gives_up_leadership_and_no_write_is_lost(cluster: Cluster) -> None:
    leader, *others = roles(cluster)
    cluster.client(leader).flushall()
    cluster.client(leader).set("leader", "<the right value>")
    cluster.caught_up()
    writer = Writer([cluster.client(id) for id in (leader, *others)])
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 200)
    before = len(heals(cluster, leader))
    assert flip(store(cluster, leader), b"<the right value")
    healed(cluster, leader, before + 1)
    count = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) > count + 200)
    writer.finish()
    assert cluster.leader(others) in others
    cluster.caught_up()
    for id in IDS:
        writer.check(cluster.client(id))
        assert cluster.client(id).get("leader") == b"<the right value>"


def test_a_sync_member_heals_under_load_and_no_promise_is_broken(cluster: Cluster) -> None:
    leader, sync, _ = roles(cluster)
    cluster.run("replica", "set-mode", sync, "sync")
    cluster.run("cluster", "policy", "all", "--write", "sync")
    client = cluster.client(leader)
    client.flushall()
    client.set("sync", "<the right value>")
    cluster.caught_up()
    cluster.run("snapshot", "take")
    writer = Writer([cluster.client(leader)])
    writer.start()
    wait_for(lambda: len(writer.acknowledged) > 200)
    before = len(heals(cluster, sync))
    assert flip(store(cluster, sync), b"<the right value")
    seen = 0
    while len(heals(cluster, sync)) == before or node(cluster, sync)["state"] != "serving":
        acknowledged = max(writer.acknowledged)  # at all sync members before the answer
        try:
            assert cluster.client(sync).get(f"w:{acknowledged}") == str(acknowledged).encode()
            seen += 1
        except (redis.ConnectionError, redis.ResponseError):
            pass  # it answers nothing rather than something old
    count = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) > count + 200)
    for _ in range(100):
        acknowledged = max(writer.acknowledged)
        assert cluster.client(sync).get(f"w:{acknowledged}") == str(acknowledged).encode()
    writer.finish()
    assert seen
    members = {it["node"]: it["mode"] for it in cluster.node(leader)["members"]}
    assert members[sync] == "sync"
    cluster.run("cluster", "policy", "--write", "async")
    cluster.run("replica", "set-mode", sync, "async")
    cluster.caught_up()
    for id in IDS:
        writer.check(cluster.client(id))


@pytest.mark.parametrize("delay_ms", [0, 2, 10, 40])
def test_a_process_that_is_killed_while_it_heals_goes_on_when_it_is_started(cluster: Cluster, delay_ms: int) -> None:
    leader, follower, _ = roles(cluster)
    content = f"<killed after {delay_ms}"
    client = cluster.client(leader)
    client.set("killed", f"{content}>")
    with client.pipeline(transaction=False) as pipe:
        for number in range(5_000):
            pipe.set(f"killed:{number}", "x" * 1_000)
        pipe.execute()
    cluster.caught_up()
    cluster.run("snapshot", "take")
    before = len(heals(cluster, follower))
    assert flip(store(cluster, follower), content.encode())
    mark = store(cluster, follower) / "damaged.json"
    deadline = time.monotonic() + 10
    while not mark.exists() and len(heals(cluster, follower)) == before:
        assert time.monotonic() < deadline
        time.sleep(0.0005)
    time.sleep(delay_ms / 1000)
    os.kill(cluster.pid(follower), signal.SIGKILL)
    folder = cluster.folder.node_dir(follower)
    print(f"killed with {sorted(str(it.relative_to(folder)) for it in folder.rglob('*'))}")
    cluster.run("node", "start", follower)
    healed(cluster, follower, before + 1)
    assert cluster.client(follower).get("killed") == f"{content}>".encode()
    assert not (folder / "store.new").exists() and replacement.damage_of(folder) is None
    assert len(cluster.caught_up()) == len(IDS)


def test_a_node_below_the_start_of_the_log_waits_for_a_snapshot_and_starts_from_it(cluster: Cluster) -> None:
    leader, follower, _ = roles(cluster)
    cluster.run("node", "stop", follower)
    for manifest in (cluster.dir / "snapshots").glob("*/manifest.json"):
        manifest.rename(manifest.with_name("moved away"))
    client = cluster.client(leader)
    for number in range(50):
        client.set(f"trimmed:{number}", number)
    end = node(cluster, leader)["applied_offset"]
    trim(cluster.bootstrap, cluster.name, Offset(end))
    before = len(heals(cluster, follower))
    cluster.folder.start_process(cluster.folder.load(), cluster.folder.load().node(follower))
    wait_for(lambda: "there is no snapshot" in node(cluster, follower).get("trouble", ""))
    assert node(cluster, follower)["state"] == "healing"
    assert "replicator snapshot take" in cluster.node(follower, "/readyz")["error"]
    assert metric(cluster, follower, "replicator_healing") == 1
    assert follower in cluster.run("status", code=1)
    cluster.run("snapshot", "take", "--node", leader)
    status = healed(cluster, follower, before + 1)
    assert status["healed"]["damage"]["cause"] == "trimmed"
    assert cluster.client(follower).get("trimmed:49") == b"49"
    assert len(cluster.caught_up()) == len(IDS)


def test_nodes_follow_a_log_that_its_broker_has_lost_the_end_of(tmp_path: Path) -> None:
    """The machine of a single broker crashes, and its disk lacks the last records. The nodes go on running."""
    broker = LocalBroker(tmp_path / "broker")
    cluster = Cluster(tmp_path / "cluster", broker.start())
    try:
        cluster.up(3)
        leader = cluster.leader(IDS)
        client = cluster.client(leader)
        client.set("kept", "1")
        cluster.caught_up()
        kept = node(cluster, leader)["applied_offset"]
        cluster.run("snapshot", "take")
        for number in range(20):
            client.set(f"lost:{number}", number)
        cluster.caught_up()
        read = node(cluster, leader)["applied_offset"]
        broker.kill()
        end = lose_from(broker.status().data_dir, cluster.name, kept + 2)
        assert kept < end < read
        broker.start()
        for id in IDS:
            wait_for(lambda id=id: len(heals(cluster, id)) >= 1, 90)  # type: ignore[misc]
        for id in IDS:
            status = healed(cluster, id, 1)
            assert status["healed"]["damage"]["cause"] == "truncated"
            lost = heals(cluster, id)[-1].lost
            assert end <= lost.start <= read < lost.stop + 20
            assert "their writes are gone" in cluster.folder.log_file(id).read_text()
        wait_for(lambda: is_written(cluster, "after", "2"))
        assert len(cluster.caught_up()) == len(IDS)
        for id in IDS:
            found = cluster.client(id)
            assert (found.get("kept"), found.get("lost:19"), found.get("after")) == (b"1", None, b"2")
        assert "lost" in cluster.run("status")
    finally:
        cluster.run("cluster", "down")
        broker.stop()


def test_verify_names_the_key_that_differs_and_then_nothing(cluster: Cluster) -> None:
    leader, follower, _ = roles(cluster)
    client = cluster.client(leader)
    client.flushall()
    client.set("verified", "<the right value>")
    with client.pipeline(transaction=False) as pipe:
        for number in range(5_000):
            pipe.set(f"verified:{number}", number)
        pipe.execute()
    cluster.caught_up()
    assert "differ" not in cluster.run("verify")
    before = len(heals(cluster, follower))
    writer = Writer([cluster.client(leader)])
    writer.start()
    admin = find_cluster(cluster.dir, None, "")
    for _ in range(10):  # the node may notice the damage, and repair it, before it is compared
        assert flip(store(cluster, follower), b"<the right value")
        found = compare_stores(admin, 10)
        if found.differences:
            break
        healed(cluster, follower, before + 1)
        (cluster.folder.node_dir(follower) / replacement.HEALS).unlink(missing_ok=True)
        before = 0
    assert [it.row for it in found.differences] == ["verified"]
    assert {it.id: it.result for it in found.nodes}[follower] == DIFFERS
    healed(cluster, follower, before + 1)
    assert json.loads(cluster.run("verify", "--json"))["equal"]
    writer.finish()
    assert len(writer.acknowledged) > 100


def is_written(cluster: Cluster, key: str, value: str) -> bool:
    """False while the leader cannot say yet what has become of its last append."""
    try:
        cluster.client(cluster.leader(IDS)).set(key, value)
    except redis.ResponseError as error:
        assert str(error).startswith(("BUSY", "UNKNOWN", "READONLY", "LOADING")), error
        return False
    return True
