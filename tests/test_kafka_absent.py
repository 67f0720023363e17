"""What waits for a Kafka that is absent neither gathers threads nor delays the end of the process."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from replicator import assembly
from replicator.daemon_thread import in_daemon_thread
from replicator.errors import BrokerUnavailable
from replicator.local.ports import random_free_port
from replicator.log.kafka import admin
from replicator.log.kafka.admin import ensure_topics
from replicator.log.kafka.brokers import Brokers
from replicator.position import Author, NodeId
from replicator.server.http.app import HttpServer
from replicator.server.identity import Identity
from tests.memory_cluster import until


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Kafka that is not there. The garbage collector, which runs rarely in a node, does not help."""
    monkeypatch.setattr(admin, "ADMIN_TIMEOUT_S", 0.1)
    gc.collect()
    gc.disable()
    yield f"127.0.0.1:{random_free_port()}"
    gc.enable()


def threads() -> set[str]:
    """Of this process, also those of librdkafka."""
    return set(os.listdir("/proc/self/task"))


async def test_a_look_up_of_a_topic_that_fails_leaves_no_thread(absent: str) -> None:
    before = threads()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await Brokers(absent).topic_id("log")
    await until(lambda: not threads() - before)


async def test_topics_that_cannot_be_created_leave_no_thread(absent: str) -> None:
    before = threads()
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await in_daemon_thread(lambda: ensure_topics(absent, "c"))
    await until(lambda: not threads() - before)


async def test_a_process_that_stops_does_not_wait_for_a_blocked_thread() -> None:
    release = threading.Event()
    waiting = asyncio.create_task(in_daemon_thread(release.wait))
    await asyncio.sleep(0)
    [thread] = [it for it in threading.enumerate() if it is not threading.main_thread() and it.daemon][-1:]
    waiting.cancel()
    with suppress(asyncio.CancelledError):
        await waiting
    assert thread.is_alive()
    release.set()


async def test_a_node_reports_that_it_waits_before_the_first_request_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assembly, "KAFKA_ANSWER_S", 0)
    server = HttpServer(Identity("c", Author(NodeId("n1"), 1)), "")
    answer = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(assembly.when_kafka_answers(server, "kafka:9092", lambda: answer))
    assert server.kafka_answers
    await until(lambda: not server.kafka_answers)
    assert server.waiting_for == "Kafka at kafka:9092 has not answered yet"
    answer.set_result(1)
    assert await waiting == 1 and server.kafka_answers


async def test_errors_of_the_thread_are_raised() -> None:
    def fail() -> None:
        raise ValueError("why")

    with pytest.raises(ValueError, match="why"):
        await in_daemon_thread(fail)
