"""Up to which position each partition of the topic of changes is published, read back from its end. It blocks."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException, TopicPartition

from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.log.kafka.topic import changes_topic
from replicator.position import BEFORE_LOG
from replicator.stream.change import Position
from replicator.stream.consumer import LOOKUP_WAIT_MS, consumer_settings, read_between, read_error
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.settings import StreamSettings

NOTHING = Position(BEFORE_LOG, 0)
_FIRST_MESSAGES = 50  # at the end of a partition; the last ones may be tombstones and markers of transactions


def published_positions(kafka: KafkaAccess, settings: StreamSettings) -> tuple[Position, ...]:
    """By partition, that of the last committed change that is still there; `NOTHING` if there is none.

    Raises `BrokerUnavailable`, `ConfigError`, `NotAChange`.
    """
    tail = _Tail(kafka, settings)
    try:
        return tuple(map(tail.last_position, range(settings.partitions)))
    except KafkaException as error:
        raise read_error(kafka, error.args[0]) from None
    finally:
        tail.close()


class _Tail:
    def __init__(self, kafka: KafkaAccess, settings: StreamSettings) -> None:
        self._kafka = kafka
        self._topic = changes_topic(kafka.cluster)
        self._format = settings.envelope_format()
        self._consumer = Consumer({**consumer_settings(kafka, "tail"), "fetch.wait.max.ms": LOOKUP_WAIT_MS})

    def close(self) -> None:
        self._consumer.close()

    def last_position(self, partition: int) -> Position:
        topic_partition = TopicPartition(self._topic, partition)
        first, end = self._consumer.get_watermark_offsets(topic_partition, timeout=ADMIN_TIMEOUT_S)
        messages = _FIRST_MESSAGES
        while True:
            start = max(first, end - messages)
            found = self._last_from(partition, start, end)
            if found is not None or start == first:
                return found or NOTHING
            messages *= 10

    def _last_from(self, partition: int, start: int, end: int) -> Position | None:
        """Of the last change in [start, end)."""
        found = None
        for message in read_between(self._kafka, self._consumer, TopicPartition(self._topic, partition, start), end):
            value = message.value()
            if value is not None:  # a tombstone
                found = self._format.decode(value).position
        return found
