"""The change stream as sinks read it, on Kafka."""

from __future__ import annotations

import time

from replicator.stream.change import Change
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.position import StreamEnd, StreamPosition
from replicator.stream.sync import BlockingChangeStream

EMPTY_AFTER_S = 2.0
"""After which a topic from which nothing has come counts as read to its end."""


class SinkChangeStream:
    def __init__(self, kafka: KafkaAccess, consumer: str, start: StreamPosition | None) -> None:
        """Raises as `BlockingChangeStream`."""
        self._stream = BlockingChangeStream(
            kafka.bootstrap, kafka.cluster, start or StreamEnd.EARLIEST, security=kafka.security, consumer=consumer
        )
        self._is_end_known = False
        self._empty_until_s = time.monotonic() + EMPTY_AFTER_S

    @property
    def position(self) -> StreamPosition:
        return self._stream.position

    def read(self, limit: int, timeout_s: float | None = None) -> list[Change]:
        """Raises as `BlockingChangeStream.read`."""
        found = self._stream.read(limit, timeout_s)
        self._is_end_known |= bool(found) or time.monotonic() >= self._empty_until_s
        return found

    def lag(self) -> int:
        """Messages in the topic that are not read. The end is unknown before the first one is."""
        return self._stream.lag() if self._is_end_known else max(1, self._stream.lag())

    def close(self) -> None:
        self._stream.close()
