"""Where the nodes are in the log, as they have committed it to Kafka, and the offset of a time. It all blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from replicator.errors import BrokerUnavailable, ConfigError
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


class Headroom(NamedTuple):
    """What the slowest node has left before it needs records that are deleted."""

    node: NodeId
    records: int  # between the start of the log and what it needs next; negative: they are deleted already
    seconds: float  # between these two records, by the clock of Kafka


def headroom(
    bootstrap: str, cluster: str, nodes: Iterable[NodeId], *, security: KafkaSecurity | None = None
) -> Headroom | None:
    """Of the slowest of the nodes, as they have committed it; None: there are none.

    Raises `BrokerUnavailable`.
    """
    applied = applied_offsets(bootstrap, cluster, nodes, security=security)
    if not applied:
        return None
    topic = wal_topic(cluster)
    slowest = min(applied, key=lambda node: applied[node])
    with _consumer(bootstrap, cluster, topic, security) as consumer:
        first, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), ADMIN_TIMEOUT_S)
        next_offset = applied[slowest]
        written_ms = [_written_ms(consumer, topic, offset) for offset in (first, min(next_offset, end - 1))]
    return Headroom(slowest, next_offset - first, max(0.0, (written_ms[1] - written_ms[0]) / 1000))


def _written_ms(consumer: Consumer, topic: str, offset: int) -> int:
    """When the first entry at or above the offset was written; 0 if it is not read in time."""
    consumer.assign([TopicPartition(topic, 0, max(0, offset))])
    message = consumer.poll(ADMIN_TIMEOUT_S)
    return 0 if message is None or message.error() is not None else message.timestamp()[1]


def _asked(
    bootstrap: str,
    cluster: str,
    group: str,
    security: KafkaSecurity | None,
    request: Callable[[Consumer], list[TopicPartition]],
) -> list[TopicPartition]:
    with _consumer(bootstrap, cluster, group, security) as consumer:
        found = request(consumer)
    for partition in found:
        if partition.error is not None:
            raise _unavailable(bootstrap, group, partition.error)
    return found


@contextmanager
def _consumer(bootstrap: str, cluster: str, group: str, security: KafkaSecurity | None) -> Iterator[Consumer]:
    """It never becomes a member of the group. Raises `BrokerUnavailable`, `ConfigError`."""
    settings = {
        "bootstrap.servers": bootstrap,
        "client.id": client_id_of(cluster, None, "node-offsets"),
        "group.id": group,
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "log_level": 0,
        **(security or PLAINTEXT).for_librdkafka(),
    }
    try:
        consumer = Consumer(settings)
    except KafkaException as error:
        raise ConfigError(f"Kafka at {bootstrap} cannot be used with these settings: {error.args[0].str()}") from None
    try:
        yield consumer
    except KafkaException as error:
        raise _unavailable(bootstrap, group, error.args[0]) from None
    finally:
        consumer.close()


def _unavailable(bootstrap: str, group: str, error: KafkaError) -> BrokerUnavailable:
    return BrokerUnavailable(f"Kafka at {bootstrap} does not report offsets of {group}: {error.str()}")
