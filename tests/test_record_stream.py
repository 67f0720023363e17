"""Records and acks over the Redis port of the leader (REPL.FOLLOW, REPL.ACK)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import hiredis
import pytest

from replicator.address import Address
from replicator.limits import MAX_ACKS, MAX_MESSAGE_BYTES
from replicator.log.port import Entry
from replicator.node.backlog import StreamRequest
from replicator.node.node_link import LinkFailed, RecordStream, StreamSignal
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.codec import AckCodec, RecordCodec
from replicator.records.types import Ack, Write, singles
from replicator.server import record_stream
from replicator.server.node_link import RedisNodeLink
from replicator.server.record_stream import MAX_MESSAGE_RECORDS
from replicator.server.redis import record_sink
from tests.memory_cluster import until
from tests.redis_fixture import PASSWORD, ServerThread
from tests.test_redis_differential import Raw


@pytest.fixture
def client(pair: ServerThread) -> Iterator[Any]:
    client = pair.client(password=PASSWORD)
    yield client
    client.close()


@pytest.fixture
def raw(pair: ServerThread) -> Iterator[Raw]:
    """A connection that has authenticated."""
    raw = Raw(pair.port, 2)
    assert raw.ask(b"AUTH", PASSWORD.encode()) == b"OK"
    yield raw
    raw.close()


@pytest.fixture
async def streams() -> AsyncIterator[list[RecordStream]]:
    opened: list[RecordStream] = []
    yield opened
    for stream in opened:
        stream.close()


def request(pair: ServerThread) -> StreamRequest:
    """Of n2, if it has read as much as the leader. It has no stream of its own in this cluster."""
    return StreamRequest.of(pair.node(0).machine.state, Author(NodeId("n2"), pair.node(1).member.incarnation))


async def follow(pair: ServerThread, streams: list[RecordStream], at: StreamRequest | None = None) -> RecordStream:
    link = RedisNodeLink(PASSWORD)
    stream = await link.open_stream(pair.node(0).member, at or request(pair))
    streams.append(stream)
    return stream


def rows_of(entry: Entry) -> list[bytes]:
    """Those that the record changes."""
    return [
        change.row
        for body in singles(RecordCodec().decode(entry.payload, b"").body)
        if isinstance(body, Write)
        for change in body.changes
    ]


async def rows(stream: RecordStream, count: int) -> dict[bytes, Offset]:
    """So many rows that were written, as they come, with the offsets of their records."""
    found = dict[bytes, Offset]()
    async with asyncio.timeout(10):
        while len(found) < count:
            for entry in (await stream.next()).entries:
                found |= dict.fromkeys(rows_of(entry), entry.offset)
    return found


async def test_a_follower_receives_the_records_after_its_position(
    pair: ServerThread, client: Any, streams: list[RecordStream]
) -> None:
    before = request(pair)
    first = await follow(pair, streams)
    client.set("a", "1")
    client.set("b", "1")
    received = await rows(first, 2)
    assert list(received) == [b"a", b"b"]
    second = await follow(pair, streams, before)  # from the backlog
    assert await rows(second, 2) == received


async def test_a_heartbeat_is_not_a_record_and_requests_an_ack(
    pair: ServerThread, client: Any, streams: list[RecordStream]
) -> None:
    stream = await follow(pair, streams)
    pair.run(_call(pair.node(0).node._backlog.send_heartbeats))
    async with asyncio.timeout(10):
        while (received := await stream.next()).signal is not StreamSignal.HEARTBEAT:
            pass
    assert not received.entries


async def test_an_ack_is_asked_for_and_counted(pair: ServerThread, client: Any, streams: list[RecordStream]) -> None:
    stream = await follow(pair, streams)
    client.set("c", "1")
    await rows(stream, 1)
    waiting = asyncio.create_task(asyncio.to_thread(client.wait, 5, 2_000))
    async with asyncio.timeout(10):
        while (await stream.next()).signal is None:
            pass
    state, member = pair.node(0).machine.state, pair.node(1).member
    future = Offset(state.offset + 1_000)  # n2 itself has not acked that
    for author in (Author(NodeId("stranger"), 1), Author(NodeId("n2"), 1), member.author):  # two are not members
        stream.ack(AckCodec().encode(Ack(state.timeline, author, future, state.seq, state.epoch, 0)))
    await until(lambda: [it.ack.offset for it in pair.node(0).node.last_acks.values()] == [future])
    assert list(pair.node(0).node.last_acks) == ["n2"]
    await waiting


async def test_large_batches_are_taken_in_slices(
    pair: ServerThread, client: Any, streams: list[RecordStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_stream, "SLICE_BYTES", 1000)
    monkeypatch.setattr(record_stream, "RECEIVED_BYTES", 4000)
    stream = await follow(pair, streams)
    for number in range(20):
        client.set(f"big{number}", "x" * 2000)
    found = list[bytes]()
    paused = False
    async with asyncio.timeout(10):
        while len(found) < 20:
            [entry] = (await stream.next()).entries
            paused |= not stream._reading  # type: ignore[attr-defined]
            found += rows_of(entry)
    assert found == [b"big%d" % number for number in range(20)] and paused


async def test_a_follower_that_does_not_read_is_disconnected(
    pair: ServerThread, client: Any, streams: list[RecordStream], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_sink, "MAX_STREAM_BYTES", 100_000)
    monkeypatch.setattr(record_stream, "RECEIVED_BYTES", 1)
    stream = await follow(pair, streams)
    own = max(pair.servers[0].connections)
    for _ in range(1_000):
        client.set("big", "x" * 100_000)
        if own not in pair.servers[0].connections:
            break
    else:
        pytest.fail("it is still connected")
    with pytest.raises(LinkFailed):
        await rows(stream, 10**9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epoch": Epoch(9)}, "READONLY this node has no records of epoch 9"),
        ({"chain": bytes(8)}, "BUSY the records after seq"),
        ({"seq": Seq(10**6)}, "BUSY the records after seq 1000000 are not in the backlog"),
    ],
    ids=["epoch", "chain", "seq"],
)
async def test_a_position_that_the_leader_does_not_know_is_refused(
    pair: ServerThread, streams: list[RecordStream], change: dict[str, object], words: str
) -> None:
    with pytest.raises(LinkFailed, match=words):
        await follow(pair, streams, request(pair)._replace(**change))  # type: ignore[arg-type]


async def test_a_node_sends_no_records_to_itself(pair: ServerThread) -> None:
    with pytest.raises(LinkFailed, match=r"n2#.* is not a follower that is registered"):
        await RedisNodeLink(PASSWORD).open_stream(pair.node(1).member, request(pair))


async def test_a_node_with_another_password_receives_nothing(pair: ServerThread) -> None:
    for password, words in (("wrong", "WRONGPASS"), ("", "NOAUTH")):
        with pytest.raises(LinkFailed, match=words):
            await RedisNodeLink(password).open_stream(pair.node(0).member, request(pair))


async def test_a_lost_connection_ends_the_stream_after_what_has_arrived(
    pair: ServerThread, client: Any, streams: list[RecordStream]
) -> None:
    stream = await follow(pair, streams)
    own = max(pair.servers[0].connections)
    client.set("d", "1")

    async def kill() -> None:
        pair.servers[0].connections[own].close()

    await asyncio.to_thread(pair.run, kill())
    assert list(await rows(stream, 1)) == [b"d"]
    with pytest.raises(LinkFailed, match="closed"):
        await stream.next()
    stream.ack(b"")  # is lost


@pytest.mark.parametrize(
    "message",
    [
        *(b"+hello\r\n", b":1\r\n", b"*1\r\n$1\r\na\r\n", b"*2\r\n:1\r\n:1\r\n", b"*2\r\n:1\r\n$-1\r\n", b"!\r\n"),
        b"*2\r\n:1\r\n$0\r\n\r\n",
        b"*%d\r\n:1\r\n" % (MAX_MESSAGE_RECORDS + 2) + b"$1\r\na\r\n" * (MAX_MESSAGE_RECORDS + 1),
        b"$%d\r\n" % (1 << 29) + bytes(2 * MAX_MESSAGE_BYTES),
    ],
    ids=lambda message: str(message[:12]),
)
async def test_an_invalid_message_ends_the_stream(pair: ServerThread, message: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n$")
        writer.write(b"+OK\r\n" + message)

    server = await asyncio.start_server(answer, "127.0.0.1")
    port = server.sockets[0].getsockname()[1]
    member = replace(pair.node(0).member, resp=Address("127.0.0.1", port))
    stream = await RedisNodeLink("").open_stream(member, request(pair))
    with pytest.raises(LinkFailed, match=r"sent|Redis protocol|larger than"):
        await stream.next()
    server.close()


async def test_repeated_signals_count_once_and_what_is_queued_ends_with_the_stream(pair: ServerThread) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n$")
        writer.write(b"+OK\r\n" + b"+HEARTBEAT\r\n" * 1000 + b"+GETACK\r\n*2\r\n:1\r\n$1\r\na\r\n+GETACK\r\n")

    server = await asyncio.start_server(answer, "127.0.0.1")
    member = replace(pair.node(0).member, resp=Address("127.0.0.1", server.sockets[0].getsockname()[1]))
    stream = await RedisNodeLink("").open_stream(member, request(pair))
    assert await stream.next() == ([], StreamSignal.HEARTBEAT)
    assert await stream.next() == ([], StreamSignal.GETACK)
    stream.close()
    with pytest.raises(LinkFailed):
        await stream.next()
    server.close()


def asked(pair: ServerThread) -> list[bytes]:
    timeline, epoch, seq, chain, (node, incarnation), version = request(pair)
    position = (timeline.hex().encode(), b"%d" % epoch, b"%d" % seq, chain.hex().encode())
    return [b"REPL.FOLLOW", *position, node.encode(), b"%d" % incarnation, b"%d" % version]


def test_invalid_arguments_are_refused(pair: ServerThread, raw: Raw) -> None:
    name, timeline, epoch, seq, chain, *process = asked(pair)
    for line, words in (
        ((name, b"zz", epoch, seq, chain, *process), "ERR invalid "),
        ((name, timeline, epoch, seq, b"\xff", *process), "ERR invalid "),
        ((name, timeline, b"one", seq, chain, *process), "ERR value is not an integer"),
        ((name, timeline, epoch, seq), "ERR wrong number of arguments"),
        ((name, timeline, epoch, seq, chain, b"n" * 101, *process[1:]), "ERR the name of a node has at most 100"),
        ((b"REPL.ACK", b"ack"), "ERR REPL.ACK is only accepted after REPL.FOLLOW"),
        ((b"REPL.DOWNSTREAM",), "ERR REPL.DOWNSTREAM is only accepted after REPL.FOLLOW"),
    ):
        assert str(raw.ask(*line)).startswith(words)
    assert raw.ask(b"MULTI") == b"OK"
    assert str(raw.ask(*asked(pair))).startswith("ERR REPL.FOLLOW cannot be part")
    assert str(raw.ask(b"EXEC")).startswith("EXECABORT")


def test_a_connection_that_receives_records_runs_no_other_command(pair: ServerThread, raw: Raw) -> None:
    assert raw.ask(*asked(pair)) == b"OK"
    raw.send(*asked(pair))
    while not isinstance(reply := raw.next(), hiredis.ReplyError):
        pass
    assert str(reply) == "ERR only REPL.ACK and REPL.DOWNSTREAM are allowed on a connection that receives records"


async def test_a_follower_reports_those_below_it(pair: ServerThread, client: Any, streams: list[RecordStream]) -> None:
    stream, downstream, backlog = await follow(pair, streams), {Author(NodeId("n9"), 5): 3}, pair.node(0).node._backlog
    stream.report_downstream(downstream)
    stream.ack(b"")
    client.set("below", "1")
    assert list(await rows(stream, 1)) == [b"below"]
    async with asyncio.timeout(10):
        while not downstream.items() <= backlog.receivers.items():  # noqa: ASYNC110 (it is of another thread)
            await asyncio.sleep(0.01)
    stream.report_downstream({pair.node(0).member.author: 3})  # the leader would receive what it sends
    with pytest.raises(LinkFailed, match="closed"):
        await rows(stream, 1)


def test_too_many_acks_at_once_are_refused(pair: ServerThread, raw: Raw) -> None:
    assert raw.ask(*asked(pair)) == b"OK"
    raw.send(b"REPL.ACK", *[b"ack"] * (MAX_ACKS + 1))
    while not isinstance(reply := raw.next(), hiredis.ReplyError):
        pass
    assert str(reply) == f"ERR REPL.ACK takes at most {MAX_ACKS} acks"


@pytest.mark.parametrize("fields", [(b"n9",), (b"n9", b"x", b"3"), (b"n9", b"5", b"")], ids=str)
def test_an_invalid_report_is_refused(pair: ServerThread, raw: Raw, fields: tuple[bytes, ...]) -> None:
    assert raw.ask(*asked(pair)) == b"OK"
    raw.send(b"REPL.DOWNSTREAM", *fields)
    while not isinstance(raw.next(), hiredis.ReplyError):
        pass


def test_a_damaged_ack_is_ignored(pair: ServerThread, raw: Raw) -> None:
    assert raw.ask(*asked(pair)) == b"OK"
    raw.send(b"REPL.ACK", b"not an ack")
    raw.send(b"PING")
    while not isinstance(reply := raw.next(), hiredis.ReplyError):
        pass
    assert "only REPL.ACK" in str(reply)  # the reply to PING


async def test_an_ack_request_keeps_its_place(pair: ServerThread, client: Any, streams: list[RecordStream]) -> None:
    stream = await follow(pair, streams)
    client.set("e", "1")
    node = pair.node(0).node
    pair.run(_call(node._backlog.request_acks))
    client.set("f", "1")
    before = list[bytes]()
    async with asyncio.timeout(10):
        while True:
            entries, signal = await stream.next()
            for entry in entries:
                before += rows_of(entry)
            if signal is not None:
                break
    assert before == [b"e"]


async def test_cancelling_loses_no_records(pair: ServerThread, client: Any, streams: list[RecordStream]) -> None:
    stream = await follow(pair, streams)
    for number in range(5):
        client.set(f"c{number}", "1")
    await until(lambda: len(stream._messages) >= 5)  # type: ignore[attr-defined]
    for _ in range(3):
        with suppress(TimeoutError):
            async with asyncio.timeout(0):
                await stream.next()
    assert len(await rows(stream, 5)) == 5


async def _call(work: Callable[[], None]) -> None:
    work()
