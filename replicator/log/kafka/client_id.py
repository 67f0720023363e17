"""The `client.id` of connections to Kafka, by which its logs, metrics and quotas name them."""

from __future__ import annotations

from replicator.position import NodeId

DEFAULT_CLIENT_ID = "replicator"


def client_id_of(cluster: str, node: NodeId | None, purpose: str) -> str:
    """Such as: replicator/shop/n1/log. `node` None: the program is not a node."""
    return "/".join(part for part in (DEFAULT_CLIENT_ID, cluster, node, purpose) if part)
