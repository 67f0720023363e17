"""How the parts of the change stream reach Kafka."""

from __future__ import annotations

import logging
from typing import Any

from confluent_kafka import KafkaError

from replicator.errors import BrokerUnavailable
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.security import KafkaSecurity
from replicator.position import NodeId

_SILENT = logging.getLogger(f"{__name__}.librdkafka")
_SILENT.propagate = False
_SILENT.addHandler(logging.NullHandler())


class KafkaAccess:
    """How to reach the Kafka of a cluster, as one node."""

    def __init__(self, bootstrap: str, cluster: str, node: NodeId | None, security: KafkaSecurity) -> None:
        self.bootstrap = bootstrap
        self.cluster = cluster
        self.node = node
        self.security = security

    def settings(self, purpose: str) -> dict[str, Any]:
        """Of a client of librdkafka."""
        return {
            "bootstrap.servers": self.bootstrap,
            "client.id": client_id_of(self.cluster, self.node, purpose),
            "logger": _SILENT,  # what librdkafka logs, fatal errors included, is raised as an exception, too
            **self.security.for_librdkafka(),
        }

    def unavailable(self, error: KafkaError) -> BrokerUnavailable:
        return BrokerUnavailable(f"Kafka at {self.bootstrap} does not answer: {error.str()}")
