"""Names the ACL that a Kafka user lacks, if the brokers deny a request."""

from __future__ import annotations

TOPIC_AUTHORIZATION_FAILED = 29
CLUSTER_AUTHORIZATION_FAILED = 31
DENIED = frozenset({TOPIC_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED})


def needs(operation: str, topic: str) -> str:
    return (
        f"this Kafka user is not authorized: it needs the ACL operation {operation} on topic {topic} "
        "(docs/deployment.md lists all that a node needs)"
    )
