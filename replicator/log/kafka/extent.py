"""Which part of the log is needed: how far nodes have applied it, and where it was at a time. Everything blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from replicator.errors import BrokerUnavailable
from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka.topic import consumer_group, wal_topic
from replicator.position import NodeId, Offset


def applied_offsets(
    bootstrap: str, cluster: str, nodes: Iterable[NodeId], *, security: KafkaSecurity | None = None
) -> dict[NodeId, Offset]:
    """The first offset that each node has not applied, as it has committed it; 0 if it has committed none.

    Raises `BrokerUnavailable`.
    """
    log = TopicPartition(wal_topic(cluster), 0)
    found = {}
    for node in nodes:
        group = consumer_group(cluster, node)
        [partition] = _asked(bootstrap, cluster, group, security, lambda it: it.committed([log], ADMIN_TIMEOUT_S))
        found[node] = Offset(max(0, partition.offset))
    return found


def offset_at(bootstrap: str, cluster: str, at_ms: int, *, security: KafkaSecurity | None = None) -> Offset | None:
    """Of the first entry that was written at that time (ms since 1970) or later; None: there is none.

    Raises `BrokerUnavailable`.
    """
    topic = wal_topic(cluster)
    asked = TopicPartition(topic, 0, at_ms)
    [partition] = _asked(bootstrap, cluster, topic, security, lambda it: it.offsets_for_times([asked], ADMIN_TIMEOUT_S))
    return Offset(partition.offset) if partition.offset >= 0 else None


def _asked(
    bootstrap: str,
    cluster: str,
    group: str,
    security: KafkaSecurity | None,
    request: Callable[[Consumer], list[TopicPartition]],
) -> list[TopicPartition]:
    """The consumer never becomes a member of the group."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": client_id_of(cluster, None, "trim"),
            "group.id": group,
            "enable.auto.commit": False,
            "log_level": 0,
            **(security or PLAINTEXT).for_librdkafka(),
        }
    )
    try:
        found = request(consumer)
    except KafkaException as error:
        raise _unavailable(bootstrap, group, error.args[0]) from None
    finally:
        consumer.close()
    for partition in found:
        if partition.error is not None:
            raise _unavailable(bootstrap, group, partition.error)
    return found


def _unavailable(bootstrap: str, group: str, error: KafkaError) -> BrokerUnavailable:
    return BrokerUnavailable(f"Kafka at {bootstrap} does not report offsets of {group}: {error.str()}")
