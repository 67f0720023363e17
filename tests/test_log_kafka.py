"""The log on a real Apache Kafka: the contract, and failures of brokers and topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]

from replicator.errors import BrokerUnavailable, ConfigError, LogDamage, LogTrimmed
from replicator.local.kafka import LocalBroker
from replicator.log.kafka.acks import KafkaAcks
from replicator.log.kafka.admin import (
    KafkaAdmin,
    create_topic,
    delete_topics,
    ensure_topics,
    trim,
)
from replicator.log.kafka.applied import KafkaAppliedOffsets
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.options import KafkaOptions
from replicator.log.kafka.topic import acks_topic, wal_topic
from replicator.log.kafka.topic_ids import TopicIds
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.position import NodeId, Offset
from replicator.records.codec import BARRIER
from tests.kafka_fixture import committed_offset
from tests.log_contract import AcksContract, AppliedOffsetsContract, LogContract, read
from tests.memory_cluster import until

pytestmark = pytest.mark.kafka


@pytest.fixture
async def log(kafka: str, kafka_cluster: str) -> AsyncIterator[KafkaLog]:
    log = await KafkaLog.open(kafka, kafka_cluster, options=KafkaOptions(identity_check_ms=100))
    yield log
    await log.close()


class TestKafkaLog(LogContract):
    pass


class TestKafkaAcks(AcksContract):
    @pytest.fixture
    async def open_acks(self, kafka: str, kafka_cluster: str) -> AsyncIterator[Callable[[str], Awaitable[KafkaAcks]]]:
        channels = []

        async def open_channel(node: str) -> KafkaAcks:
            channels.append(await KafkaAcks.open(kafka, kafka_cluster, NodeId(node)))
            return channels[-1]

        yield open_channel
        for channel in channels:
            await channel.close()


class TestKafkaAppliedOffsets(AppliedOffsetsContract):
    @pytest.fixture
    def open_applied(self, kafka: str, kafka_cluster: str) -> Callable[[NodeId], KafkaAppliedOffsets]:
        return lambda node: KafkaAppliedOffsets(kafka, kafka_cluster, node)

    @pytest.fixture
    def committed(self, kafka: str, kafka_cluster: str) -> Callable[[NodeId], Awaitable[Offset | None]]:
        async def read_committed(node: NodeId) -> Offset | None:
            return await asyncio.to_thread(committed_offset, kafka, kafka_cluster, node)

        return read_committed

    async def test_a_commit_without_a_topic_or_a_broker_is_unavailable(self, kafka: str) -> None:
        with pytest.raises(BrokerUnavailable, match=r"commit to the consumer group nowhere\.n1"):
            await KafkaAppliedOffsets(kafka, "nowhere", NodeId("n1")).commit(Offset(1))
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            await KafkaAppliedOffsets("127.0.0.1:9", "nowhere", NodeId("n1")).commit(Offset(1))


async def test_tools_of_kafka_show_what_a_record_is(kafka: str, kafka_cluster: str, log: KafkaLog) -> None:
    await log.append([BARRIER, b"not a record"])

    def keys() -> list[bytes | None]:
        consumer = Consumer({"bootstrap.servers": kafka, "group.id": "tool", "enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(wal_topic(kafka_cluster), 0, 0)])
            return [message.key() for message in consumer.consume(2, timeout=30)]
        finally:
            consumer.close()

    assert await asyncio.to_thread(keys) == [b"barrier", None]


async def test_a_caller_that_gives_up_interrupts_no_request_for_the_extent_of_the_log(log: KafkaLog) -> None:
    await log.extent()
    before = log._lister._connection, log._sizer._connection
    asking = asyncio.ensure_future(log.extent())
    await asyncio.sleep(0.001)  # the request begins
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await log.extent()
    assert (log._lister._connection, log._sizer._connection) == before


async def test_a_trimmed_log_reports_its_start(kafka: str, kafka_cluster: str, log: KafkaLog) -> None:
    await log.append([b"a"])
    await log.append([b"b"])
    await asyncio.to_thread(trim, kafka, kafka_cluster, Offset(1))
    assert await log.start() == 1
    reader = log.reader(Offset(0))
    with pytest.raises(LogTrimmed, match="starts at 1"):
        await reader.next()
    await reader.close()


async def test_a_recreated_topic_is_log_damage(kafka: str, kafka_cluster: str, log: KafkaLog) -> None:
    await log.append([b"a"])
    reader = log.reader(Offset(1))
    await asyncio.to_thread(delete_topics, kafka, kafka_cluster)
    await asyncio.to_thread(ensure_topics, kafka, kafka_cluster)
    async with asyncio.timeout(20):
        with pytest.raises(LogDamage, match=r"recreated|was deleted"):
            while True:
                await reader.next()
    with pytest.raises(AppendRefused, match=r"recreated|was deleted"):
        await log.append([b"b"])
    with pytest.raises(LogDamage):
        await log.end()
    await reader.close()


async def test_acks_flow_again_after_their_topic_was_deleted(kafka: str, kafka_cluster: str) -> None:
    sender, receiver = [await KafkaAcks.open(kafka, kafka_cluster, NodeId(node)) for node in ("n1", "n2")]
    for number in range(3):
        await sender.send(b"old %d" % number)
    waiting = asyncio.create_task(receive_new(receiver))
    await asyncio.to_thread(delete_topic, kafka, acks_topic(kafka_cluster))
    async with asyncio.timeout(30):
        while not waiting.done():
            with suppress(BrokerUnavailable):
                await sender.send(b"new")
            await asyncio.sleep(0.02)
    await waiting
    for channel in (sender, receiver):
        await channel.close()


async def test_a_receiver_alone_creates_the_topic_of_the_acks_again(kafka: str, kafka_cluster: str) -> None:
    receiver = await KafkaAcks.open(kafka, kafka_cluster, NodeId("n1"))
    before = await Brokers(kafka).topic_id(acks_topic(kafka_cluster))
    waiting = asyncio.create_task(receive_new(receiver))
    await asyncio.to_thread(delete_topic, kafka, acks_topic(kafka_cluster))
    async with asyncio.timeout(20):
        while await Brokers(kafka).topic_id(acks_topic(kafka_cluster)) in (None, before):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    waiting.cancel()
    await receiver.close()


async def test_acks_flow_again_after_their_topic_was_recreated_and_has_grown(kafka: str, kafka_cluster: str) -> None:
    """The receiver is idle meanwhile; its old offset is within the new topic, or beyond its end."""
    sender, receiver = [await KafkaAcks.open(kafka, kafka_cluster, NodeId(node)) for node in ("n1", "n2")]
    for number in range(3):
        await sender.send(b"old %d" % number)
    assert await receiver.receive()
    await asyncio.to_thread(delete_topic, kafka, acks_topic(kafka_cluster))
    await asyncio.to_thread(ensure_topics, kafka, kafka_cluster)
    waiting = asyncio.create_task(receive_new(receiver))
    async with asyncio.timeout(30):
        while not waiting.done():
            with suppress(BrokerUnavailable):
                await sender.send(b"new")
            await asyncio.sleep(0.02)
    await waiting
    for channel in (sender, receiver):
        await channel.close()


def test_too_few_brokers_for_the_default_are_waited_for(kafka: str) -> None:
    admin, topic = KafkaAdmin(kafka, None), NewTopic(wal_topic("few"), 1, 9)
    with pytest.raises(
        BrokerUnavailable, match=r"needs 9 brokers, .*Start the others, or set kafka\.replication_factor"
    ):
        create_topic(admin, topic, may_wait=True)
    with pytest.raises(ConfigError, match="Kafka refuses"):
        create_topic(admin, topic, may_wait=False)


async def test_the_topic_of_the_acks_is_not_created_without_the_log(kafka: str) -> None:
    with pytest.raises(BrokerUnavailable, match=r"nowhere\.acks"):
        await KafkaAcks.open(kafka, "nowhere", NodeId("n1"), options=KafkaOptions(offsets_timeout_ms=300))
    assert TopicIds(kafka).get(acks_topic("nowhere")) is None


async def receive_new(acks: KafkaAcks) -> None:
    while True:
        with suppress(BrokerUnavailable):
            if b"new" in await acks.receive():
                return


def delete_topic(bootstrap: str, topic: str) -> None:
    """Returns once the brokers do not know it any more."""
    admin = KafkaAdmin(bootstrap, None)
    ids = TopicIds(bootstrap)
    before = ids.get(topic)
    admin.result(admin.client.delete_topics([topic])[topic])
    while ids.get(topic) == before:
        time.sleep(0.01)


async def test_a_missing_topic_and_a_missing_broker_are_different_errors(kafka: str) -> None:
    with pytest.raises(ConfigError, match=r"no topic nowhere\.wal"):
        await KafkaLog.open(kafka, "nowhere")
    with pytest.raises(BrokerUnavailable, match=r"is unavailable: 127\.0\.0\.1:9: connection refused"):
        await KafkaLog.open("127.0.0.1:9", "nowhere")


async def test_a_restarted_broker_loses_and_repeats_nothing(local_broker: LocalBroker) -> None:
    bootstrap = local_broker.start()
    ensure_topics(bootstrap, "restart")
    log = await KafkaLog.open(bootstrap, "restart", options=KafkaOptions(append_timeout_ms=500))
    reader = log.reader(Offset(0))
    acknowledged: set[bytes] = set()
    unknown: set[bytes] = set()
    refused: set[bytes] = set()
    restarted = asyncio.Event()

    async def write() -> None:
        number, left = 0, 20
        while left:
            payload = b"%d" % number
            number += 1
            left -= restarted.is_set()
            try:
                await log.append([payload])
                acknowledged.add(payload)
            except AppendOutcomeUnknown:
                unknown.add(payload)
            except AppendRefused:
                refused.add(payload)
                await asyncio.sleep(0.01)

    writing = asyncio.create_task(write())
    await until(lambda: len(acknowledged) >= 50)
    await asyncio.to_thread(local_broker.kill)
    await asyncio.to_thread(local_broker.start)
    restarted.set()
    await writing
    while True:
        try:
            end = await log.end()
            break
        except BrokerUnavailable:
            continue
    entries = await read(reader, end)
    seen = [payload for _, payload in entries]
    assert len(seen) == len(set(seen)), "appended twice"
    assert acknowledged <= set(seen), "an acknowledged append is lost"
    assert not refused & set(seen), "a refused append is in the log"
    assert set(seen) <= acknowledged | unknown
    await reader.close()
    await log.close()
