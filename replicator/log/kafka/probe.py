"""Does it answer? A metadata request, as a client would send it."""

from __future__ import annotations

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient


class Health:
    """A probe that keeps its connection from one question to the next."""

    def __init__(self, bootstrap: str) -> None:
        self._admin = AdminClient(
            {
                "bootstrap.servers": bootstrap,
                "log_level": 0,  # "connection refused" is an answer here, not news for stderr
                "error_cb": lambda _error: None,  # type: ignore[dict-item]
                "reconnect.backoff.max.ms": 200,
            }
        )

    def cluster_id(self, timeout_s: float) -> str | None:
        """The id of the cluster that answers with at least one broker in it; None if nothing does in time."""
        try:
            metadata = self._admin.list_topics(timeout=timeout_s)
        except KafkaException:
            return None
        return str(metadata.cluster_id) if metadata.brokers else None
