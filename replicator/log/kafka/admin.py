"""Administration of a cluster's topics: create, identify, trim. Blocking calls, except `TopicLookup`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from replicator.errors import BrokerUnavailable, ConfigError
from replicator.intervals import ADMIN_TIMEOUT_S, TOPIC_POLL_S, TOPIC_TIMEOUT_S
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka.topic import acks_topic, wal_topic
from replicator.position import Offset

T = TypeVar("T")

WAL_SETTINGS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "max.message.bytes": str(MAX_MESSAGE_BYTES),
    "message.timestamp.type": "LogAppendTime",
    "unclean.leader.election.enable": "false",
}
ACKS_SETTINGS: Mapping[str, str] = {
    "cleanup.policy": "delete",
    "retention.ms": str(3600 * 1000),
    "segment.ms": str(600 * 1000),  # only whole segments expire
}
UNREACHABLE = frozenset(
    {
        KafkaError._TRANSPORT,
        KafkaError._TIMED_OUT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._AUTHENTICATION,
        KafkaError._SSL,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.NOT_CONTROLLER,
    }
)
MISSING = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


@dataclass(frozen=True)
class TopicIds:
    wal: str
    acks: str


class Admin:
    """A connection for administration. librdkafka logs nothing: its last error is told in the exceptions raised."""

    def __init__(self, bootstrap: str, security: KafkaSecurity | None) -> None:
        self.bootstrap = bootstrap
        self._last_error = ""
        try:
            self.client = AdminClient(
                {
                    "bootstrap.servers": bootstrap,
                    "client.id": "replicator-admin",
                    "log_level": 0,
                    "error_cb": self._remember,  # type: ignore[dict-item]
                    **(security or PLAINTEXT).for_librdkafka(),
                }
            )
        except KafkaException as error:
            raise ConfigError(f"Kafka client for {bootstrap}: {error.args[0].str()}") from error

    def result(self, future: Future[T]) -> T:
        """Wait for an answer. Raises `BrokerUnavailable`; a broker's own refusal is a `KafkaException`."""
        try:
            return future.result(ADMIN_TIMEOUT_S + 1)
        except KafkaException as error:
            raise self.explained(error) from error
        except TimeoutError as error:
            raise self._unavailable("no answer") from error

    def explained(self, error: KafkaException) -> Exception:
        reason = error.args[0]
        return self._unavailable(reason.str()) if reason.code() in UNREACHABLE else error

    def describe(self, topic: str) -> Future[Any]:
        return self.client.describe_topics(TopicCollection([topic]), request_timeout=ADMIN_TIMEOUT_S)[topic]

    def describe_or_none(self, topic: str) -> Any:
        try:
            return self.result(self.describe(topic))
        except KafkaException as error:
            if error.args[0].code() in MISSING:
                return None
            raise

    def _remember(self, error: KafkaError) -> None:
        self._last_error = error.str()

    def _unavailable(self, why: str) -> BrokerUnavailable:
        last = f" ({self._last_error})" if self._last_error else ""
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} does not answer: {why}{last}. "
            "Check that it runs, the address and the login, or start a local one with `replicator broker start`"
        )


class TopicLookup:
    """Ids of topics, asked without blocking the event loop."""

    def __init__(self, bootstrap: str, security: KafkaSecurity | None = None) -> None:
        self._admin = Admin(bootstrap, security)

    async def topic_id(self, topic: str) -> str | None:
        """None if there is no such topic. Raises `BrokerUnavailable`."""
        try:
            description = await asyncio.wrap_future(self._admin.describe(topic))
        except KafkaException as error:
            if error.args[0].code() in MISSING:
                return None
            explained = self._admin.explained(error)
            if isinstance(explained, BrokerUnavailable):
                raise explained from error
            raise BrokerUnavailable(f"{topic} cannot be described: {error.args[0].str()}") from error
        return str(description.topic_id)


def topic_id(bootstrap: str, topic: str, *, security: KafkaSecurity | None = None) -> str | None:
    """None if there is no such topic. Raises `BrokerUnavailable`."""
    description = Admin(bootstrap, security).describe_or_none(topic)
    return None if description is None else str(description.topic_id)


def ensure_topics(
    bootstrap: str, cluster: str, *, replication_factor: int | None = None, security: KafkaSecurity | None = None
) -> TopicIds:
    """Create the cluster's topics if they are not there yet, and wait until the brokers know them.

    The replication factor is by default that of 3 brokers, or of as many as there are. Settings of topics that exist
    are left alone: see `check_topic`. Raises `BrokerUnavailable`, and `ConfigError` if Kafka refuses.
    """
    admin = Admin(bootstrap, security)
    brokers = len(admin.result(admin.client.describe_cluster(request_timeout=ADMIN_TIMEOUT_S)).nodes)
    replicas = replication_factor or min(3, brokers)
    durable = {"min.insync.replicas": "2" if replicas >= 3 else "1"}
    wal, acks = wal_topic(cluster), acks_topic(cluster)
    _create(admin, NewTopic(wal, 1, replicas, config={**WAL_SETTINGS, **durable}))
    _create(admin, NewTopic(acks, 1, replicas, config=dict(ACKS_SETTINGS)))
    return TopicIds(wal=_visible(admin, wal), acks=_visible(admin, acks))


def delete_topics(bootstrap: str, cluster: str, *, security: KafkaSecurity | None = None) -> None:
    """Delete the cluster's topics, and with them all its data. Raises `BrokerUnavailable`."""
    admin = Admin(bootstrap, security)
    for topic in (wal_topic(cluster), acks_topic(cluster)):
        try:
            admin.result(admin.client.delete_topics([topic], request_timeout=ADMIN_TIMEOUT_S)[topic])
        except KafkaException as error:
            if error.args[0].code() not in MISSING:
                raise ConfigError(f"Kafka will not delete topic {topic}: {error.args[0].str()}") from error


def trim(bootstrap: str, cluster: str, below_offset: Offset, *, security: KafkaSecurity | None = None) -> Offset:
    """Delete the log's entries below an offset for good; the offset at which the log now starts.

    Raises `BrokerUnavailable`, and `ConfigError` if Kafka refuses, as it does for an offset above the log's end.
    """
    admin = Admin(bootstrap, security)
    target = TopicPartition(wal_topic(cluster), 0, below_offset)
    try:
        [future] = admin.client.delete_records([target], request_timeout=ADMIN_TIMEOUT_S).values()
        return Offset(admin.result(future).low_watermark)
    except KafkaException as error:
        raise ConfigError(f"{target.topic} cannot be trimmed below {below_offset}: {error.args[0].str()}") from error


def _create(admin: Admin, topic: NewTopic) -> None:
    try:
        admin.result(admin.client.create_topics([topic], request_timeout=ADMIN_TIMEOUT_S)[topic.topic])
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise ConfigError(f"Kafka will not create topic {topic.topic}: {error.args[0].str()}") from error


def _visible(admin: Admin, topic: str) -> str:
    """The topic's id, once its one partition has a leader."""
    deadline = time.monotonic() + TOPIC_TIMEOUT_S
    while time.monotonic() < deadline:
        description = admin.describe_or_none(topic)
        if description is not None and len(description.partitions) > 1:
            raise ConfigError(
                f"topic {topic} has {len(description.partitions)} partitions, and a log is one: "
                "choose another cluster name, or delete the topic"
            )
        if description is not None and description.partitions and description.partitions[0].leader is not None:
            return str(description.topic_id)
        time.sleep(TOPIC_POLL_S)
    raise BrokerUnavailable(
        f"topic {topic} was created, but has no leader after {TOPIC_TIMEOUT_S:.0f} s: look at Kafka"
    )
