"""The port `AppliedOffsets` on Apache Kafka: commits to a consumer group without members.

It uses the codecs of aiokafka, not the admin client of librdkafka, which may end its process (see `brokers`).
"""

from __future__ import annotations

import asyncio

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaError
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.intervals import ADMIN_TIMEOUT_S, OFFSET_COMMIT_RETRY_S
from replicator.log.kafka.authorization import DENIED, missing_acl
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.failure_text import describe_code, describe_failure
from replicator.log.kafka.requests import PARTITION
from replicator.log.kafka.security import KafkaSecurity
from replicator.log.kafka.topic import consumer_group, wal_topic
from replicator.log.port import OffsetCommitRefused
from replicator.position import NodeId, Offset

TIMEOUT_MS = int(ADMIN_TIMEOUT_S * 1000)
GROUP_COORDINATOR = 0  # of the two kinds of coordinators in Kafka's protocol
COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
RETRIED = frozenset({COORDINATOR_LOAD_IN_PROGRESS, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR})


class KafkaAppliedOffsets:
    """`AppliedOffsets` in the group `<cluster>.<node>`. It has no members, so Kafka accepts commits from any client."""

    def __init__(self, bootstrap: str, cluster: str, node: NodeId, *, security: KafkaSecurity | None = None) -> None:
        """Raises `ConfigError` if a file of `security` cannot be used."""
        self._bootstrap = bootstrap
        self._brokers = Brokers(bootstrap, security, client_id_of(cluster, node, "offsets"))
        self._group = consumer_group(cluster, node)
        self._topic = wal_topic(cluster)
        self._coordinator: AIOKafkaConnection | None = None

    async def commit(self, next_offset: Offset) -> None:
        """Retried while the coordinator starts, as after the first commit to a new Kafka."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + ADMIN_TIMEOUT_S
        while code := await self._commit(next_offset):
            self.close()
            if code in DENIED:
                raise OffsetCommitRefused(
                    "the applied offset cannot be committed, so Kafka's tools do not show the lag of this node: "
                    + missing_acl("Read", f"group {self._group}", f"topic {self._topic}")
                )
            if code not in RETRIED or loop.time() >= deadline:
                raise BrokerUnavailable(f"commit to the consumer group {self._group}: {describe_code(code)}")
            await asyncio.sleep(OFFSET_COMMIT_RETRY_S)

    def close(self) -> None:
        if self._coordinator is not None:
            self._coordinator.close()
            self._coordinator = None

    async def _commit(self, next_offset: Offset) -> int:
        """The error code of Kafka, 0 without one."""
        request = OffsetCommitRequest(
            self._group,
            OffsetCommitRequest.DEFAULT_GENERATION_ID,
            "",
            OffsetCommitRequest.DEFAULT_RETENTION_TIME,
            [(self._topic, [(PARTITION, next_offset, "")])],
        )
        try:
            async with asyncio.timeout(ADMIN_TIMEOUT_S):
                if self._coordinator is None and (code := await self._find_coordinator()):
                    return code
                assert self._coordinator is not None
                answer = await self._coordinator.send(request)
        except (KafkaError, OSError, TimeoutError) as error:
            self.close()
            why = describe_failure(error, TIMEOUT_MS)
            raise BrokerUnavailable(f"Kafka at {self._bootstrap} does not answer: {why}") from error
        except BaseException:
            self.close()  # the answer to this request would be taken for that to the next one
            raise
        [(_, [(_, code)])] = answer.topics
        return int(code)

    async def _find_coordinator(self) -> int:
        """Connect to it. Returns the error code of Kafka, 0 without one."""
        broker = await self._brokers.connect_to_any(TIMEOUT_MS)
        try:
            found = await broker.send(FindCoordinatorRequest(self._group, GROUP_COORDINATOR))
        finally:
            broker.close()
        if not found.error_code:
            self._coordinator = await self._brokers.connect(Address(found.host, found.port), TIMEOUT_MS)
        return int(found.error_code)
