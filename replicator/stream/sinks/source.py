"""The change stream as sinks read it: on Kafka, and checked against a reset while it is read."""

from __future__ import annotations

import time

from replicator.errors import LogDamage
from replicator.log.kafka.topic import changes_topic
from replicator.stream.change import Change
from replicator.stream.position import StreamEnd, StreamPosition
from replicator.stream.state_topic import KafkaAccess, read_state
from replicator.stream.sync import BlockingChangeStream

CHECK_S = 10.0
"""Between two checks that the topic is the same: Kafka's clients read on in a topic that was created again."""

EMPTY_AFTER_S = 2.0
"""After which a topic from which nothing has come counts as read to its end."""


class CheckedChangeStream:
    def __init__(self, kafka: KafkaAccess, consumer: str, start: StreamPosition | None) -> None:
        """Raises as `BlockingChangeStream`."""
        self._kafka = kafka
        self._stream = BlockingChangeStream(
            kafka.bootstrap, kafka.cluster, start or StreamEnd.EARLIEST, security=kafka.security, consumer=consumer
        )
        self._check_at_s = time.monotonic() + CHECK_S
        self._is_end_known = False
        self._empty_until_s = time.monotonic() + EMPTY_AFTER_S

    @property
    def position(self) -> StreamPosition:
        return self._stream.position

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        """Raises as `BlockingChangeStream.read`, and `LogDamage`."""
        if time.monotonic() >= self._check_at_s:
            self._check()
        found = self._stream.read(limit, timeout_s)
        self._is_end_known |= bool(found) or time.monotonic() >= self._empty_until_s
        return found

    def lag(self) -> int:
        """Messages in the topic that are not read. The end is unknown before the first one is."""
        return self._stream.lag() if self._is_end_known else max(1, self._stream.lag())

    def close(self) -> None:
        self._stream.close()

    def _check(self) -> None:
        state = read_state(self._kafka)
        if state is None or state.settings.topic_id != self.position.topic_id:
            raise LogDamage(
                f"the change stream in topic {changes_topic(self._kafka.cluster)} was reset while it was read"
            )
        self._check_at_s = time.monotonic() + CHECK_S
