"""What machines, brokers and strangers do to a cluster of real processes on a real Kafka."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from replicator.local.kafka import LocalBroker
from replicator.log.kafka.log import KafkaLog
from replicator.position import Offset
from tests.log_contract import read
from tests.process_cluster import Appender, Cluster, Writer, stopped, wait_for

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

IDS = ["n1", "n2", "n3"]
LEASE_OVER_S = 2.0  # the leader's lease, and an election
APPEND_OVER_S = 3.0  # the time-out of an append, and some more


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """One that may be maltreated."""
    broker = LocalBroker(tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def cluster(broker: LocalBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"), broker.start())
    cluster.up(3)
    yield cluster
    cluster.run("cluster", "down", "--purge")


@pytest.fixture
def writer(cluster: Cluster) -> Iterator[Writer]:
    """Writes already, to whoever leads; at the end nothing may be lost."""
    leader = cluster.leader(IDS)
    cluster.client(leader).flushall()
    writer = Writer([cluster.client(id) for id in [leader, *(id for id in IDS if id != leader)]])
    writer.start()
    goes_on(writer)
    yield writer
    writer.finish()
    cluster.level()
    for id in IDS:
        writer.check(cluster.client(id))


def goes_on(writer: Writer | Appender, count: int = 200) -> None:
    before = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) >= before + count)


def stand_still(seconds: float) -> None:
    """A real process is to miss real time: there is no condition to wait for."""
    time.sleep(seconds)


def only_leader(cluster: Cluster, ids: list[str]) -> str:
    leading: list[str] = []

    def is_one() -> bool:
        leading[:] = [id for id in ids if cluster.node(id)["node"].get("lease_left_ms", 0) > 0]
        return len(leading) == 1

    wait_for(is_one)
    return leading[0]


def starts(cluster: Cluster, id: str) -> int:
    return cluster.folder.log_file(id).read_text().count("reads the log from offset")


def void_records(cluster: Cluster, id: str) -> float:
    port = cluster.folder.load().node(id).http_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        found = re.search(r"^replicator_void_records_total (\S+)$", answer.read().decode(), re.MULTILINE)
    assert found
    return float(found[1])


def test_a_deposed_leader_says_nothing_stale_and_follows_as_it_is(cluster: Cluster) -> None:
    old = cluster.leader(IDS)
    others = [cluster.client(id) for id in IDS if id != old]
    pid, began = cluster.pid(old), starts(cluster, old)
    clients = [cluster.client(old) for _ in range(4)]
    appenders = [Appender([client, *others], f"a:{at}") for at, client in enumerate(clients)]
    for appender in appenders:
        appender.start()
    readers = [cluster.client(old).connection_pool.get_connection() for _ in range(4)]
    writer = Writer(others)
    for appender in appenders:
        goes_on(appender)
    with stopped(pid):
        writer.start()
        stand_still(LEASE_OVER_S)
        goes_on(writer)
        latest = max(writer.acknowledged)
        for reader in readers:  # it finds these first
            reader.send_command("GET", f"w:{latest}")
            reader.send_command("SET", f"w:{latest}", "overwritten")
            reader.send_command("GET", f"w:{latest}")
    for reader in readers:
        assert reader.read_response() == b"%d" % latest
        with pytest.raises(redis.ResponseError):
            reader.read_response()
        assert reader.read_response() == b"%d" % latest
    for appender in appenders:
        goes_on(appender)  # at the new leader
        appender.finish()
    writer.finish()
    assert cluster.pid(old) == pid and starts(cluster, old) == began
    assert cluster.node(old)["node"]["role"] == "follower"
    cluster.level()
    for id in IDS:
        writer.check(cluster.client(id))
        for appender in appenders:
            appender.check(cluster.client(id))
    words = {word for appender in appenders for word in appender.rejected.values()}
    assert words and words <= {"READONLY", "FENCED", "BUSY"}


def test_appends_that_land_late_are_carried_out_once_or_not_at_all(cluster: Cluster, broker: LocalBroker) -> None:
    leader = cluster.leader(IDS)
    epoch = cluster.node(leader)["node"]["epoch"]
    order = [leader, *(id for id in IDS if id != leader)]
    appenders = [Appender([cluster.client(id) for id in order], f"b:{at}") for at in range(4)]
    for appender in appenders:
        appender.start()
    for appender in appenders:
        goes_on(appender)
    pid = broker.status().pid
    assert pid is not None
    with stopped(pid):
        stand_still(APPEND_OVER_S)
    for appender in appenders:
        goes_on(appender)
    for appender in appenders:
        appender.finish()
    cluster.level()
    assert cluster.node(leader)["node"]["epoch"] > epoch
    for id in IDS:
        for appender in appenders:
            appender.check(cluster.client(id))


def test_members_that_were_all_killed_at_once_begin_again_with_one_leader(cluster: Cluster, writer: Writer) -> None:
    for id in IDS:
        cluster.kill(id)
    cluster.run("cluster", "up", "--nodes", "3")
    goes_on(writer)
    only_leader(cluster, IDS)


def test_strangers_records_are_void(cluster: Cluster, writer: Writer) -> None:
    before = {id: void_records(cluster, id) for id in IDS}

    async def meddle() -> int:
        log = await KafkaLog.open(cluster.bootstrap, cluster.name)
        reader = log.reader(Offset(max(0, await log.end() - 20)))
        repeated = [entry.payload for entry in await read(reader, 10)]
        strange = [b"", b"{}", bytes(1000), b"\xff" * 100, *repeated]
        for payload in strange:
            await log.append([payload])
        await log.append(strange)
        await reader.close()
        await log.close()
        return 2 * len(strange)

    meddled = asyncio.run(meddle())
    goes_on(writer)
    writer.finish()
    assert not writer.unknown
    cluster.level()
    for id in IDS:
        assert void_records(cluster, id) >= before[id] + meddled


def test_the_lead_is_handed_over_under_load(cluster: Cluster, writer: Writer) -> None:
    old = cluster.leader(IDS)
    for heir in [id for id in IDS if id != old] + [old]:
        assert f"{heir} is leader" in cluster.run("replica", "promote", heir)
        goes_on(writer)
        assert only_leader(cluster, IDS) == heir
    writer.finish()
    assert not writer.unknown
    # one a handover, which says where to go; and one more if the client then asks the wrong node first
    assert len(writer.rejected) <= 6


def test_the_lead_is_taken_by_force_when_the_leader_is_gone(cluster: Cluster, writer: Writer) -> None:
    old = cluster.leader(IDS)
    heir = max(id for id in IDS if id != old)
    cluster.kill(old)
    cluster.run("replica", "promote", heir, "--force")
    goes_on(writer)
    assert only_leader(cluster, [id for id in IDS if id != old]) == heir
    cluster.run("node", "start", old)


def test_of_four_that_claim_at_once_one_leads(broker: LocalBroker, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, broker.start())
    cluster.environment |= {"REPLICATOR_TIMING_STEP_MS": "0", "REPLICATOR_TIMING_JITTER_MS": "1"}
    cluster.up(5)
    ids = [f"n{number}" for number in range(1, 6)]
    try:
        old = cluster.leader(ids)
        left = [id for id in ids if id != old]
        writer = Writer([cluster.client(id) for id in [old, *left]])
        writer.start()
        goes_on(writer)
        cluster.kill(old)
        goes_on(writer)
        only_leader(cluster, left)
        claiming = [id for id in left if "claiming epoch" in cluster.folder.log_file(id).read_text()]
        assert len(claiming) > 1, "no storm"
        cluster.run("node", "start", old)
        writer.finish()
        cluster.level()
        for id in ids:
            writer.check(cluster.client(id))
    finally:
        cluster.run("cluster", "down", "--purge")
