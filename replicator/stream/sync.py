"""A plain iterator over the change stream, on confluent-kafka."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, ReplicatorError
from replicator.limits import READ_CHANGES
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.stream.change import Change
from replicator.stream.consumer import (
    NOT_IN_A_GROUP,
    OUT_OF_RANGE,
    consumer_settings,
    no_answer_error,
    read_error,
    trimmed_error,
)
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.opening import open_stream
from replicator.stream.position import Start, StreamEnd, StreamPosition
from replicator.stream.read_ahead import ReadAhead
from replicator.stream.topic_check import TopicCheck

logger = logging.getLogger(__name__)

_POLL_S = 0.1
_FETCH_WAIT_MS = 100


class BlockingChangeStream:
    """Reads what is committed. Iterating waits for the next change, also while Kafka does not answer.

    Not for several threads at once.
    """

    def __init__(
        self,
        bootstrap: str,
        cluster: str,
        start: Start = StreamEnd.EARLIEST,
        *,
        follow: bool = True,
        security: KafkaSecurity = PLAINTEXT,
        consumer: str = "consumer",
    ) -> None:
        """`follow` False: up to the last change that is published now. `consumer`: its name, part of the `client.id`.

        Raises `ConfigError` (there is no change stream), `LogTrimmed` (the position was deleted), `LogDamage` (it is of
        another stream), `BrokerUnavailable`.
        """
        kafka = self._kafka = KafkaAccess(bootstrap, cluster, None, security)
        opened = open_stream(kafka, start)
        self._ahead = ReadAhead(opened, follow=follow)
        self._topic = opened.topic
        self._outage: BrokerUnavailable | None = None  # that was not reported yet
        self._has_warned = False  # since Kafka has answered last
        self._failure: ReplicatorError | None = None  # after which there is nothing to read any more
        self._check = TopicCheck(kafka, opened.settings.topic_id)
        self._unchecked: list[Message] = []  # fetched, and perhaps of another topic of the same name
        self._consumer = Consumer(
            {
                **consumer_settings(kafka, consumer),
                "fetch.wait.max.ms": _FETCH_WAIT_MS,
                "error_cb": self._on_error,
            }
        )
        self._consumer.assign(
            [TopicPartition(self._topic, number, offset) for number, offset in enumerate(opened.start.next_offsets)]
        )

    @property
    def position(self) -> StreamPosition:
        """After the last change that was returned."""
        return self._ahead.position

    @property
    def has_ended(self) -> bool:
        """Without `follow`: all changes were returned."""
        return self._ahead.has_ended

    def __iter__(self) -> Iterator[Change]:
        """Raises `LogTrimmed`, `LogDamage`, `ConfigError`; so does `transactions`."""
        while self._wait():
            yield from self._ahead.take(1)

    def transactions(self) -> Iterator[list[Change]]:
        """The changes of one transaction after another; of a snapshot, one change after another.

        From the earliest change or a time on, a transaction whose first changes are not part of that is left out.
        Raises `ConfigError` if the topic has several partitions or is compacted, or the position is inside of a
        transaction.
        """
        self._ahead.check_transactions()
        while self._wait():
            while (changes := self._ahead.take_transaction()) is None:
                self._fetch_patiently()
            yield changes

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        """At least one change and at most `limit`; none after the time-out, or at the end.

        Raises `BrokerUnavailable` (call it again), `LogTrimmed`, `LogDamage`, `ConfigError`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ahead and not self._ahead.has_ended:
            left_s = _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
            self._fetch(left_s)
            if deadline is not None and time.monotonic() >= deadline:
                break
        return self._ahead.take(limit)

    def lag(self) -> int:
        """Messages that were not returned yet, as far as it is known."""
        partitions = (TopicPartition(self._topic, number) for number in range(len(self.position.next_offsets)))
        return self._ahead.lag(self._consumer.get_watermark_offsets(it, cached=True)[1] for it in partitions)

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _wait(self) -> bool:
        """Until there are changes; False at the end."""
        while not self._ahead:
            if self._ahead.has_ended:
                return False
            self._fetch_patiently()
        return True

    def _fetch_patiently(self) -> None:
        try:
            self._fetch(_POLL_S)
        except BrokerUnavailable as error:
            if not self._has_warned:
                logger.warning("%s: waiting", error)
            self._has_warned = True

    def _fetch(self, timeout_s: float) -> None:
        """What there is, or what comes within the time. Raises as `read`."""
        if self._failure is not None:
            raise self._failure
        if not self._unchecked:
            first = self._consumer.poll(timeout_s)
            self._unchecked = [] if first is None else [first, *self._consumer.consume(READ_CHANGES - 1, 0)]
        self._check_topic()
        messages, self._unchecked = self._unchecked, []
        for message in messages:
            self._add(message)
            self._has_warned = False
        outage, self._outage = self._outage, None
        if outage is not None and not messages:
            raise outage

    def _check_topic(self) -> None:
        """From time to time, and if an error may be of another topic. Raises as `read`."""
        try:
            if not self._unchecked:
                self._check.poll()
            elif self._check.is_due or any(map(_is_fault, self._unchecked)):
                self._check.confirm()
        except (LogDamage, ConfigError) as error:
            self._failure = error
            raise

    def _add(self, message: Message) -> None:
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None and _is_fault(message):
            self._fail(error, partition or 0)
            return
        assert partition is not None and offset is not None
        if error is None:
            self._ahead.add(partition, offset, message.value())
        else:
            self._ahead.passed(partition, offset)

    def _fail(self, error: KafkaError, partition: int) -> None:
        """Raised once what was fetched before is taken."""
        if error.code() == NOT_IN_A_GROUP:
            return
        if error.code() in OUT_OF_RANGE:
            self._failure = trimmed_error(self._topic, partition)
            return
        failure = read_error(self._kafka, error)
        if isinstance(failure, BrokerUnavailable):
            self._outage = failure
        else:
            self._failure = failure

    def _on_error(self, error: KafkaError) -> None:
        """Of the client as a whole. The failure of a single broker is not one."""
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self._outage = no_answer_error(self._kafka)


def _is_fault(message: Message) -> bool:
    error = message.error()
    return error is not None and error.code() != KafkaError._PARTITION_EOF
