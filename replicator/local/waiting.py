"""Waiting until nodes are ready, have caught up, or see a change of the membership."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from replicator.errors import ReplicatorError
from replicator.local.admin_client import ClusterAdmin, NodeAdmin, NodeRefused, NodeUnreachable
from replicator.local.folder import ClusterFolder, NodeEntry
from replicator.local.progress import ProgressReporter
from replicator.local.status import FAILED, REPLACED, STARTING, NodeInfo, StatusReply
from replicator.local.summary import ClusterSummary, summarise

POLL_S = 0.1
CAUGHT_UP_POLL_S = 0.05
MEMBERSHIP_S = 20
NOTICE_S = 2


class NodeFailed(ReplicatorError):
    """A node runs, but will never serve."""

    def __init__(self, node: NodeInfo) -> None:
        super().__init__(f"{node.id} is {node.state}: {node.trouble}")
        self.id = node.id


class NotReadyInTime(ReplicatorError):
    """A node may still become ready."""


def wait_ready(
    folder: ClusterFolder,
    admin: ClusterAdmin,
    entries: Sequence[NodeEntry],
    timeout_s: float,
    progress: ProgressReporter,
) -> None:
    """Until each node serves, is registered, has applied the log, and knows a leader. Reports once if Kafka is missing.

    Raises `NodeFailed`, `NotReadyInTime`, or `ReplicatorError` if a node exits.
    """
    began = time.monotonic()
    deadline, notice_due = began + timeout_s, began + NOTICE_S
    cluster = folder.load().name
    noticed = False
    waiting = {entry.id: entry for entry in entries}
    progress.step("waiting for the nodes")
    while waiting:
        for entry in list(waiting.values()):
            status = _status(admin.node(entry.http), entry.id)
            node = status.node
            if node.end_offset > 0:
                progress.bar(entry.id, f"{entry.id}: {node.state}", node.applied + 1, node.end_offset + 1)
            else:
                progress.bar(entry.id, f"{entry.id}: {node.state}")
            if _is_ready(status, cluster):
                del waiting[entry.id]
                continue
            folder.running_process(entry.id)
            if node.state in (FAILED, REPLACED):
                raise NodeFailed(node)
            if not node.kafka_answers and not noticed and time.monotonic() >= notice_due:
                progress.notice(_waiting_for_kafka(folder, timeout_s))
                noticed = True
            if time.monotonic() > deadline:
                why = node.trouble or node.state
                raise NotReadyInTime(f"{entry.id} is not ready after {timeout_s:.0f} s: {why}")
        time.sleep(POLL_S)


def _waiting_for_kafka(folder: ClusterFolder, timeout_s: float) -> str:
    cluster = folder.load()
    text = f"waiting for Kafka at {cluster.bootstrap}, for up to {timeout_s:.0f} s"
    return f"{text}: {folder.kafka_remedy()}" if cluster.own_broker else text


def wait_for_membership(admin: ClusterAdmin, condition: Callable[[StatusReply], bool], otherwise: str) -> None:
    """Until the leader's status fulfils the condition. Raises `ReplicatorError` with `otherwise` after 20 s."""
    deadline = time.monotonic() + MEMBERSHIP_S
    while not condition(admin.leader().status()):
        if time.monotonic() > deadline:
            raise ReplicatorError(otherwise)
        time.sleep(POLL_S)


def wait_caught_up(admin: ClusterAdmin, timeout_s: float) -> ClusterSummary:
    """Until all nodes have applied the log up to the same offset. Raises `ReplicatorError` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while True:
        summary = summarise(admin)
        offsets = {node.applied_offset for node in summary.nodes}
        if len(offsets) == 1 and None not in offsets:
            return summary
        if time.monotonic() > deadline:
            applied = ", ".join(f"{node.id} at {node.applied_offset}" for node in summary.nodes)
            raise ReplicatorError(f"not all nodes have caught up after {timeout_s:.0f} s: {applied}")
        time.sleep(CAUGHT_UP_POLL_S)


def _status(node: NodeAdmin, id: str) -> StatusReply:
    try:
        return node.status()
    except (NodeUnreachable, NodeRefused):
        return StatusReply("", NodeInfo(id, STARTING))


def _is_ready(status: StatusReply, cluster: str) -> bool:
    if status.cluster != cluster:  # a node of another cluster may use the port
        return False
    registered = status.is_registered or status.node.leads  # a leader may have to wait for acks of its own registration
    return status.node.serves and registered and status.member(status.node.leader) is not None
