"""The folder of a cluster on this machine.

DIR/cluster.json             its name, its Kafka, its nodes and their ports
DIR/broker/                  a Kafka of its own, if it was not given one
DIR/nodes/ID/store           the node's LMDB store
            /node.log        what it says
            /node.pid        its process
DIR/snapshots/
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.kafka import LocalBroker
from replicator.local.process import ProcessMark, is_alive, mark_of, terminate

STOP_S = 15


@dataclass(frozen=True, slots=True)
class NodeEntry:
    id: str
    resp_port: int
    http_port: int
    priority: int

    @property
    def resp(self) -> Address:
        return Address("127.0.0.1", self.resp_port)

    @property
    def http(self) -> Address:
        return Address("127.0.0.1", self.http_port)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    name: str
    bootstrap: str
    own_broker: bool
    base_port: int
    nodes: tuple[NodeEntry, ...] = field(default=())

    def node(self, id: str) -> NodeEntry:
        """Raises `ConfigError`."""
        for entry in self.nodes:
            if entry.id == id:
                return entry
        known = ", ".join(entry.id for entry in self.nodes)
        raise ConfigError(f"there is no node {id} in this cluster, only {known}: `replicator replica add {id}` adds it")

    def with_node(self, id: str) -> ClusterFile:
        """The node added, on the next free place in the order of ports."""
        if any(entry.id == id for entry in self.nodes):
            return self
        taken = {entry.resp_port for entry in self.nodes}
        place = next(place for place in range(len(self.nodes) + 1) if self.base_port + place not in taken)
        port = self.base_port + place
        entry = NodeEntry(id, port, port + 1000, max((it.priority for it in self.nodes), default=-1) + 1)
        return replace(self, nodes=(*self.nodes, entry))

    def without_node(self, id: str) -> ClusterFile:
        return replace(self, nodes=tuple(entry for entry in self.nodes if entry.id != id))


class ClusterFolder:
    def __init__(self, dir: Path) -> None:
        self.dir = dir.absolute()

    @property
    def broker(self) -> LocalBroker:
        return LocalBroker(self.dir / "broker")

    @property
    def snapshots(self) -> Path:
        return self.dir / "snapshots"

    def node_dir(self, id: str) -> Path:
        return self.dir / "nodes" / id

    def log_file(self, id: str) -> Path:
        return self.node_dir(id) / "node.log"

    def exists(self) -> bool:
        return (self.dir / "cluster.json").exists()

    def load(self) -> ClusterFile:
        """Raises `ConfigError`."""
        try:
            fields = json.loads((self.dir / "cluster.json").read_text())
            return ClusterFile(**{**fields, "nodes": tuple(NodeEntry(**entry) for entry in fields["nodes"])})
        except FileNotFoundError:
            raise ConfigError(
                f"there is no cluster in {self.dir}: `replicator cluster up --dir DIR` makes one, "
                "--dir or --connect names another"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.dir}/cluster.json cannot be read: {error}") from error

    def save(self, cluster: ClusterFile) -> None:
        try:
            self.dir.mkdir(parents=True, exist_ok=True)
            new = self.dir / "cluster.json.new"
            new.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
            os.replace(new, self.dir / "cluster.json")
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be the folder of a cluster: {error.strerror}") from error

    def process(self, id: str) -> ProcessMark | None:
        """The node's process, if it runs."""
        try:
            mark = ProcessMark(**json.loads((self.node_dir(id) / "node.pid").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return mark if is_alive(mark) else None

    def start_node(self, cluster: ClusterFile, entry: NodeEntry) -> bool:
        """Start a node in the background; False if it runs already. Raises `ConfigError` if a port is taken."""
        if self.process(entry.id) is not None:
            return False
        for port in (entry.resp_port, entry.http_port):
            check_free(port)
        folder = self.node_dir(entry.id)
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "id": entry.id,
            "cluster": cluster.name,
            "bootstrap": cluster.bootstrap,
            "dir": str(folder),
            "resp": str(entry.resp),
            "http": str(entry.http),
            "priority": str(entry.priority),
            "snapshots": str(self.snapshots),
        }
        command = [sys.executable, "-m", "replicator", "node", "run"]
        command += [part for name, value in options.items() for part in (f"--{name}", value)]
        with open(self.log_file(entry.id), "ab") as out:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=folder
            )
        mark = mark_of(child.pid)
        if mark is None:
            raise ReplicatorError(f"{entry.id} ended at once: {self.last_words(entry.id)}")
        (folder / "node.pid").write_text(json.dumps(asdict(mark)))
        return True

    def stop_node(self, id: str) -> bool:
        """End a node cleanly; False if it did not run."""
        mark = self.process(id)
        if mark is None:
            return False
        if not terminate(mark, STOP_S):
            raise ReplicatorError(f"{id} (process {mark.pid}) does not end")
        (self.node_dir(id) / "node.pid").unlink(missing_ok=True)
        return True

    def last_words(self, id: str) -> str:
        """The end of the node's log, for errors."""
        try:
            lines = self.log_file(id).read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return "it left no log"
        return "\n".join([f"the end of {self.log_file(id)}:", *(f"  {line}" for line in lines[-8:])])


def check_free(port: int) -> None:
    """Raises `ConfigError`."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise ConfigError(f"port {port} is none: choose a lower --base-port") from None
        except OSError as error:
            raise ConfigError(
                f"port {port} cannot be had ({error.strerror}): end the program that has it, or choose another "
                "--base-port"
            ) from None
