"""Serves a restored snapshot, with the log applied up to a target."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import uvloop

from replicator.cli import options
from replicator.cli.options import KafkaOfCluster
from replicator.cli.output import ConsoleProgress, console, errors, print_json_line, print_line
from replicator.config import checked_name
from replicator.errors import BrokerUnavailable, LogTrimmed, SnapshotError
from replicator.local import snapshots
from replicator.local.folder import ClusterFolder
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.topic import wal_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.node.commands import Execute
from replicator.procedures.loading import NONE
from replicator.recovery.past_backend import PastState
from replicator.recovery.past_view import bring_to, past_state, remove_expired, replay_to, serve
from replicator.recovery.roll_forward import RecoveryTarget
from replicator.recovery.temporary import temporary_store
from replicator.server.redis.execution import Replay
from replicator.snapshots.restoring import only
from replicator.store.machine import Machine, open_machine
from replicator.store.snapshot import Manifest


def open_past(
    name: str | None,
    target: RecoveryTarget | None,
    port: int,
    dir: Path,
    bootstrap: str | None,
    cluster: str | None,
    config: Path | None,
    repository: str | None,
    password: str,
    *,
    json: bool,
) -> None:
    """As the options of `replicator snapshot open` say. Raises `ReplicatorError`."""
    home = ClusterFolder(dir).load() if ClusterFolder(dir).exists() else None
    execute = Replay(home.load_procedures() if home is not None else NONE)
    if cluster is not None:
        checked_name("--cluster", cluster)
    opened = options.open_repository(dir, repository)
    of_cluster = cluster or (home.name if home is not None else None)
    choice = (
        only(opened.get(name)) if name is not None else partial(snapshots.newest_before, opened, of_cluster, target)
    )
    try:
        stored = choice(())
    except SnapshotError as error:
        if name is not None or target is None:
            raise
        of_log = options.find_kafka(dir, bootstrap, cluster, config)
        _open_log_start(of_log, target, execute, options.views_folder(dir), port, password, error, json=json)
        return
    manifest = stored.manifest
    if cluster is None and home is not None and manifest.cluster in home.former:
        cluster = manifest.cluster
    kafka = None if target is None else options.find_kafka(dir, bootstrap, cluster, config)
    wanted = cluster if kafka is None else kafka.cluster
    if wanted not in (None, manifest.cluster):
        raise SnapshotError(f"snapshot {stored.name} is of cluster {manifest.cluster}, not {wanted}: choose another")
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    parent = options.views_folder(dir)
    with ConsoleProgress(errors if json else console) as progress, temporary_store(parent) as store:
        manifest = snapshots.restore(opened, choice, store, progress).manifest
        machine = open_machine(store, manifest.cluster, manifest.topic_id)
        try:
            uvloop.run(_show(machine, manifest, kafka, target, execute, port, password, progress, json=json))
        except BrokerUnavailable as error:
            if bootstrap is not None:
                raise
            raise BrokerUnavailable(f"{error}; {ClusterFolder(dir).kafka_remedy()}") from error
        finally:
            machine.close()


def _open_log_start(
    kafka: KafkaOfCluster,
    target: RecoveryTarget,
    execute: Execute,
    parent: Path,
    port: int,
    password: str,
    missing: SnapshotError,
    *,
    json: bool,
) -> None:
    """No snapshot is before the target: apply the log from its start, if it is complete. Raises `ReplicatorError`."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # its errors reach us as exceptions
    topic = TopicIds(kafka.bootstrap, kafka.security).get(wal_topic(kafka.cluster))
    if topic is None:
        raise missing
    with ConsoleProgress(errors if json else console) as progress, temporary_store(parent) as store:
        machine = open_machine(store, kafka.cluster, topic)
        try:
            uvloop.run(_show(machine, None, kafka, target, execute, port, password, progress, json=json))
        except LogTrimmed as error:
            raise SnapshotError(f"{missing}; {error}") from error
        finally:
            machine.close()


async def _show(
    machine: Machine,
    manifest: Manifest | None,
    kafka: KafkaOfCluster | None,
    target: RecoveryTarget | None,
    execute: Execute,
    port: int,
    password: str,
    progress: ConsoleProgress,
    *,
    json: bool,
) -> None:
    """`manifest`: None if the store is empty. Raises `ReplicatorError`."""
    past = past_state(machine, manifest.taken_at_ms if manifest is not None else 0)
    if kafka is not None and target is not None:
        past = await _bring_to(machine, manifest, kafka, target, execute, progress)
    remove_expired(machine, past.written_ms)

    def on_ready(port: int) -> None:
        progress.clear()
        if json:
            print_json_line(
                {
                    "host": "127.0.0.1",
                    "port": port,
                    "cluster": past.cluster,
                    "offset": past.offset,
                    "timeline": past.timeline,
                    "digest": past.digest,
                    "entries": past.entries,
                    "written_ms": past.written_ms,
                }
            )
        else:
            print_line(f"{past}, read-only, at 127.0.0.1:{port}; Ctrl-C ends it")

    await serve(machine, past, port, password, on_ready)


async def _bring_to(
    machine: Machine,
    manifest: Manifest | None,
    kafka: KafkaOfCluster,
    target: RecoveryTarget,
    execute: Execute,
    progress: ConsoleProgress,
) -> PastState:
    log = await KafkaLog.open(kafka.bootstrap, kafka.cluster, security=kafka.security)

    def show(done: int, all: int) -> None:
        progress.bar("log", "reading the log", done, all)

    try:
        if manifest is None:
            return await replay_to(machine, log, target, execute, show)
        return await bring_to(machine, manifest, log, target, execute, show)
    finally:
        await log.close()
