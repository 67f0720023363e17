"""Finds the leader of a partition. All brokers are asked, and the highest leader epoch in their answers counts.

A former leader that is cut off from the other brokers does not know that there is another one: it answers requests for
metadata, for records and for the end of the log as it did before. Its leader epoch is lower than the present one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import KafkaError

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.intervals import LEADER_LOOKUP_MS, LEADER_WAIT_MS
from replicator.log.kafka.authorization import TOPIC_AUTHORIZATION_FAILED, missing_acl
from replicator.log.kafka.broker_connection import BrokerConnection, Connection
from replicator.log.kafka.client_id import DEFAULT_CLIENT_ID
from replicator.log.kafka.failure_text import describe_code, describe_failure
from replicator.log.kafka.metadata import TopicMetadataRequest
from replicator.log.kafka.requests import PARTITION
from replicator.log.kafka.security import KafkaSecurity

NO_EPOCH = -1
NO_LEADER = -1
UNKNOWN_TOPIC_OR_PARTITION = 3

logger = logging.getLogger(__name__)


class PartitionLeader(NamedTuple):
    epoch: int
    node: int
    address: Address


@dataclass(frozen=True, slots=True)
class MetadataAnswer:
    brokers: frozenset[Address]
    leader: PartitionLeader | None  # None: the topic does not exist, or has no leader now
    trouble: str
    missing: bool = False  # the topic does not exist
    denied: bool = False  # this user may not describe the topic


class LeaderLookup:
    """One for all clients of a partition: what one of them learns is known to the others.

    `recreate` is called if all brokers that answer say that the topic does not exist.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        security: KafkaSecurity,
        *,
        client_id: str = DEFAULT_CLIENT_ID,
        recreate: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Raises `ConfigError` if a file of `security` cannot be used."""
        self.topic = topic
        self.bootstrap = bootstrap
        self.epoch = NO_EPOCH  # the highest known one: a connection of a lower epoch is to a former leader
        self._client_id = client_id
        self._settings = security.for_aiokafka()
        self._recreate = recreate
        self._named = frozenset(Address(host, port) for host, port, _ in collect_hosts(bootstrap))
        self._advertised: frozenset[Address] = frozenset()
        self._listeners: list[Callable[[], None]] = []
        self._finding: asyncio.Task[PartitionLeader] | None = None
        self._watching: asyncio.Task[None] | None = None

    async def find(self) -> PartitionLeader:
        """Raises `BrokerUnavailable`. Concurrent calls share the requests."""
        if self._finding is None:
            self._finding = asyncio.create_task(self._find())
            self._finding.add_done_callback(self._found)
        return await asyncio.shield(self._finding)  # cancelling one caller must not cancel the others

    async def connect(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        """Raises `KafkaError`, `OSError`, `TimeoutError`."""
        connection = self._connection_to(address, timeout_ms)
        await connection.connect()
        return connection

    async def connect_to_partition(self, address: Address, timeout_ms: int) -> Connection:
        """For `PartitionRequest` only. Raises `KafkaError`, `OSError`, `TimeoutError`."""
        return await BrokerConnection.open(self._connection_to(address, timeout_ms), self._client_id)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call it whenever `epoch` has changed."""
        self._listeners.append(listener)

    def unsubscribe(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)

    def watch(self, interval_ms: int) -> None:
        """Until `close`: learn of a new leader even if the former one still answers."""
        self._watching = asyncio.create_task(self._watch(interval_ms))

    async def close(self) -> None:
        tasks = [task for task in (self._watching, self._finding) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connection_to(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        return AIOKafkaConnection(
            address.host, address.port, client_id=self._client_id, request_timeout_ms=timeout_ms, **self._settings
        )

    async def _watch(self, interval_ms: int) -> None:
        while True:
            await asyncio.sleep(interval_ms / 1000)
            with contextlib.suppress(BrokerUnavailable):  # the requests of the clients fail on their own
                await self.find()

    def _found(self, finding: asyncio.Task[PartitionLeader]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # retrieved: all callers may have been cancelled

    async def _find(self) -> PartitionLeader:
        asked = self._named | self._advertised
        answers, failures = await self._ask_all(asked)
        if not answers:
            raise self._unavailable("; ".join(sorted(set(failures))) or f"no answer within {LEADER_LOOKUP_MS} ms")
        leaders = [answer.leader for answer in answers if answer.leader is not None]
        if not leaders:
            if self._recreate is not None and all(answer.missing for answer in answers):
                await self._recreate()
            denied = next((answer for answer in answers if answer.denied), None)
            if denied is not None:  # neither the address is wrong, nor is Kafka down
                raise BrokerUnavailable(denied.trouble)
            raise self._unavailable(answers[0].trouble)
        best = max(leaders, key=lambda leader: leader.epoch)
        # A topic that was created again begins with a low epoch; a former leader that is cut off is in the minority.
        if best.epoch < self.epoch and 2 * len(answers) <= len(asked):
            raise self._unavailable(
                f"{len(answers)} of {len(asked)} brokers answer, and do not know the leader of epoch {self.epoch}"
            )
        self._advertised = next(answer.brokers for answer in answers if answer.leader == best)
        if best.epoch != self.epoch:
            logger.info("%s: broker %d leads its partition in epoch %d", self.topic, best.node, best.epoch)
            self.epoch = best.epoch
            for listener in self._listeners:
                listener()
        return best

    async def _ask_all(self, brokers: frozenset[Address]) -> tuple[list[MetadataAnswer], list[str]]:
        """The answers, and why there are no others. A broker that hangs does not delay the answers of the others."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + LEADER_LOOKUP_MS / 1000
        answers: list[MetadataAnswer] = []
        failures: list[str] = []
        pending = {asyncio.create_task(self._ask(broker)) for broker in sorted(brokers, key=str)}
        try:
            while pending:
                done, pending = await asyncio.wait(
                    pending, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    try:
                        answers.append(task.result())
                    except (KafkaError, OSError, TimeoutError) as error:
                        failures.append(describe_failure(error, LEADER_LOOKUP_MS))
                if any(it.leader is not None and it.leader.epoch >= self.epoch for it in answers):
                    until_s = min(until_s, loop.time() + LEADER_WAIT_MS / 1000)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        return answers, failures

    async def _ask(self, broker: Address) -> MetadataAnswer:
        connection = await self.connect(broker, LEADER_LOOKUP_MS)
        try:
            return _answer(self.topic, await connection.send(TopicMetadataRequest(self.topic)))
        finally:
            connection.close()

    def _unavailable(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} is unavailable: {why}. Check the address, and that Kafka is running"
        )


def _answer(topic: str, response: Any) -> MetadataAnswer:
    addresses = {node: Address(host, port) for node, host, port, _ in response.brokers}
    brokers = frozenset(addresses.values())
    [(topic_code, _, _, partitions)] = response.topics
    if topic_code == UNKNOWN_TOPIC_OR_PARTITION:
        return MetadataAnswer(
            brokers, None, f"topic {topic} does not exist, or this login may not use it", missing=True
        )
    if topic_code == TOPIC_AUTHORIZATION_FAILED:
        return MetadataAnswer(brokers, None, missing_acl("Describe", f"topic {topic}"), denied=True)
    if topic_code:
        return MetadataAnswer(brokers, None, f"topic {topic}: {describe_code(topic_code)}")
    for _, partition, node, epoch, *_ in partitions:
        if partition == PARTITION and node in addresses:
            return MetadataAnswer(brokers, PartitionLeader(epoch, node, addresses[node]), "")
    return MetadataAnswer(brokers, None, f"topic {topic} has no leader")
