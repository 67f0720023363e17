"""The folder of a cluster on this machine.

DIR/cluster.json             its name, its Kafka, its nodes and their ports
DIR/cluster.lock             locked by the command that changes the folder; contains its pid
DIR/broker/                  its own Kafka, unless --bootstrap names another
DIR/nodes/ID/store           the node's LMDB store
            /node.log        its output
            /node.pid        its process
DIR/snapshots/
DIR/restore.json, restore/   of `cluster restore`, while it runs or if it was interrupted
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.kafka import LocalBroker
from replicator.local.ports import HTTP_ABOVE_RESP, check_free
from replicator.local.process import ProcessIdentity, identify, is_alive, terminate
from replicator.position import LEADER
from replicator.procedures.loading import NONE, Procedures, load

STOP_S = 15
PORTS_TRIED = 20
LOG_TAIL_LINES = 8
LOCK = "cluster.lock"
STORE = "store"  # in the folder of a node


@dataclass(frozen=True, slots=True)
class NodeEntry:
    id: str
    resp_port: int
    http_port: int
    priority: int
    upstream: str = LEADER

    @property
    def resp(self) -> Address:
        return Address("127.0.0.1", self.resp_port)

    @property
    def http(self) -> Address:
        return Address("127.0.0.1", self.http_port)


@dataclass(frozen=True, slots=True)
class ClusterFile:
    """The contents of `cluster.json`."""

    name: str
    bootstrap: str
    own_broker: bool
    base_port: int
    nodes: tuple[NodeEntry, ...] = field(default=())
    has_password: bool = False  # the password itself is never in a file
    snapshots: str = ""  # URL of their repository; empty: the folder `snapshots` beside this file
    procedures: str = ""  # path of their file; empty: there are none
    former: tuple[str, ...] = ()  # the clusters from which this one was restored, the latest last

    def load_procedures(self) -> Procedures:
        """Raises `ConfigError`."""
        return load(Path(self.procedures)) if self.procedures else NONE

    def has_node(self, id: str) -> bool:
        return any(entry.id == id for entry in self.nodes)

    def node(self, id: str) -> NodeEntry:
        """Raises `ConfigError`."""
        for entry in self.nodes:
            if entry.id == id:
                return entry
        known = ", ".join(entry.id for entry in self.nodes) or "none"
        raise ConfigError(f"{id} is not a node of this cluster ({known}): `replicator replica add {id}` adds it")

    def with_node(
        self, id: str, upstream: str = LEADER, is_free: Callable[[int], bool] = lambda port: True
    ) -> ClusterFile:
        """With the node added at the first pair of ports that no other node has, and that is free.

        If none of some is free, at the first one that no other node has.
        """
        if self.has_node(id):
            return self
        taken = {entry.resp_port for entry in self.nodes}
        ports = [self.base_port + place for place in range(len(self.nodes) + PORTS_TRIED)]
        unused = [port for port in ports if port not in taken]
        port = next((port for port in unused if is_free(port) and is_free(port + HTTP_ABOVE_RESP)), unused[0])
        priority = max((it.priority for it in self.nodes), default=-1) + 1
        return replace(self, nodes=(*self.nodes, NodeEntry(id, port, port + HTTP_ABOVE_RESP, priority, upstream)))

    def without_node(self, id: str) -> ClusterFile:
        return replace(self, nodes=tuple(entry for entry in self.nodes if entry.id != id))


class ClusterFolder:
    def __init__(self, dir: Path) -> None:
        self.dir = dir.absolute()
        self._log_begins: dict[str, int] = {}  # of the nodes that this program has started: in bytes

    @property
    def broker(self) -> LocalBroker:
        return LocalBroker(self.dir / "broker")

    def repository(self, cluster: ClusterFile) -> str:
        """Where the snapshots are: a path, or a URL."""
        return cluster.snapshots or str(self.dir / "snapshots")

    def node_dir(self, id: str) -> Path:
        return self.dir / "nodes" / id

    @property
    def restore_plan(self) -> Path:
        """A file, as long as a step of `cluster restore` is left."""
        return self.dir / "restore.json"

    def log_file(self, id: str) -> Path:
        return self.node_dir(id) / "node.log"

    def exists(self) -> bool:
        """Whether there is a cluster. Raises `ConfigError` if the folder cannot be used."""
        try:
            (self.dir / "cluster.json").stat()
        except FileNotFoundError:
            return False
        except NotADirectoryError:
            raise ConfigError(f"{self.dir} is not a folder: choose another --dir") from None
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be used ({error.strerror}): choose another --dir") from error
        return True

    def load(self) -> ClusterFile:
        """Raises `ConfigError`."""
        if not self.exists():
            raise ConfigError(
                f"there is no cluster in {self.dir}: `replicator cluster up --dir DIR` creates one; "
                "--dir or --connect selects another"
            )
        try:
            fields = json.loads((self.dir / "cluster.json").read_text())
            nodes = tuple(NodeEntry(**entry) for entry in fields["nodes"])
            return ClusterFile(**{**fields, "nodes": nodes, "former": tuple(fields.get("former", ()))})
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(
                f"{self.dir}/cluster.json cannot be read ({error}): restore it, or choose another --dir"
            ) from error

    def kafka_remedy(self) -> str:
        """What to do if the Kafka of this cluster does not answer. Raises `ConfigError`."""
        cluster = self.load()
        if not cluster.own_broker:
            return f"check Kafka at {cluster.bootstrap}"
        if (pid := self.broker.pid) is not None:
            return f"the cluster's own Kafka runs as process {pid}, but does not answer: see {self.broker.log_file}"
        return f"`replicator cluster up --dir {self.dir}` starts the cluster's own Kafka again"

    def load_nodes(self) -> tuple[NodeEntry, ...]:
        """At least one. Raises `ConfigError`."""
        nodes = self.load().nodes
        if not nodes:
            raise ConfigError(f"the cluster in {self.dir} has no nodes: `replicator cluster up` starts some")
        return nodes

    def save(self, cluster: ClusterFile) -> None:
        """Raises `ConfigError`."""
        try:
            self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self.dir / "cluster.json.new"
            new.write_text(json.dumps(asdict(cluster), indent=2) + "\n")
            os.replace(new, self.dir / "cluster.json")
        except OSError as error:
            raise ConfigError(f"{self.dir} cannot be used as the folder of a cluster: {error.strerror}") from error

    @contextlib.contextmanager
    def lock(self, *, create: bool = False) -> Iterator[None]:
        """No other command changes the cluster meanwhile. `create`: also if there is none yet.

        Raises `ConfigError`: there is no cluster, or another process holds the lock.
        """
        if not create:
            self.load()
        is_new = not self.dir.exists()
        descriptor = self._acquire()
        try:
            yield
        finally:
            if not self.exists():  # the cluster was not created, or deleted
                (self.dir / LOCK).unlink(missing_ok=True)
                if is_new:
                    with contextlib.suppress(OSError):
                        self.dir.rmdir()
            os.close(descriptor)

    def _acquire(self) -> int:
        """The open file; closing it releases the lock. Raises `ConfigError`."""
        while True:
            try:
                self.dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                descriptor = os.open(self.dir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            except OSError as error:
                raise ConfigError(f"{self.dir} cannot be used as the folder of a cluster: {error.strerror}") from error
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 20, 0).decode(errors="replace")
                os.close(descriptor)
                raise ConfigError(
                    f"another command (process {holder or 'unknown'}) is changing the cluster in {self.dir}: "
                    "try again when it has ended"
                ) from None
            if os.fstat(descriptor).st_nlink:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
            os.close(descriptor)  # the holder before has deleted the file

    def process(self, id: str) -> ProcessIdentity | None:
        """The node's process, if it is running."""
        try:
            process = ProcessIdentity(**json.loads((self.node_dir(id) / "node.pid").read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return process if is_alive(process) else None

    def running_process(self, id: str) -> ProcessIdentity:
        """Raises `ReplicatorError` if the node is not running."""
        process = self.process(id)
        if process is None:
            raise ReplicatorError(f"{id} has exited: {self.log_tail(id)}")
        return process

    def start_process(self, cluster: ClusterFile, entry: NodeEntry) -> bool:
        """Start a node in the background; False if it is already running. Raises `ConfigError` if a port is taken."""
        if self.process(entry.id) is not None:
            return False
        for port in (entry.resp_port, entry.http_port):
            check_free(port)
        folder = self.node_dir(entry.id)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = {
            "id": entry.id,
            "cluster": cluster.name,
            "bootstrap": cluster.bootstrap,
            "dir": str(folder),
            "resp": str(entry.resp),
            "http": str(entry.http),
            "priority": str(entry.priority),
            "snapshots": self.repository(cluster),
        }
        if entry.upstream != LEADER:
            options["upstream"] = entry.upstream
        if cluster.procedures:
            options["procedures"] = cluster.procedures
        command = [sys.executable, "-m", "replicator", "node", "run"]
        command += [part for name, value in options.items() for part in (f"--{name}", value)]
        with open(self.log_file(entry.id), "ab") as out:
            self._log_begins[entry.id] = out.tell()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True, cwd=folder
            )
        process = identify(child.pid)
        if process is None:
            raise ReplicatorError(f"{entry.id} exited at once: {self.log_tail(entry.id)}")
        (folder / "node.pid").write_text(json.dumps(asdict(process)))
        return True

    def stop_process(self, id: str) -> bool:
        """Stop a node cleanly; False if it is not running. Raises `ReplicatorError`."""
        process = self.process(id)
        if process is None:
            return False
        if not terminate(process, STOP_S):
            raise ReplicatorError(f"{id} (process {process.pid}) does not exit, not even after SIGKILL")
        (self.node_dir(id) / "node.pid").unlink(missing_ok=True)
        return True

    def log_tail(self, id: str) -> str:
        """The last lines of the node's log, for error messages. If this program has started it: since then."""
        try:
            with open(self.log_file(id), "rb") as log:
                log.seek(self._log_begins.get(id, 0))
                written = log.read()
        except FileNotFoundError:
            written = b""
        if not written:
            return "it has written no log"
        lines = written.decode(errors="replace").splitlines()
        return "\n".join([f"the end of {self.log_file(id)}:", *(f"  {line}" for line in lines[-LOG_TAIL_LINES:])])
