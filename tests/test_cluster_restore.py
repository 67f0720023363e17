"""`replicator cluster restore`: point-in-time recovery, as a new cluster, on a real Kafka."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest
import redis

from replicator.errors import ConfigError, LogDamage
from replicator.local.cluster import LocalCluster, Origin
from replicator.local.folder import ClusterFile, ClusterFolder
from replicator.local.ports import free_base_port
from replicator.local.progress import NO_PROGRESS
from replicator.local.restore import LocalRestore, RestorePlan, _new_name
from replicator.log.kafka.admin import KafkaAdmin, delete_topic
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.security import PLAINTEXT
from replicator.log.kafka.topic import changes_topic, wal_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.protocol.timeline import continued_as
from replicator.recovery.accepted_log import bounds_of, read_accepted
from replicator.recovery.new_timeline import NewTimeline
from replicator.store.machine import read_meta
from replicator.stream.position import StreamEnd
from replicator.stream.sync import BlockingChangeStream
from tests.process_cluster import Cluster, cluster, stopped, wait_for

__all__ = ["cluster"]


def position(cluster: Cluster, key: str) -> int:
    """The offset of the last change of the key."""
    line = cluster.run("history", key, "--limit", "1", "--format", "json")
    return int(json.loads(line)["source"]["offset"])


def take(cluster: Cluster) -> str:
    return str(json.loads(cluster.run("snapshot", "take", "--json"))["name"])


def stop(cluster: Cluster) -> None:
    for entry in reversed(cluster.folder.load().nodes):
        cluster.run("node", "stop", entry.id)


def state_at_end(bootstrap: str, cluster: str) -> LogState:
    async def read() -> LogState:
        log = await KafkaLog.open(bootstrap, cluster)
        try:
            state = LogState()
            async for judged in read_accepted(log, state, await bounds_of(log)):
                state = judged.state
            return state
        finally:
            await log.close()

    return asyncio.run(read())


@contextmanager
def node_process(
    cluster: Cluster, id: str, name: str, dir: Path, *more: str
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A node that is not started by the folder. Yields its process, and its HTTP port."""
    port = free_base_port(1)
    command = [sys.executable, "-m", "replicator", "node", "run", "--id", id, "--cluster", name, "--dir", str(dir)]
    command += [
        "--bootstrap",
        cluster.bootstrap,
        "--resp",
        f"127.0.0.1:{port}",
        "--http",
        f"127.0.0.1:{port + 1000}",
        *more,
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process, port + 1000
    finally:
        process.kill()
        process.wait()


def status_at(port: int) -> Any:
    try:
        with urlopen(f"http://127.0.0.1:{port}/status", timeout=5) as answer:
            return json.load(answer)["node"]
    except HTTPError as error:
        return json.load(error)["node"]
    except (URLError, KeyError, OSError):
        return {"state": "unreachable"}


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_a_cluster_continues_from_an_earlier_offset(cluster: Cluster, tmp_path: Path) -> None:
    cluster.up(2)
    old = cluster.name
    leader = cluster.leader(["n1", "n2"])
    follower = "n2" if leader == "n1" else "n1"
    cluster.run("replica", "set-mode", follower, "sync")
    cluster.run("cluster", "policy", "all", "--write", "sync")
    cluster.run("stream", "enable")
    client = cluster.client(leader)
    client.set("k", "snapshot")
    taken = take(cluster)
    client.set("k", "wanted")
    wanted = position(cluster, "k")
    client.set("k", "mistake")
    client.set("later", "1")
    token = client.execute_command("REPL.TOKEN").decode()
    timeline = cluster.node(leader)["node"]["timeline"]
    with BlockingChangeStream(cluster.bootstrap, old, StreamEnd.EARLIEST, follow=True, security=PLAINTEXT) as stream:
        assert stream.read(1, 30)
        assert "n1, n2 of cluster" in cluster.run("cluster", "restore", "--snapshot", taken, "--yes", code=1)
        stop(cluster)
        shutil.copytree(cluster.folder.node_dir("n2") / "store", tmp_path / "old" / "store")

        restored = cluster.run("cluster", "restore", "--snapshot", taken, "--to-offset", str(wanted), "--yes")
        assert f"ended the log of {old}" in restored and f"reset the change stream of {old}" in restored
        with pytest.raises(LogDamage, match="reset"):
            for _ in range(100):
                stream.read(100, 0.5)
    new = cluster.folder.load().name
    assert (new, cluster.folder.load().former) == (f"{old}-2", (old,))
    assert continued_as(state_at_end(cluster.bootstrap, old)) == new
    assert TopicIds(cluster.bootstrap).get(changes_topic(old)) is None
    assert not (cluster.dir / "restore.json").exists() and not (cluster.dir / "restore").exists()

    cluster.run("cluster", "up")
    leader = cluster.leader(["n1", "n2"])
    client = cluster.client(leader)
    wait_for(lambda: bool(accepts(client)))
    assert client.get("k") == b"wanted" and client.get("later") is None
    cluster.caught_up()
    status = cluster.node(leader)
    assert status["cluster"] == new and status["node"]["timeline"] != timeline
    assert (status["policy"]["write"], status["policy"]["wait_for"]) == ("sync", "all")
    assert {member["mode"] for member in status["members"]} == {"async", "sync"}
    for id in ("n1", "n2"):
        with pytest.raises(redis.ResponseError, match="was restored to an earlier point"):
            cluster.client(id).execute_command("REPL.READ", "session", token, "GET", "k")
        kept = read_meta(cluster.folder.node_dir(id) / "store.former")
        assert kept is not None and kept.cluster == old
    with pytest.raises(redis.ResponseError, match="was restored to an earlier point"):
        cluster.client(leader).execute_command("REPL.READ", "session", token, "GET", "k")

    check_that_others_are_refused(cluster, old, new, tmp_path)
    refused = cluster.run("stream", "enable", code=1)
    assert "this cluster was restored from a snapshot, so the changes before that are not in its log" in refused
    cluster.run("stream", "enable", "--from", "snapshot")
    assert "so a replica needs a snapshot" in cluster.run("replica", "add", "n3", "--from-log", code=1)
    cluster.run("replica", "add", "n3")
    wait_for(lambda: cluster.client("n3").get("k") == b"wanted")
    history = cluster.run("history", "k")
    assert "because the cluster was restored from a snapshot" in history and '"wanted"' in history
    of_old = cluster.run("history", "k", "--bootstrap", cluster.bootstrap, "--cluster", old)
    assert '"wanted" → "mistake"' in of_old

    check_that_it_is_restored_again(cluster, old, new, taken)


def check_that_it_is_restored_again(cluster: Cluster, old: str, new: str, taken: str) -> None:
    """To another point of the first cluster."""
    stop(cluster)
    cluster.run("cluster", "restore", "--snapshot", taken, "--name", f"{old}-again", "--yes")
    assert cluster.folder.load().former == (old, new)
    assert continued_as(state_at_end_from(cluster, new)) == f"{old}-again"
    cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1", "n2", "n3"])).get("k") == b"snapshot"
    cluster.run("cluster", "down", "--purge")
    for name in (old, new, f"{old}-again"):
        assert TopicIds(cluster.bootstrap).get(wal_topic(name)) is None


def check_that_others_are_refused(cluster: Cluster, old: str, new: str, folder: Path) -> None:
    """A node that was down, started as before, or with the new name; and one without a store."""
    with node_process(cluster, "n2", old, folder / "old") as (_, port):
        wait_for(lambda: status_at(port)["state"] == "failed")
        assert f"was restored to an earlier point, as cluster {new}" in status_at(port)["trouble"]
    with node_process(cluster, "n2", new, folder / "old") as (process, _):
        assert f"belongs to cluster {old}, not {new}" in process.communicate(timeout=60)[0]
    snapshots = ("--snapshots", str(cluster.dir / "snapshots"))
    with node_process(cluster, "n9", new, folder / "empty", *snapshots) as (_, port):
        wait_for(lambda: status_at(port)["state"] == "serving")  # it starts from the snapshot of the new cluster
        with redis.Redis(port=port - 1000, socket_timeout=30) as client:
            assert client.get("k") == b"wanted"
    cluster.run("replica", "remove", "n9")


def accepts(client: Any) -> bool:
    try:
        return bool(client.set("probe", "1"))
    except redis.ResponseError:
        return False


def state_at_end_from(cluster: Cluster, name: str) -> LogState:
    """Of the log of a restored cluster."""
    kept = read_meta(cluster.folder.node_dir("n1") / "store")
    assert kept is not None and kept.cluster == name

    async def read() -> LogState:
        log = await KafkaLog.open(cluster.bootstrap, name)
        try:
            state = kept.state
            async for judged in read_accepted(log, state, await bounds_of(log)):
                state = judged.state
            return state
        finally:
            await log.close()

    return asyncio.run(read())


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_node_that_was_paused_meanwhile_stops_when_it_goes_on(cluster: Cluster, tmp_path: Path) -> None:
    """It runs on another machine, and is the leader."""
    cluster.up(1)
    old = cluster.name
    cluster.client(cluster.leader(["n1"])).set("k", "1")
    taken = take(cluster)
    with node_process(cluster, "other", old, tmp_path / "other") as (process, port):
        wait_for(lambda: status_at(port)["state"] == "serving")
        cluster.run("node", "stop", "n1")
        wait_for(lambda: status_at(port).get("role") == "leader")
        client = redis.Redis(port=port - 1000, socket_timeout=30)
        client.set("k", "2")
        with stopped(process.pid):
            moment = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}+00:00"
            cluster.run("cluster", "restore", "--snapshot", taken, "--to-time", moment, "--yes")
            cluster.run("cluster", "up")
            assert cluster.client(cluster.leader(["n1"])).get("k") == b"2"
        wait_for(lambda: status_at(port)["state"] == "failed")
        with pytest.raises(redis.ResponseError, match=f"was restored to an earlier point, as cluster {old}-2"):
            client.get("k")
        with pytest.raises(redis.ResponseError):
            client.set("k", "3")
    assert continued_as(state_at_end(cluster.bootstrap, old)) == f"{old}-2"


LONG = pytest.mark.brokers  # all of them take minutes
KILLED = """
import asyncio, os, signal, sys
from replicator.local import restore
from replicator.cli.main import main

where, when = sys.argv.pop(1), sys.argv.pop(1)
original = getattr(restore._Steps, where)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

async def killed(self, *args):
    if when == "before":
        die()
    await original(self, *args)
    die()

def killed_at_once(self, *args):
    if when == "before":
        die()
    original(self, *args)
    die()

setattr(restore._Steps, where, killed if asyncio.iscoroutinefunction(original) else killed_at_once)
main()
"""


@pytest.mark.kafka
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("where", "when", "switched"),
    [
        pytest.param("_roll_forward", "after", False, marks=LONG),
        pytest.param("_create_log", "after", False, marks=LONG),
        pytest.param("_publish", "after", False, marks=LONG),
        pytest.param("begin", "before", False, marks=LONG),
        ("begin", "after", False),
        pytest.param("verify", "after", False, marks=LONG),
        ("switch", "after", True),
        pytest.param("end", "after", True, marks=LONG),
        pytest.param("reset", "after", True, marks=LONG),
    ],
)
def test_a_restore_that_was_killed_leaves_a_cluster_and_can_be_resumed(
    cluster: Cluster, where: str, when: str, switched: bool
) -> None:
    cluster.up(1)
    old = cluster.name
    client = cluster.client(cluster.leader(["n1"]))
    client.set("k", "wanted")
    taken = take(cluster)
    client.set("k", "mistake")
    stop(cluster)
    options = ["cluster", "restore", "--snapshot", taken, "--yes", "--dir", str(cluster.dir)]
    done = subprocess.run([sys.executable, "-c", KILLED, where, when, *options], env=cluster.environment)
    assert done.returncode == -signal.SIGKILL

    assert cluster.folder.load().name == (f"{old}-2" if switched else old)
    assert "a restore was interrupted" in cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1"])).get("k") == (b"wanted" if switched else b"mistake")
    assert "was interrupted" in cluster.run("cluster", "restore", "--snapshot", taken, "--yes", code=1)
    if not switched:
        assert "still run" in cluster.run("cluster", "restore", "--resume", "--yes", code=1)
    stop(cluster)

    cluster.run("cluster", "restore", "--resume", "--yes")
    assert cluster.folder.load().name == f"{old}-2"
    assert continued_as(state_at_end(cluster.bootstrap, old)) == f"{old}-2"
    cluster.run("cluster", "up")
    client = cluster.client(cluster.leader(["n1"]))
    wait_for(lambda: accepts(client))
    assert client.get("k") == b"wanted"
    assert "no restore was interrupted" in cluster.run("cluster", "restore", "--resume", code=1)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_an_interrupted_restore_can_be_given_up(cluster: Cluster) -> None:
    cluster.up(1)
    old = cluster.name
    cluster.client(cluster.leader(["n1"])).set("k", "1")
    taken = take(cluster)
    stop(cluster)
    options = ["cluster", "restore", "--snapshot", taken, "--yes", "--dir", str(cluster.dir)]
    subprocess.run([sys.executable, "-c", KILLED, "begin", "after", *options], env=cluster.environment)
    assert TopicIds(cluster.bootstrap).get(wal_topic(f"{old}-2")) is not None
    assert f"the cluster is {old}, as before" in cluster.run("cluster", "restore", "--abort")
    assert TopicIds(cluster.bootstrap).get(wal_topic(f"{old}-2")) is None
    assert [it.name for it in (cluster.dir / "snapshots").iterdir()] == [taken]
    cluster.run("cluster", "restore", "--snapshot", taken, "--yes")
    cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1"])).get("k") == b"1"


@pytest.mark.kafka
@pytest.mark.timeout(400)
def test_what_is_refused_changes_nothing(cluster: Cluster, kafka: str, tmp_path: Path) -> None:
    cluster.up(1)
    client = cluster.client(cluster.leader(["n1"]))
    client.set("k", "1")
    taken = take(cluster)
    client.set("k", "2")
    stop(cluster)
    before = (cluster.dir / "cluster.json").read_text()
    restore = ("cluster", "restore", "--yes", "--snapshot")
    assert "there is no snapshot" in cluster.run(*restore, f"{0:020d}-00000000", code=1)
    assert "invalid name of a snapshot" in cluster.run(*restore, f"../snapshots/{taken}", code=1)
    assert "invalid --name" in cluster.run(*restore, taken, "--name", "a/b", code=1)
    assert "has a log already" in cluster.run(*restore, taken, "--name", cluster.name, code=1)
    assert "Continue?" in cluster.run("cluster", "restore", "--snapshot", taken, code=1)
    for point, why in (
        (("--to-offset", "1000000"), "is beyond the end of the log"),
        (("--to-offset", "0"), "is before the snapshot"),
        (("--to-time", "2020-01-01"), "has records that were written after"),
        (("--to-time", "2999-01-01"), "is in the future"),
    ):
        refused = cluster.run("cluster", "restore", "--snapshot", taken, *point, code=1)
        assert why in refused and "Continue?" not in refused
    end = position(cluster, "k")
    asked = cluster.run("cluster", "restore", "--to-offset", str(end), code=1)
    assert f"from snapshot {taken}, and the log up to offset {end}" in asked and "Continue?" in asked

    other = Cluster(tmp_path / "other", kafka)
    other.up(1)
    refused = cluster.run("cluster", "restore", "--snapshot", taken, "--name", other.name, code=1)
    assert "has records of another cluster" in refused and "Continue?" not in refused
    foreign = take(other) if accepts(other.client(other.leader(["n1"]))) else ""
    shutil.copytree(other.dir / "snapshots" / foreign, cluster.dir / "snapshots" / foreign)
    assert f"is of cluster {other.name}" in cluster.run(*restore, foreign, code=1)
    other.run("cluster", "down", "--purge")

    [part] = (cluster.dir / "snapshots" / taken).glob("part-*")
    intact = part.read_bytes()
    part.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    assert part.name in cluster.run(*restore, taken, code=1)
    part.write_bytes(intact)
    assert (cluster.dir / "cluster.json").read_text() == before
    assert not (cluster.dir / "restore.json").exists()
    assert continued_as(state_at_end(kafka, cluster.name)) is None
    cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1"])).get("k") == b"2"


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_the_log_of_a_restored_cluster_is_ended_without_the_stores_of_its_nodes(cluster: Cluster) -> None:
    cluster.up(1)
    cluster.client(cluster.leader(["n1"])).set("k", "1")
    taken = take(cluster)
    stop(cluster)
    old = cluster.name
    restore = ("cluster", "restore", "--snapshot", taken, "--yes")
    cluster.run(*restore)
    assert f"ended the log of {old}-2" in cluster.run(*restore)  # its nodes were never started
    cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1"])).get("k") == b"1"
    assert cluster.folder.load().name == f"{old}-3"


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_cluster_whose_log_was_deleted_is_restored_from_a_snapshot(cluster: Cluster) -> None:
    cluster.up(1)
    cluster.client(cluster.leader(["n1"])).set("k", "1")
    taken = take(cluster)
    stop(cluster)
    delete_topic(KafkaAdmin(cluster.bootstrap, None), wal_topic(cluster.name))
    restored = cluster.run("cluster", "restore", "--snapshot", taken, "--yes")
    assert f"{cluster.name} has no log any more" in restored
    cluster.run("cluster", "up")
    assert cluster.client(cluster.leader(["n1"])).get("k") == b"1"


def file(name: str, *former: str) -> ClusterFile:
    return ClusterFile(name, "", False, 7001, former=former)


def test_names_of_restored_clusters() -> None:
    assert _new_name(file("shop"), None) == "shop-2"
    assert _new_name(file("shop-2", "shop"), None) == "shop-3"
    assert _new_name(file("other", "shop", "shop-2"), None) == "shop-3"
    assert _new_name(file("shop"), "shop-of-monday") == "shop-of-monday"
    for used in ("shop", "shop-2"):
        with pytest.raises(ConfigError, match=f"{used} has a log already"):
            _new_name(file("shop-2", "shop"), used)


def test_a_log_that_begins_with_the_content_of_another_is_not_enough_for_a_replica(tmp_path: Path) -> None:
    cluster = LocalCluster(tmp_path)
    assert cluster._source(file("shop"), Origin.LOG, None) is None
    with pytest.raises(ConfigError, match=r"the log of shop-2 begins with the content of shop.*: leave --from-log out"):
        cluster._source(file("shop-2", "shop"), Origin.LOG, None)


def test_a_plan_survives_in_a_file(tmp_path: Path) -> None:
    folder = ClusterFolder(tmp_path)
    folder.save(file("shop", "before"))
    assert folder.load() == file("shop", "before")
    restoring = LocalRestore(tmp_path, "", NO_PROGRESS)
    assert restoring.pending() is None
    plan = RestorePlan("s1", "shop", "shop", "shop-2", 5, None, NewTimeline("ab" * 16, 1, 2), "seed", ("00",))
    restoring._save(plan)
    assert restoring.pending() == plan and plan.target == Offset(5)
    (tmp_path / "restore.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"restore\.json cannot be read"):
        restoring.pending()
