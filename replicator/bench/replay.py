"""How fast a new follower reads the log."""

from __future__ import annotations

import time
from dataclasses import dataclass

from replicator.errors import ReplicatorError
from replicator.local.admin_client import NodeAdmin
from replicator.local.cluster import LocalCluster
from replicator.local.progress import ProgressReporter
from replicator.local.waiting import wait_ready

TIMEOUT_S = 600
POLL_S = 0.2  # each status request costs the follower a millisecond


@dataclass(frozen=True, slots=True)
class ReplayRate:
    records: int  # as `seq` counts: each transaction is one, also if it shares a record
    records_per_s: float


def measure_replay(cluster: LocalCluster, id: str, progress: ProgressReporter) -> ReplayRate | None:
    """Add the node `id` while no client writes. None if it was too fast to measure. Raises `ReplicatorError`."""
    folder, admin = cluster.folder, cluster.admin
    target = admin.any_status().node.seq or 0
    file = folder.load().with_node(id)
    entry = file.node(id)
    folder.start_process(file, entry)
    folder.save(file)
    progress.step(f"replay of {target} records")
    rate = replay_rate(admin.node(entry.http), target)
    wait_ready(folder, admin, [entry], TIMEOUT_S, progress)
    return rate


def replay_rate(node: NodeAdmin, target: int) -> ReplayRate | None:
    """Wait until a node that has just been started has applied `target` records.

    None if it was too fast to measure. Raises `ReplicatorError` if it takes longer than `TIMEOUT_S`.
    """
    first: tuple[float, int] | None = None
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        try:
            applied = node.status().node.seq or 0
        except ReplicatorError:
            applied = 0
        now = time.monotonic()
        if applied and first is None:
            first = now, applied
        if applied >= target:
            break
        if now > deadline:
            raise ReplicatorError(f"the follower has not caught up after {TIMEOUT_S} s")
        time.sleep(POLL_S)
    began, already = first or (now, applied)
    if applied == already:
        return None
    return ReplayRate(applied - already, (applied - already) / (now - began))
