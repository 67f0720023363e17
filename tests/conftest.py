from __future__ import annotations

from tests.client_fixture import connect
from tests.kafka_fixture import brokers, kafka, kafka_cluster, local_broker
from tests.mutation_table import pytest_terminal_summary
from tests.redis_fixture import client, pair, serve, server

__all__ = [
    "brokers",
    "client",
    "connect",
    "kafka",
    "kafka_cluster",
    "local_broker",
    "pair",
    "pytest_terminal_summary",
    "serve",
    "server",
]
