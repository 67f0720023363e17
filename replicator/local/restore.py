"""`cluster restore`: a cluster on this machine continues from a snapshot, or a later point, under another name.

The steps, each of which can be repeated; `DIR/restore.json` has the plan as long as one is left:

    build     the restored store, and the snapshot from which all nodes of the new cluster start
    begin     the log of the new cluster: its first records are appended
    verify    the snapshot, now that the log continues it
    switch    the folder to the new cluster. Before this, the commands of the folder are about the former one
    end       the log of the former cluster: none of its nodes serves from then on
    reset     the change stream of the former cluster: its consumers are told
    clean     the folder

A process that is killed leaves the cluster of `cluster.json` usable: the former one, or from `switch` on the new one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from secrets import randbits

from replicator.address import Address
from replicator.config import checked_name, load_kafka
from replicator.errors import ConfigError, LogDamage, LogTrimmed, ReplicatorError, SnapshotError, StoreError
from replicator.local.admin_client import NodeAdmin, NodeRefused, NodeUnreachable
from replicator.local.folder import STORE, ClusterFile, ClusterFolder
from replicator.local.progress import ProgressReporter
from replicator.local.snapshots import counter, newest_before, restore, verify
from replicator.local.stores import FORMER_STORE
from replicator.log.kafka.admin import delete_topics, ensure_topics
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.security import KafkaSecurity, security_of
from replicator.log.kafka.topic import stream_topic, wal_topic
from replicator.node.log_start import first_entries
from replicator.position import Offset
from replicator.protocol.log_state import LogState
from replicator.protocol.timeline import content_of
from replicator.records.types import Member
from replicator.recovery.new_timeline import (
    NewTimeline,
    apply_first_records,
    begin_log,
    end_log,
)
from replicator.recovery.roll_forward import RecoveryTarget, check_target, roll_forward
from replicator.recovery.temporary import temporary_store
from replicator.server.redis.execution import Replay
from replicator.snapshots.listing import listed
from replicator.snapshots.repository import Repository
from replicator.snapshots.restoring import only
from replicator.store import snapshot
from replicator.store.durable import replace_file, sync
from replicator.store.machine import open_machine, read_meta
from replicator.store.rebase import rebase, without_processes
from replicator.store.snapshot import Manifest
from replicator.stream import management
from replicator.stream.kafka_access import KafkaAccess

ASK_S = 2.0
WORK = "restore"
"""The folder of the restored store and its copy, until the restore is complete."""


@dataclass(frozen=True, slots=True)
class RestorePlan:
    """The contents of `restore.json`."""

    snapshot: str
    source: str  # the cluster of the snapshot: the former one, or one from which that was restored
    former: str  # the cluster that the restored one replaces
    name: str  # of the restored cluster
    to_offset: int | None
    to_time: str | None  # ISO 8601
    new: NewTimeline
    seed: str = ""  # the snapshot of the restored cluster; empty: it is not built yet
    first: tuple[str, ...] = ()  # the first records of its log, in hexadecimal digits

    @property
    def target(self) -> RecoveryTarget | None:
        if self.to_time is not None:
            return datetime.fromisoformat(self.to_time)
        return None if self.to_offset is None else Offset(self.to_offset)

    @property
    def point(self) -> str:
        if self.to_time is not None:
            return f"snapshot {self.snapshot}, and the log up to {self.to_time}"
        if self.to_offset is not None:
            return f"snapshot {self.snapshot}, and the log up to offset {self.to_offset}"
        return f"snapshot {self.snapshot}"

    def next_steps(self, cluster: ClusterFile) -> str:
        """What is possible if it was interrupted."""
        abort = "" if cluster.name == self.name else ", and --abort gives it up"
        return f"`replicator cluster restore --resume` completes it{abort}"


class LocalRestore:
    """The methods raise `ReplicatorError`; `ConfigError` if nothing was done."""

    def __init__(self, dir: Path, password: str, progress: ProgressReporter) -> None:
        self._folder = ClusterFolder(dir)
        self._password = password
        self._progress = progress

    # The plan

    def plan(self, snapshot_name: str | None, target: RecoveryTarget | None, name: str | None) -> RestorePlan:
        """What a restore would do. Without a name, from the newest snapshot of the cluster before the target.

        Raises `ConfigError`, `SnapshotError`, `RepositoryUnavailable`.
        """
        folder = self._folder
        cluster = folder.load()
        if (pending := self.pending()) is not None:
            raise ConfigError(
                f"a restore of {pending.former} as {pending.name} was interrupted: {pending.next_steps(cluster)}"
            )
        repository = self._repository(cluster)
        if snapshot_name is not None:
            manifest = repository.get(snapshot_name).manifest
        else:
            manifest = newest_before(repository, cluster.name, target).manifest
        if manifest.cluster not in (cluster.name, *cluster.former):
            raise SnapshotError(
                f"snapshot {manifest.name} is of cluster {manifest.cluster}, not of {cluster.name} or one from which "
                "it was restored: choose another one"
            )
        return RestorePlan(
            snapshot=manifest.name,
            source=manifest.cluster,
            former=cluster.name,
            name=_new_name(cluster, name),
            to_offset=target if isinstance(target, int) else None,
            to_time=target.isoformat() if isinstance(target, datetime) else None,
            new=NewTimeline(f"{randbits(128):032x}", randbits(63), time.time_ns() // 1000),
        )

    def pending(self) -> RestorePlan | None:
        """A restore that was interrupted. Raises `ConfigError`."""
        try:
            fields = json.loads(self._file.read_text())
            return RestorePlan(
                **{**fields, "new": NewTimeline(**fields["new"]), "first": tuple(fields["first"])},
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self._file} cannot be read ({error}): delete it, and restore again") from error

    def check(self, plan: RestorePlan) -> None:
        """Before somebody is asked: raises as `run` if nodes run, or the point or the name is impossible."""
        with self._folder.lock():
            cluster = self._folder.load()
            self._check_stopped(cluster, plan)
            steps = _Steps(self._folder, plan, self._start_kafka(cluster), self._progress, self._save)
            asyncio.run(steps.check())

    def describe(self, plan: RestorePlan) -> Iterator[str]:
        """What `run` does, in sentences."""
        cluster = self._folder.load()
        ids = ", ".join(entry.id for entry in cluster.nodes)
        yield f"cluster {plan.former} is restored as cluster {plan.name}, from {plan.point}"
        yield (
            f"{plan.former} ends: all its nodes stop, and it accepts no write any more. Later writes are not in "
            f"{plan.name}. They stay in topic {wal_topic(plan.former)}, which is not deleted"
        )
        yield f"the nodes of this folder ({ids}) start from the restored data; their present stores are kept beside"
        yield f"session tokens of {plan.former} are refused by {plan.name}"
        yield f"the change stream of {plan.former}, if there is one, is reset: consumers stop with an error"

    def _repository(self, cluster: ClusterFile) -> Repository:
        """Raises `ConfigError`."""
        return Repository(self._folder.repository(cluster))

    # The steps

    def run(self, plan: RestorePlan) -> None:
        """Begin or resume."""
        with self._folder.lock():
            cluster = self._folder.load()
            if cluster.name not in (plan.former, plan.name) or self.pending() not in (None, plan):
                raise ConfigError("another command has restored the cluster meanwhile: see `replicator status`")
            is_switched = cluster.name == plan.name
            if not is_switched:
                self._check_stopped(cluster, plan)
            steps = _Steps(self._folder, plan, self._start_kafka(cluster), self._progress, self._save)
            self._save(plan)
            if not is_switched:
                self._build(steps, plan)
            try:
                asyncio.run(steps.finish() if is_switched else steps.go_on())
            except ReplicatorError as error:
                raise ReplicatorError(
                    f"{error}. The restore was interrupted: `replicator cluster restore --resume` completes it"
                ) from error
            self.clean()

    def _build(self, steps: _Steps, plan: RestorePlan) -> None:
        try:
            asyncio.run(steps.build())
        except (ReplicatorError, KeyboardInterrupt):
            if not plan.seed:  # else records may be in the new log
                self.clean()
            raise

    def abort(self, plan: RestorePlan) -> None:
        """Give up a restore that was interrupted. Raises `ConfigError` if it is too late."""
        with self._folder.lock():
            cluster = self._folder.load()
            if cluster.name == plan.name:
                raise ConfigError(f"the cluster is {plan.name} already: complete it with --resume")
            steps = _Steps(self._folder, plan, self._start_kafka(cluster), self._progress, self._save)
            if plan.seed:
                asyncio.run(steps.undo())
            self.clean()

    def _start_kafka(self, cluster: ClusterFile) -> str:
        """If it is the folder's own. Returns its address."""
        if not cluster.own_broker:
            return cluster.bootstrap
        self._progress.step("starting Kafka")
        bootstrap = self._folder.broker.start()
        self._folder.save(replace(cluster, bootstrap=bootstrap))
        return bootstrap

    def clean(self) -> None:
        shutil.rmtree(self._folder.dir / WORK, ignore_errors=True)
        self._file.unlink(missing_ok=True)

    @property
    def _file(self) -> Path:
        return self._folder.restore_plan

    def _save(self, plan: RestorePlan) -> None:
        replace_file(self._file, json.dumps(asdict(plan), indent=2).encode())

    def _check_stopped(self, cluster: ClusterFile, plan: RestorePlan) -> None:
        """Raises `ConfigError` if a node of the former cluster runs."""
        running = [entry.id for entry in cluster.nodes if self._folder.process(entry.id)]
        if running:
            raise ConfigError(
                f"{', '.join(running)} of cluster {cluster.name} still run: stop all nodes first "
                f"(`replicator node stop {running[0]}`)"
            )
        for member in self._members(cluster):
            if self._answers(member.http, (plan.former, plan.source)):
                raise ConfigError(
                    f"{member.node} of cluster {plan.former} still runs at {member.http}: stop all nodes first"
                )

    def _members(self, cluster: ClusterFile) -> set[Member]:
        """As far as the stores of this folder know them."""
        found: set[Member] = set()
        for entry in cluster.nodes:
            try:
                store = self._folder.node_dir(entry.id) / STORE
                meta = read_meta(store) if (store / "data.mdb").exists() else None
            except StoreError:
                continue
            found |= set(meta.membership.members) if meta else set()
        return found

    def _answers(self, http: Address, clusters: tuple[str, ...]) -> bool:
        try:
            return NodeAdmin(http, self._password).status(ASK_S).cluster in clusters
        except (NodeUnreachable, NodeRefused):
            return False


class _Steps:
    """Of one restore, each of which can be repeated."""

    def __init__(
        self,
        folder: ClusterFolder,
        plan: RestorePlan,
        bootstrap: str,
        progress: ProgressReporter,
        save: Callable[[RestorePlan], None],
    ) -> None:
        self._folder = folder
        self._plan = plan
        self._bootstrap = bootstrap
        self._security = security_of_environment(bootstrap)
        self._repository = Repository(folder.repository(folder.load()))
        self._procedures = folder.load().load_procedures()
        self._progress = progress
        self._save = save
        self._work = folder.dir / WORK

    async def check(self) -> None:
        """Whether the target can be reached, and the new name is free. Raises `ReplicatorError`."""
        plan = self._plan
        if await Brokers(self._bootstrap, self._security).topic_id(wal_topic(plan.name)) is not None:
            await self._check_empty()
        if plan.target is not None:
            manifest = self._repository.get(plan.snapshot).manifest
            log = await self._open_source(manifest)
            try:
                await check_target(log, manifest, plan.target)
            finally:
                await log.close()

    async def _check_empty(self) -> str:
        """The id of the topic of the new log. Raises `ConfigError` if it has records."""
        name = self._plan.name
        log = await self._open(name)
        try:
            if await log.end() > 0:
                raise ConfigError(f"topic {wal_topic(name)} has records of another cluster: choose another --name")
            return log.identity
        finally:
            await log.close()

    async def _open_source(self, manifest: Manifest) -> KafkaLog:
        """The log that continues the snapshot. Raises `SnapshotError` if there is another one now."""
        log = await self._open(self._plan.source)
        if log.identity == manifest.topic_id:
            return log
        await log.close()
        raise SnapshotError(
            f"snapshot {manifest.name} is of another log than topic {wal_topic(self._plan.source)} has now: "
            "restore it without --to-offset and --to-time"
        )

    async def go_on(self) -> None:
        """All steps after `build`. Raises `ReplicatorError`."""
        await self.begin()
        await asyncio.to_thread(self.verify)
        self.switch()
        await self.finish()

    async def finish(self) -> None:
        """The steps after `switch`. Raises `ReplicatorError`."""
        await self.end()
        await self.reset()

    async def build(self) -> None:
        plan, repository = self._plan, self._repository
        if plan.seed:
            with contextlib.suppress(SnapshotError):
                repository.get(plan.seed)
                return
        store = self._work / STORE
        shutil.rmtree(self._work, ignore_errors=True)
        stored = repository.get(plan.snapshot)
        await asyncio.to_thread(restore, repository, only(stored), store, self._progress)
        await self._roll_forward(store, stored.manifest)
        identity = await self._create_log()
        rebase(store, plan.name, identity, content_of, without_processes)
        payloads = apply_first_records(store, plan.name, identity, plan.new)
        seed = self._publish(store, identity)
        self._plan = replace(plan, seed=seed, first=tuple(payload.hex() for payload in payloads))
        self._save(self._plan)

    async def _create_log(self) -> str:
        """The id of its topic. Raises `ConfigError` if it has records."""
        plan = self._plan
        self._progress.step(f"creating the topics of {plan.name}")
        await asyncio.to_thread(ensure_topics, self._bootstrap, plan.name, security=self._security)
        return await self._check_empty()

    async def undo(self) -> None:
        """Delete the topics, if they have nothing but the first records, and the snapshot."""
        plan = self._plan
        try:
            topic = self._repository.get(plan.seed).manifest.topic_id
            log = await self._open(plan.name)
        except (SnapshotError, ConfigError):  # one of them is gone
            return
        try:
            first = [bytes.fromhex(it) for it in plan.first]
            is_own = log.identity == topic and await log.end() in (0, len(first))
            if is_own and await log.end():
                is_own = [payload for _, payload in await first_entries(log, len(first))] == first
        finally:
            await log.close()
        if is_own:
            await asyncio.to_thread(delete_topics, self._bootstrap, plan.name, security=self._security)
        self._repository.delete(plan.seed)

    async def _roll_forward(self, store: Path, manifest: Manifest) -> None:
        """Raises what `recovery.roll_forward` does, and `SnapshotError`."""
        plan = self._plan
        machine = open_machine(store, plan.source, manifest.topic_id)
        try:
            if plan.target is not None:
                log = await self._open_source(manifest)
                try:
                    await roll_forward(
                        machine, log, manifest.taken_at_ms, plan.target, Replay(self._procedures), self._show_log
                    )
                finally:
                    await log.close()
            reached = machine.state.offset
        finally:
            machine.close()
        self._progress.step("comparing the digest with all entries")
        snapshot.check_content(store)
        self._progress.done(f"restored the state at offset {reached} of cluster {plan.source}")

    def _publish(self, store: Path, topic: str) -> str:
        """The name of the snapshot of the store."""
        machine = open_machine(store, self._plan.name, topic)
        try:
            machine.reserve_for_copy()
            taken = snapshot.take(machine.copy_to, self._work)
        finally:
            machine.close()
        show = counter(self._progress, "uploaded, MiB", taken.bytes)
        return self._repository.publish(self._work / taken.name, taken, show).name

    async def begin(self) -> None:
        self._progress.step(f"beginning the log of {self._plan.name}")
        log = await self._open(self._plan.name)
        try:
            if log.identity != self._repository.get(self._plan.seed).manifest.topic_id:
                raise LogDamage(
                    f"topic {wal_topic(self._plan.name)} was deleted and recreated meanwhile: give this restore up "
                    "with --abort, and restore again"
                )
            await begin_log(log, wal_topic(self._plan.name), [bytes.fromhex(it) for it in self._plan.first])
        finally:
            await log.close()

    def verify(self) -> None:
        """So that nodes start from it. Raises `SnapshotError`."""
        plan, repository = self._plan, self._repository
        if repository.is_verified(plan.seed):
            return
        self._progress.step(f"verifying snapshot {plan.seed}")
        stored = repository.get(plan.seed)
        for check in verify(repository, stored, plan.name, self._bootstrap, self._security, self._progress):
            if not check.passed:
                raise SnapshotError(f"the restored snapshot {plan.seed} is wrong ({check.what}): {check.detail}")

    def switch(self) -> None:
        plan, cluster = self._plan, self._folder.load()
        if cluster.name != plan.name:
            self._folder.save(replace(cluster, name=plan.name, former=(*cluster.former, cluster.name)))
            sync(self._folder.dir / "cluster.json")  # before the former log ends
            sync(self._folder.dir)
            self._progress.done(f"{self._folder.dir} is now cluster {plan.name}")

    async def end(self) -> None:
        """If the former log is damaged or gone, its nodes stop by themselves."""
        plan = self._plan
        self._progress.step(f"ending the log of {plan.former}")
        try:
            log = await self._open(plan.former)
        except ConfigError:
            self._progress.done(f"{plan.former} has no log any more")
            return
        try:
            name = await self._end(log)
        except (LogDamage, LogTrimmed) as error:
            self._progress.done(f"the log of {plan.former} could not be ended: {error}")
            return
        finally:
            await log.close()
        if name == plan.name:
            self._progress.done(f"ended the log of {plan.former}, topic {wal_topic(plan.former)}")
        else:
            self._progress.done(f"the log of {plan.former} had ended before: cluster {name} continues it")

    async def _end(self, log: KafkaLog) -> str:
        """From the first known state that the log continues. Raises `LogDamage`, `LogTrimmed`, `BrokerUnavailable`."""
        problem: LogDamage | LogTrimmed | None = None
        for known in self._known_states(log.identity):
            try:
                return await end_log(log, known, self._plan.name, self._plan.new)
            except (LogDamage, LogTrimmed) as error:
                problem = problem or error
        assert problem is not None
        raise problem

    def _known_states(self, topic: str) -> Iterator[LogState]:
        """Of the former log: in the nodes' stores, the newest first, before its first record, and in snapshots."""
        found: list[LogState] = []
        for entry in self._folder.load().nodes:
            for name in (STORE, FORMER_STORE):
                store = self._folder.node_dir(entry.id) / name
                with contextlib.suppress(StoreError):
                    meta = read_meta(store) if (store / "data.mdb").exists() else None
                    if meta is not None and meta.topic_id == topic:
                        found.append(meta.state)
        yield from sorted(found, key=lambda it: it.offset, reverse=True)
        yield LogState()
        for it in listed(self._repository):
            if it.manifest.topic_id == topic:
                with contextlib.suppress(SnapshotError, StoreError):
                    yield self._state_of(it.manifest.name)

    def _state_of(self, snapshot_name: str) -> LogState:
        with temporary_store(self._work) as store:
            restore(self._repository, only(self._repository.get(snapshot_name)), store, self._progress)
            return snapshot.meta_of(store).state

    async def reset(self) -> None:
        former = self._plan.former
        if await Brokers(self._bootstrap, self._security).topic_id(stream_topic(former)) is not None:
            self._progress.step(f"resetting the change stream of {former}")
            await asyncio.to_thread(management.reset, KafkaAccess(self._bootstrap, former, None, self._security))
            self._progress.done(
                f"reset the change stream of {former}: `replicator stream enable --from snapshot` creates that of "
                f"{self._plan.name}"
            )

    async def _open(self, cluster: str) -> KafkaLog:
        return await KafkaLog.open(self._bootstrap, cluster, security=self._security)

    def _show_log(self, done: int, total: int) -> None:
        self._progress.bar("log", "reading the log", done, total)


def security_of_environment(bootstrap: str) -> KafkaSecurity:
    """As the nodes get it. Raises `ConfigError`."""
    return security_of(load_kafka(None, os.environ, bootstrap))


def _new_name(cluster: ClusterFile, name: str | None) -> str:
    """Raises `ConfigError`."""
    used = (cluster.name, *cluster.former)
    if name is not None:
        if checked_name("--name", name) in used:
            raise ConfigError(f"{name} has a log already: choose another --name")
        return name
    first = cluster.former[0] if cluster.former else cluster.name
    return next(it for it in (f"{first}-{number}" for number in range(2, len(used) + 3)) if it not in used)
