"""Reads and writes the state of a change stream, in its topic on Kafka. Everything here blocks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage
from replicator.intervals import ADMIN_TIMEOUT_S, TRANSACTION_TIMEOUT_S
from replicator.limits import MAX_MESSAGE_BYTES, PRODUCER_QUEUE_BYTES
from replicator.log.kafka.admin import MISSING
from replicator.log.kafka.topic import changes_topic, stream_topic
from replicator.stream.consumer import LOOKUP_WAIT_MS, consumer_settings, read_between, read_error
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.publication import StreamMessage
from replicator.stream.settings import (
    PROGRESS_KEY,
    SETTINGS_KEY,
    Progress,
    StreamSettings,
    StreamState,
    changed_tables,
    decode_tables,
)
from replicator.stream.sql_rows import NO_TABLES, Tables

_LINGER_MS = 1_000
"""More than a transaction takes: its end sends the messages, so the broker gets few requests."""
_FLUSH_S = 1.0
"""In which Kafka accepts at least one message of a transaction that ends, unless it does not answer."""


class Fenced(BrokerUnavailable):
    """Another producer of this stream has begun, or its settings were changed."""


def read_state(kafka: KafkaAccess) -> StreamState | None:
    """As of the last transaction that ended; None if there is no change stream.

    Raises `BrokerUnavailable`, `LogDamage`, `UpgradeNeeded`, and `ConfigError` (access denied).
    """
    topic = stream_topic(kafka.cluster)
    consumer = Consumer({**consumer_settings(kafka, "stream-state"), "fetch.wait.max.ms": LOOKUP_WAIT_MS})
    try:
        found = consumer.list_topics(topic, ADMIN_TIMEOUT_S).topics[topic]
        if found.error is not None and found.error.code() not in MISSING:
            raise read_error(kafka, found.error)
        if not found.partitions:
            return None
        partition = TopicPartition(topic, 0)
        partition.offset, end = consumer.get_watermark_offsets(partition, timeout=ADMIN_TIMEOUT_S)  # as after KIP-207
        messages = read_between(kafka, consumer, partition, end)
        return _decoded(topic, {message.key() or b"": message.value() or b"" for message in messages})
    except KafkaException as error:
        if error.args[0].code() in MISSING:
            return None
        raise kafka.unavailable(error.args[0]) from None
    finally:
        consumer.close()


def _decoded(topic: str, found: dict[bytes, bytes]) -> StreamState | None:
    if SETTINGS_KEY not in found:
        return None
    try:
        progress = Progress.decode(found[PROGRESS_KEY], decode_tables(found))
        return StreamState(StreamSettings.decode(found[SETTINGS_KEY]), progress)
    except (ValueError, TypeError, KeyError) as error:
        raise LogDamage(
            f"topic {topic} has another content than replicator writes ({error!r}): `replicator stream reset`"
        ) from error


class StreamWriter:
    """The transactional producer of a change stream. Opening it fences the one before, wherever it runs."""

    def __init__(self, kafka: KafkaAccess) -> None:
        self._kafka = kafka
        self._changes, self._state = changes_topic(kafka.cluster), stream_topic(kafka.cluster)
        self._producer = Producer(
            {
                **kafka.settings("stream"),
                "transactional.id": self._changes,
                "transaction.timeout.ms": int(TRANSACTION_TIMEOUT_S * 1000),
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "compression.type": "lz4",
                "linger.ms": _LINGER_MS,
                "queue.buffering.max.kbytes": PRODUCER_QUEUE_BYTES >> 10,
            }
        )

    def open(self) -> None:
        """End the transaction of the producer before, and fence it. Raises `BrokerUnavailable`, `ConfigError`."""
        self._call(lambda: self._producer.init_transactions(TRANSACTION_TIMEOUT_S))

    def commit(
        self,
        messages: Iterable[StreamMessage] = (),
        progress: Progress | None = None,
        settings: StreamSettings | None = None,
        stored: Tables = NO_TABLES,
        on_progress: Callable[[], None] | None = None,
    ) -> None:
        """All or nothing. `stored`: the SQL tables of the progress before.

        `on_progress`: called again and again while Kafka accepts messages.
        Raises `Fenced`, `BrokerUnavailable`, `ConfigError`; the writer cannot be used afterwards.
        """
        producer = self._producer
        self._call(producer.begin_transaction)
        for key, value, partition in messages:
            self._produce(self._changes, key, value, partition)
            if on_progress is not None:
                on_progress()
        if settings is not None:
            self._produce(self._state, SETTINGS_KEY, settings.encode(), 0)
        if progress is not None:
            for name, table in changed_tables(stored, progress.tables):
                self._produce(self._state, name, table, 0)
            self._produce(self._state, PROGRESS_KEY, progress.encode(), 0)
        if on_progress is not None:
            self._flush(on_progress)
        self._call(lambda: producer.commit_transaction(TRANSACTION_TIMEOUT_S))

    def _flush(self, on_progress: Callable[[], None]) -> None:
        """As the commit would do, which reports nothing. Ends early if Kafka accepts nothing for some time."""
        unsent = len(self._producer) + 1
        while (left := self._producer.flush(_FLUSH_S)) and left < unsent:
            unsent = left
            on_progress()

    def _produce(self, topic: str, key: bytes, value: bytes | None, partition: int) -> None:
        while True:
            try:
                self._producer.produce(topic, value, key, partition)
            except BufferError:
                self._producer.poll(0.1)
            except KafkaException as error:
                raise self._translated(error.args[0]) from None
            else:
                return

    def _call(self, step: Callable[[], None]) -> None:
        """Repeated while librdkafka says that it may be. Raises as `commit`."""
        deadline = time.monotonic() + TRANSACTION_TIMEOUT_S
        while True:
            try:
                step()
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.retriable() and time.monotonic() < deadline:
                    continue
                raise self._translated(reason) from None
            else:
                return

    def _translated(self, error: KafkaError) -> Exception:
        if error.code() in _FENCED:
            return Fenced("another publisher of this change stream has begun, or its settings were changed")
        if error.code() in MISSING:
            return LogDamage(
                f"topic {self._changes} or {self._state} was deleted: `replicator stream reset`, then enable it again"
            )
        if error.code() in _DENIED:
            return ConfigError(
                f"this Kafka user may not publish ({error.str()}): it needs the ACL operations Write and Describe on "
                f"the transactional id {self._changes}, and Write on the topics {self._changes} and {self._state}"
            )
        return self._kafka.unavailable(error)


_FENCED = frozenset({KafkaError._FENCED, KafkaError.INVALID_PRODUCER_EPOCH, KafkaError.PRODUCER_FENCED})
_DENIED = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    }
)
