"""Failovers under load: measures how long writes pause, and whether any is lost."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

from replicator.chaos.client_load import ClientLoad
from replicator.chaos.failover import ClusterUnderLoad, EventKind, FailoverRun
from replicator.chaos.failover_figures import FailoverFigures, delete_writes, failover_figures
from replicator.chaos.redis_connection import NotConnected, RedisConnection
from replicator.chaos.write_ledger import WriteLedger
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter


def measure_failovers(
    cluster: LocalCluster, kinds: Sequence[EventKind], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    """`runs` of each kind, in turn. Raises `ConfigError` if the cluster has one node only, `ReplicatorError`."""
    if len(cluster.folder.load().nodes) < 2:
        raise ConfigError("a failover needs at least two nodes: `replicator replica add n2` adds another")
    try:
        return asyncio.run(_measure(cluster, kinds, runs, progress))
    except (NotConnected, OSError) as error:
        raise ReplicatorError(f"a node does not answer ({error!r}): see `replicator status`") from error


async def _measure(
    cluster: LocalCluster, kinds: Sequence[EventKind], runs: int, progress: ProgressReporter
) -> list[FailoverFigures]:
    admin, password, ports = cluster.admin, cluster.password, cluster.resp_ports
    leader = (await asyncio.to_thread(admin.any_status)).node.leader
    ledger = WriteLedger(f"chaos:{os.getpid()}:")
    load = ClientLoad(ports, password, leader, ledger)
    under_load = ClusterUnderLoad(cluster.folder, admin, password, load, ledger)
    load.start()
    try:
        done = await _run_all(under_load, kinds, runs, progress)
    finally:
        await load.stop()
    progress.step("reading all writes from all nodes")
    nodes = {id: RedisConnection(port, password) for id, port in ports.items()}
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


async def _run_all(
    cluster: ClusterUnderLoad, kinds: Sequence[EventKind], runs: int, progress: ProgressReporter
) -> list[FailoverRun]:
    done: list[FailoverRun] = []
    progress.step("failovers under load")
    for kind in [*kinds] * runs:
        counts = Counter(run.kind for run in done)
        for it in kinds:
            progress.bar(it, it, counts[it], runs)
        done.append(await cluster.run(kind))
    return done
