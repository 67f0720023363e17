"""Whether an open stream still reads the topic that it was opened on."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

from confluent_kafka import KafkaException

from replicator.intervals import IDENTITY_CHECK_MS
from replicator.log.kafka.admin import MISSING, KafkaAdmin
from replicator.log.kafka.topic import changes_topic
from replicator.stream.consumer import reset_error
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.topics import admin_of


class TopicCheck:
    """Kafka's consumers know a topic by its name, so they read on in one that was created again."""

    def __init__(self, kafka: KafkaAccess, topic_id: str) -> None:
        """`topic_id`: of the topic of changes, which has it now."""
        self._kafka = kafka
        self._topic, self._topic_id = changes_topic(kafka.cluster), topic_id
        self._confirmed_s = time.monotonic()  # when the last question was asked whose answer was this id
        self._admin: KafkaAdmin | None = None  # connects when it is needed
        self._asked_s = 0.0
        self._answer: Future[Any] | None = None  # to the question of `poll`, if it was not taken yet

    @property
    def is_due(self) -> bool:
        return (time.monotonic() - self._confirmed_s) * 1000 >= IDENTITY_CHECK_MS

    def confirm(self) -> None:
        """What was read before is of the same topic. Blocks.

        Raises `LogDamage` (it was reset), `BrokerUnavailable`, `ConfigError`.
        """
        asked_s = time.monotonic()
        description = self._connected().describe_or_none(self._topic)
        self._take(None if description is None else str(description.topic_id), asked_s)

    def poll(self) -> None:
        """While nothing is read: ask if it is due, and take the answer in a later call. Raises `LogDamage`."""
        if self._answer is None:
            if self.is_due:
                self._asked_s, self._answer = time.monotonic(), self._connected().describe(self._topic)
        elif self._answer.done():
            answer, self._answer = self._answer, None
            error = answer.exception()
            if error is None:
                self._take(str(answer.result().topic_id), self._asked_s)
            elif isinstance(error, KafkaException) and error.args[0].code() in MISSING:
                raise reset_error(self._topic)
            # otherwise the reader reports the outage

    def close(self) -> None:
        self._admin = self._answer = None

    def _connected(self) -> KafkaAdmin:
        if self._admin is None:
            self._admin = admin_of(self._kafka)
        return self._admin

    def _take(self, topic_id: str | None, asked_s: float) -> None:
        if topic_id != self._topic_id:
            raise reset_error(self._topic)
        self._confirmed_s = asked_s
