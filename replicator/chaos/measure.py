"""Failovers of nodes and brokers under load: measures how long writes pause, and whether any is lost."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Any, TypeVar

from replicator.chaos.broker_failover import BrokerEvent, BrokersUnderLoad
from replicator.chaos.client_load import ClientLoad
from replicator.chaos.failover import ClusterUnderLoad, EventKind, FailoverRun
from replicator.chaos.failover_figures import FailoverFigures, delete_writes, failover_figures
from replicator.chaos.linear_reads import LinearReaders
from replicator.chaos.redis_connection import NotConnected, RedisConnection
from replicator.chaos.write_ledger import WriteLedger
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.kafka.cluster import KafkaCluster
from replicator.local.progress import ProgressReporter

Kind = TypeVar("Kind", bound=StrEnum)


def measure_failovers(
    cluster: LocalCluster, kinds: Sequence[EventKind], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    """`runs` of each kind, in turn. Raises `ConfigError` if the cluster has one node only, `ReplicatorError`."""
    if len(cluster.folder.load().nodes) < 2:
        raise ConfigError("a failover needs at least two nodes: `replicator replica add n2` adds another")
    return _measure(_failovers(cluster, kinds, runs, progress))


def measure_broker_failovers(
    brokers: KafkaCluster, cluster: LocalCluster, kinds: Sequence[BrokerEvent], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    """`runs` of each kind, in turn. `cluster` has its log on `brokers`. Raises `ReplicatorError`."""
    return _measure(_broker_failovers(brokers, cluster, kinds, runs, progress))


def _measure(measuring: Coroutine[Any, Any, list[FailoverFigures]]) -> list[FailoverFigures]:
    try:
        return asyncio.run(measuring)
    except (NotConnected, OSError) as error:
        raise ReplicatorError(f"a node does not answer ({error!r}): see `replicator status`") from error


async def _failovers(
    cluster: LocalCluster, kinds: Sequence[EventKind], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    async with _under_load(cluster) as under_load:
        done = await _run_all(under_load.run, kinds, runs, progress)
    return await _figures(cluster, under_load, kinds, done, progress)


async def _broker_failovers(
    brokers: KafkaCluster, cluster: LocalCluster, kinds: Sequence[BrokerEvent], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    async with _under_load(cluster) as under_load:
        readers = LinearReaders(cluster.resp_ports, cluster.password, under_load.ledger)
        readers.start()
        try:
            done = await _run_all(BrokersUnderLoad(brokers, under_load, readers).run, kinds, runs, progress)
        finally:
            await readers.stop()
    return await _figures(cluster, under_load, kinds, done, progress)


@asynccontextmanager
async def _under_load(cluster: LocalCluster) -> AsyncIterator[ClusterUnderLoad]:
    admin, password = cluster.admin, cluster.password
    leader = (await asyncio.to_thread(admin.any_status)).node.leader
    ledger = WriteLedger(f"chaos:{os.getpid()}:")
    load = ClientLoad(cluster.resp_ports, password, leader, ledger)
    load.start()
    try:
        yield ClusterUnderLoad(cluster.folder, admin, password, load, ledger)
    finally:
        await load.stop()


async def _run_all(
    run: Callable[[Kind], Awaitable[FailoverRun]], kinds: Sequence[Kind], runs: int, progress: ProgressReporter
) -> list[FailoverRun]:
    done: list[FailoverRun] = []
    progress.step("failovers under load")
    for kind in [*kinds] * runs:
        counts = Counter(run.kind for run in done)
        for it in kinds:
            progress.bar(it, it, counts[it], runs)
        done.append(await run(kind))
    return done


async def _figures(
    cluster: LocalCluster,
    under_load: ClusterUnderLoad,
    kinds: Sequence[StrEnum],
    done: Sequence[FailoverRun],
    progress: ProgressReporter,
) -> list[FailoverFigures]:
    """Reads all writes from all nodes, and deletes them."""
    progress.step("reading all writes from all nodes")
    ledger = under_load.ledger
    nodes = {id: RedisConnection(port, cluster.password) for id, port in cluster.resp_ports.items()}
    try:
        figures = [
            await failover_figures(kind, [run for run in done if run.kind is kind], ledger, [*nodes.values()])
            for kind in kinds
        ]
        await delete_writes(range(len(ledger)), ledger, nodes[await under_load.leader()])
    finally:
        for node in nodes.values():
            node.close()
    return figures
