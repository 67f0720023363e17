"""A cluster on this machine: start it, stop it, add and remove its nodes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from replicator.config import checked_name
from replicator.errors import BrokerUnavailable, ConfigError, SnapshotError
from replicator.local.admin_client import ClusterAdmin, find_cluster
from replicator.local.folder import ClusterFile, ClusterFolder, NodeEntry
from replicator.local.operations import remove_member, set_mode
from replicator.local.ports import check_free, free_base_port
from replicator.local.progress import NO_PROGRESS, ProgressReporter
from replicator.local.waiting import wait_ready
from replicator.log.kafka.admin import delete_topics
from replicator.records.types import Mode
from replicator.store import snapshot

UP_S = 120
START_S = 600
ADD_S = 3600
DEFAULT_NODES = 3


class LocalCluster:
    """The cluster in the folder `dir`. Its methods raise `ReplicatorError`; `ConfigError` if nothing was done."""

    def __init__(self, dir: Path, password: str = "", progress: ProgressReporter = NO_PROGRESS) -> None:
        self.folder = ClusterFolder(dir)
        self.password = password
        self._progress = progress

    @property
    def admin(self) -> ClusterAdmin:
        return find_cluster(self.folder.dir, None, self.password)

    @property
    def resp_ports(self) -> dict[str, int]:
        """By node."""
        return {entry.id: entry.resp_port for entry in self.folder.load().nodes}

    def up(self, nodes: int | None, *, bootstrap: str | None, base_port: int, name: str) -> None:
        """Start the nodes n1, n2, … that are not running, and return when they serve.

        `nodes` None: the nodes that the cluster has, or 3 if it has none. `bootstrap` None: also start a Kafka in the
        folder. `base_port` and `name` are for a new cluster.
        """
        folder = self.folder
        if folder.exists():
            self.check_password()
            cluster = folder.load()
        else:
            cluster = ClusterFile(checked_name("cluster name", name), "", False, base_port)
        cluster = replace(cluster, has_password=bool(self.password))
        for index in range(1, _node_count(cluster, nodes) + 1):
            cluster = cluster.with_node(f"n{index}")
        for entry in cluster.nodes:
            if folder.process(entry.id) is None:
                check_free(entry.resp_port)
                check_free(entry.http_port)
        if bootstrap:
            cluster = replace(cluster, bootstrap=bootstrap, own_broker=False)
        elif cluster.own_broker or not cluster.bootstrap:
            cluster = replace(cluster, own_broker=True)
            folder.save(cluster)  # before Kafka starts, so that `down` stops it
            self._progress.step("starting Kafka")
            cluster = replace(cluster, bootstrap=folder.broker.start())
        folder.save(cluster)
        for entry in cluster.nodes:
            folder.start_process(cluster, entry)
        wait_ready(folder, self.admin, cluster.nodes, UP_S, self._progress)

    def down(self, *, purge: bool) -> None:
        """Stop all nodes, and the Kafka that was started with them. `purge`: delete topics and folder, too."""
        folder, cluster = self.folder, self.folder.load()
        for entry in reversed(cluster.nodes):
            if folder.stop_process(entry.id):
                self._progress.done(f"stopped {entry.id}")
        if purge and not cluster.own_broker:
            try:
                delete_topics(cluster.bootstrap, cluster.name)
            except (BrokerUnavailable, ConfigError) as error:
                raise ConfigError(f"the nodes are stopped, but nothing was deleted: {error}") from error
        if cluster.own_broker and folder.broker.stop():
            self._progress.done("stopped Kafka")
        if purge:
            shutil.rmtree(folder.dir)
            self._progress.done(f"deleted {folder.dir}")

    def start_node(self, id: str) -> bool:
        """Return when the node has caught up; False if it was already running."""
        self.check_password()
        cluster = self.folder.load()
        entry = cluster.node(id)
        started = self.folder.start_process(cluster, entry)
        wait_ready(self.folder, self.admin, [entry], START_S, self._progress)
        return started

    def stop_node(self, id: str) -> bool:
        """False if the node was not running."""
        self.folder.load().node(id)
        return self.folder.stop_process(id)

    def add_replica(
        self, id: str, *, from_snapshot: bool = False, snapshot_name: str | None = None, mode: Mode = Mode.ASYNC
    ) -> NodeEntry:
        """Start a new node, and return when it has caught up and is a member in that mode.

        It starts from the named or the newest snapshot, or reads the log from its beginning.
        """
        checked_name("node id", id)
        self.check_password()
        folder, cluster = self.folder, self.folder.load()
        if cluster.has_node(id):
            raise ConfigError(f"{id} is in this cluster already: `replicator node start {id}` starts it")
        if folder.node_dir(id).exists():
            raise ConfigError(f"{folder.node_dir(id)} already exists: move it away, or choose another name")
        cluster = cluster.with_node(id)
        if from_snapshot or snapshot_name:
            source = self._snapshot(snapshot_name)
            manifest = snapshot.restore(source, folder.node_dir(id) / "store", cluster.name)
            self._progress.done(
                f"restored snapshot {manifest.name}: {id} reads the log from offset {manifest.offset + 1}"
            )
        entry = cluster.node(id)
        folder.start_process(cluster, entry)
        folder.save(cluster)
        wait_ready(folder, self.admin, [entry], ADD_S, self._progress)
        if mode is not Mode.ASYNC:
            set_mode(self.admin, id, mode)
        return entry

    def check_password(self) -> None:
        """Raises `ConfigError` if a node that is started now would have no password, although the others have one."""
        if self.folder.load().has_password and not self.password:
            raise ConfigError("this cluster was started with a password: set REPLICATOR_NODE_PASSWORD")

    def _snapshot(self, name: str | None) -> Path:
        snapshots = self.folder.snapshots
        if name:
            return snapshots / name
        manifests = snapshot.listed(snapshots)
        if not manifests:
            raise SnapshotError(f"there is no snapshot in {snapshots}: `replicator snapshot take` takes one")
        return snapshots / manifests[0].name

    def remove_replica(self, id: str) -> None:
        """Remove the node from the members, stop it, and delete its store."""
        cluster = self.folder.load()
        cluster.node(id)
        remove_member(self.admin, id)
        self.folder.stop_process(id)
        self.folder.save(cluster.without_node(id))
        shutil.rmtree(self.folder.node_dir(id), ignore_errors=True)


def _node_count(cluster: ClusterFile, asked: int | None) -> int:
    if asked is not None:
        return asked
    return 0 if cluster.nodes else DEFAULT_NODES


@contextmanager
def temporary_cluster(
    purpose: str,
    nodes: int,
    *,
    bootstrap: str | None,
    password: str,
    progress: ProgressReporter,
    spare_ports: int = 0,
) -> Iterator[LocalCluster]:
    """A cluster that runs as long as the `with` block; its data is deleted. `spare_ports`: for nodes added later."""
    with tempfile.TemporaryDirectory(prefix=f"replicator-{purpose}-", ignore_cleanup_errors=True) as name:
        cluster = LocalCluster(Path(name) / "cluster", password, progress)
        base_port = free_base_port(nodes + spare_ports)
        try:
            cluster.up(nodes, bootstrap=bootstrap, base_port=base_port, name=f"{purpose}-{os.getpid()}")
            yield cluster
        finally:
            if cluster.folder.exists():
                progress.step("stopping the cluster")
                LocalCluster(cluster.folder.dir, password).down(purge=True)
