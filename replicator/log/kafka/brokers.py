"""The brokers of a Kafka: connections to them, and what each of them knows of a topic.

Unlike librdkafka, which may end its process if a request to a broker that is down times out at the wrong moment
(librdkafka issue 4605), aiokafka may be used for as long as Kafka is down.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.conn import AIOKafkaConnection, collect_hosts
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

from replicator.address import Address
from replicator.errors import BrokerUnavailable
from replicator.intervals import BROKER_ANSWER_MS, OTHER_ANSWERS_MS
from replicator.log.kafka.authorization import TOPIC_AUTHORIZATION_FAILED, missing_acl
from replicator.log.kafka.broker_connection import BrokerConnection, Connection
from replicator.log.kafka.client_id import DEFAULT_CLIENT_ID
from replicator.log.kafka.failure_text import describe_code, describe_failure
from replicator.log.kafka.host_lookup import HostLookup
from replicator.log.kafka.metadata import NO_ID, TopicMetadataRequest
from replicator.log.kafka.requests import PARTITION
from replicator.log.kafka.security import PLAINTEXT, KafkaSecurity

UNKNOWN_TOPIC_OR_PARTITION = 3


class PartitionLeader(NamedTuple):
    epoch: int
    node: int
    address: Address


@dataclass(frozen=True, slots=True)
class TopicAnswer:
    """What one broker knows of a topic."""

    brokers: frozenset[Address]
    leader: PartitionLeader | None  # None: the topic does not exist, or has no leader now
    id: str | None
    trouble: str
    missing: bool = False  # the topic does not exist
    denied: bool = False  # this user may not describe the topic


class Brokers:
    """Those of the bootstrap addresses, and those that Kafka has advertised last."""

    def __init__(
        self, bootstrap: str, security: KafkaSecurity | None = None, client_id: str = DEFAULT_CLIENT_ID
    ) -> None:
        """Raises `ConfigError` if a file of `security` cannot be used."""
        self.bootstrap = bootstrap
        self.advertised: frozenset[Address] = frozenset()
        self._client_id = client_id
        self._hosts = HostLookup()
        self._settings = (security or PLAINTEXT).for_aiokafka()
        self._named = frozenset(Address(host, port) for host, port, _ in collect_hosts(bootstrap))

    @property
    def addresses(self) -> frozenset[Address]:
        return self._named | self.advertised

    async def connect(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        """Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._hosts.check(address.host)
        connection = self._connection_to(address, timeout_ms)
        await connection.connect()
        return connection

    async def connect_to_partition(self, address: Address, timeout_ms: int) -> Connection:
        """For `PartitionRequest` only. Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._hosts.check(address.host)
        return await BrokerConnection.open(self._connection_to(address, timeout_ms), self._client_id)

    async def topic_id(self, topic: str) -> str | None:
        """None if all brokers that answer say that there is no such topic. Raises `BrokerUnavailable`."""
        answers = await self.ask(topic, lambda answer: answer.id is not None)
        ids = Counter(answer.id for answer in answers if answer.id is not None)
        if ids:
            [(id, _)] = ids.most_common(1)  # one that is cut off may know that of a deleted topic
            return id
        if 2 * len(answers) <= len(self.addresses):  # one that is cut off does not know of a topic that is new
            raise self.unavailable(f"{len(answers)} of {len(self.addresses)} brokers answer, and do not know the topic")
        trouble = next((answer.trouble for answer in answers if not answer.missing), None)
        if trouble is not None:
            raise BrokerUnavailable(trouble)
        return None

    async def ask(self, topic: str, suffices: Callable[[TopicAnswer], bool]) -> list[TopicAnswer]:
        """The answers of all brokers, or those that arrive soon after one that suffices: a broker may hang.

        Raises `BrokerUnavailable` if none answers.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + BROKER_ANSWER_MS / 1000
        answers: list[TopicAnswer] = []
        failures: set[str] = set()
        pending = {asyncio.create_task(self._ask(it, topic)) for it in sorted(self.addresses, key=str)}
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
                        failures.add(describe_failure(error, BROKER_ANSWER_MS))
                if any(map(suffices, answers)):
                    until_s = min(until_s, loop.time() + OTHER_ANSWERS_MS / 1000)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not answers:
            raise self.unavailable("; ".join(sorted(failures)) or f"no answer within {BROKER_ANSWER_MS} ms")
        return answers

    def unavailable(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} is unavailable: {why}. Check the address, and that Kafka is running"
        )

    def _connection_to(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        return AIOKafkaConnection(
            address.host, address.port, client_id=self._client_id, request_timeout_ms=timeout_ms, **self._settings
        )

    async def _ask(self, broker: Address, topic: str) -> TopicAnswer:
        connection = await self.connect(broker, BROKER_ANSWER_MS)
        try:
            return _answer(topic, await connection.send(TopicMetadataRequest(topic)))
        except NotImplementedError as error:  # of aiokafka
            raise IncompatibleBrokerVersion("Kafka 2.8 or newer is needed") from error
        finally:
            connection.close()


def _answer(topic: str, response: Any) -> TopicAnswer:
    addresses = {node: Address(host, port) for node, host, port, *_ in response.brokers}
    brokers = frozenset(addresses.values())
    [(code, _, id, _, partitions, *_)] = response.topics
    if code == UNKNOWN_TOPIC_OR_PARTITION:
        why = f"topic {topic} does not exist, or this login may not use it"
        return TopicAnswer(brokers, None, None, why, missing=True)
    if code == TOPIC_AUTHORIZATION_FAILED:
        return TopicAnswer(brokers, None, None, missing_acl("Describe", f"topic {topic}"), denied=True)
    if code:
        return TopicAnswer(brokers, None, None, f"topic {topic}: {describe_code(code)}")
    if id == NO_ID:
        return TopicAnswer(brokers, None, None, f"topic {topic} has no id: all brokers must be Kafka 2.8 or newer")
    for _, partition, node, epoch, *_ in partitions:
        if partition == PARTITION and node in addresses:
            return TopicAnswer(brokers, PartitionLeader(epoch, node, addresses[node]), id, "")
    return TopicAnswer(brokers, None, id, f"topic {topic} has no leader")
