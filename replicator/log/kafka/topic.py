"""Names of the topics and the consumer groups of a cluster."""

from __future__ import annotations

from replicator.position import NodeId


def wal_topic(cluster: str) -> str:
    return f"{cluster}.wal"


def acks_topic(cluster: str) -> str:
    return f"{cluster}.acks"


def changes_topic(cluster: str) -> str:
    """The change stream (`replicator.stream`), and also the transactional id of its producer."""
    return f"{cluster}.changes"


def stream_topic(cluster: str) -> str:
    """The settings of the change stream, and how far it is published."""
    return f"{cluster}.changes.state"


def publishers_group(cluster: str) -> str:
    """Whose member reads the log for the change stream. No node has a colon in its id, so it is none of the others."""
    return f"{cluster}.changes:publishers"


def consumer_group(cluster: str, node: NodeId) -> str:
    """Contains how far that node has applied the log."""
    return f"{cluster}.{node}"
