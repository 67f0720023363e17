"""A health check of a broker: a metadata request, as a client would send it."""

from __future__ import annotations

from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from replicator.log.kafka.client_id import DEFAULT_CLIENT_ID


class BrokerProbe:
    """Keeps its connection from one request to the next."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient(
            {
                "bootstrap.servers": bootstrap,
                "client.id": DEFAULT_CLIENT_ID,
                "log_level": 0,  # a refused connection is an expected result, and must not be printed
                "error_cb": lambda _error: None,  # type: ignore[dict-item]
                "reconnect.backoff.max.ms": 200,
            }
        )

    def cluster_id(self, timeout_s: float) -> str | None:
        """The id of the cluster, once at least one broker is in it; None if there is no answer in time."""
        metadata = self._metadata(timeout_s)
        return str(metadata.cluster_id) if metadata is not None and metadata.brokers else None

    def brokers(self, timeout_s: float) -> int:
        """How many brokers are in the cluster; 0 if there is no answer in time."""
        metadata = self._metadata(timeout_s)
        return 0 if metadata is None else len(metadata.brokers)

    def _metadata(self, timeout_s: float) -> Any:
        try:
            return self._admin.list_topics(timeout=timeout_s)
        except KafkaException:
            return None
