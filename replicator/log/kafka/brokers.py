"""The brokers of a Kafka: connections to them, and what each of them knows of a topic.

Unlike librdkafka, which may end its process if a request to a broker that is down times out at the wrong moment
(https://github.com/confluentinc/librdkafka/issues/4605), aiokafka may be used for as long as Kafka is down.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

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
from replicator.log.kafka.topic_answers import (
    KnownTopic,
    PartitionLeader,
    TopicAnswer,
    TopicAnswers,
    UnknownTopic,
    UnknownTopicReason,
)

UNKNOWN_TOPIC_OR_PARTITION = 3

logger = logging.getLogger(__name__)


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
        self._kafka: str | None = None  # the id of the Kafka, once most of the addresses have given it
        self._foreign: frozenset[Address] = frozenset()  # of brokers of another Kafka

    @property
    def addresses(self) -> frozenset[Address]:
        return self._named | self.advertised

    async def connect(self, address: Address, timeout_ms: int) -> AIOKafkaConnection:
        """Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._check_host(address, timeout_ms)
        connection = self._connection_to(address, timeout_ms)
        await connection.connect()
        return connection

    async def connect_to_any(self, timeout_ms: int) -> AIOKafkaConnection:
        """To the broker that answers first. Raises as `connect`."""
        attempts = [asyncio.create_task(self.connect(it, timeout_ms)) for it in sorted(self.addresses, key=str)]
        first: AIOKafkaConnection | None = None
        failure: Exception = TimeoutError()
        try:
            for attempt in asyncio.as_completed(attempts):
                try:
                    first = await attempt
                except (KafkaError, OSError, TimeoutError) as error:
                    failure = error
                else:
                    return first
            raise failure
        finally:
            for other in attempts:
                other.add_done_callback(partial(_close_unless, first))
                other.cancel()

    async def connect_to_partition(self, address: Address, timeout_ms: int) -> Connection:
        """For `PartitionRequest` only. Raises `KafkaError`, `OSError`, `TimeoutError`."""
        await self._check_host(address, timeout_ms)
        return await BrokerConnection.open(self._connection_to(address, timeout_ms), self._client_id)

    async def topic_id(self, topic: str) -> str | None:
        """As most brokers report; None if they report that there is no such topic. Raises `BrokerUnavailable`."""
        answers = await self.ask(topic, lambda it: it.are_most and it.agreed() is not None)
        match answers.agreed():
            case KnownTopic(id=id):
                return id
            case UnknownTopic(reason=UnknownTopicReason.MISSING):
                return None
            case UnknownTopic(trouble=trouble):
                raise BrokerUnavailable(trouble)
            case None:
                raise self.unavailable(f"most brokers do not agree on topic {topic}. {answers.describe()}")

    async def ask(self, topic: str, suffices: Callable[[TopicAnswers], bool]) -> TopicAnswers:
        """The answers of all brokers, or those that arrive soon after they suffice: a broker may hang.

        Raises `BrokerUnavailable` if none answers, or as many of one Kafka as of another.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time() + BROKER_ANSWER_MS / 1000
        answers: dict[Address, TopicAnswer] = {}
        failures: dict[Address, str] = {}
        asked = dict.fromkeys(sorted(self.addresses, key=str))
        pending = {asyncio.create_task(self._ask(it, topic)): it for it in asked}
        try:
            while pending:
                done, _ = await asyncio.wait(
                    pending, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if not done:
                    break
                for task in done:
                    address = pending.pop(task)
                    try:
                        answer = answers[address] = task.result()
                    except (KafkaError, OSError, TimeoutError) as error:
                        failures[address] = describe_failure(error, BROKER_ANSWER_MS)
                        continue
                    for other in sorted(answer.brokers - asked.keys(), key=str):
                        if self._kafka in (None, answer.kafka):
                            asked[other] = None
                            pending[asyncio.create_task(self._ask(other, topic))] = other
                if suffices(TopicAnswers(answers, len(asked))):
                    until_s = min(until_s, loop.time() + OTHER_ANSWERS_MS / 1000)
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        found = TopicAnswers(self._of_one_kafka(answers), len(asked))
        if not found.by_address:
            why = "; ".join(f"{address}: {failure}" for address, failure in sorted(failures.items(), key=str))
            raise self.unavailable(why or f"no answer within {BROKER_ANSWER_MS} ms")
        self.advertised = found.brokers
        return found

    def _of_one_kafka(self, answers: Mapping[Address, TopicAnswer]) -> dict[Address, TopicAnswer]:
        """Without those of another one, whose broker has got the address of one of ours. Raises `BrokerUnavailable`."""
        kafka = self._kafka
        if kafka is None and answers:
            named = [answer for address, answer in answers.items() if address in self._named]
            counts = Counter(answer.kafka for answer in named or answers.values())
            [(kafka, count), *others] = counts.most_common()
            if others and others[0][1] == count:
                raise self.unavailable("its addresses are of brokers of different Kafkas: correct kafka.bootstrap")
            if 2 * count > len(self._named):
                self._kafka = kafka
        foreign = frozenset(address for address, answer in answers.items() if answer.kafka != kafka)
        for address in foreign - self._foreign:
            logger.warning("%s is the address of a broker of another Kafka: it is ignored", address)
        self._foreign = foreign
        return {address: answer for address, answer in answers.items() if address not in foreign}

    def unavailable(self, why: str) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"Kafka at {self.bootstrap} is unavailable: {why}. Check the address, and that Kafka is running"
        )

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


def _close_unless(kept: AIOKafkaConnection | None, attempt: asyncio.Task[AIOKafkaConnection]) -> None:
    if not attempt.cancelled() and attempt.exception() is None and attempt.result() is not kept:
        attempt.result().close()


def _answer(topic: str, response: Any) -> TopicAnswer:
    addresses = {node: Address(host, port) for node, host, port, *_ in response.brokers}
    brokers, kafka = frozenset(addresses.values()), response.cluster_id
    [(code, _, id, _, partitions, *_)] = response.topics
    if code == UNKNOWN_TOPIC_OR_PARTITION:
        why = f"topic {topic} does not exist, or this login may not use it"
        return UnknownTopic(kafka, brokers, UnknownTopicReason.MISSING, why)
    if code == TOPIC_AUTHORIZATION_FAILED:
        return UnknownTopic(kafka, brokers, UnknownTopicReason.DENIED, missing_acl("Describe", f"topic {topic}"))
    if code:
        return UnknownTopic(kafka, brokers, UnknownTopicReason.OTHER, f"topic {topic}: {describe_code(code)}")
    if id == NO_ID:
        why = f"topic {topic} has no id: all brokers must be Kafka 2.8 or newer"
        return UnknownTopic(kafka, brokers, UnknownTopicReason.OTHER, why)
    for _, partition, node, epoch, *_ in partitions:
        if partition == PARTITION and node in addresses:
            return KnownTopic(kafka, brokers, id, PartitionLeader(epoch, node, addresses[node]))
    return KnownTopic(kafka, brokers, id, None)
