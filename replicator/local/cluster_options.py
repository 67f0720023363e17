"""The options of `replicator cluster up`: what a new cluster gets, and what an existing one may change. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from replicator.config import checked_name
from replicator.errors import ConfigError
from replicator.local.folder import ClusterFile

DEFAULT_NODES = 3
DEFAULT_NAME = "replicator"
DEFAULT_BASE_PORT = 7001


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """None: what the cluster has; for a new one the default, and a Kafka of its own."""

    nodes: int | None
    bootstrap: str | None
    base_port: int | None
    name: str | None
    snapshots: str | None
    procedures: str | None

    def new_cluster(self) -> ClusterFile:
        """It has no nodes yet. Raises `ConfigError`."""
        name = checked_name("cluster name", DEFAULT_NAME if self.name is None else self.name)
        return ClusterFile(name, "", False, self.base_port or DEFAULT_BASE_PORT)

    def applied_to(self, cluster: ClusterFile) -> ClusterFile:
        """The repository of snapshots remains: its default depends on the folder."""
        if self.bootstrap not in (None, cluster.bootstrap):
            cluster = replace(cluster, bootstrap=self.bootstrap, own_broker=False)
        if self.procedures is not None:
            cluster = replace(cluster, procedures=self.procedures)
        nodes = self.nodes
        if nodes is None:
            nodes = 0 if cluster.nodes else DEFAULT_NODES
        for index in range(1, nodes + 1):
            cluster = cluster.with_node(f"n{index}")
        return cluster

    def check(self, cluster: ClusterFile, dir: Path, repository: str, running: Sequence[str]) -> None:
        """Raises `ConfigError` if the cluster in `dir` has other values, which cannot be changed now.

        `repository`: of its snapshots. `running`: the ids of its nodes that run.
        """
        different = []
        if self.name not in (None, cluster.name):
            different.append(f"its name is {cluster.name}, not {self.name}")
        if self.nodes is not None and self.nodes < len(cluster.nodes):
            ids = ", ".join(entry.id for entry in cluster.nodes)
            different.append(
                f"it has {len(cluster.nodes)} nodes ({ids}), not {self.nodes} (`replicator replica remove ID` removes "
                "one)"
            )
        if self.base_port not in (None, cluster.base_port):
            different.append(f"its base port is {cluster.base_port}, not {self.base_port}")
        users = ", ".join(running)
        stop_first = "(to change that, stop them first: `replicator cluster down`)"
        if running and self.snapshots not in (None, repository):
            different.append(f"{users} use the snapshots in {repository}, not {self.snapshots} {stop_first}")
        if running and cluster.procedures and self.procedures not in (None, cluster.procedures):
            different.append(
                f"{users} use the procedures in {cluster.procedures}, not {self.procedures} {stop_first[:-1]}; to add "
                "procedures, change the file, and restart one node after the other)"
            )
        if cluster.bootstrap and self.bootstrap not in (None, cluster.bootstrap):
            if cluster.own_broker:
                different.append(f"its Kafka is its own, at {cluster.bootstrap}, not {self.bootstrap}")
            elif running:
                different.append(f"{users} use Kafka at {cluster.bootstrap}, not {self.bootstrap} {stop_first}")
        if different:
            raise ConfigError(
                f"there is a cluster in {dir} with other options: {'; '.join(different)}. "
                "Leave these options out, or choose another --dir"
            )
