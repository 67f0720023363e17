"""The log on Kafka leaves a former leader of the partition that is cut off from the other brokers and still answers."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from unittest.mock import patch

import pytest

from replicator.errors import BrokerUnavailable, LogTruncated
from replicator.intervals import BROKER_ANSWER_MS, OTHER_ANSWERS_MS
from replicator.log.kafka.brokers import Brokers
from replicator.log.kafka.client_id import client_id_of
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.options import KafkaOptions
from replicator.log.kafka.partition_leader import LeaderLookup
from replicator.log.kafka.topic_ids import TopicIds
from replicator.log.kafka.topic_monitor import TopicMonitor
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.position import NodeId, Offset
from tests.fake_kafka import NOT_ENOUGH_REPLICAS, TOPIC_ID, FakeBroker, bootstrap, elect, fake_brokers
from tests.log_contract import read
from tests.memory_cluster import until

NEVER_MS = 3_600_000
QUICK = KafkaOptions(append_timeout_ms=1_000, fetch_wait_ms=10, leader_check_ms=NEVER_MS, identity_check_ms=NEVER_MS)


async def same_id(topic: str) -> str:
    return "id"


def lookup_at(brokers: Sequence[FakeBroker]) -> LeaderLookup:
    client_id = client_id_of("c", NodeId("n1"), "log")
    return LeaderLookup(Brokers(bootstrap(brokers), client_id=client_id), "c.wal")


@asynccontextmanager
async def open_log(
    brokers: Sequence[FakeBroker], *, check_ms: int = NEVER_MS, append_timeout_ms: int = QUICK.append_timeout_ms
) -> AsyncIterator[KafkaLog]:
    lookup = lookup_at(brokers)
    options = replace(QUICK, append_timeout_ms=append_timeout_ms)
    log = KafkaLog(lookup, TopicMonitor("c.wal", "id", same_id, NEVER_MS), options)
    lookup.watch(check_ms)
    yield log
    await log.close()


@pytest.fixture
async def brokers() -> AsyncIterator[list[FakeBroker]]:
    async with fake_brokers(3) as brokers:
        yield brokers


async def test_every_request_says_which_node_sends_it_and_what_for(brokers: list[FakeBroker]) -> None:
    async with open_log(brokers) as log:
        assert await log.append([b"a"]) == 0
    assert [broker.client_ids for broker in brokers] == [{"replicator/c/n1/log"}] * 3


async def test_a_reader_follows_the_appends_to_the_new_leader(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    async with open_log(brokers) as log:
        reader = log.reader(Offset(0))
        assert await log.append([b"a"]) == 0
        assert await read(reader, 1) == [(0, b"a")]
        new.add(b"a")
        former.append_error = NOT_ENOUGH_REPLICAS
        elect([new, other], leader=new, epoch=2)
        with pytest.raises(AppendRefused):
            await log.append([b"b"])
        assert await log.append([b"b"]) == 1
        assert len(new.batches) == 2 and len(former.batches) == 1
        assert reader.leader_changes == 0
        assert await read(reader, 1) == [(1, b"b")]
        assert reader.leader_changes == 1
        await reader.close()


async def test_a_reader_notices_that_the_same_broker_leads_in_a_later_epoch(brokers: list[FakeBroker]) -> None:
    """It was elected again, and may have lost records meanwhile."""
    leader, *_ = brokers
    leader.add(b"a")
    async with open_log(brokers) as log:
        reader = log.reader(Offset(0))
        assert await read(reader, 1) == [(0, b"a")]
        leader.add(b"b")
        elect(brokers, leader=leader, epoch=2)
        assert await read(reader, 1) == [(1, b"b")]
        assert reader.leader_changes == 1
        await reader.close()


async def test_nothing_is_appended_at_a_leader_of_a_later_epoch_than_was_looked_up(brokers: list[FakeBroker]) -> None:
    """It was restarted between the look-up and the connection: the append would seem to be at the leader before."""
    leader, *_ = brokers
    async with open_log(brokers) as log:
        former = await log._lookup.find()
        elect(brokers, leader=leader, epoch=2)
        with (
            patch.object(log._lookup, "find", return_value=former),
            pytest.raises(AppendRefused, match=r"does not lead c\.wal in epoch 1 any more: Kafka is electing"),
        ):
            await log.append([b"a"])
        assert leader.appends == 0
        assert await log.append([b"a"]) == 0


@pytest.mark.parametrize("same_broker", [True, False])
async def test_nothing_is_appended_to_a_log_that_has_lost_what_was_appended(
    brokers: list[FakeBroker], same_broker: bool
) -> None:
    """A record that follows one that is lost would stop every reader."""
    former, other, _ = brokers
    async with open_log(brokers) as log:
        for payload in (b"a", b"b"):
            await log.append([payload])
        leader = former if same_broker else other
        leader.batches = former.batches[:1]
        appends = leader.appends
        elect(brokers, leader=leader, epoch=2)
        log._lookup.epoch = 2  # it has heard of the election
        with pytest.raises(LogTruncated, match="written up to offset 1, but the log ends at 1"):
            await log.append([b"c"])
        assert leader.appends == appends
        assert await log.append([b"claim"]) == 1  # it is raised once: the node reads the log then


def elect_with_all(brokers: list[FakeBroker], log: KafkaLog) -> None:
    """The second broker, which has all records; the node has heard of the election."""
    former, leader, _ = brokers
    leader.batches = [*former.batches]
    elect(brokers, leader=leader, epoch=2)
    log._lookup.epoch = 2


async def test_what_is_appended_while_the_end_is_asked_for_is_not_lost(brokers: list[FakeBroker]) -> None:
    """Two appends at once, after the partition has got another leader: the answer to one does not count the other."""
    async with open_log(brokers) as log:
        assert await log.append([b"a"]) == 0
        elect_with_all(brokers, log)
        genuine, others = log._appender.list_offset, [b"b"]

        async def list_offset(which: int) -> Offset:
            end = await genuine(which)
            if others:
                assert await log.append([others.pop()]) == 1
            return end

        with patch.object(log._appender, "list_offset", list_offset):
            assert await log.append([b"c"]) == 2
        assert log._appended == 3


async def test_appends_go_on_at_another_leader_that_has_all(brokers: list[FakeBroker]) -> None:
    async with open_log(brokers) as log:
        assert await log.append([b"a"]) == 0
        elect_with_all(brokers, log)
        assert await log.append([b"b"]) == 1
        assert log.leader_changes == 1


async def test_a_reader_waits_while_a_quota_is_exceeded(brokers: list[FakeBroker]) -> None:
    """The broker answers at once and without records, and the connection is good."""
    leader, *_ = brokers
    leader.add(b"a")
    leader.throttles = 2
    async with open_log(brokers) as log:
        reader = log.reader(Offset(0))
        assert await read(reader, 1) == [(0, b"a")]
        assert leader.metadata_requests == 1
        await reader.close()


async def test_a_request_for_the_end_that_nobody_waits_for_ends_with_the_log(
    brokers: list[FakeBroker], caplog: pytest.LogCaptureFixture
) -> None:
    for broker in brokers:
        broker.hangs = True
    async with open_log(brokers) as log:
        for _ in range(2):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await log.end()
    gc.collect()
    assert not log._lookup._finding and "never retrieved" not in caplog.text


async def test_an_idle_reader_finds_the_new_leader_although_no_request_fails(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    former.add(b"a")
    async with open_log(brokers, check_ms=20) as log:
        reader = log.reader(Offset(0))
        assert await read(reader, 1) == [(0, b"a")]
        for payload in (b"a", b"b"):
            new.add(payload)
        elect([new, other], leader=new, epoch=2)
        assert await read(reader, 1) == [(1, b"b")]
        await reader.close()


async def test_an_append_does_not_wait_for_a_former_leader_until_its_timeout(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    former.appends_hang = True
    async with open_log(brokers, check_ms=20, append_timeout_ms=NEVER_MS) as log:
        appending = asyncio.create_task(log.append([b"a"]))
        await until(lambda: bool(former.appends))
        elect([new, other], leader=new, epoch=2)
        async with asyncio.timeout(10):
            with pytest.raises(AppendOutcomeUnknown, match="closed"):
                await appending


async def test_an_end_below_a_known_one_is_asked_of_the_new_leader(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    async with open_log(brokers) as log:
        for payload in (b"a", b"b"):
            await log.append([payload])
            new.add(payload)
        new.add(b"c")
        former.batches.pop()
        elect([new, other], leader=new, epoch=2)
        assert await log.end() == 3


async def test_a_later_leader_with_fewer_records_is_believed(brokers: list[FakeBroker]) -> None:
    """Kafka has lost them: the nodes that have read them must not wait for them to come back."""
    _, new, other = brokers
    async with open_log(brokers) as log:
        for payload in (b"a", b"b", b"c"):
            await log.append([payload])
        new.add(b"a")
        elect([new, other], leader=new, epoch=2)
        await log._lookup.find()
        async with asyncio.timeout(QUICK.offsets_timeout_ms / 1000):
            assert await log.end() == 1
            assert await log.end() == 1


async def test_an_empty_answer_below_a_known_end_makes_the_reader_look_for_the_leader(
    brokers: list[FakeBroker],
) -> None:
    former, new, other = brokers
    async with open_log(brokers) as log:
        former.readable = 1
        await log.append([b"a"])
        reader = log.reader(Offset(0))
        assert await read(reader, 1) == [(0, b"a")]
        assert await log.append([b"b"]) == 1
        for payload in (b"a", b"b"):
            new.add(payload)
        elect([new, other], leader=new, epoch=2)
        assert await read(reader, 1) == [(1, b"b")]
        await reader.close()


async def test_a_former_leader_alone_is_not_believed(brokers: list[FakeBroker]) -> None:
    _, new, other = brokers
    elect([new, other], leader=new, epoch=2)
    lookup = lookup_at(brokers)
    assert (await lookup.find()).node == new.node
    await new.stop()
    await other.stop()
    with pytest.raises(BrokerUnavailable, match=r"do not know the leader of epoch 2\. 1 of 3 brokers answer"):
        await lookup.find()
    await new.start()
    assert await lookup.find() == (2, new.node, (await lookup.find()).address)
    await other.start()


async def test_a_topic_that_was_created_again_begins_with_a_low_epoch(brokers: list[FakeBroker]) -> None:
    elect(brokers, leader=brokers[0], epoch=7)
    lookup = lookup_at(brokers)
    await lookup.find()
    elect(brokers, leader=brokers[1], epoch=0)
    with pytest.raises(BrokerUnavailable, match="do not know the leader of epoch 7"):
        await lookup.find()  # the same topic, so they are not up to date
    for broker in brokers:
        broker.topic_id = "Q/adYqEKRNmtOKXJoEuBhw"
    assert (await lookup.find()).epoch == lookup.epoch == 0


async def test_a_broker_that_hangs_delays_no_request_for_long(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    former.hangs = True
    elect([new, other], leader=new, epoch=2)
    async with open_log(brokers) as log, asyncio.timeout(BROKER_ANSWER_MS / 1000):
        assert await log.append([b"a"]) == 0


async def test_a_broker_that_is_not_named_is_asked_as_soon_as_it_is_known(brokers: list[FakeBroker]) -> None:
    former, new, other = brokers
    lookup = lookup_at([former])
    await lookup.find()
    elect([new, other], leader=new, epoch=2)
    assert (await lookup.find()).node == new.node
    assert other.metadata_requests == 2


async def test_the_id_of_a_topic_is_that_of_most_brokers(brokers: list[FakeBroker]) -> None:
    asked = Brokers(bootstrap(brokers))
    first, second, third = brokers
    assert await asked.topic_id("c.wal") == first.topic_id
    first.topic_id = "Q/adYqEKRNmtOKXJoEuBhw"  # cut off, it has not learned that the topic was created again
    assert await asked.topic_id("c.wal") == second.topic_id
    second.topic_exists = False  # being deleted
    with pytest.raises(BrokerUnavailable, match="most brokers do not agree"):
        await asked.topic_id("c.wal")
    for broker in brokers:
        broker.topic_exists = False
    third.hangs = True
    assert await asked.topic_id("c.wal") is None
    second.hangs = True
    with pytest.raises(BrokerUnavailable, match="1 of 3 brokers answer"):
        await asked.topic_id("c.wal")


async def test_a_broker_that_is_cut_off_is_not_believed_if_the_others_are_slow(brokers: list[FakeBroker]) -> None:
    brokers[0].topic_id = "Q/adYqEKRNmtOKXJoEuBhw"
    for broker in brokers[1:]:
        broker.latency_ms = 2 * OTHER_ANSWERS_MS
    asked = Brokers(bootstrap(brokers))
    assert await asked.topic_id("c.wal") == brokers[1].topic_id
    for broker in brokers[1:]:
        broker.hangs = True
    monitor = TopicMonitor("c.wal", brokers[1].topic_id, asked.topic_id, NEVER_MS)
    with pytest.raises(BrokerUnavailable, match="1 of 3 brokers answer"):
        await monitor.verify()
    monitor.check()
    await monitor.close()


async def test_two_bootstrap_addresses_of_one_broker_count_once(brokers: list[FakeBroker]) -> None:
    stale, *others = brokers
    stale.topic_id = "Q/adYqEKRNmtOKXJoEuBhw"
    alias = f"localhost:{stale.port}"
    asked = Brokers(f"{bootstrap([stale])},{alias}")
    assert await asked.topic_id("c.wal") == others[0].topic_id


async def test_the_bootstrap_addresses_are_asked_also_while_others_are_known(brokers: list[FakeBroker]) -> None:
    """A broker that was alone for a time may list only itself, and is cut off once the others are back."""
    former, *others = brokers
    former.peers = [former]
    elect(others, leader=others[0], epoch=2)
    for broker in others:
        broker.peers = others
    lookup = lookup_at(brokers)
    assert (await lookup.find()).node == others[0].node
    assert await lookup.brokers.topic_id("c.wal") == TOPIC_ID


async def test_an_outage_does_not_make_a_client_forget_the_brokers(brokers: list[FakeBroker]) -> None:
    asked = Brokers(bootstrap(brokers[:1]))
    assert await asked.topic_id("c.wal") == TOPIC_ID
    for broker in brokers:
        await broker.stop()
    with pytest.raises(BrokerUnavailable, match=rf"127\.0\.0\.1:{brokers[1].port}: "):
        await asked.topic_id("c.wal")
    for broker in brokers[1:]:
        await broker.start()
    assert await asked.topic_id("c.wal") == TOPIC_ID
    await brokers[0].start()


async def test_programs_ask_the_brokers_that_they_know_while_no_bootstrap_address_answers(
    brokers: list[FakeBroker],
) -> None:
    ids = TopicIds(bootstrap(brokers[:1]))
    assert await asyncio.to_thread(ids.get, "c.wal") == TOPIC_ID
    await brokers[0].stop()
    assert await asyncio.to_thread(ids.get, "c.wal") == TOPIC_ID
    await brokers[0].start()


async def test_a_former_leader_that_answers_sooner_is_not_believed_for_long(brokers: list[FakeBroker]) -> None:
    former, *others = brokers
    async with open_log(brokers) as log:
        assert await log.append([b"a"]) == 0
        for broker in others:
            broker.add(b"a")
            broker.latency_ms = OTHER_ANSWERS_MS
        elect(others, leader=others[0], epoch=2)
        former.append_error = NOT_ENOUGH_REPLICAS
        log._lookup.watch(10)
        async with asyncio.timeout(10):
            while log._lookup.epoch != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await log.append([b"b"]) == 1
    assert not former.batches[1:]


async def test_the_leader_of_another_topic_of_that_name_is_not_followed(brokers: list[FakeBroker]) -> None:
    """Another Kafka, or a broker that is cut off and has the topic that was deleted."""
    foreign, *others = brokers
    foreign.topic_id, foreign.epoch = "Q/adYqEKRNmtOKXJoEuBhw", 99
    elect(others, leader=others[0], epoch=2)
    lookup = LeaderLookup(Brokers(bootstrap(brokers)), "c.wal", TOPIC_ID)
    assert (await lookup.find()).node == others[0].node
    assert (await lookup_at(brokers).find()).node == others[0].node  # the id of most brokers


async def test_brokers_of_another_kafka_are_ignored(
    brokers: list[FakeBroker], caplog: pytest.LogCaptureFixture
) -> None:
    foreign, *others = brokers
    foreign.kafka, foreign.peers = "other", [foreign]
    foreign.epoch = 99
    for broker in others:
        broker.peers = others
    elect(others, leader=others[0], epoch=2)
    lookup = lookup_at(brokers)
    for _ in range(2):
        assert (await lookup.find()).node == others[0].node
    assert caplog.text.count(f"127.0.0.1:{foreign.port} is the address of a broker of another Kafka") == 1
    with pytest.raises(BrokerUnavailable, match="brokers of different Kafkas"):
        await Brokers(bootstrap(brokers[:2])).topic_id("c.wal")


async def test_a_broker_that_hangs_does_not_hide_what_the_others_know(brokers: list[FakeBroker]) -> None:
    brokers[0].hangs = True
    assert await Brokers(bootstrap(brokers)).topic_id("c.wal") == brokers[1].topic_id


async def test_only_a_topic_that_no_broker_knows_is_created(brokers: list[FakeBroker]) -> None:
    created: list[str] = []

    async def create() -> None:
        created.append("c.acks")
        for broker in brokers:
            broker.topic_exists = True

    lookup = LeaderLookup(Brokers(bootstrap(brokers)), "c.acks", recreate=create)
    brokers[0].topic_exists = False
    elect(brokers[1:], leader=brokers[1], epoch=2)
    assert (await lookup.find()).epoch == 2 and not created
    for broker in brokers:
        broker.topic_exists = False
    with pytest.raises(BrokerUnavailable, match=r"c\.acks does not exist"):
        await lookup.find()
    assert created == ["c.acks"] and await lookup.find()
