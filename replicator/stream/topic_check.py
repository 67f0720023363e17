"""Whether a stream reads the topic of the change stream: when it is opened, and while it is open."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import Future

from replicator.errors import BrokerUnavailable
from replicator.intervals import IDENTITY_CHECK_MS
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.topic import changes_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.stream.consumer import reset_error
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.settings import StreamSettings
from replicator.stream.topics import check_id


class TopicCheck:
    """Kafka's consumers know a topic by its name, so they read on in one that was created again."""

    def __init__(self, kafka: KafkaAccess, topic_id: str) -> None:
        """`topic_id`: of the topic of changes, which has it now."""
        self._topic, self._topic_id = changes_topic(kafka.cluster), topic_id
        self._confirmed_s = time.monotonic()  # when the last question was asked whose answer was this id
        self._asked_s = 0.0
        self._ids = _topic_ids(kafka)
        self._answer: Future[str | None] | None = None  # to the question of `poll`, if it was not taken yet

    @property
    def is_due(self) -> bool:
        return (time.monotonic() - self._confirmed_s) * 1000 >= IDENTITY_CHECK_MS

    def confirm(self) -> None:
        """What was read before is of the same topic. Blocks.

        Raises `LogDamage` (it was reset), `BrokerUnavailable`, `ConfigError`.
        """
        asked_s = time.monotonic()
        self._take(self._ids.get(self._topic), asked_s)

    def poll(self) -> None:
        """While nothing is read: ask if it is due, and take the answer in a later call. Raises `LogDamage`."""
        if self._answer is None:
            if self.is_due:
                self._asked_s, self._answer = time.monotonic(), self._ids.ask(self._topic)
        elif self._answer.done():
            answer, self._answer = self._answer, None
            with contextlib.suppress(BrokerUnavailable):  # the reader reports the outage
                self._take(answer.result(), self._asked_s)

    def _take(self, topic_id: str | None, asked_s: float) -> None:
        if topic_id != self._topic_id:
            raise reset_error(self._topic)
        self._confirmed_s = asked_s


def check_changes(kafka: KafkaAccess, settings: StreamSettings) -> None:
    """As `topics.check_topics`, for a consumer, which need not know the log. Raises as it does."""
    topic = changes_topic(kafka.cluster)
    check_id(topic, _topic_ids(kafka).get(topic), settings.topic_id)


def _topic_ids(kafka: KafkaAccess) -> TopicIds:
    return TopicIds(kafka.bootstrap, kafka.security, client_id_of(kafka.cluster, kafka.node, "topic-ids"))
