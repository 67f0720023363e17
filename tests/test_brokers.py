"""A Kafka of three brokers loses the leader of the log, its controller, or one broker after the other under load.

No acknowledged write may be lost, and the history of all clients must be consistent with their read levels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest

from replicator.errors import BrokerUnavailable
from replicator.local.kafka.cluster import ClientGroup, KafkaCluster
from replicator.log.kafka.admin import ensure_topics
from replicator.log.kafka.log import KafkaLog
from replicator.log.kafka.quorum import active_controller, in_sync_replicas, partition_leader
from replicator.log.kafka.topic import wal_topic
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.position import Offset
from tests.log_contract import read
from tests.process_cluster import Cluster
from tests.recorded_checks import canonical_of, violations
from tests.recorder import Recorder

pytestmark = [pytest.mark.kafka, pytest.mark.brokers, pytest.mark.timeout(240)]

IDS = ["n1", "n2", "n3"]
WRITES, READS = 50, 12  # to be answered before, during and after each fault
WAIT_S = 60
STEADY_ANSWERS = 30  # in a row, of the same active controller


@pytest.fixture(scope="module")
def cluster(brokers: KafkaCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), brokers.bootstrap())
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


async def log_leader(brokers: KafkaCluster, topic: str, *, other_than: int = 0) -> int:
    """Wait until another broker leads the log."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                node = await partition_leader(brokers.bootstrap(), topic)
                if node != other_than:
                    return node
            except BrokerUnavailable:
                pass
            await asyncio.sleep(0.05)


async def in_sync(brokers: KafkaCluster, topic: str) -> None:
    """Wait until each broker has all of the log."""
    async with asyncio.timeout(WAIT_S):
        while await asyncio.to_thread(in_sync_replicas, brokers.bootstrap(), topic) < len(brokers.nodes):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def another_controller(brokers: KafkaCluster, *, than: int) -> None:
    """Wait until most controllers have elected another one."""
    async with asyncio.timeout(WAIT_S):
        while True:
            with suppress(BrokerUnavailable):
                if await active_controller(brokers.bootstrap()) != than:
                    return
            await asyncio.sleep(0.1)


async def settled(brokers: KafkaCluster, topic: str) -> None:
    """Wait until nothing is left of the fault before: each broker has the whole log, and the controller stays."""
    await in_sync(brokers, topic)
    async with asyncio.timeout(WAIT_S):
        controllers: list[int] = []
        while len(controllers) < STEADY_ANSWERS or len(set(controllers[-STEADY_ANSWERS:])) > 1:
            with suppress(BrokerUnavailable):
                controllers.append(await active_controller(brokers.bootstrap()))
            await asyncio.sleep(0.1)


class Fault:
    """What happens to the brokers while the recorder's clients run."""

    def __init__(self, brokers: KafkaCluster, topic: str, recorder: Recorder) -> None:
        self.brokers = brokers
        self.topic = topic
        self.recorder = recorder

    async def writes_go_on(self, *, without: int) -> None:
        await log_leader(self.brokers, self.topic, other_than=without)
        await self.recorder.wait_for_more(WRITES, READS)

    async def leader_killed(self) -> None:
        leader = await log_leader(self.brokers, self.topic)
        self.brokers.kill(leader)
        await self.writes_go_on(without=leader)
        await asyncio.to_thread(self.brokers.start, leader)

    async def leader_stopped(self) -> None:
        leader = await log_leader(self.brokers, self.topic)
        with self.brokers.stopped(leader):
            await self.writes_go_on(without=leader)

    async def leader_cut_off(self) -> None:
        leader = await log_leader(self.brokers, self.topic)
        with self.brokers.cut_off(leader):
            await self.writes_go_on(without=leader)

    async def controller_killed(self) -> None:
        controller = await active_controller(self.brokers.bootstrap())
        self.brokers.kill(controller)
        await self.writes_go_on(without=controller)
        await asyncio.to_thread(self.brokers.start, controller)

    async def controller_cut_off(self) -> None:
        controller = await active_controller(self.brokers.bootstrap())
        with self.brokers.cut_off(controller):
            await another_controller(self.brokers, than=controller)
            await self.writes_go_on(without=controller)

    async def rolling_restart(self) -> None:
        for node in self.brokers.nodes:
            await asyncio.to_thread(self.brokers.stop, node)
            await asyncio.to_thread(self.brokers.start, node)
            await in_sync(self.brokers, self.topic)
            await self.recorder.wait_for_more(WRITES, READS)


@pytest.mark.parametrize(
    "fault",
    [
        Fault.leader_killed,
        Fault.leader_stopped,
        Fault.leader_cut_off,
        Fault.controller_killed,
        Fault.controller_cut_off,
        Fault.rolling_restart,
    ],
    ids=lambda fault: fault.__name__,
)
async def test_no_acknowledged_write_is_lost_and_no_read_is_stale(
    brokers: KafkaCluster,
    cluster: Cluster,
    capsys: pytest.CaptureFixture[str],
    fault: Callable[[Fault], Awaitable[None]],
) -> None:
    topic = wal_topic(cluster.name)
    await settled(brokers, topic)
    leader = await asyncio.to_thread(cluster.leader, IDS)
    ports = {id: cluster.folder.load().node(id).resp_port for id in IDS}
    async with Recorder(fault.__name__, ports, leader, keys=3, writers=3, readers=4) as recorder:
        await recorder.wait_for_more(WRITES, READS)
        await fault(Fault(brokers, topic, recorder))
        await recorder.wait_for_more(WRITES, READS)
    canonical = await canonical_of(cluster.bootstrap, cluster.name)
    with capsys.disabled():
        print(f"\n{fault.__name__}, OK/REJECTED/UNKNOWN: {recorder}")
    assert not violations(recorder.history, canonical)
    await asyncio.to_thread(cluster.caught_up)


async def test_a_log_is_created_with_a_copy_on_each_broker_though_one_is_down(brokers: KafkaCluster) -> None:
    await asyncio.to_thread(brokers.stop, 3)
    try:
        await asyncio.to_thread(ensure_topics, brokers.bootstrap(), "one-down")
    finally:
        await asyncio.to_thread(brokers.start, 3)
    await in_sync(brokers, wal_topic("one-down"))


async def test_a_reader_of_a_broker_that_is_cut_off_follows_the_appends(brokers: KafkaCluster) -> None:
    """It can reach the former leader all the time, and nothing that it asks it fails."""
    bootstrap, topic = brokers.bootstrap(ClientGroup.SECOND), wal_topic("cut-off")
    await asyncio.to_thread(ensure_topics, bootstrap, "cut-off")
    await settled(brokers, topic)
    log = await KafkaLog.open(brokers.bootstrap(), "cut-off")
    follower = await KafkaLog.open(bootstrap, "cut-off")
    reader = follower.reader(Offset(0))
    assert await log.append([b"a"]) == 0
    assert await read(reader, 1) == [(0, b"a")]
    former = await log_leader(brokers, topic)
    with brokers.cut_off(former):
        await log_leader(brokers, topic, other_than=former)
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    offset = await log.append([b"b"])
                    break
                except (AppendRefused, AppendOutcomeUnknown):
                    await asyncio.sleep(0.02)
        entries = await read(reader, offset)
        assert entries[-1] == (offset, b"b") and reader.leader_changes == 1
        assert await follower.end() == offset + 1
    await reader.close()
    await log.close()
    await follower.close()
