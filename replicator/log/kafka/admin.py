"""Administration of the topics of a cluster: create, identify, trim, delete. What is not `async` blocks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from replicator.errors import BrokerUnavailable, ConfigError
from replicator.intervals import ADMIN_TIMEOUT_S, TOPIC_POLL_S, TOPIC_TIMEOUT_S
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.kafka.authorization import DENIED, missing_acl
from replicator.log.kafka.client_id import DEFAULT_CLIENT_ID, client_id_of
from replicator.log.kafka.requests import PARTITION
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity
from replicator.log.kafka.topic import acks_topic, changes_topic, stream_topic, wal_topic
from replicator.position import NodeId, Offset

T = TypeVar("T")

logger = logging.getLogger(__name__)

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
    "segment.ms": str(600 * 1000),  # only complete segments expire
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


class _LastError:
    """A client refers to this and not to its owner, so that both are freed, and the client's threads end, at once."""

    def __init__(self) -> None:
        self.text = ""

    def set(self, error: KafkaError) -> None:
        self.text = error.str()


class KafkaAdmin:
    """A connection for administration. librdkafka's log is off; the exceptions include its last error instead."""

    def __init__(self, bootstrap: str, security: KafkaSecurity | None, client_id: str = DEFAULT_CLIENT_ID) -> None:
        """Raises `ConfigError` if a file of `security` cannot be used."""
        self.bootstrap = bootstrap
        self._last_error = _LastError()
        try:
            self.client = AdminClient(
                {
                    "bootstrap.servers": bootstrap,
                    "client.id": client_id,
                    "log_level": 0,
                    "error_cb": self._last_error.set,  # type: ignore[dict-item]
                    **(security or PLAINTEXT).for_librdkafka(),
                }
            )
        except KafkaException as error:
            raise ConfigError(
                f"Kafka at {bootstrap} cannot be used with the settings of the section kafka: {error.args[0].str()}"
            ) from error

    def result(self, future: Future[T]) -> T:
        """Wait for the answer. Raises `BrokerUnavailable`, and `KafkaException` if a broker refuses the request."""
        try:
            return future.result(ADMIN_TIMEOUT_S + 1)
        except KafkaException as error:
            raise self.translated(error) from error
        except TimeoutError as error:
            raise self._unavailable("no answer") from error

    def translated(self, error: KafkaException) -> Exception:
        """`BrokerUnavailable` if no broker could be reached, otherwise the same error."""
        # The client's future keeps the error, and the frames of a traceback would keep the client, with its threads.
        error.__traceback__ = None
        reason = error.args[0]
        return self._unavailable(reason.str()) if reason.code() in UNREACHABLE else KafkaException(reason)

    def brokers(self) -> list[int]:
        """Those that are up. Raises `BrokerUnavailable`."""
        return [
            int(node.id) for node in self.result(self.client.describe_cluster(request_timeout=ADMIN_TIMEOUT_S)).nodes
        ]

    def settings(self, kind: ResourceType, name: str) -> dict[str, str]:
        """Of a topic or a broker; empty if this login may not read them. Raises `BrokerUnavailable`."""
        [future] = self.client.describe_configs([ConfigResource(kind, name)], request_timeout=ADMIN_TIMEOUT_S).values()
        try:
            return {entry.name: entry.value for entry in self.result(future).values() if entry.value is not None}
        except KafkaException:
            return {}

    def describe(self, topic: str) -> Future[Any]:
        return self.client.describe_topics(TopicCollection([topic]), request_timeout=ADMIN_TIMEOUT_S)[topic]

    def describe_or_none(self, topic: str) -> Any:
        """None if there is no such topic. Raises `BrokerUnavailable`, and `ConfigError` if the broker refuses."""
        try:
            return self.result(self.describe(topic))
        except KafkaException as error:
            if error.args[0].code() in MISSING:
                return None
            raise ConfigError(f"topic {topic} cannot be described: {_reason(error, 'Describe', topic)}") from error

    def _unavailable(self, why: str) -> BrokerUnavailable:
        last = f" ({self._last_error.text})" if self._last_error.text else ""
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} does not answer: {why}{last}. "
            "Check the address, the login, and that Kafka is running. On this machine, `replicator cluster up` starts "
            "the Kafka of its cluster, and `replicator broker start` one for any other use"
        )


def ensure_topics(
    bootstrap: str,
    cluster: str,
    *,
    node: NodeId | None = None,
    replication_factor: int | None = None,
    security: KafkaSecurity | None = None,
) -> TopicIds:
    """Create the topics of the cluster that do not exist, and wait until the brokers know them.

    By default as many copies as the brokers are configured to make, and at least 3, or as there are brokers that are
    up. Existing topics need no permission to create any, and their settings are not changed: see `check_topic`.
    `node`: the node that creates them; None: another program.

    Raises `BrokerUnavailable`, and `ConfigError` if Kafka refuses.
    """
    admin = KafkaAdmin(bootstrap, security, client_id_of(cluster, node, "admin"))
    wal, acks = wal_topic(cluster), acks_topic(cluster)
    log = admin.describe_or_none(wal)
    known = len(log.partitions[PARTITION].replicas) if log is not None else None
    replicas = replication_factor or known or _default_replication_factor(admin)
    durable = {"min.insync.replicas": "2" if replicas >= 3 else "1"}
    may_wait = replication_factor is None
    if log is None:
        create_topic(admin, NewTopic(wal, 1, replicas, config={**WAL_SETTINGS, **durable}), may_wait=may_wait)
    if admin.describe_or_none(acks) is None:
        create_topic(admin, NewTopic(acks, 1, replicas, config=dict(ACKS_SETTINGS)), may_wait=may_wait)
    return TopicIds(wal=wait_for_leader(admin, wal), acks=wait_for_leader(admin, acks))


def _default_replication_factor(admin: KafkaAdmin) -> int:
    """Not the number of brokers alone: if one is down now, the log would have a copy fewer for good."""
    brokers = admin.brokers()
    for broker in brokers:
        with contextlib.suppress(BrokerUnavailable):  # it has just died: others know the same
            configured = admin.settings(ResourceType.BROKER, str(broker)).get("default.replication.factor", "1")
            return max(int(configured), min(3, len(brokers)))
    return min(3, len(brokers))


async def recreate_acks_topic(admin: KafkaAdmin, cluster: str) -> None:
    """With as many copies as the log. Not if the log is missing, too: then the cluster was deleted.

    Raises `BrokerUnavailable`.
    """
    topic = acks_topic(cluster)
    try:
        log = await asyncio.wrap_future(admin.describe(wal_topic(cluster)))
        new = NewTopic(topic, 1, len(log.partitions[PARTITION].replicas), config=dict(ACKS_SETTINGS))
        created = admin.client.create_topics([new], request_timeout=ADMIN_TIMEOUT_S)[topic]
        await asyncio.wrap_future(created)
    except KafkaException as error:
        code = error.args[0].code()
        if code != KafkaError.TOPIC_ALREADY_EXISTS:
            why = _reason(error, "Create", topic)
            raise BrokerUnavailable(f"topic {topic} is missing, and was not created: {why}") from error
    else:
        logger.warning("topic %s was missing: created", topic)


def delete_topics(bootstrap: str, cluster: str, *, security: KafkaSecurity | None = None) -> None:
    """Delete the topics of the cluster, and all its data. Raises `BrokerUnavailable`, `ConfigError`."""
    admin = KafkaAdmin(bootstrap, security)
    for topic in (stream_topic(cluster), changes_topic(cluster), wal_topic(cluster), acks_topic(cluster)):
        delete_topic(admin, topic)


def delete_topic(admin: KafkaAdmin, topic: str) -> None:
    """If it exists; then wait until the brokers do not list it, so that it can be created again.

    Raises `BrokerUnavailable`, `ConfigError`.
    """
    try:
        admin.result(admin.client.delete_topics([topic], request_timeout=ADMIN_TIMEOUT_S)[topic])
    except KafkaException as error:
        if error.args[0].code() not in MISSING:
            why = _reason(error, "Delete", topic)
            raise ConfigError(f"Kafka refuses to delete topic {topic}: {why}") from error
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while admin.describe_or_none(topic) is not None and time.monotonic() < deadline:
        time.sleep(TOPIC_POLL_S)


def trim(bootstrap: str, cluster: str, below_offset: Offset, *, security: KafkaSecurity | None = None) -> Offset:
    """Delete the entries of the log below an offset. Returns the offset at which the log starts now.

    Raises `BrokerUnavailable`, and `ConfigError` if Kafka refuses, for example an offset above the end of the log.
    """
    admin = KafkaAdmin(bootstrap, security)
    target = TopicPartition(wal_topic(cluster), 0, below_offset)
    try:
        [future] = admin.client.delete_records([target], request_timeout=ADMIN_TIMEOUT_S).values()
        return Offset(admin.result(future).low_watermark)
    except KafkaException as error:
        why = _reason(error, "Delete", target.topic)
        raise ConfigError(f"{target.topic} cannot be trimmed below {below_offset}: {why}") from error


def create_topic(admin: KafkaAdmin, topic: NewTopic, *, may_wait: bool, may_exist: bool = True) -> None:
    """If it does not exist; unless `may_exist`, that is an error.

    `may_wait`: too few brokers are unavailable ones, which may still start; else that is an error, too.
    Raises `BrokerUnavailable`, `ConfigError`.
    """
    try:
        admin.result(admin.client.create_topics([topic], request_timeout=ADMIN_TIMEOUT_S)[topic.topic])
    except KafkaException as error:
        if may_wait and error.args[0].code() == KafkaError.INVALID_REPLICATION_FACTOR:
            raise BrokerUnavailable(
                f"topic {topic.topic} needs {topic.replication_factor} brokers, the default of this Kafka: "
                f"{error.args[0].str()}. Start the others, or set kafka.replication_factor"
            ) from error
        if not may_exist or error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            why = _reason(error, "Create", topic.topic)
            raise ConfigError(f"Kafka refuses to create topic {topic.topic}: {why}") from error


def _reason(error: KafkaException, operation: str, topic: str) -> str:
    """Why a broker refused a request that needs the ACL operation on the topic."""
    if error.args[0].code() in DENIED:
        return missing_acl(operation, f"topic {topic}")
    return str(error.args[0].str())


def wait_for_leader(admin: KafkaAdmin, topic: str, partitions: int = 1) -> str:
    """Wait until all partitions of the topic have a leader. Returns the id of the topic.

    Raises `BrokerUnavailable`, and `ConfigError` if it has another number of partitions.
    """
    deadline = time.monotonic() + TOPIC_TIMEOUT_S
    while time.monotonic() < deadline:
        description = admin.describe_or_none(topic)
        found = description.partitions if description is not None else []
        if len(found) > partitions:
            raise ConfigError(
                f"topic {topic} has {len(found)} partitions, but must have {partitions}: choose another cluster name, "
                "or delete the topic"
            )
        if len(found) == partitions and all(partition.leader is not None for partition in found):
            return str(description.topic_id)
        time.sleep(TOPIC_POLL_S)
    raise BrokerUnavailable(f"topic {topic} was created, but has no leader after {TOPIC_TIMEOUT_S:.0f} s: check Kafka")
