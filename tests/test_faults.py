"""Faults of machines, brokers and foreign producers, in a cluster of real processes on a real Kafka."""

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
LEASE_OVER_S = 2.0  # longer than the lease and an election
APPEND_OVER_S = 3.0  # longer than the append timeout


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalBroker]:
    """A broker that tests may stop and kill."""
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
    """A writer that is writing to the leader; after the test no acknowledged write may be lost."""
    leader = cluster.leader(IDS)
    cluster.client(leader).flushall()
    writer = Writer([cluster.client(id) for id in [leader, *(id for id in IDS if id != leader)]])
    writer.start()
    wait_for_more(writer)
    yield writer
    writer.finish()
    cluster.caught_up()
    for id in IDS:
        writer.check(cluster.client(id))


def wait_for_more(writer: Writer | Appender, count: int = 200) -> None:
    before = len(writer.acknowledged)
    wait_for(lambda: len(writer.acknowledged) >= before + count)


def wait_real_time(seconds: float) -> None:
    """While a real process is stopped, there is no condition to wait for."""
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


def test_a_deposed_leader_answers_no_stale_read_and_becomes_a_follower(cluster: Cluster) -> None:
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
        wait_for_more(appender)
    with stopped(pid):
        writer.start()
        wait_real_time(LEASE_OVER_S)
        wait_for_more(writer)
        latest = max(writer.acknowledged)
        for reader in readers:  # it receives these first when it resumes
            reader.send_command("GET", f"w:{latest}")
            reader.send_command("SET", f"w:{latest}", "overwritten")
            reader.send_command("GET", f"w:{latest}")
    for reader in readers:
        assert reader.read_response() == b"%d" % latest
        with pytest.raises(redis.ResponseError):
            reader.read_response()
        assert reader.read_response() == b"%d" % latest
    for appender in appenders:
        wait_for_more(appender)  # at the new leader
        appender.finish()
    writer.finish()
    assert cluster.pid(old) == pid and starts(cluster, old) == began
    assert cluster.node(old)["node"]["role"] == "follower"
    cluster.caught_up()
    for id in IDS:
        writer.check(cluster.client(id))
        for appender in appenders:
            appender.check(cluster.client(id))
    words = {word for appender in appenders for word in appender.rejected.values()}
    assert words and words <= {"READONLY", "FENCED", "BUSY"}


def test_late_appends_take_effect_at_most_once(cluster: Cluster, broker: LocalBroker) -> None:
    leader = cluster.leader(IDS)
    epoch = cluster.node(leader)["node"]["epoch"]
    order = [leader, *(id for id in IDS if id != leader)]
    appenders = [Appender([cluster.client(id) for id in order], f"b:{at}") for at in range(4)]
    for appender in appenders:
        appender.start()
    for appender in appenders:
        wait_for_more(appender)
    pid = broker.status().pid
    assert pid is not None
    with stopped(pid):
        wait_real_time(APPEND_OVER_S)
    for appender in appenders:
        wait_for_more(appender)
    for appender in appenders:
        appender.finish()
    cluster.caught_up()
    assert cluster.node(leader)["node"]["epoch"] > epoch
    for id in IDS:
        for appender in appenders:
            appender.check(cluster.client(id))


def test_one_leader_is_elected_after_all_members_were_killed_at_once(cluster: Cluster, writer: Writer) -> None:
    for id in IDS:
        cluster.kill(id)
    cluster.run("cluster", "up", "--nodes", "3")
    wait_for_more(writer)
    only_leader(cluster, IDS)


def test_records_of_a_foreign_producer_are_void(cluster: Cluster, writer: Writer) -> None:
    before = {id: void_records(cluster, id) for id in IDS}

    async def append_foreign_records() -> int:
        log = await KafkaLog.open(cluster.bootstrap, cluster.name)
        reader = log.reader(Offset(max(0, await log.end() - 20)))
        repeated = [entry.payload for entry in await read(reader, 10)]
        foreign = [b"", b"{}", bytes(1000), b"\xff" * 100, *repeated]
        for payload in foreign:
            await log.append([payload])
        await log.append(foreign)
        await reader.close()
        await log.close()
        return 2 * len(foreign)

    appended = asyncio.run(append_foreign_records())
    wait_for_more(writer)
    writer.finish()
    assert not writer.unknown
    cluster.caught_up()
    for id in IDS:
        assert void_records(cluster, id) >= before[id] + appended


def test_leadership_is_transferred_under_load(cluster: Cluster, writer: Writer) -> None:
    old = cluster.leader(IDS)
    for successor in [id for id in IDS if id != old] + [old]:
        assert f"{successor} is leader" in cluster.run("replica", "promote", successor)
        wait_for_more(writer)
        assert only_leader(cluster, IDS) == successor
    writer.finish()
    assert not writer.unknown
    # one per transfer, and one more if the client then tries the wrong node first
    assert len(writer.rejected) <= 6


def test_a_promotion_is_forced_while_the_leader_is_dead(cluster: Cluster, writer: Writer) -> None:
    old = cluster.leader(IDS)
    successor = max(id for id in IDS if id != old)
    cluster.kill(old)
    cluster.run("replica", "promote", successor, "--force")
    wait_for_more(writer)
    assert only_leader(cluster, [id for id in IDS if id != old]) == successor
    cluster.run("node", "start", old)


def test_one_of_four_concurrent_candidates_becomes_leader(broker: LocalBroker, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, broker.start())
    cluster.environment |= {"REPLICATOR_TIMING_STEP_MS": "0", "REPLICATOR_TIMING_JITTER_MS": "1"}
    cluster.up(5)
    ids = [f"n{number}" for number in range(1, 6)]
    try:
        old = cluster.leader(ids)
        left = [id for id in ids if id != old]
        writer = Writer([cluster.client(id) for id in [old, *left]])
        writer.start()
        wait_for_more(writer)
        cluster.kill(old)
        wait_for_more(writer)
        only_leader(cluster, left)
        claiming = [id for id in left if "claiming epoch" in cluster.folder.log_file(id).read_text()]
        assert len(claiming) > 1, "no concurrent claims"
        cluster.run("node", "start", old)
        writer.finish()
        cluster.caught_up()
        for id in ids:
            writer.check(cluster.client(id))
    finally:
        cluster.run("cluster", "down", "--purge")
