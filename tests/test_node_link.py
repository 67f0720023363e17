"""The link between nodes, over the Redis port of the leader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace

import hiredis
import pytest

from replicator.address import Address
from replicator.local.ports import random_free_port
from replicator.node.node_link import LinkFailed
from replicator.position import Author, NodeId, Offset
from replicator.records.types import Member
from replicator.server.node_link import RedisNodeLink
from tests.redis_fixture import PASSWORD, STEADY, ServerThread
from tests.test_redis_differential import Raw


@pytest.fixture
async def link() -> AsyncIterator[RedisNodeLink]:
    link = RedisNodeLink(PASSWORD)
    yield link
    await link.close()


async def ask(link: RedisNodeLink, pair: ServerThread, index: int = 0, leader: Member | None = None) -> Offset:
    state = pair.node(0).machine.state
    async with asyncio.timeout(10):
        answer = await link.committed_offset(leader or pair.node(index).member, state.timeline, state.epoch)
        assert answer.lease_left_ms > 0
        return answer.offset


def connections(pair: ServerThread) -> set[int]:
    return set(pair.servers[0].connections)


async def test_the_leader_answers_its_committed_offset_over_one_kept_connection(
    pair: ServerThread, link: RedisNodeLink
) -> None:
    before = connections(pair)
    first = await ask(link, pair)
    opened = connections(pair) - before
    assert first >= pair.node(0).machine.state.offset - 1 and len(opened) == 1
    assert all([await ask(link, pair) >= first for _ in range(50)])
    assert connections(pair) - before == opened


async def test_a_node_that_does_not_lead_says_so_and_the_link_goes_on(pair: ServerThread, link: RedisNodeLink) -> None:
    for _ in range(2):
        with pytest.raises(LinkFailed, match="READONLY n2 does not lead epoch 1"):
            await ask(link, pair, index=1)
    assert await ask(link, pair) >= 0  # another address


async def test_a_node_with_another_password_gets_no_answer(pair: ServerThread) -> None:
    for password, words in (("wrong", "does not accept the password of this node: WRONGPASS"), ("", "NOAUTH")):
        link = RedisNodeLink(password)
        for _ in range(2):
            with pytest.raises(LinkFailed, match=words):
                await ask(link, pair)
        await link.close()


async def test_a_link_connects_again_after_its_connection_was_lost(pair: ServerThread, link: RedisNodeLink) -> None:
    before = connections(pair)
    await ask(link, pair)
    (own,) = connections(pair) - before

    async def kill() -> None:
        pair.servers[0].connections[own].close()

    await asyncio.to_thread(pair.run, kill())
    with suppress(LinkFailed):  # unless the loss was noticed before the question
        await ask(link, pair)
    assert await ask(link, pair) >= 0
    assert own not in connections(pair)


async def test_a_node_that_is_not_there_is_unreachable(pair: ServerThread, link: RedisNodeLink) -> None:
    member = replace(pair.node(0).member, resp=Address("127.0.0.1", random_free_port()))
    with pytest.raises(LinkFailed, match=r"no connection to 127\.0\.0\.1:"):
        await ask(link, pair, leader=member)


@pytest.mark.parametrize("host", ["n1..example.org", "a" * 64])
async def test_a_host_that_cannot_be_looked_up_is_unreachable(
    pair: ServerThread, link: RedisNodeLink, host: str
) -> None:
    """An old log may have one."""
    with pytest.raises(LinkFailed, match="no connection to"):
        await ask(link, pair, leader=replace(pair.node(0).member, resp=Address(host, 7001)))


async def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(pair: ServerThread) -> None:
    """The first connection answers after its question was given up, the second at once."""
    late, opened = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        number = opened
        while await reader.readline():  # *3, and 6 lines more
            for _ in range(6):
                await reader.readline()
            if number == 1:
                await late.wait()
            writer.write(b"*5\r\n:%d\r\n:1\r\n:1\r\n$2\r\nn1\r\n:1\r\n" % number)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    member = replace(pair.node(0).member, resp=Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    link = RedisNodeLink("")
    question = asyncio.create_task(ask(link, pair, leader=member))
    while opened == 0:  # noqa: ASYNC110 (the server runs on this loop)
        await asyncio.sleep(0)
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question
    late.set()
    assert [await ask(link, pair, leader=member) for _ in range(3)] == [2, 2, 2]
    await link.close()
    server.close()


@pytest.mark.parametrize(
    "answer", [b"+PONG\r\n", b"$-1\r\n", b":1\r\n", b"*1\r\n:1\r\n", b"*2\r\n:1\r\n:1\r\n", b"nonsense\r\n"]
)
async def test_another_answer_than_a_committed_offset_is_a_failure(pair: ServerThread, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(answer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    member = replace(pair.node(0).member, resp=Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    link = RedisNodeLink("")
    with pytest.raises(LinkFailed):
        await ask(link, pair, leader=member)
    await link.close()
    server.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"REPL.INDEX", "wrong number of arguments for 'repl.index' command"),
        (b"REPL.INDEX xyz 1", "invalid timeline"),
        (b"REPL.INDEX \xff\xff 1", "invalid timeline"),
        (b"REPL.INDEX 00 one", "value is not an integer or out of range"),
        (b"REPL.INDEX 00 1", "READONLY n1 does not lead epoch 1 of timeline 00"),
    ],
)
def test_an_invalid_question_is_refused(pair: ServerThread, line: bytes, words: str) -> None:
    client = Raw(pair.port, 2)
    client.ask(b"AUTH", PASSWORD.encode())
    reply = client.ask(*line.split())
    assert isinstance(reply, hiredis.ReplyError) and words in str(reply)
    client.ask(b"MULTI")
    assert isinstance(client.ask(b"REPL.INDEX", b"00", b"1"), hiredis.ReplyError)
    assert "EXECABORT" in str(client.ask(b"EXEC"))
    client.close()


def test_followers_behind_a_password_read_linearizably_through_the_leader(pair: ServerThread) -> None:
    leader, follower = pair.client(0, password=PASSWORD), pair.client(1, password=PASSWORD)
    assert isinstance(leader.set("k", "v"), bool)
    state = pair.node(0).machine.state
    [offset, lease_left_ms, epoch, node, incarnation] = leader.execute_command(
        "REPL.INDEX", state.timeline.hex(), str(state.epoch)
    )
    assert offset >= state.offset - 1 and 0 < lease_left_ms <= STEADY.lease_ms
    assert (epoch, Author(NodeId(node.decode()), incarnation)) == (state.epoch, state.leader)
    assert follower.execute_command("REPL.READ", "linearizable", "GET", "k") == b"v"
