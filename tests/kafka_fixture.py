"""A real Apache Kafka for the tests.

`kafka` is its bootstrap address, `local_broker` a broker that a test may kill, `brokers` three of them.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from replicator.local.kafka import LocalBroker
from replicator.local.kafka.cluster import KafkaCluster
from replicator.log.kafka.admin import delete_topics, ensure_topics
from replicator.log.kafka.topic import consumer_group, wal_topic
from replicator.position import NodeId, Offset


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`REPLICATOR_TEST_BOOTSTRAP` names a running cluster to use instead."""
    named = os.environ.get("REPLICATOR_TEST_BOOTSTRAP")
    if named:
        yield named
        return
    broker = LocalBroker(tmp_path_factory.mktemp("broker"))
    yield broker.start()
    broker.stop()


@pytest.fixture
def kafka_cluster(kafka: str) -> Iterator[str]:
    """The name of a new cluster, with its topics created."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    ensure_topics(kafka, name)
    yield name
    delete_topics(kafka, name)


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    brokers = KafkaCluster(tmp_path_factory.mktemp("brokers"))
    try:
        brokers.start()
        yield brokers
    finally:
        brokers.close()


@pytest.fixture
def local_broker(tmp_path: Path) -> Iterator[LocalBroker]:
    broker = LocalBroker(tmp_path / "broker")
    broker.start()
    yield broker
    broker.stop()


def committed_offset(bootstrap: str, cluster: str, node: NodeId) -> Offset | None:
    """As `kafka-consumer-groups` shows it. Blocks."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": consumer_group(cluster, node)})
    try:
        [found] = consumer.committed([TopicPartition(wal_topic(cluster), 0)], timeout=10)
    finally:
        consumer.close()
    return Offset(found.offset) if found.offset >= 0 else None
