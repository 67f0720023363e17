"""The topics of a change stream: create, check and delete them. Everything here blocks."""

from __future__ import annotations

from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from replicator.errors import ConfigError, LogDamage
from replicator.limits import MAX_MESSAGE_BYTES
from replicator.log.kafka.admin import KafkaAdmin, create_topic, delete_topic, wait_for_leader
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.topic import changes_topic, stream_topic, wal_topic
from replicator.stream.kafka_access import KafkaAccess
from replicator.stream.settings import StreamSettings

_COMMON = {"max.message.bytes": str(MAX_MESSAGE_BYTES), "message.timestamp.type": "LogAppendTime"}
_STATE = {"cleanup.policy": "compact", "segment.bytes": str(1 << 20), "min.cleanable.dirty.ratio": "0.1"}


def admin_of(kafka: KafkaAccess) -> KafkaAdmin:
    """Raises `ConfigError`."""
    return KafkaAdmin(kafka.bootstrap, kafka.security, client_id_of(kafka.cluster, kafka.node, "stream-admin"))


def create_topics(kafka: KafkaAccess, *, partitions: int, compacted: bool, retention_ms: int | None) -> tuple[str, str]:
    """With as many copies as the log has. Returns the ids of the topic of changes and of the log.

    `retention_ms`: of the changes; None: the default of the brokers. Raises `BrokerUnavailable`, `ConfigError`.
    """
    admin, changes = admin_of(kafka), changes_topic(kafka.cluster)
    log = admin.describe_or_none(wal_topic(kafka.cluster))
    if log is None:
        raise ConfigError(f"there is no topic {wal_topic(kafka.cluster)}: start a node of the cluster first")
    if admin.describe_or_none(changes) is not None:
        raise ConfigError(f"there is a topic {changes} already: `replicator stream reset` deletes it")
    copies = len(log.partitions[0].replicas)
    durable = _COMMON | {"min.insync.replicas": "2" if copies >= 3 else "1"}
    retention = {} if retention_ms is None else {"retention.ms": str(retention_ms)}
    cleanup = {"cleanup.policy": "compact" if compacted else "delete"}
    for topic in (
        NewTopic(changes, partitions, copies, config=durable | cleanup | retention),
        NewTopic(stream_topic(kafka.cluster), 1, copies, config=durable | _STATE),
    ):
        create_topic(admin, topic, may_wait=False, may_exist=False)  # another command may create them now
    wait_for_leader(admin, stream_topic(kafka.cluster))
    return wait_for_leader(admin, changes, partitions), str(log.topic_id)


def check_topics(admin: KafkaAdmin, cluster: str, settings: StreamSettings) -> None:
    """Raises `LogDamage` if the log or the topic of changes was deleted or recreated, and `BrokerUnavailable`."""
    _check(admin, wal_topic(cluster), settings.log_id)
    _check(admin, changes_topic(cluster), settings.topic_id)


def exists(admin: KafkaAdmin, cluster: str) -> bool:
    """Whether there is a topic for the state of a change stream. Raises `BrokerUnavailable`, `ConfigError`."""
    return admin.describe_or_none(stream_topic(cluster)) is not None


def _check(admin: KafkaAdmin, topic: str, id: str) -> None:
    description = admin.describe_or_none(topic)
    check_id(topic, None if description is None else str(description.topic_id), id)


def check_id(topic: str, found: str | None, expected: str) -> None:
    """`found`: None if there is no such topic. Raises `LogDamage`."""
    if found != expected:
        raise LogDamage(
            f"topic {topic} was {'deleted' if found is None else 'deleted and recreated'} since the change "
            "stream was enabled: `replicator stream reset`, then enable it again"
        )


def delete_topics(kafka: KafkaAccess) -> None:
    """Delete the changes, and the state of the stream. Raises `BrokerUnavailable`, `ConfigError`."""
    admin = admin_of(kafka)
    for topic in (stream_topic(kafka.cluster), changes_topic(kafka.cluster)):
        delete_topic(admin, topic)
