"""A plain iterator over the change stream, on confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.intervals import ADMIN_TIMEOUT_S
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka.topic import changes_topic
from replicator.stream.change import Change, Position
from replicator.stream.envelope import NotAChange
from replicator.stream.position import Start, StreamEnd, StreamPosition
from replicator.stream.state_topic import KafkaAccess, read_state
from replicator.stream.topics import check_topics

_POLL_S = 0.1


class BlockingChangeStream:
    """Reads what is committed. Iterating waits for the next change, for ever; `read` returns after a time.

    Not for several threads at once.
    """

    def __init__(
        self,
        bootstrap: str,
        cluster: str,
        start: Start = StreamEnd.EARLIEST,
        *,
        security: KafkaSecurity = PLAINTEXT,
        purpose: str = "consumer",
    ) -> None:
        """`purpose`: part of the `client.id`.

        Raises `ConfigError` (there is no change stream), `LogTrimmed` (the position was deleted), `LogDamage` (it is of
        another stream), `BrokerUnavailable`.
        """
        kafka = self._kafka = KafkaAccess(bootstrap, cluster, None, security)
        self._topic = changes_topic(cluster)
        state = read_state(kafka)
        if state is None:
            raise ConfigError(f"cluster {cluster} has no change stream: `replicator stream enable` creates one")
        partitions = check_topics(kafka, state.settings)
        self._format = state.settings.envelope_format()
        self._consumer = Consumer(
            {
                **kafka.settings(purpose),
                "group.id": f"{self._topic}.{purpose}",  # required; nothing is committed to it
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "fetch.queue.backoff.ms": 5,
                "fetch.wait.max.ms": 100,
            }
        )
        try:
            offsets = _Offsets(self._consumer, self._topic, partitions, self._decoded)
            self._position = StreamPosition(state.settings.topic_id, offsets.of(start, state.settings.topic_id))
        except KafkaException as error:
            raise kafka.unavailable(error.args[0]) from None
        self._consumer.assign(
            [TopicPartition(self._topic, number, offset) for number, offset in enumerate(self._position.next_offsets)]
        )

    @property
    def position(self) -> StreamPosition:
        """After the last change that was returned."""
        return self._position

    def __iter__(self) -> Iterator[Change]:
        while True:
            yield from self.read(1)

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        """At least one change and at most `limit`; none after the time-out.

        Raises `BrokerUnavailable` (call it again), `LogTrimmed`, `NotAChange`.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            left_s = _POLL_S if deadline is None else min(_POLL_S, max(0.0, deadline - time.monotonic()))
            found = self._poll(limit, left_s)
            if found or (deadline is not None and time.monotonic() >= deadline):
                return found

    def lag(self) -> int:
        """Messages that are not read yet, as far as it is known."""
        lag = 0
        for number, offset in enumerate(self._position.next_offsets):
            _, end = self._consumer.get_watermark_offsets(TopicPartition(self._topic, number), cached=True)
            lag += max(0, end - offset)
        return lag

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _poll(self, limit: int, timeout_s: float) -> list[Change]:
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        messages = [first, *(self._consumer.consume(limit - 1, 0) if limit > 1 else ())]
        offsets = list(self._position.next_offsets)
        found = []
        for message in messages:
            partition, offset, change = self._decoded(message)
            offsets[partition] = offset + 1
            if change is not None:
                found.append(change)
        self._position = replace(self._position, next_offsets=tuple(offsets))
        return found

    def _decoded(self, message: Message) -> tuple[int, int, Change | None]:
        """Its partition and offset, and the change; None for a tombstone."""
        error, partition, offset = message.error(), message.partition(), message.offset()
        if error is not None or partition is None or offset is None:
            raise self._translated(error, partition)
        value = message.value()
        return partition, offset, None if value is None else self._format.decode(value)

    def _translated(self, error: KafkaError | None, partition: int | None) -> Exception:
        assert error is not None
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            return LogTrimmed(
                f"the next change in partition {partition} of {self._topic} was deleted: start from the earliest one, "
                "or from a snapshot"
            )
        return self._kafka.unavailable(error)


class _Offsets:
    """Finds where to begin in each partition."""

    def __init__(
        self,
        consumer: Consumer,
        topic: str,
        partitions: int,
        decoded: Callable[[Message], tuple[int, int, Change | None]],
    ) -> None:
        self._consumer = consumer
        self._partitions = [TopicPartition(topic, number) for number in range(partitions)]
        self._decoded = decoded

    def of(self, start: Start, topic_id: str) -> tuple[int, ...]:
        bounds = [self._consumer.get_watermark_offsets(it, timeout=ADMIN_TIMEOUT_S) for it in self._partitions]
        match start:
            case StreamEnd.EARLIEST:
                return tuple(first for first, _ in bounds)
            case StreamEnd.LATEST:
                return tuple(end for _, end in bounds)
            case StreamPosition():
                return self._checked(start, topic_id, [first for first, _ in bounds])
            case datetime():
                return self._at(start, bounds)
            case Position():
                return self._first_from(start, bounds)

    def _checked(self, start: StreamPosition, topic_id: str, firsts: Sequence[int]) -> tuple[int, ...]:
        if start.topic_id != topic_id or len(start.next_offsets) != len(firsts):
            raise LogDamage(
                "the position is of another change stream: it was reset since. Start from the earliest change"
            )
        for number, (offset, first) in enumerate(zip(start.next_offsets, firsts, strict=True)):
            if offset < first:
                raise LogTrimmed(
                    f"the changes from offset {offset} of partition {number} on were deleted, the earliest one is at "
                    f"offset {first}: start from the earliest one, or from a snapshot"
                )
        return start.next_offsets

    def _at(self, moment: datetime, bounds: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        asked = [TopicPartition(it.topic, it.partition, int(moment.timestamp() * 1000)) for it in self._partitions]
        found = self._consumer.offsets_for_times(asked, timeout=ADMIN_TIMEOUT_S)
        return tuple(it.offset if it.offset >= 0 else end for it, (_, end) in zip(found, bounds, strict=True))

    def _first_from(self, position: Position, bounds: Sequence[tuple[int, int]]) -> tuple[int, ...]:
        return tuple(
            self._bisected(partition, first, end, position)
            for partition, (first, end) in zip(self._partitions, bounds, strict=True)
        )

    def _bisected(self, partition: TopicPartition, first: int, end: int, position: Position) -> int:
        """The first message in [first, end) at or after the position; positions rise with the offsets."""
        low, high = first, end
        while low < high:
            middle = (low + high) // 2
            found = self._next_change(partition, middle, end)
            if found is not None and found[1] < position:
                low = found[0] + 1
            else:
                high = middle
        return low

    def _next_change(self, partition: TopicPartition, offset: int, end: int) -> tuple[int, Position] | None:
        """Of the first change at or after the offset."""
        self._consumer.assign([TopicPartition(partition.topic, partition.partition, offset)])
        deadline = time.monotonic() + ADMIN_TIMEOUT_S
        while time.monotonic() < deadline:
            message = self._consumer.poll(_POLL_S)
            if message is not None:
                _, at, change = self._decoded(message)
                if change is not None:
                    return at, change.position
            else:
                [reached] = self._consumer.position([partition])
                if reached.offset >= end:
                    return None
        raise BrokerUnavailable(f"Kafka does not answer: topic {partition.topic} cannot be read")


__all__ = ["BlockingChangeStream", "NotAChange"]
