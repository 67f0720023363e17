"""A node that asks the leader what it knows of the replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.local.ports import random_free_port
from replicator.node.node import Node
from replicator.node.node_link import LinkFailed
from replicator.node.replica_progress import ReplicaReport
from replicator.server.replica_reports import ReplicaReports
from tests.redis_fixture import PASSWORD, ServerThread
from tests.test_redis_server import wait_for


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path_factory.mktemp("pair"), nodes=2, password=PASSWORD)
    yield thread
    thread.close()


def leader_of(thread: ServerThread) -> Address:
    return Address("127.0.0.1", thread.port)


def test_all_who_ask_at_once_share_one_answer(pair: ServerThread) -> None:
    reports, leader = ReplicaReports(PASSWORD), pair.servers[0]

    async def ask() -> None:
        before = leader.stats.connections
        first, second = await asyncio.gather(*(reports.ask(leader_of(pair)) for _ in range(2)))
        assert first == second and [it.node for it in first] == ["n2"]
        assert leader.stats.connections == before + 1
        assert await reports.ask(leader_of(pair))  # a new question
        assert leader.stats.connections == before + 2

    pair.run(ask())


def test_a_follower_reports_no_replicas(pair: ServerThread) -> None:
    assert pair.run(ReplicaReports(PASSWORD).ask(Address("127.0.0.1", pair.servers[1].port))) == ()


@pytest.mark.parametrize(("password", "words"), [("", "NOAUTH"), ("other", "does not accept the password")])
def test_another_password_gets_no_answer(pair: ServerThread, password: str, words: str) -> None:
    with pytest.raises(LinkFailed, match=words):
        pair.run(ReplicaReports(password).ask(leader_of(pair)))


def test_a_leader_that_is_not_there(pair: ServerThread) -> None:
    with pytest.raises(ReplicatorError, match="no connection"):
        pair.run(ReplicaReports("").ask(Address("127.0.0.1", random_free_port())))


@pytest.mark.parametrize("answer", [b":1\r\n", b"*1\r\n*1\r\n:1\r\n", b"*1\r\n*4\r\n:1\r\n:1\r\n:1\r\n:1\r\n"])
def test_another_answer_is_a_failure(pair: ServerThread, answer: bytes) -> None:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(answer)

    async def ask() -> None:
        async with await asyncio.start_server(respond, "127.0.0.1", 0) as server:
            with pytest.raises(LinkFailed, match="answered"):
                await ReplicaReports("").ask(Address(*server.sockets[0].getsockname()))

    pair.run(ask())


def test_a_leader_that_does_not_answer_is_not_waited_for(pair: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.server.replica_reports.REPORTS_TIMEOUT_MS", 20)

    async def ask() -> None:
        async with await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0) as server:
            with pytest.raises(LinkFailed, match="has not answered for 20 ms"):
                await ReplicaReports("").ask(Address(*server.sockets[0].getsockname()))

    pair.run(ask())


def test_a_leader_that_resolves_an_append_still_knows_which_replica_is_dead(tmp_path: Path) -> None:
    thread = ServerThread(tmp_path, nodes=3)
    try:
        node = thread.node(0).node
        thread.kill(2)
        wait_for(lambda: any(not it.is_responsive for it in node.replicas))
        leads, reports = thread.run(_lose_an_append(node))
        assert not leads
        assert {it.node: it.is_responsive for it in reports} == {"n2": True, "n3": False}
    finally:
        thread.close()


async def _lose_an_append(node: Node) -> tuple[bool, tuple[ReplicaReport, ...]]:
    """What it reports before it has resolved it."""
    node._context.roles.append_unknown()
    return node.leads, node.replicas
