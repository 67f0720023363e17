"""Waits until nodes are as they should be, with a bar for whoever looks on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from replicator.address import Address
from replicator.cli.output import progress
from replicator.errors import ReplicatorError
from replicator.local.admin_client import ClusterClient, NodeRefused, NodeUnreachable
from replicator.local.folder import ClusterFolder, NodeEntry

POLL_S = 0.1
MEMBERSHIP_S = 20


def wait_ready(
    folder: ClusterFolder, client: ClusterClient, entries: Sequence[NodeEntry], timeout_s: float, started: bool = True
) -> None:
    """Until each node serves, is a member, and has applied what there was; and one of the cluster leads.

    Raises `ReplicatorError` if a node ends or the time is over.
    """
    deadline = time.monotonic() + timeout_s
    cluster = folder.load().name
    with progress() as bars:
        tasks = {entry.id: bars.add_task(entry.id, total=None) for entry in entries}
        waiting = {entry.id: entry for entry in entries}
        while waiting:
            for entry in list(waiting.values()):
                status = _status(client, entry.http)
                node = status["node"]
                bars.update(tasks[entry.id], description=f"{entry.id}: {node['state']}")
                if node.get("end_offset", -1) > 0:
                    bars.update(tasks[entry.id], total=node["end_offset"] + 1, completed=node["applied_offset"] + 1)
                if _is_ready(status, cluster, entry.id):
                    del waiting[entry.id]
                elif started and folder.process(entry.id) is None:
                    raise ReplicatorError(f"{entry.id} ended: {folder.last_words(entry.id)}")
                elif node["state"] == "failed":
                    raise ReplicatorError(f"{entry.id} failed: {node['trouble']}")
                elif time.monotonic() > deadline:
                    why = node.get("trouble") or node["state"]
                    raise ReplicatorError(f"{entry.id} is not ready after {timeout_s:.0f} s: {why}")
            time.sleep(POLL_S)


def wait_for_membership(client: ClusterClient, is_so: Callable[[Any], bool], why_not: str) -> None:
    """Until the leader's status shows it. Raises `ReplicatorError` with `why_not` if that takes too long."""
    deadline = time.monotonic() + MEMBERSHIP_S
    while not is_so(client.leader().status()):
        if time.monotonic() > deadline:
            raise ReplicatorError(why_not)
        time.sleep(POLL_S)


def _status(client: ClusterClient, http: Address) -> Any:
    try:
        return client.node(http).status()
    except (NodeUnreachable, NodeRefused):
        return {"node": {"state": "starting"}, "members": []}


def _is_ready(status: Any, cluster: str, id: str) -> bool:
    if status.get("cluster") != cluster:  # another cluster's node may have its port
        return False
    node = status["node"]
    members = {member["node"] for member in status["members"]}
    return node["state"] == "serving" and id in members and node.get("leader") in members
