"""Names the ACL that a Kafka user lacks, if the brokers deny a request."""

from __future__ import annotations

TOPIC_AUTHORIZATION_FAILED = 29
GROUP_AUTHORIZATION_FAILED = 30
CLUSTER_AUTHORIZATION_FAILED = 31
DENIED = frozenset({TOPIC_AUTHORIZATION_FAILED, GROUP_AUTHORIZATION_FAILED, CLUSTER_AUTHORIZATION_FAILED})


def missing_acl(operation: str, *resources: str) -> str:
    """`resources`: such as "topic shop.wal"."""
    return (
        f"this Kafka user is not authorized: it needs the ACL operation {operation} on {' and on '.join(resources)} "
        "(docs/deployment.md lists all that a node needs)"
    )
