from __future__ import annotations

import pytest

from tests.client_fixture import connect
from tests.kafka_fixture import brokers, kafka, kafka_cluster, local_broker
from tests.mutation_table import pytest_terminal_summary
from tests.postgres_fixture import postgres
from tests.redis_fixture import client, pair, serve, server
from tests.sink_database import db
from tests.sql_cluster_fixture import choose_clusters, dsn, fake, sql_cluster
from tests.stream_fixture import change_stream

__all__ = [
    "brokers",
    "change_stream",
    "client",
    "connect",
    "db",
    "dsn",
    "fake",
    "kafka",
    "kafka_cluster",
    "local_broker",
    "pair",
    "postgres",
    "pytest_terminal_summary",
    "serve",
    "server",
    "sql_cluster",
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    choose_clusters(metafunc)
