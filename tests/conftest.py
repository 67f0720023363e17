from __future__ import annotations

import gc
from collections.abc import Iterator

import hypothesis
import pytest

from replicator.garbage import collect_seldom
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
    "collected",
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


hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine may take long for any example
hypothesis.settings.load_profile("untimed")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    choose_clusters(metafunc)


def pytest_collection_finish() -> None:
    """A full collection of all that the tests have loaded takes longer than a transaction may."""
    gc.collect()
    gc.freeze()
    collect_seldom()  # as a node


@pytest.fixture(autouse=True, scope="module")
def collected() -> Iterator[None]:
    """What the tests of a module have left, as with these settings nothing else may collect it."""
    yield
    gc.collect()
