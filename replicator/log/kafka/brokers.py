"""The brokers of a Kafka: connections to them, and what each of them knows of a topic.

Unlike librdkafka, which may end its process if a request to a broker that is down times out at the wrong moment
(https://github.com/confluentinc/librdkafka/issues/4605), aiokafka may be used for as long as Kafka is down.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
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
class KnownTopic:
    brokers: frozenset[Address]  # that are up, as far as the one that answers knows
    id: str
    leader: PartitionLeader | None  # None: there is none now


class UnknownTopicReason(Enum):
    """Why a broker does not describe a topic."""

    MISSING = auto()
    DENIED = auto()  # this login may not describe it
    OTHER = auto()


@dataclass(frozen=True, slots=True)
class UnknownTopic:
    brokers: frozenset[Address]
    reason: UnknownTopicReason
    trouble: str


TopicAnswer = KnownTopic | UnknownTopic  # what one broker knows of a topic


class Brokers:
    """Those that Kafka has advertised last; at first, and if none of them answers, the bootstrap addresses."""

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
        """One for each broker, once Kafka has answered: two bootstrap addresses may be of the same one."""
        return self.advertised or self._named

    async def connect(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        """Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._check_host(address, timeout_ms)
        connection = self._connection_to(address, timeout_ms)
        await connection.connect()
        return connection

    async def connect_to_partition(self, address: Address, timeout_ms: int) -> Connection:
        """For `PartitionRequest` only. Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._check_host(address, timeout_ms)
        return await BrokerConnection.open(self._connection_to(address, timeout_ms), self._client_id)

    async def topic_id(self, topic: str) -> str | None:
        """The id that most brokers answer: one that is cut off from the others does not know what has changed since.

        None if they answer that there is no such topic. Raises `BrokerUnavailable`.
        """
        if not self.advertised:
            self._learn(await self.ask(topic, bool))
        asked = self.addresses
        answers = await self.ask(topic, lambda answers: agreed(answers, len(asked)) is not None)
        self._learn(answers)
        match agreed(answers, len(asked)):
            case KnownTopic(id=id):
                return id
            case UnknownTopic(reason=UnknownTopicReason.MISSING):
                return None
            case UnknownTopic(trouble=trouble):
                raise BrokerUnavailable(trouble)
            case None:
                said = ", ".join(sorted({it.id if isinstance(it, KnownTopic) else it.trouble for it in answers}))
                raise self.unavailable(
                    f"{len(answers)} of {len(asked)} brokers answer, and most do not agree on topic {topic}: {said}"
                )

    async def ask(self, topic: str, suffices: Callable[[Sequence[TopicAnswer]], bool]) -> list[TopicAnswer]:
        """The answers of all brokers, or those that arrive soon after they suffice: a broker may hang.

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
                if suffices(answers):
                    until_s = min(until_s, loop.time() + OTHER_ANSWERS_MS / 1000)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        if not answers:
            self.advertised = frozenset()
            raise self.unavailable("; ".join(sorted(failures)) or f"no answer within {BROKER_ANSWER_MS} ms")
        return answers

    def unavailable(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} is unavailable: {why}. Check the address, and that Kafka is running"
        )

    def _learn(self, answers: Sequence[TopicAnswer]) -> None:
        """As most answers list them: a broker that is cut off lists itself, and the others do not list it."""
        [(self.advertised, _)] = Counter(answer.brokers for answer in answers).most_common(1)

    async def _check_host(self, address: Address, timeout_ms: int) -> None:
        async with asyncio.timeout(timeout_ms / 1000):
            await self._hosts.check(address.host)

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


def agreed(answers: Sequence[TopicAnswer], asked: int) -> TopicAnswer | None:
    """The answer that more than half of the brokers give, as to the id of a topic; None if there is none.

    A topic that is missing at some brokers and known to others is just being created or deleted: no answer either.
    """
    groups = Counter(answer.id if isinstance(answer, KnownTopic) else answer.reason for answer in answers)
    if UnknownTopicReason.MISSING in groups and any(isinstance(answer, KnownTopic) for answer in answers):
        del groups[UnknownTopicReason.MISSING]
    for said, count in groups.items():
        if 2 * count > asked:
            return next(it for it in answers if said == (it.id if isinstance(it, KnownTopic) else it.reason))
    return None


def _answer(topic: str, response: Any) -> TopicAnswer:
    addresses = {node: Address(host, port) for node, host, port, *_ in response.brokers}
    brokers = frozenset(addresses.values())
    [(code, _, id, _, partitions, *_)] = response.topics
    if code == UNKNOWN_TOPIC_OR_PARTITION:
        return UnknownTopic(
            brokers, UnknownTopicReason.MISSING, f"topic {topic} does not exist, or this login may not use it"
        )
    if code == TOPIC_AUTHORIZATION_FAILED:
        return UnknownTopic(brokers, UnknownTopicReason.DENIED, missing_acl("Describe", f"topic {topic}"))
    if code:
        return UnknownTopic(brokers, UnknownTopicReason.OTHER, f"topic {topic}: {describe_code(code)}")
    if id == NO_ID:
        why = f"topic {topic} has no id: all brokers must be Kafka 2.8 or newer"
        return UnknownTopic(brokers, UnknownTopicReason.OTHER, why)
    for _, partition, node, epoch, *_ in partitions:
        if partition == PARTITION and node in addresses:
            return KnownTopic(brokers, id, PartitionLeader(epoch, node, addresses[node]))
    return KnownTopic(brokers, id, None)
