"""Names of the topics and the consumer groups of a cluster."""

from __future__ import annotations

from replicator.position import NodeId


def wal_topic(cluster: str) -> str:
    return f"{cluster}.wal"


def acks_topic(cluster: str) -> str:
    return f"{cluster}.acks"


def consumer_group(cluster: str, node: NodeId) -> str:
    """Contains how far that node has applied the log."""
    return f"{cluster}.{node}"
