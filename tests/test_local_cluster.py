"""A cluster on this machine: what its commands refuse before they write or start anything, and what they start."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import BrokerUnavailable, ConfigError, ReplicatorError
from replicator.local import cluster as local_cluster
from replicator.local import waiting
from replicator.local.admin_client import ClusterAdmin, NodeAdmin
from replicator.local.cluster import LocalCluster
from replicator.local.folder import ClusterFile, ClusterFolder, NodeEntry
from replicator.local.operations import promote
from replicator.local.ports import HTTP_ABOVE_RESP, free_base_port
from replicator.local.process import identify, wait_until_exited
from replicator.local.restore import LocalRestore, RestorePlan
from replicator.local.status import StatusReply, parse_status
from replicator.log.kafka.security import KafkaSecurity
from replicator.records.types import Change, Write
from replicator.recovery.new_timeline import NewTimeline
from replicator.store.machine import open_machine

NEEDS_PASSWORD = "this cluster was started with a password: set REPLICATOR_NODE_PASSWORD"


class FakeNode(NodeAdmin):
    """Reports the state `state`, and that n1 is leader; n1 to n8 are members."""

    state = "serving"

    def status(self, timeout_s: float = 0) -> StatusReply:
        member = {"node": "n1", "mode": "async", "resp": "h:1", "http": str(self.http), "priority": 0}
        members = [{**member, "node": f"n{n}"} for n in range(1, 9)]
        node = {"id": "n1", "state": self.state, "trouble": "install a newer replicator", "leader": "n1"}
        return parse_status({"cluster": "c", "node": node, "members": members})


class FailedNode(FakeNode):
    state = "failed"


class FakeNodes(ClusterAdmin):
    kind: type[FakeNode] = FakeNode

    def node(self, http: Address) -> NodeAdmin:
        return self.kind(http)


class FolderWithoutProcesses(ClusterFolder):
    """This process is that of each node which is started."""

    def __init__(self, dir: Path) -> None:
        super().__init__(dir)
        self.started: list[str] = []

    def start_process(self, cluster: ClusterFile, entry: NodeEntry) -> bool:
        if self.process(entry.id) is not None:
            return False
        self.started.append(entry.id)
        process = identify(os.getpid())
        assert process is not None
        self.node_dir(entry.id).mkdir(parents=True, exist_ok=True)
        (self.node_dir(entry.id) / "node.pid").write_text(json.dumps(asdict(process)))
        return True

    def stop_process(self, id: str) -> bool:
        (self.node_dir(id) / "node.pid").unlink(missing_ok=True)
        return True


class Recorded:
    """The results and notices that an operation reports."""

    def __init__(self) -> None:
        self.results: list[str] = []
        self.notices: list[str] = []

    def step(self, text: str) -> None:
        pass

    def bar(self, name: str, text: str, completed: int = 0, total: int | None = None) -> None:
        pass

    def done(self, text: str) -> None:
        self.results.append(text)

    def notice(self, text: str) -> None:
        self.notices.append(text)


class FakeCluster(LocalCluster):
    def __init__(self, dir: Path, password: str = "") -> None:
        self.reported = Recorded()
        super().__init__(dir, password, self.reported)
        self.folder: FolderWithoutProcesses = FolderWithoutProcesses(dir)
        self.nodes = FakeNodes([Address("h", 1)], password)

    @property
    def admin(self) -> ClusterAdmin:
        return self.nodes

    def check_kafka(self, bootstrap: str) -> None:
        if bootstrap == "wrong:9092":
            raise BrokerUnavailable("Kafka at wrong:9092 does not answer")

    def start(
        self, nodes: int | None = None, name: str | None = "c", bootstrap: str | None = "kafka:9092"
    ) -> Sequence[str]:
        """The nodes that were started."""
        self.folder.started.clear()
        base_port = None if self.folder.exists() else free_base_port(4)
        self.up(nodes, bootstrap=bootstrap, base_port=base_port, name=name)
        return tuple(self.folder.started)


@pytest.fixture
def dir(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def test_a_new_cluster_has_three_nodes_and_an_existing_one_keeps_its_number(dir: Path, tmp_path: Path) -> None:
    assert FakeCluster(tmp_path / "another").start() == ("n1", "n2", "n3")
    cluster = FakeCluster(dir)
    assert cluster.start(2) == ("n1", "n2")
    assert cluster.start() == ()
    assert cluster.start(4) == ("n3", "n4")


def test_nodes_of_a_cluster_with_a_password_are_not_started_without_it(dir: Path) -> None:
    FakeCluster(dir, "secret").start(2)
    without = FakeCluster(dir)
    for start in (without.start, lambda: without.start_node("n2"), lambda: without.add_replica("n3")):
        with pytest.raises(ConfigError, match=NEEDS_PASSWORD):
            start()
    assert without.folder.started == []
    again = FakeCluster(dir, "secret")
    assert again.stop_node("n2") and again.start_node("n2")


def test_the_folder_does_not_contain_the_password(dir: Path) -> None:
    cluster = FakeCluster(dir, "secret")
    cluster.start(1)
    assert cluster.folder.load().has_password
    assert "secret" not in (dir / "cluster.json").read_text()


def test_a_cluster_file_of_an_older_version_has_no_password(dir: Path) -> None:
    dir.mkdir()
    (dir / "cluster.json").write_text(
        '{"name": "c", "bootstrap": "kafka:9092", "own_broker": false, "base_port": 1, "nodes": []}'
    )
    assert not ClusterFolder(dir).load().has_password


def test_a_replica_with_an_invalid_name_is_refused_before_anything_is_written(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    before = (dir / "cluster.json").read_text()
    with pytest.raises(ConfigError, match="invalid node id 'bad id!'"):
        cluster.add_replica("bad id!")
    assert (dir / "cluster.json").read_text() == before
    assert not cluster.folder.node_dir("bad id!").exists()


def test_a_cluster_with_an_invalid_name_is_refused_before_anything_is_written(dir: Path) -> None:
    with pytest.raises(ConfigError, match="invalid cluster name 'bad name'"):
        FakeCluster(dir).start(1, name="bad name")
    assert not dir.exists()


@pytest.mark.parametrize("path", ["file", "file/below"])
def test_a_file_instead_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    cluster = FakeCluster(tmp_path / path)
    with pytest.raises(ConfigError, match=rf"{path} is not a folder: choose another --dir"):
        cluster.start(1)
    with pytest.raises(ConfigError, match=rf"{path} is not a folder: choose another --dir"):
        cluster.folder.load()


@pytest.mark.parametrize("bootstrap", ["nohost", "kafka:9092,", "http://kafka:9092"])
def test_an_invalid_bootstrap_address_is_refused_before_anything_is_written(dir: Path, bootstrap: str) -> None:
    with pytest.raises(ConfigError, match="invalid address"):
        FakeCluster(dir).start(1, bootstrap=bootstrap)
    assert not dir.exists()


def test_a_kafka_that_does_not_answer_is_reported_before_anything_is_written(dir: Path) -> None:
    cluster = FakeCluster(dir)
    with pytest.raises(BrokerUnavailable, match="Kafka at wrong:9092"):
        cluster.start(1, bootstrap="wrong:9092")
    assert not dir.exists() and not cluster.folder.started


def test_a_host_of_kafka_that_cannot_be_looked_up_is_named_at_once(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, port: None) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(ConfigError, match="no host of Kafka at kafkaa:9092 can be looked up: correct --bootstrap"):
        LocalCluster(dir).check_kafka("kafkaa:9092")


def test_other_options_than_those_of_the_cluster_are_refused(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    before = (dir / "cluster.json").read_text()
    base_port = cluster.folder.load().base_port
    with pytest.raises(ConfigError) as refused:
        cluster.up(2, bootstrap="other:9092", base_port=9001, name="d")
    assert "its name is c, not d" in str(refused.value)
    assert f"its base port is {base_port}, not 9001" in str(refused.value)
    assert "n1 use Kafka at kafka:9092, not other:9092" in str(refused.value)
    assert (dir / "cluster.json").read_text() == before
    cluster.up(2, bootstrap="kafka:9092", base_port=base_port, name="c")  # the same options


def test_fewer_nodes_than_the_cluster_has_are_refused(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(3)
    cluster.stop_node("n3")
    with pytest.raises(ConfigError) as refused:
        cluster.start(2)
    assert "it has 3 nodes (n1, n2, n3), not 2 (`replicator replica remove ID` removes one)" in str(refused.value)
    assert cluster.folder.started == []


def test_the_address_of_kafka_can_be_corrected_while_no_node_runs(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.stop_node("n1")
    assert cluster.start(bootstrap="other:9092") == ("n1",)
    assert cluster.folder.load().bootstrap == "other:9092"


def test_the_folder_keeps_the_path_of_the_procedures(dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "procedures.py"
    file.write_text("import random")
    cluster = FakeCluster(dir)
    with pytest.raises(ConfigError, match=r"use tx.random\(\)"):
        cluster.up(1, bootstrap="b:1", procedures=file)
    assert not dir.exists()
    cluster.start(1)
    file.write_text("")
    cluster.up(None, bootstrap=None, procedures=file)
    cluster.up(None, bootstrap=None)
    assert cluster.folder.load().procedures == str(file)


def test_other_procedures_are_refused_while_nodes_run(dir: Path, tmp_path: Path) -> None:
    first, other = tmp_path / "procedures.py", tmp_path / "other.py"
    for file in (first, other):
        file.write_text("from replicator.procedures import procedure\n@procedure\ndef p(tx): return 1\n")
    cluster = FakeCluster(dir)
    cluster.start(2)
    cluster.stop_node("n2")
    cluster.up(None, bootstrap=None, procedures=first)  # n1 has none yet
    [notice] = cluster.reported.notices
    assert notice.startswith(f"n1 has not loaded the procedures in {first}: restart") and "node stop n1" in notice
    with pytest.raises(ConfigError, match=rf"n1, n2 use the procedures in {first}, not {other} \(to change that, stop"):
        cluster.up(None, bootstrap=None, procedures=other)
    assert cluster.folder.load().procedures == str(first)
    for node in ("n1", "n2"):
        cluster.stop_node(node)
    cluster.up(None, bootstrap=None, procedures=other)
    assert cluster.folder.load().procedures == str(other)
    assert len(cluster.reported.notices) == 1


def test_the_repository_of_snapshots_changes_while_no_node_runs_only(dir: Path, tmp_path: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    before = (dir / "cluster.json").read_text()
    with pytest.raises(ConfigError, match=r"n1 use the snapshots in .*/snapshots, not .*/other \(to change that, stop"):
        cluster.up(None, bootstrap=None, snapshots=str(tmp_path / "other"))
    cluster.up(None, bootstrap=None, snapshots=str(dir / "snapshots"))  # the same
    assert (dir / "cluster.json").read_text() == before
    cluster.stop_node("n1")
    with pytest.raises(ConfigError):
        cluster.up(None, bootstrap=None, snapshots="unknown://x")
    assert (dir / "cluster.json").read_text() == before
    cluster.up(None, bootstrap=None, snapshots=str(tmp_path / "other"))
    assert cluster.folder.load().snapshots == str(tmp_path / "other")


@pytest.mark.parametrize(("name", "can_abort"), [("c", True), ("c-2", False)])
def test_the_steps_after_an_interrupted_restore_are_those_that_are_possible(
    dir: Path, monkeypatch: pytest.MonkeyPatch, name: str, can_abort: bool
) -> None:
    monkeypatch.setattr(local_cluster, "wait_ready", lambda *_: None)
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.folder.save(replace(cluster.folder.load(), name=name))
    plan = RestorePlan("s1", "c", "c", "c-2", None, None, NewTimeline("ab" * 16, 1, 2))
    LocalRestore(dir, "", cluster.reported)._save(plan)
    cluster.start(name=None)
    [notice] = cluster.reported.notices
    assert "--resume` completes it" in notice and ("--abort" in notice) == can_abort
    with pytest.raises(ConfigError) as refused:
        LocalRestore(dir, "", cluster.reported).plan("s1", None, None)
    assert ("--abort" in str(refused.value)) == can_abort


def test_a_cluster_with_its_own_kafka_keeps_it(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.folder.save(ClusterFile("c", "127.0.0.1:9092", True, free_base_port(4)))
    with pytest.raises(ConfigError, match=r"its Kafka is its own, at 127\.0\.0\.1:9092, not kafka:9092"):
        cluster.start(1)
    assert cluster.folder.load().own_broker


def test_a_store_that_was_truncated_stops_no_start_of_a_restored_cluster(dir: Path) -> None:
    cluster = FakeCluster(dir)
    restored = ClusterFile("c", "kafka:9092", False, free_base_port(4), former=("old",))
    cluster.folder.save(restored.with_node("n1").with_node("n2"))
    for id in ("n1", "n2"):
        rows = [Change("kv", b"row%d" % number, b"", None, b"s" * 5000) for number in range(100)]
        machine = open_machine(cluster.folder.node_dir(id) / "store", "c", "topic")
        machine.apply([Write(tuple(rows))], machine.state)
        machine.close()
    os.truncate(cluster.folder.node_dir("n1") / "store" / "data.mdb", 8192)
    assert cluster.start() == ("n1", "n2")


def test_an_interrupted_start_says_what_runs_and_how_to_stop_it(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local_cluster, "wait_ready", interrupt)
    cluster = FakeCluster(dir)
    with pytest.raises(KeyboardInterrupt):
        cluster.start(2)
    [text] = cluster.reported.results
    assert text == f"still running: n1, n2. `replicator cluster down --dir {dir}` stops the cluster"
    with pytest.raises(KeyboardInterrupt):
        cluster.add_replica("n3")
    assert "`replicator replica remove n3` removes it" in cluster.reported.results[-1]


def test_a_node_that_has_failed_must_be_stopped_before_it_is_started_again(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.nodes.kind = FailedNode
    for start in (cluster.start, lambda: cluster.start_node("n1")):
        with pytest.raises(ReplicatorError, match=r"n1 is failed: install .* stop it first: `replicator node stop n1`"):
            start()


def test_the_log_that_is_shown_is_that_of_this_start(
    dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho this run\nread line\n")
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    folder = ClusterFolder(dir)
    cluster = ClusterFile("c", "b:1", False, free_base_port(1)).with_node("n1")
    log = folder.log_file("n1")
    log.parent.mkdir(parents=True)
    log.write_text("a former run\n")
    assert "a former run" in folder.log_tail("n1")
    with contextlib.suppress(ReplicatorError):  # it may have exited already
        folder.start_process(cluster, cluster.node("n1"))
    process = folder.process("n1")
    assert process is None or wait_until_exited(process, 60)
    assert folder.log_tail("n1") == f"the end of {log}:\n  this run"


def test_a_node_that_has_failed_cannot_become_leader_and_its_reason_is_said(dir: Path) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.nodes.kind = FailedNode
    with pytest.raises(ReplicatorError, match="n1 is failed: install a newer replicator"):
        promote(cluster.admin, "n1")


class NodeWithoutKafka(FakeNode):
    """Waits for Kafka, which never answers."""

    state = "waiting"

    def status(self, timeout_s: float = 0) -> StatusReply:
        reply = super().status()
        why = "Kafka at kafka:9092 does not answer"
        return replace(reply, node=replace(reply.node, kafka_answers=False, trouble=why))


class VirtualTime:
    """Instead of the module `time`."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds


def test_a_node_that_waits_for_kafka_is_reported_once(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.nodes.kind = NodeWithoutKafka
    time = VirtualTime()
    monkeypatch.setattr(waiting, "time", time)
    noticed_s = []
    monkeypatch.setattr(cluster.reported, "notice", lambda text: noticed_s.append((text, round(time.now_s, 1))))
    with pytest.raises(ReplicatorError, match=r"n1 is not ready after 600 s: Kafka at kafka:9092 does not answer"):
        cluster.start_node("n1")
    assert noticed_s == [("waiting for Kafka at kafka:9092, for up to 600 s", 2.0)]


def test_who_waits_for_the_kafka_of_the_cluster_learns_how_to_start_it(
    dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.folder.save(replace(cluster.folder.load(), own_broker=True))
    cluster.nodes.kind = NodeWithoutKafka
    monkeypatch.setattr(waiting, "time", VirtualTime())
    with pytest.raises(ReplicatorError, match="is not ready"):
        cluster.start_node("n1")
    [notice] = cluster.reported.notices
    assert notice.endswith(f": `replicator cluster up --dir {dir}` starts the cluster's own Kafka again")


def test_a_replica_that_fails_leaves_nothing_behind(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(local_cluster, "remove_member", lambda admin, id: removed.append(id))
    cluster = FakeCluster(dir)
    cluster.start(1)
    before = (dir / "cluster.json").read_text()
    cluster.nodes.kind = FailedNode
    for id in ("n2", "n9"):
        with pytest.raises(ReplicatorError, match=r"is failed: install a newer replicator$"):
            cluster.add_replica(id)
        assert (dir / "cluster.json").read_text() == before
        assert not cluster.folder.node_dir(id).exists()
    assert removed == ["n9"]  # n2 was a member before: perhaps on another machine
    assert cluster.reported.results == ["removed n2 again", "removed n9 again"]


def test_a_replica_that_cannot_be_removed_again_can_be_removed_later(
    dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(admin: ClusterAdmin, id: str) -> None:
        raise ReplicatorError("the cluster has no leader now")

    monkeypatch.setattr(local_cluster, "remove_member", refuse)
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.nodes.kind = FailedNode
    with pytest.raises(ReplicatorError, match="is failed"):
        cluster.add_replica("n9")
    assert cluster.folder.load().has_node("n9")
    assert (
        "n9 was not removed (the cluster has no leader now): `replicator replica remove n9`"
        in (cluster.reported.results[-1])
    )


COMMANDS: dict[str, Callable[[FakeCluster], object]] = {
    "up": lambda cluster: cluster.start(),
    "down": lambda cluster: cluster.down(purge=True),
    "start": lambda cluster: cluster.start_node("n1"),
    "stop": lambda cluster: cluster.stop_node("n1"),
    "add": lambda cluster: cluster.add_replica("n2"),
    "remove": lambda cluster: cluster.remove_replica("n2"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_only_one_command_at_a_time_changes_a_cluster(dir: Path, command: str) -> None:
    cluster = FakeCluster(dir)
    cluster.start(2)
    code = (
        "import sys; from pathlib import Path; from replicator.local.folder import ClusterFolder\n"
        "with ClusterFolder(Path(sys.argv[1])).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(ConfigError, match=rf"another command \(process {holder.pid}\) is changing the cluster"):
            COMMANDS[command](cluster)
    assert len(cluster.folder.load().nodes) == 2
    cluster.stop_node("n1")  # the lock is free again


def test_a_lock_does_not_create_a_folder(dir: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cluster"):
        FakeCluster(dir).stop_node("n1")
    assert not dir.exists()


def test_a_cluster_can_be_deleted_twice(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_cluster, "delete_topics", lambda bootstrap, cluster, *, security: None)
    cluster = FakeCluster(dir)
    cluster.start(1)
    cluster.down(purge=True)
    cluster.down(purge=True)
    assert cluster.reported.results[1:] == [f"deleted {dir}", f"there is no folder {dir}: nothing to delete"]
    with pytest.raises(ConfigError, match="there is no cluster"):
        cluster.down(purge=False)
    dir.mkdir()  # whatever it is, it is not a cluster
    with pytest.raises(ConfigError, match="there is no cluster"):
        cluster.down(purge=True)


def test_topics_are_deleted_with_the_login_of_the_environment(dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[KafkaSecurity] = []
    monkeypatch.setattr(local_cluster, "delete_topics", lambda bootstrap, cluster, *, security: used.append(security))
    cluster = FakeCluster(dir)
    cluster.start(1)
    for name, value in {"SECURITY_PROTOCOL": "SASL_SSL", "USERNAME": "alice", "PASSWORD": "p"}.items():
        monkeypatch.setenv(f"REPLICATOR_KAFKA_{name}", value)
    cluster.down(purge=True)
    assert used == [KafkaSecurity("SASL_SSL", username="alice", password="p")]
    assert not dir.exists()


class Members(ClusterAdmin):
    """A cluster of which only the membership is there."""

    def __init__(self, *ids: str) -> None:
        super().__init__([], "")
        self.ids = list(ids)

    def any_status(self) -> StatusReply:
        members = [{"node": id, "mode": "async", "resp": "h:1", "http": "h:2", "priority": 0} for id in self.ids]
        return parse_status(
            {"cluster": "c", "node": {"id": "n1", "state": "serving", "leader": "n1"}, "members": members}
        )

    def leader(self) -> NodeAdmin:
        return LeaderOf(Address("h", 2), members=self)


@dataclass(frozen=True, slots=True)
class LeaderOf(NodeAdmin):
    members: Members = field(default_factory=Members)

    def status(self, timeout_s: float = 0) -> StatusReply:
        return self.members.any_status()

    def remove_member(self, node: str) -> None:
        self.members.ids.remove(node)


def test_a_member_that_was_not_started_from_the_folder_is_removed_from_the_members(
    dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, admin = FakeCluster(dir), Members("n1", "n2", "n3", "n5")
    cluster.start()
    monkeypatch.setattr(FakeCluster, "admin", admin)
    assert not cluster.remove_replica("n5")
    assert admin.ids == ["n1", "n2", "n3"] and len(cluster.folder.load().nodes) == 3
    with pytest.raises(ConfigError, match="n5 is not a member of this cluster, only n1, n2, n3"):
        cluster.remove_replica("n5")
    with pytest.raises(ConfigError, match="n1 is the leader: transfer leadership first"):
        cluster.remove_replica("n1")
    assert cluster.remove_replica("n3")
    assert [entry.id for entry in cluster.folder.load().nodes] == ["n1", "n2"]


def test_a_node_is_added_at_ports_that_are_free() -> None:
    cluster = ClusterFile("c", "kafka:9092", True, 7001).with_node("n1")
    busy = {7002, 7003 + HTTP_ABOVE_RESP}
    assert cluster.with_node("n2", is_free=lambda port: port not in busy).node("n2").resp_port == 7004
    assert cluster.with_node("n2", is_free=lambda port: False).node("n2").resp_port == 7002  # so the error names it
