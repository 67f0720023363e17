"""The port `AppliedOffsets` on Apache Kafka: commits to a consumer group without members."""

from __future__ import annotations

import asyncio

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition

from replicator.errors import BrokerUnavailable
from replicator.intervals import ADMIN_TIMEOUT_S, COMMIT_RETRY_S
from replicator.log.kafka.admin import KafkaAdmin
from replicator.log.kafka.client_id import client_id
from replicator.log.kafka.requests import PARTITION
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import consumer_group, wal_topic
from replicator.log.port import CommitRefused
from replicator.position import NodeId, Offset

STARTING = frozenset(
    {KafkaError.COORDINATOR_LOAD_IN_PROGRESS, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.NOT_COORDINATOR}
)
FORBIDDEN = frozenset({KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED})


class KafkaAppliedOffsets:
    """`AppliedOffsets` in the group `<cluster>.<node>`. Nobody joins it: so Kafka accepts commits from any client."""

    def __init__(self, bootstrap: str, cluster: str, node: NodeId, *, security: KafkaSecurity | None = None) -> None:
        """Raises `ConfigError` if a file of `security` cannot be used."""
        self._admin = KafkaAdmin(bootstrap, security, client_id(cluster, node, "offsets"))
        self._group = consumer_group(cluster, node)
        self._topic = wal_topic(cluster)

    async def commit(self, next_offset: Offset) -> None:
        """Retried while a coordinator starts, as it does at the first commit of all to a new Kafka."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ADMIN_TIMEOUT_S
        while error := await self._error_of_commit(next_offset):
            if error.code() in FORBIDDEN:
                raise CommitRefused(
                    f"Kafka does not let this node commit to the consumer group {self._group}, so Kafka's tools do not "
                    f"show its lag: allow its login READ on the group {self._group} and on the topic {self._topic}"
                )
            if error.code() not in STARTING or loop.time() >= deadline:
                raise self._unavailable(error)
            await asyncio.sleep(COMMIT_RETRY_S)

    async def _error_of_commit(self, next_offset: Offset) -> KafkaError | None:
        position = TopicPartition(self._topic, PARTITION, next_offset)
        request = ConsumerGroupTopicPartitions(self._group, [position])
        try:
            [future] = self._admin.client.alter_consumer_group_offsets(
                [request], request_timeout=ADMIN_TIMEOUT_S
            ).values()
            [committed] = (await asyncio.wrap_future(future)).topic_partitions
        except KafkaException as error:
            error.__traceback__ = None  # as in `KafkaAdmin.translated`
            failure: KafkaError = error.args[0]
            return failure
        refusal: KafkaError | None = committed.error
        return refusal

    def _unavailable(self, error: KafkaError) -> BrokerUnavailable:
        translated = self._admin.translated(KafkaException(error))
        if isinstance(translated, BrokerUnavailable):
            return translated
        return BrokerUnavailable(f"commit to the consumer group {self._group}: {error.str()}")
