"""From a config to a running node: the only place that chooses concrete parts."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

from replicator.config import NodeConfig, NodeSection, check_known, expanded
from replicator.daemon_thread import in_daemon_thread
from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, ReplicatorError, StoreUnreadable
from replicator.garbage import collect_seldom
from replicator.intervals import KAFKA_ANSWER_S, NODE_RETRY_MS, RESTORE_POLL_S
from replicator.log.kafka.acks import KafkaAcks
from replicator.log.kafka.admin import ensure_topics, trim
from replicator.log.kafka.applied import KafkaAppliedOffsets
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.node_offsets import applied_offsets, offset_at
from replicator.log.kafka.security import security_of
from replicator.log.kafka.topic import wal_topic
from replicator.node.applied_reporter import AppliedReporter
from replicator.node.background import run_with_background
from replicator.node.clock import SystemClock
from replicator.node.context import NodeContext, open_context
from replicator.node.damage import HealHistory
from replicator.node.disk_tail import DiskTail
from replicator.node.healing import Healer, run_until_damaged
from replicator.node.health import NodeState
from replicator.node.log_start import continues_another
from replicator.node.node import Node
from replicator.position import Author, NodeId, Offset
from replicator.procedures.loading import NONE, Procedures
from replicator.procedures.loading import load as load_procedures
from replicator.protocol import timing
from replicator.protocol.healing import Damage
from replicator.protocol.timing import Timeouts
from replicator.protocol.trimming import Need
from replicator.protocol.upstream import UpstreamRule
from replicator.records.types import Member, Mode, Timing
from replicator.server.http.app import HttpServer
from replicator.server.identity import Identity
from replicator.server.node_link import RedisNodeLink
from replicator.server.redis.descriptors import fit_clients
from replicator.server.redis.execution import Replay
from replicator.server.redis.server import RedisServer
from replicator.server.registration import register
from replicator.server.service_manager import ServiceManager
from replicator.snapshots.jobs import JobSettings, ProcessJobs
from replicator.snapshots.repository import Repository
from replicator.snapshots.retention import Schedule
from replicator.snapshots.service import SnapshotService, SnapshotSettings
from replicator.snapshots.source import RepositorySource
from replicator.store import boot, environment, replacement, snapshot
from replicator.store.machine import Machine, has_followed_a_log, open_machine
from replicator.store.replacement import STORE
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.run_publisher import PublisherSettings
from replicator.stream.service import ChangeStreamService, NodeSource
from replicator.stream.sql_rows import tables_in
from replicator.stream.state_topic import read_state

logger = logging.getLogger(__name__)

T = TypeVar("T")


async def run_node(config: NodeConfig, manager: ServiceManager | None = None) -> None:
    """Run one node until SIGTERM or SIGINT. Raises `ReplicatorError` if it cannot start."""
    manager = manager or ServiceManager()
    configured, timeouts = _timing(config)
    procedures = _procedures(config)
    collect_seldom()
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    running = asyncio.create_task(_run(config, configured, timeouts, manager, procedures))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not running.done():
        logger.info("stopping")
        manager.stopping()
        running.cancel()
    stopping.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def _run(
    config: NodeConfig, configured: Timing, timeouts: Timeouts, manager: ServiceManager, procedures: Procedures
) -> None:
    """Run nodes one after the other: each time the store of one was rebuilt, another one."""
    settings = config.node
    async with AsyncExitStack() as parts:
        identity = _new_identity(settings)
        _create_folder(settings.dir)
        hosts = (settings.http.host, config.advertised_http.host)
        admin = HttpServer(identity, settings.password, protected=config.is_protected, hosts=hosts)
        await admin.start(settings.http)
        parts.push_async_callback(admin.close)
        parts.push_async_callback(_cancel, asyncio.create_task(manager.report(admin.service_state)))
        parts.callback(os.close, boot.lock(settings.dir))
        replacement.recover(settings.dir)

        kafka = await when_kafka_answers(admin, config.kafka.bootstrap, lambda: _open_log(config))
        parts.push_async_callback(kafka.close)
        security = security_of(config.kafka)
        open_acks = KafkaAcks.open
        acks = await when_kafka_answers(
            admin,
            config.kafka.bootstrap,
            lambda: open_acks(config.kafka.bootstrap, settings.cluster, NodeId(settings.id), security=security),
        )
        parts.push_async_callback(acks.close)
        log = OpenLog(kafka, acks)
        snapshots = RepositorySource(Repository(config.repository))
        report = HealingReport(admin)
        healer = Healer(settings.dir, settings.cluster, kafka, snapshots, SystemClock(), report.note)
        admin.heals = HealHistory(healer.heals)
        damage = replacement.damage_of(settings.dir)
        while True:
            if damage is None:
                damage = await _run_node(config, configured, timeouts, procedures, identity, admin, log, healer)
            await _heal(healer, damage, admin)
            damage, identity = None, _new_identity(settings)
            admin.restart_as(identity)


async def _heal(healer: Healer, damage: Damage, admin: HttpServer) -> None:
    """If that is not possible, report it until cancelled."""
    admin.detach_node(NodeState.HEALING, damage.error)
    try:
        admin.heals.note(await healer.heal(damage))
    except ReplicatorError as error:
        logger.critical("the store cannot be rebuilt: %s", error)
        admin.detach_node(NodeState.FAILED, str(error))
        await asyncio.Event().wait()


class HealingReport:
    """Shows in the status what is done while the store is rebuilt."""

    def __init__(self, admin: HttpServer) -> None:
        self._admin = admin

    def note(self, text: str) -> None:
        if text != self._admin.waiting_for:
            logger.warning("%s", text)
        self._admin.waiting_for = text


def _new_identity(settings: NodeSection) -> Identity:
    """Of a node that this process runs: what another one has acked does not count for it."""
    return Identity(settings.cluster, Author(NodeId(settings.id), random.SystemRandom().getrandbits(63)))


class OpenLog(NamedTuple):
    wal: KafkaLog
    acks: KafkaAcks


async def _run_node(
    config: NodeConfig,
    configured: Timing,
    timeouts: Timeouts,
    procedures: Procedures,
    identity: Identity,
    admin: HttpServer,
    log: OpenLog,
    healer: Healer,
) -> Damage:
    """Run one node until its store must be rebuilt. Returns why; the store is closed then."""
    settings, kafka = config.node, log.wal
    async with AsyncExitStack() as parts:
        await _until_restored(admin, settings.dir / STORE)
        try:
            machine = open_machine(settings.dir / STORE, settings.cluster, kafka.identity)
        except StoreUnreadable as error:
            return healer.unreadable(error)
        parts.callback(machine.close)
        parts.push_async_callback(asyncio.to_thread, machine.wait_for_copy)
        logger.info("%s reads the log from offset %d on", settings.id, machine.state.offset + 1)
        tail = DiskTail(settings.dir, settings.backlog_mb << 20) if settings.backlog_mb else None
        context = open_context(
            identity.author,
            settings.priority,
            machine,
            kafka,
            SystemClock(),
            configured,
            random.SystemRandom(),
            configured_names=config.timing.keys() & Timing.__dataclass_fields__,
            timeouts=timeouts,
            eligible=False,
            upstream=UpstreamRule(settings.upstream, settings.fanout),
            tail=tail,
        )
        parts.push_async_callback(context.reader.close)
        member = _member(config, context.author)
        link = RedisNodeLink(settings.password)
        parts.push_async_callback(link.close)
        node = Node(context, log.acks, member, link, Replay(procedures), healed=admin.heals)
        server = RedisServer(
            node,
            settings.resp,
            cluster=settings.cluster,
            password=settings.password,
            max_clients=fit_clients(settings.max_clients),
            timeout_s=settings.timeout_s,
            protected=config.is_protected,
            http_address=config.advertised_http,
            procedures=procedures,
        )
        registering = register(node, identity, member, settings.password)
        reporting = _reporter(config, node, context).run()
        snapshots = _snapshots(config, machine, kafka)
        changes = _change_stream(config, context, kafka)
        running = asyncio.create_task(
            run_with_background(node.run(), registering, reporting, changes.run(), snapshots.run())
        )
        parts.push_async_callback(_cancel, running)
        await server.start()
        parts.push_async_callback(server.close)  # before the node: its commands in progress still need it
        parts.push_async_callback(node.before_stop)  # first: followers receive records by the server
        admin.attach_node(node, server.stats, snapshots, changes)
        logger.info("%s: Redis protocol at %s, HTTP at %s", context.author, settings.resp, settings.http)
        damage = await run_until_damaged(running, node, context.replica, healer)
        admin.detach_node(NodeState.HEALING, damage.error)
        return damage


def _procedures(config: NodeConfig) -> Procedures:
    """Raises `ConfigError`."""
    file = config.node.procedures
    return load_procedures(expanded("node.procedures", file)) if file else NONE


def _member(config: NodeConfig, author: Author) -> Member:
    """How the node registers itself."""
    resp, http = config.advertised_resp, config.advertised_http
    return Member(author.node, Mode.ASYNC, resp, http, config.node.priority, author.incarnation)


async def _until_restored(admin: HttpServer, store: Path) -> None:
    """Wait for a process that restores a snapshot."""
    while environment.is_being_replaced(store):
        admin.waiting_for = "a snapshot is being restored"
        await asyncio.sleep(RESTORE_POLL_S)


def _create_folder(folder: Path) -> None:
    """Raises `ConfigError`."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{folder} cannot be used as the folder of a node ({error.strerror}): choose another --dir"
        ) from error


def _reporter(config: NodeConfig, node: Node, context: NodeContext) -> AppliedReporter:
    settings, security = config.node, security_of(config.kafka)
    offsets = KafkaAppliedOffsets(config.kafka.bootstrap, settings.cluster, NodeId(settings.id), security=security)

    def next_offset() -> Offset | None:
        return Offset(context.replica.state.offset + 1) if node.is_registered else None

    return AppliedReporter(next_offset, offsets, context.clock)


def _change_stream(config: NodeConfig, context: NodeContext, log: KafkaLog) -> ChangeStreamService:
    settings, security, machine = config.node, security_of(config.kafka), context.replica.machine
    publisher = PublisherSettings(
        config.kafka.bootstrap,
        settings.cluster,
        NodeId(settings.id),
        config.backfill_dir,
        machine.folder,
        security,
        config.logs,
    )

    async def copy() -> snapshot.Manifest:
        machine.reserve_for_copy()
        return await asyncio.to_thread(snapshot.take_alone, machine.copy_to, config.backfill_dir)

    source = NodeSource(
        lambda: context.replica.state,
        log.start,
        copy,
        lambda: continues_another(log),
        lambda: tables_in(machine.view),
    )
    return ChangeStreamService(publisher, source, log.topic_id)


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _open_log(config: NodeConfig) -> KafkaLog:
    """The log. Its topics are created only if there is no store yet: a store must find the topic it was built from."""
    kafka, cluster, security = config.kafka, config.node.cluster, security_of(config.kafka)
    node = NodeId(config.node.id)
    store = config.node.dir / STORE
    if not replacement.is_rebuilt(config.node.dir) and not has_followed_a_log(store):
        await Brokers(kafka.bootstrap, security).topic_id(wal_topic(cluster))  # librdkafka only once Kafka answers
        await in_daemon_thread(
            lambda: ensure_topics(
                kafka.bootstrap,
                cluster,
                node=node,
                replication_factor=kafka.replication_factor or None,
                security=security,
            )
        )
        return await KafkaLog.open(kafka.bootstrap, cluster, node=node, security=security)
    try:
        return await KafkaLog.open(kafka.bootstrap, cluster, node=node, security=security)
    except ConfigError as error:
        raise LogDamage(
            f"{store} follows a log that is not at {kafka.bootstrap} any more ({error}). Check --bootstrap and "
            "--cluster, or move the store away to start with an empty one"
        ) from error


async def when_kafka_answers(admin: HttpServer, bootstrap: str, work: Callable[[], Awaitable[T]]) -> T:
    """The result of `work`, tried until Kafka answers. `admin` reports a wait even before the first failure."""
    logged = ""
    timer = asyncio.get_running_loop().call_later(
        KAFKA_ANSWER_S, _report_waiting, admin, f"Kafka at {bootstrap} has not answered yet"
    )
    try:
        while True:
            try:
                result = await work()
            except BrokerUnavailable as error:
                timer.cancel()
                _report_waiting(admin, str(error))
                if logged != str(error):
                    logger.warning("%s", error)
                    logged = str(error)
                await asyncio.sleep(NODE_RETRY_MS / 1000)
            else:
                admin.kafka_answers = True
                return result
    finally:
        timer.cancel()


def _report_waiting(admin: HttpServer, why: str) -> None:
    admin.waiting_for, admin.kafka_answers = why, False


def _snapshots(config: NodeConfig, machine: Machine, log: KafkaLog) -> SnapshotService:
    settings, bootstrap, cluster = config.snapshots, config.kafka.bootstrap, config.node.cluster
    security = security_of(config.kafka)

    def is_snapshotter() -> bool:
        member = machine.meta.membership.get(NodeId(config.node.id))
        return member is not None and member.mode is Mode.SNAPSHOTTER

    def needs() -> list[Need]:
        nodes = [member.node for member in machine.meta.membership.members]
        found = [
            Need(f"replica {node}", offset)
            for node, offset in applied_offsets(bootstrap, cluster, nodes, security=security).items()
        ]
        stream = read_state(KafkaAccess(bootstrap, cluster, NodeId(config.node.id), security))
        if stream is not None:
            found.append(Need("the change stream", Offset(max(0, stream.progress.state.leader_offset))))
        if settings.keep_log_s:
            first = offset_at(bootstrap, cluster, ms_before_now(settings.keep_log_s), security=security)
            if first is not None:
                found.append(Need(f"the setting keep_log_s ({settings.keep_log_s})", first))
        return found

    job_settings = JobSettings(
        config.node.dir / STORE,
        config.copies_dir,
        config.repository,
        config.node.id,
        cluster,
        bootstrap,
        security,
        config.logs,
    )
    return SnapshotService(
        machine,
        log,
        Repository(config.repository),
        ProcessJobs(job_settings),
        SnapshotSettings(
            Schedule(settings.every_records, settings.every_mb << 20, settings.every_s),
            settings.keep,
            settings.keep_s,
            settings.trim == "yes",
            settings.keep_log_mb << 20,
        ),
        is_snapshotter=is_snapshotter,
        needs=needs,
        trim=lambda offset: trim(bootstrap, cluster, offset, security=security),
    )


def ms_before_now(seconds: int) -> int:
    """The time so long ago, as ms since 1970, and not before: Kafka takes some negative times for "the latest"."""
    return max(0, int(time.time()) - seconds) * 1000


def _timing(config: NodeConfig) -> tuple[Timing, Timeouts]:
    """The section `[timing]`: what a new cluster follows, and what only this node does. Raises `ConfigError`."""
    given = config.timing
    check_known("timing", given, timing.SETTINGS)
    shared = Timing(**{name: given[name] for name in Timing.__dataclass_fields__ if name in given})
    timing.check(shared)
    return shared, Timeouts(**{name: given[name] for name in Timeouts.__dataclass_fields__ if name in given})
