"""docs/runbook.md: its steps, on a real cluster, and that each entry says by which test it is rehearsed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from tests.process_cluster import Cluster, Writer, stopped, wait_for

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "runbook.md"
IDS = ["n1", "n2", "n3"]
ENTRIES = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.partition("\n")[0])
def test_each_entry_names_the_tests_that_rehearse_it(entry: str) -> None:
    named = re.findall(r"`(tests/\w+\.py)::(\w+)`", entry)
    assert named or "Not rehearsed." in entry
    assert entry.count("Rehearsed by") == bool(named)
    for file, test in named:
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), f"{file}::{test}"


def quoted(text: str, part: str) -> None:
    """The page quotes this part of what the program printed."""
    assert part in text
    assert part in " ".join(PAGE.read_text().split())


@pytest.fixture(scope="module")
def cluster(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("runbook"), kafka)
    cluster.up(3)
    cluster.client(cluster.leader(IDS)).set("a", "1")
    yield cluster
    cluster.run("cluster", "down", "--purge")


def roles(cluster: Cluster) -> tuple[str, str, str]:
    """The leader, and the others."""
    leader = cluster.leader(IDS)
    first, second = (id for id in IDS if id != leader)
    return leader, first, second


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_lost_node_is_replaced(cluster: Cluster) -> None:
    leader, _, lost = roles(cluster)
    cluster.run("snapshot", "take")
    cluster.run("replica", "set-mode", lost, "sync")
    cluster.run("cluster", "policy", "all", "--write", "sync")
    cluster.kill(lost)
    shutil.rmtree(cluster.folder.node_dir(lost))
    wait_for(lambda: bool(cluster.node(leader)["node"]["refusal"]))
    with pytest.raises(redis.ResponseError) as raised:
        cluster.client(leader).set("a", "2")
    quoted(str(raised.value).replace(lost, "n3"), "no ack from n3 for 1000 ms, and each write requires one")
    quoted(cluster.run("status", code=1), "(connection refused): check that the node is running")
    assert "there would be none" in cluster.run("replica", "set-mode", lost, "async", code=1)
    cluster.run("cluster", "policy", "--write", "async")
    cluster.run("replica", "remove", lost)
    cluster.run("replica", "add", lost, "--from-snapshot")
    cluster.client(leader).set("a", "2")
    assert {node["id"] for node in cluster.caught_up()} == set(IDS)
    assert cluster.client(lost).get("a") == b"2"


@pytest.mark.kafka
@pytest.mark.timeout(240)
@pytest.mark.parametrize("damage", ["overwritten", "truncated"])
def test_a_damaged_store_is_rebuilt(cluster: Cluster, damage: str) -> None:
    _, damaged, _ = roles(cluster)
    store = cluster.folder.node_dir(damaged) / "store"
    cluster.run("node", "stop", damaged)
    with (store / "data.mdb").open("r+b") as file:
        if damage == "overwritten":
            file.write(b"\xff" * 8192)
        else:
            file.truncate(8192)
    cluster.run("node", "start", damaged)
    log = cluster.folder.log_file(damaged).read_text()
    quoted(log, "the store of this node is rebuilt: ")
    quoted(log, "MDB_INVALID: File is not an LMDB file" if damage == "overwritten" else "data.mdb was truncated")
    assert any((store.parent / "quarantine").iterdir())
    assert len(cluster.caught_up()) == len(IDS)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_leader_that_was_paused_follows_the_next_one(cluster: Cluster) -> None:
    paused, *others = roles(cluster)
    with stopped(cluster.pid(paused)):
        leader = cluster.leader(others)
        cluster.client(leader).set("a", "3")
        output = cluster.run("status", code=1)
        quoted(output, "no reply within 2 s")
        assert f"(election: the heartbeat of {paused} timed out)" in output
    wait_for(lambda: cluster.node(paused)["node"]["role"] == "follower")
    assert len(cluster.caught_up()) == len(IDS)
    assert cluster.client(paused).get("a") == b"3"


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_store_is_restored_from_a_snapshot(cluster: Cluster) -> None:
    _, restored, _ = roles(cluster)
    taken = json.loads(cluster.run("snapshot", "take", "--json"))
    cluster.run("node", "stop", restored)
    shutil.rmtree(cluster.folder.node_dir(restored) / "store")
    cluster.run("snapshot", "restore", taken["name"], "--to", str(cluster.folder.node_dir(restored)))
    cluster.run("node", "start", restored)
    log = cluster.folder.log_file(restored).read_text()
    assert f"{restored} reads the log from offset {taken['offset'] + 1} on" in log
    assert len(cluster.caught_up()) == len(IDS)


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_rolling_restart_loses_no_write(cluster: Cluster) -> None:
    leader, *followers = roles(cluster)
    writer = Writer([cluster.client(id) for id in (leader, *followers)])
    writer.start()
    for id in (*followers, leader):
        before = len(writer.acknowledged)
        wait_for(lambda before=before: len(writer.acknowledged) > before + 100)  # type: ignore[misc]
        cluster.run("node", "stop", id)
        cluster.run("node", "start", id)
        cluster.run("status")
    writer.finish()
    cluster.caught_up()
    for id in IDS:
        writer.check(cluster.client(id))


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_the_data_of_a_snapshot_are_copied_to_another_server(cluster: Cluster, kafka: str, tmp_path: Path) -> None:
    leader = cluster.client(cluster.leader(IDS))
    leader.flushall()
    leader.set("plain", b"\xff\x00")
    leader.set("expires", "later", px=10_000_000)
    leader.hset("hash", mapping={"one": 1, "two": 2})
    leader.pexpire("hash", 10_000_000)
    cluster.caught_up()  # the snapshot is that of a follower
    taken = json.loads(cluster.run("snapshot", "take", "--json"))
    cluster.run("snapshot", "restore", taken["name"], "--to", str(tmp_path / "restored"))
    program = tmp_path / "copy_snapshot.py"
    [text] = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    program.write_text(text)
    other = Cluster(tmp_path / "other", kafka)
    other.up(1)
    try:
        url = f"redis://127.0.0.1:{other.folder.load().node('n1').resp_port}"
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, str(program), str(tmp_path / "restored"), url], check=True, timeout=60, env=environment
        )
        copied = other.client("n1")
        assert copied.keys() == [b"expires", b"hash", b"plain"]
        assert (copied.get("plain"), copied.get("expires")) == (b"\xff\x00", b"later")
        assert copied.hgetall("hash") == {b"one": b"1", b"two": b"2"}
        for key in ("expires", "hash"):
            assert copied.pexpiretime(key) == leader.pexpiretime(key)
    finally:
        other.run("cluster", "down", "--purge")


@pytest.mark.kafka
@pytest.mark.timeout(240)
def test_a_password_is_changed(kafka: str, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path / "cluster", kafka)
    try:
        for password in ("old", "new"):
            cluster.environment["REPLICATOR_NODE_PASSWORD"] = password
            cluster.up(2)
            cluster.run("status")
            leader = cluster.leader(["n1", "n2"])
            cluster.client(leader, password=password).set("password", password)
            with pytest.raises(redis.AuthenticationError, match="invalid username-password"):
                cluster.client(leader, password="other").get("password")
            cluster.run("cluster", "down")
    finally:
        cluster.run("cluster", "down", "--purge")
