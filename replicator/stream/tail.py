"""Up to which position each partition of the topic of changes is published, read back from its end. It blocks."""

from __future__ import annotations

import time

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from replicator.errors import BrokerUnavailable
from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.log.kafka.topic import changes_topic
from replicator.position import BEFORE_LOG
from replicator.stream.change import Position
from replicator.stream.consumer import consumer_settings, read_error
from replicator.stream.settings import StreamSettings
from replicator.stream.state_topic import KafkaAccess

NOTHING = Position(BEFORE_LOG, 0)
_FIRST_MESSAGES = 50  # at the end of a partition; the last ones may be tombstones and markers of transactions
_POLL_S = 0.5


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
        self._consumer = Consumer({**consumer_settings(kafka, "tail"), "fetch.wait.max.ms": 10})

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
        self._consumer.assign([TopicPartition(self._topic, partition, start)])
        deadline, found = time.monotonic() + ADMIN_TIMEOUT_S, None
        while time.monotonic() < deadline:
            message = self._consumer.poll(_POLL_S)
            if message is None:
                continue
            error, value = message.error(), message.value()
            if error is None:
                deadline = time.monotonic() + ADMIN_TIMEOUT_S
                found = found if value is None else self._format.decode(value).position
            elif error.code() != KafkaError._PARTITION_EOF:
                continue  # the client tries again
            elif (message.offset() or 0) >= end:
                return found
        raise BrokerUnavailable(f"Kafka at {self._kafka.bootstrap} does not answer: {self._topic} cannot be read")
