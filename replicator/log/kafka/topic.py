"""Names of the topics of a cluster."""

from __future__ import annotations


def wal_topic(cluster: str) -> str:
    return f"{cluster}.wal"


def acks_topic(cluster: str) -> str:
    return f"{cluster}.acks"
