"""A cluster on this machine: start it, stop it, add and remove its nodes."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from replicator.address import Address
from replicator.config import checked_bootstrap, checked_node_id, checked_upstream, load_kafka
from replicator.errors import BrokerUnavailable, ConfigError, ReplicatorError, SnapshotError
from replicator.local.admin_client import ClusterAdmin, find_cluster
from replicator.local.cluster_options import ClusterOptions
from replicator.local.folder import STORE, ClusterFile, ClusterFolder, NodeEntry
from replicator.local.operations import remove_foreign_member, remove_member, set_mode
from replicator.local.ports import check_free, free_base_port, is_free
from replicator.local.procedures import nodes_without
from replicator.local.progress import NO_PROGRESS, ProgressReporter
from replicator.local.snapshots import named, newest_of_log, restore
from replicator.local.stores import prepare_store
from replicator.local.waiting import NodeFailed, NotReadyInTime, wait_ready
from replicator.log.kafka.admin import KafkaAdmin, delete_topics
from replicator.log.kafka.security import KafkaSecurity, security_of
from replicator.log.kafka.topic import wal_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.position import AUTO, GOSSIP, LEADER
from replicator.procedures.loading import Procedures
from replicator.procedures.loading import load as load_procedures
from replicator.records.types import Mode
from replicator.snapshots.repository import Repository
from replicator.snapshots.restoring import Choice, only

UP_S = 120
START_S = 600
ADD_S = 3600


class Origin(StrEnum):
    """Where a new replica gets its data from."""

    VERIFIED = "verified"  # the newest verified snapshot, or the log if there is none
    SNAPSHOT = "snapshot"  # the newest snapshot, unless its verification has failed
    LOG = "log"  # its beginning


class ReplicaSource(NamedTuple):
    """The repository and the snapshot in it from which a new replica starts."""

    repository: Repository
    choice: Choice


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

    def up(
        self,
        nodes: int | None,
        *,
        bootstrap: str | None,
        base_port: int | None = None,
        name: str | None = None,
        snapshots: str | None = None,
        procedures: Path | None = None,
    ) -> None:
        """Start the nodes n1, n2, … that are not running, and return when they serve.

        `nodes` None: the nodes that the cluster has, or 3 if it has none. `bootstrap` None: its Kafka; a new cluster
        starts one in the folder. `base_port` and `name` are for a new cluster. An existing cluster refuses fewer nodes
        and other values than it has, but a Kafka at another address, and another repository of snapshots, are accepted
        while no node runs. `procedures`: their file, for nodes that are started from now on; a file in place of another
        one is accepted while no node runs.
        """
        loaded = None if procedures is None else load_procedures(procedures)
        file = None if procedures is None else str(procedures.absolute())
        bootstrap = None if bootstrap is None else checked_bootstrap(bootstrap)
        folder = self.folder
        with folder.lock(create=True):
            cluster = self._planned(ClusterOptions(nodes, bootstrap, base_port, name, snapshots, file))
            ran = [entry for entry in cluster.nodes if folder.process(entry.id)]
            self._notice_restore(cluster)
            with self._reporting_what_runs(cluster.nodes):
                if not cluster.bootstrap or cluster.own_broker:
                    cluster = replace(cluster, own_broker=True)
                    folder.save(cluster)  # before Kafka starts, so that `down` stops it
                    self._progress.step("starting Kafka")
                    cluster = replace(cluster, bootstrap=folder.broker.start())
                folder.save(cluster)
                for entry in cluster.nodes:
                    prepare_store(folder, cluster, entry.id, self._progress)
                    folder.start_process(cluster, entry)
        with self._reporting_what_runs(cluster.nodes):
            wait_ready(folder, self.admin, cluster.nodes, UP_S, self._progress)
        if loaded is not None:
            self._notice_procedures(cluster.procedures, loaded, ran)

    def _notice_procedures(self, file: str, procedures: Procedures, ran: Sequence[NodeEntry]) -> None:
        """Which of the nodes that were running before have not loaded them."""
        outdated = nodes_without(procedures, {entry.id: entry.resp for entry in ran}, self.password) if ran else []
        if outdated:
            self._progress.notice(
                f"{', '.join(outdated)} {'has' if len(outdated) == 1 else 'have'} not loaded the procedures in {file}: "
                f"restart one node after the other (`replicator node stop {outdated[0]}`, `replicator node start "
                f"{outdated[0]}`)"
            )

    def _notice_restore(self, cluster: ClusterFile) -> None:
        """If one was interrupted."""
        if not self.folder.restore_plan.exists():
            return
        from replicator.local.restore import LocalRestore  # takes long, and is rarely needed

        try:
            plan = LocalRestore(self.folder.dir, self.password, self._progress).pending()
        except ConfigError as error:
            self._progress.notice(str(error))
        else:
            if plan is not None:
                self._progress.notice(
                    f"a restore was interrupted, and the cluster is {cluster.name} now: {plan.next_steps(cluster)}"
                )

    def _planned(self, options: ClusterOptions) -> ClusterFile:
        """What `up` saves and starts. Raises `ConfigError`, `BrokerUnavailable`: then nothing has changed."""
        folder = self.folder
        if folder.exists():
            self.check_password()
            cluster = folder.load()
            running = [entry.id for entry in cluster.nodes if folder.process(entry.id)]
            options.check(cluster, folder.dir, folder.repository(cluster), running)
        else:
            cluster = options.new_cluster()
        if options.bootstrap not in (None, cluster.bootstrap):
            self.check_kafka(options.bootstrap)
        if options.snapshots not in (None, folder.repository(cluster)):
            Repository(options.snapshots)
            cluster = replace(cluster, snapshots=options.snapshots)
        cluster = replace(options.applied_to(cluster), has_password=bool(self.password))
        for entry in cluster.nodes:
            if folder.process(entry.id) is None:
                check_free(entry.resp_port)
                check_free(entry.http_port)
        return cluster

    def check_kafka(self, bootstrap: str) -> None:
        """Raises `ConfigError` if no host there can be looked up, `BrokerUnavailable` if no Kafka answers."""
        if not any(map(_is_resolvable, bootstrap.split(","))):
            raise ConfigError(f"no host of Kafka at {bootstrap} can be looked up: correct --bootstrap, or check DNS")
        self._progress.step(f"connecting to Kafka at {bootstrap}")
        KafkaAdmin(bootstrap, self._security(bootstrap)).brokers()

    def _security(self, bootstrap: str) -> KafkaSecurity:
        """From the environment, as the nodes get it. Raises `ConfigError`."""
        return security_of(load_kafka(None, os.environ, bootstrap))

    @contextmanager
    def _reporting_what_runs(self, entries: Sequence[NodeEntry]) -> Iterator[None]:
        """If the block fails or is interrupted, report which of these nodes run, and how to stop them."""
        try:
            yield
        except NodeFailed as error:
            self._report_what_runs(entries)
            raise ReplicatorError(
                f"{error}. To start it again, stop it first: `replicator node stop {error.id}`"
            ) from error
        except (ReplicatorError, KeyboardInterrupt):
            self._report_what_runs(entries)
            raise

    def _report_what_runs(self, entries: Sequence[NodeEntry]) -> None:
        folder = self.folder
        running = [entry.id for entry in entries if folder.process(entry.id)]
        if folder.exists() and folder.load().own_broker and folder.broker.process:
            running.append("Kafka")
        if running:
            self._progress.done(
                f"still running: {', '.join(running)}. `replicator cluster down --dir {folder.dir}` stops the cluster"
            )

    def down(self, *, purge: bool) -> None:
        """Stop all nodes, and the Kafka that was started with them.

        `purge`: delete topics and folder, too; it is no error if they are gone already.
        """
        folder = self.folder
        if purge and not folder.exists() and not folder.dir.exists():
            self._progress.done(f"there is no folder {folder.dir}: nothing to delete")
            return
        with folder.lock():
            cluster = folder.load()
            for entry in reversed(cluster.nodes):
                if folder.stop_process(entry.id):
                    self._progress.done(f"stopped {entry.id}")
            if purge and not cluster.own_broker:
                try:
                    for name in (cluster.name, *cluster.former):
                        delete_topics(cluster.bootstrap, name, security=self._security(cluster.bootstrap))
                except (BrokerUnavailable, ConfigError) as error:
                    raise ConfigError(f"the nodes are stopped, but nothing was deleted: {error}") from error
            if cluster.own_broker and folder.broker.stop():
                self._progress.done("stopped Kafka")
            if purge:
                shutil.rmtree(folder.dir)
                self._progress.done(f"deleted {folder.dir}")

    def start_node(self, id: str) -> bool:
        """Return when the node has caught up; False if it was already running."""
        with self.folder.lock():
            self.check_password()
            cluster = self.folder.load()
            entry = cluster.node(id)
            prepare_store(self.folder, cluster, id, self._progress)
            started = self.folder.start_process(cluster, entry)
        with self._reporting_what_runs([entry]):
            wait_ready(self.folder, self.admin, [entry], START_S, self._progress)
        return started

    def stop_node(self, id: str) -> bool:
        """False if the node was not running."""
        with self.folder.lock():
            self.folder.load().node(id)
            return self.folder.stop_process(id)

    def add_replica(
        self,
        id: str,
        *,
        origin: Origin = Origin.VERIFIED,
        snapshot_name: str | None = None,
        mode: Mode = Mode.ASYNC,
        upstream: str = LEADER,
    ) -> NodeEntry:
        """Start a new node, and return when it has caught up and is a member in that mode.

        It starts from the named snapshot, or as `origin` says. A node that fails is removed again.
        """
        checked_node_id("node id", id)
        folder = self.folder
        with folder.lock():
            self.check_password()
            cluster = folder.load()
            if cluster.has_node(id):
                raise ConfigError(f"{id} is in this cluster already: `replicator node start {id}` starts it")
            if folder.node_dir(id).exists():
                raise ConfigError(f"{folder.node_dir(id)} already exists: move it away, or choose another name")
            if checked_upstream(upstream, id) not in (LEADER, AUTO, GOSSIP):
                cluster.node(upstream)
            source = self._source(cluster, origin, snapshot_name)
            was_member = self.admin.any_status().member(id) is not None
            cluster = cluster.with_node(id, upstream, is_free)  # a program may have one of the ports, such as its Kafka
            entry = cluster.node(id)
            check_free(entry.resp_port)
            check_free(entry.http_port)
            try:
                folder.save(cluster)  # before the node starts, so that `down` stops it
                if source is None:
                    prepare_store(folder, cluster, id, self._progress)
                    folder.start_process(cluster, entry)
                else:
                    self._restore(source, id, lambda: folder.start_process(cluster, entry))
            except (ReplicatorError, KeyboardInterrupt):
                self._forget(id)
                raise
        try:
            wait_ready(folder, self.admin, [entry], ADD_S, self._progress)
        except (NotReadyInTime, KeyboardInterrupt):
            self._progress.done(
                f"{id} is still running: `replicator status` shows how far it is, `replicator replica remove {id}` "
                "removes it"
            )
            raise
        except ReplicatorError:
            self._undo_add(id, was_member=was_member)
            raise
        if mode is not Mode.ASYNC:
            try:
                set_mode(self.admin, id, mode)
            except ReplicatorError as error:
                raise ReplicatorError(f"{id} was added, but is still async: {error}") from error
        return entry

    def _source(self, cluster: ClusterFile, origin: Origin, name: str | None) -> ReplicaSource | None:
        """None: the log. Raises `SnapshotError`, `RepositoryUnavailable`, `ConfigError`."""
        if name is None and origin is Origin.LOG:
            if cluster.former:
                raise ConfigError(
                    f"the log of {cluster.name} begins with the content of {cluster.former[-1]}, from which it was "
                    "restored, so a replica needs a snapshot: leave --from-log out"
                )
            return None
        repository = Repository(self.folder.repository(cluster))
        if name is not None:
            return ReplicaSource(repository, only(named(repository, name, cluster.name)))
        verified = origin is Origin.VERIFIED
        if verified and not repository.names():
            return None
        log_id = TopicIds(cluster.bootstrap, self._security(cluster.bootstrap)).get(wal_topic(cluster.name))
        choice = newest_of_log(repository, cluster.name, log_id, verified=verified)
        try:
            choice(())
        except SnapshotError:
            if verified:
                return None
            raise
        return ReplicaSource(repository, choice)

    def _restore(self, source: ReplicaSource, id: str, start: Callable[[], object]) -> None:
        """The node starts meanwhile, and waits."""
        store = self.folder.node_dir(id) / STORE
        try:
            stored = restore(source.repository, source.choice, store, self._progress, start)
        except SnapshotError as error:
            raise SnapshotError(
                f"{error}. Choose another one of `replicator snapshot list` with --snapshot, or delete what is damaged "
                "with `replicator snapshot delete NAME`"
            ) from error
        self._progress.done(
            f"restored snapshot {stored.name}: {id} reads the log from offset {stored.manifest.offset + 1}"
        )

    def _undo_add(self, id: str, *, was_member: bool) -> None:
        """`was_member`: before it was added; perhaps it is on another machine."""
        try:
            with self.folder.lock():
                self.folder.stop_process(id)
                if not was_member:
                    remove_member(self.admin, id)
                self._forget(id)
        except ReplicatorError as error:
            self._progress.done(f"{id} was not removed ({error}): `replicator replica remove {id}` removes it")
        else:
            self._progress.done(f"removed {id} again")

    def _forget(self, id: str) -> None:
        """Stop the node, and delete what the folder has of it."""
        self.folder.stop_process(id)
        self.folder.save(self.folder.load().without_node(id))
        shutil.rmtree(self.folder.node_dir(id), ignore_errors=True)

    def check_password(self) -> None:
        """Raises `ConfigError` if a node that is started now would have no password, although the others have one."""
        if self.folder.load().has_password and not self.password:
            raise ConfigError("this cluster was started with a password: set REPLICATOR_NODE_PASSWORD")

    def remove_replica(self, id: str) -> bool:
        """Remove the node from the members, stop it, and delete its store.

        A member that was not started from this folder is only removed from the members: False.
        """
        with self.folder.lock():
            if not self.folder.load().has_node(id):
                remove_foreign_member(self.admin, id)
                return False
            remove_member(self.admin, id)
            self._forget(id)
            return True


def _is_resolvable(address: str) -> bool:
    try:
        socket.getaddrinfo(Address.parse(address).host, None)
    except OSError:
        return False
    return True


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
