"""What a node reports and logs while Kafka does not answer."""

from __future__ import annotations

import asyncio
import logging
from asyncio import Future
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from replicator.errors import BrokerUnavailable, Busy, Stale, StoreFull
from replicator.intervals import OUTAGE_LOG_S
from replicator.log.port import AppendOutcomeUnknown, AppendRefused
from replicator.node.outage_log import OutageLog
from replicator.position import Offset
from replicator.protocol.roles import Role
from replicator.protocol.timing import Timeouts
from tests.memory_cluster import MemoryCluster, until
from tests.modes_cluster import ALL, ASYNC, STEADY, SYNC, ModesCluster

NO_KAFKA = "Kafka at k:9092 is unavailable: connection refused"


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[MemoryCluster]:
    cluster = MemoryCluster(tmp_path, timeouts=Timeouts(read_ms=300))
    yield cluster
    await cluster.stop()


async def test_a_leader_without_a_lease_says_why_it_answers_no_read(cluster: MemoryCluster) -> None:
    async def refuse(payloads: Sequence[bytes]) -> Offset:
        raise AppendRefused(NO_KAFKA)

    await cluster.start("n1")
    node = (await cluster.leader()).node
    with patch.object(cluster.log, "append", refuse):
        await until(lambda: node.lease_left_ms == 0)
        read = node.reads.view(None)
        assert isinstance(read, Future)
        with pytest.raises(Stale, match=f"Kafka takes no records from it: {NO_KAFKA}. Try again"):
            await read
    await until(lambda: node.lease_left_ms > 0)
    assert not node._context.roles.append_failure


async def test_a_leader_that_resolves_an_append_says_why(cluster: MemoryCluster) -> None:
    async def lose(payloads: Sequence[bytes]) -> Offset:
        raise AppendOutcomeUnknown("append on c.wal: no answer within 2000 ms")

    await cluster.start("n1")
    node = (await cluster.leader()).node
    with patch.object(cluster.log, "append", lose):
        await until(lambda: node.status().role is Role.RESOLVING)
        with pytest.raises(Busy, match=r"last append \(Kafka: append on c.wal: no answer within 2000 ms\). Try again"):
            node.begin()


async def test_a_status_says_since_when_kafka_does_not_answer(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.start("n1")
    node = (await cluster.leader()).node
    assert (node.status().kafka_answers, node.status().outage_ms) == (True, None)
    with caplog.at_level(logging.INFO, "replicator.node.health"):
        node._health.blocked(StoreFull("the disk is full"))
        assert (node.status().kafka_answers, node.status().outage_ms) == (True, None)
        for words in (NO_KAFKA, f"requests have failed for 5000 ms: {NO_KAFKA}"):
            node._health.blocked(BrokerUnavailable(words))
        status = node.status()
        assert not status.kafka_answers and status.trouble.startswith("requests have failed")
        assert status.outage_ms is not None and 0 <= status.outage_ms < 60_000
        node._health.resumed()
    warnings = [it.message for it in caplog.records if it.levelno == logging.WARNING]
    assert warnings == ["the disk is full", NO_KAFKA]
    assert [it.message for it in caplog.records if it.message.startswith("resumed after")]
    assert node.status().outage_ms is None


async def test_a_leader_without_kafka_does_not_blame_its_replicas(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = ModesCluster(tmp_path, replace(STEADY, lease_ms=100, sync_ms=200))
    await cluster.set_up(ALL, ASYNC, SYNC)

    async def refuse(payloads: object = ()) -> Offset:
        raise AppendRefused(NO_KAFKA)

    async def end() -> Offset:
        raise BrokerUnavailable(NO_KAFKA)

    cluster.log.append, cluster.log.end = refuse, end  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "replicator.node.leader"):
        await until(lambda: "Kafka takes no records from this node" in cluster.n1.node.status().refusal)
    assert NO_KAFKA in cluster.n1.node.status().refusal and "set-mode" not in cluster.n1.node.status().refusal
    assert not cluster.n1.node.status().kafka_answers
    assert [it for it in caplog.messages if NO_KAFKA in it and it.startswith("appending")] == [
        f"appending to Kafka fails: {NO_KAFKA}"
    ]
    await cluster.stop()


async def test_a_kafka_that_answers_again_but_takes_no_records_is_not_unreachable(cluster: MemoryCluster) -> None:
    async def refuse(payloads: Sequence[bytes]) -> Offset:
        raise AppendRefused("not enough in-sync replicas")

    async def end() -> Offset:
        raise BrokerUnavailable(NO_KAFKA)

    await cluster.start("n1")
    node = (await cluster.leader()).node
    with patch.object(cluster.log, "append", refuse):
        with patch.object(cluster.log, "end", end):
            await until(lambda: not node.status().kafka_answers)
        await until(lambda: node.status().kafka_answers)
        assert node._context.roles.append_failure is not None


async def test_a_repeated_failure_is_logged_at_its_begin_at_its_end_and_rarely_between(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = 100.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now_s)
    outage = OutageLog(logging.getLogger("test"), "sending acks")
    with caplog.at_level(logging.INFO, "test"):
        outage.ended()
        for _ in range(300):
            outage.failed(BrokerUnavailable(NO_KAFKA))
            now_s += 0.2
        outage.ended()
        outage.ended()
        outage.failed(BrokerUnavailable(NO_KAFKA))
    assert caplog.messages == [
        f"sending acks fails: {NO_KAFKA}",
        f"sending acks has failed for {OUTAGE_LOG_S:.0f} s: {NO_KAFKA}",
        "sending acks failed for 60 s, and succeeds again",
        f"sending acks fails: {NO_KAFKA}",
    ]
    assert [it.levelname for it in caplog.records] == ["WARNING", "WARNING", "INFO", "WARNING"]


async def test_acks_that_fail_again_and_again_are_logged_once(
    cluster: MemoryCluster, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def fail(payload: bytes) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 4:
            raise BrokerUnavailable(NO_KAFKA)

    await cluster.start("n1")
    await cluster.leader()
    with caplog.at_level(logging.INFO, "replicator.node.node"), patch("replicator.node.ack_sender.ACK_RETRY_MS", 1):
        follower = await cluster.start("n2", priority=1)
        with patch.object(follower.node._acks, "send", fail):
            await cluster.register(follower)
            await until(lambda: attempts >= 4)
            await until(lambda: "succeeds again" in caplog.text)
    assert caplog.text.count("sending acks to Kafka fails") == 1
