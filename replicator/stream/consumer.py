"""What the consumers of the topic of changes have in common: the settings of librdkafka, and what its errors mean."""

from __future__ import annotations

import time
from collections.abc import Iterator

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed, ReplicatorError
from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.limits import FETCH_BYTES
from replicator.log.kafka.admin import MISSING
from replicator.log.kafka.authorization import missing_acl
from replicator.log.kafka.topic import changes_topic, stream_topic
from replicator.stream.envelope import NotAChange
from replicator.stream.kafka_access import KafkaAccess

NOT_IN_A_GROUP = KafkaError.GROUP_AUTHORIZATION_FAILED
"""librdkafka looks for the coordinator of the group, which is not used: a denial does not keep it from reading."""

OUT_OF_RANGE = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})

_FINAL = OUT_OF_RANGE | MISSING | {KafkaError.TOPIC_AUTHORIZATION_FAILED}

LOOKUP_WAIT_MS = 10
"""For which the broker holds a fetch open while there is nothing more to read."""

_POLL_S = 0.1

FROM_EARLIEST = "start from the earliest change"
"""What to do about a position that cannot be read."""


def consumer_settings(kafka: KafkaAccess, consumer: str) -> dict[str, str | int | bool]:
    """Of a consumer of librdkafka, which reads what is committed, and says where the end is."""
    return {
        **kafka.settings(consumer),
        "group.id": f"{changes_topic(kafka.cluster)}.{consumer}",  # required; nothing is committed to it
        "enable.auto.commit": False,
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "fetch.queue.backoff.ms": 5,
        "queued.max.messages.kbytes": 4 * FETCH_BYTES >> 10,
    }


def read_between(kafka: KafkaAccess, consumer: Consumer, start: TopicPartition, end: int) -> Iterator[Message]:
    """The messages of a partition from the offset of `start` up to `end`. It blocks.

    `consumer` has the settings above. Raises `KafkaException`, and `BrokerUnavailable` if nothing comes for some time.
    """
    consumer.assign([start])
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while time.monotonic() < deadline:
        message = consumer.poll(_POLL_S)
        if message is None:
            continue
        error = message.error()
        if error is None:
            deadline = time.monotonic() + ADMIN_TIMEOUT_S
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            if (message.offset() or 0) >= end:
                return
        elif error.code() in _FINAL:
            raise KafkaException(error)
        # after any other error the client tries again
    raise BrokerUnavailable(f"Kafka at {kafka.bootstrap} does not answer: {start.topic} cannot be read")


def read_error(kafka: KafkaAccess, error: KafkaError) -> ReplicatorError:
    """What an error of librdkafka means."""
    return denied_error(kafka) if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED else kafka.unavailable(error)


def denied_error(kafka: KafkaAccess) -> ConfigError:
    topics = changes_topic(kafka.cluster), stream_topic(kafka.cluster)
    return ConfigError(missing_acl("Read", *(f"topic {topic}" for topic in topics)))


def no_answer_error(kafka: KafkaAccess) -> BrokerUnavailable:
    """Kafka has reported no error, but has not answered for some time either."""
    topic = changes_topic(kafka.cluster)
    return BrokerUnavailable(f"Kafka at {kafka.bootstrap} does not answer: {topic} cannot be read")


def trimmed_error(topic: str, partition: int) -> LogTrimmed:
    """Of a reader that the deletion of old changes has overtaken."""
    return LogTrimmed(f"the next changes in partition {partition} of {topic} were deleted: {FROM_EARLIEST}")


def reset_error(topic: str) -> LogDamage:
    return LogDamage(f"the change stream in topic {topic} was reset while it was read: {FROM_EARLIEST}")


def foreign_error(topic: str, partition: int, offset: int, why: NotAChange) -> LogDamage:
    return LogDamage(
        f"the message at offset {offset} of partition {partition} of {topic} is not a change: another program wrote "
        f"it ({why}). `replicator stream reset`, then enable the change stream again"
    )
