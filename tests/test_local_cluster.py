"""A cluster on this machine: what its commands refuse before they write or start anything, and what they start."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import ConfigError
from replicator.local.admin_client import ClusterAdmin, NodeAdmin
from replicator.local.cluster import LocalCluster
from replicator.local.folder import ClusterFile, ClusterFolder, NodeEntry
from replicator.local.ports import free_base_port
from replicator.local.status import StatusReply, parse_status

NEEDS_PASSWORD = "this cluster was started with a password: set REPLICATOR_NODE_PASSWORD"


class ServingNode(NodeAdmin):
    """A node that serves, and is leader and member, at once."""

    def status(self) -> StatusReply:
        member = {"node": "n1", "mode": "async", "resp": "h:1", "http": str(self.http), "priority": 0}
        members = [{**member, "node": f"n{n}"} for n in range(1, 9)]
        return parse_status(
            {"cluster": "c", "node": {"id": "n1", "state": "serving", "leader": "n1"}, "members": members}
        )


class ServingNodes(ClusterAdmin):
    def node(self, http: Address) -> NodeAdmin:
        return ServingNode(http)


class FolderWithoutProcesses(ClusterFolder):
    def __init__(self, dir: Path) -> None:
        super().__init__(dir)
        self.started: list[str] = []

    def start_process(self, cluster: ClusterFile, entry: NodeEntry) -> bool:
        self.started.append(entry.id)
        return True


class FakeCluster(LocalCluster):
    def __init__(self, dir: Path, password: str = "") -> None:
        super().__init__(dir, password)
        self.folder: FolderWithoutProcesses = FolderWithoutProcesses(dir)

    @property
    def admin(self) -> ClusterAdmin:
        return ServingNodes([], self.password)

    def start(self, nodes: int | None = None, name: str = "c") -> Sequence[str]:
        """The nodes that were started."""
        self.folder.started.clear()
        self.up(nodes, bootstrap="kafka:9092", base_port=free_base_port(4), name=name)
        return tuple(self.folder.started)


@pytest.fixture
def dir(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def test_a_new_cluster_has_three_nodes_and_an_existing_one_keeps_its_number(dir: Path, tmp_path: Path) -> None:
    assert FakeCluster(tmp_path / "another").start() == ("n1", "n2", "n3")
    cluster = FakeCluster(dir)
    assert cluster.start(2) == ("n1", "n2")
    assert cluster.start() == ("n1", "n2")
    assert cluster.start(4) == ("n1", "n2", "n3", "n4")


def test_nodes_of_a_cluster_with_a_password_are_not_started_without_it(dir: Path) -> None:
    FakeCluster(dir, "secret").start(2)
    without = FakeCluster(dir)
    for start in (without.start, lambda: without.start_node("n2"), lambda: without.add_replica("n3")):
        with pytest.raises(ConfigError, match=NEEDS_PASSWORD):
            start()
    assert without.folder.started == []
    assert FakeCluster(dir, "secret").start_node("n2")


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
