"""XREAD, XRANGE and XINFO of the changes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio

from replicator.errors import LogDamage
from replicator.limits import MAX_WRITE_ITEMS, MAX_XREAD_COUNT
from replicator.node.recent_records import RecentRecords
from replicator.position import BEFORE_LOG
from replicator.records.codec import RecordCodec
from replicator.server.redis.change_ids import LAST_PLACE, ChangeId
from replicator.server.redis.commands import changes as commands
from replicator.server.redis.server import RedisServer
from replicator.server.redis.waiting import Work
from replicator.stream.change import changes_of
from tests.memory_cluster import SetWallClock, until
from tests.modes_cluster import ALL as SYNC_ALL
from tests.modes_cluster import SYNC, ModesCluster
from tests.redis_fixture import STEADY, ServerThread, real_redis
from tests.test_recent_records import Kept
from tests.test_redis_differential import Raw
from tests.test_redis_server import WAIT_S, raw, wait_for

KEY = "replicator:changes"


@pytest.fixture(scope="module")
def clock() -> SetWallClock:
    return SetWallClock()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, clock: SetWallClock) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path_factory.mktemp("changes"), nodes=2, timing=STEADY, clock=clock)
    with thread.client() as client:
        client.set("first", "1")  # for `last_id`, whichever test comes first
    yield thread
    thread.close()


@pytest.fixture
def client(pair: ServerThread) -> Iterator[Any]:
    client = pair.client()
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def lone(serve: Callable[..., ServerThread]) -> ServerThread:
    return serve(timing=STEADY)


def last_id(pair: ServerThread, index: int = 0) -> bytes:
    """Of the last change at the node."""
    with pair.client(index) as client:
        [[_, [(id, _)]]] = client.xread({KEY: "+"})
    return bytes(id)


def read(client: Any, after: bytes | str, **options: Any) -> list[dict[bytes, bytes]]:
    """The fields of the entries after one."""
    return [fields for _, fields in entries(client, after, **options)]


def entries(client: Any, after: bytes | str, **options: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    reply = client.xread({KEY: after}, **options)
    if isinstance(reply, dict):
        return [it for [part] in reply.values() for it in part]
    return [it for _, part in reply for it in part]


def short(fields: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """But for what depends on the position."""
    return {name: value for name, value in fields.items() if name not in (b"seq", b"epoch", b"ts_ms", b"table")}


def is_blocking(server: RedisServer) -> bool:
    return any(type(it._waiting) is Work for it in server.connections.values())


@contextmanager
def blocked(pair: ServerThread, index: int, run: Callable[[Any], Any], **options: Any) -> Iterator[list[Any]]:
    """`run` in a thread, with a client that is blocked when the body begins. Its result is there after the body."""
    result: list[Any] = []
    client = pair.client(index, **options)
    client.ping()
    thread = threading.Thread(target=lambda: result.append(run(client)), daemon=True)
    thread.start()
    wait_for(lambda: is_blocking(pair.servers[index]))
    yield result
    thread.join(WAIT_S)
    client.close()


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("index", [0, 1], ids=["leader", "follower"])
def test_the_fields_of_changes(pair: ServerThread, client: Any, clock: SetWallClock, index: int, protocol: int) -> None:
    client.set("k", b"\xff\r\n")
    start = last_id(pair)
    client.set(b"k\x00", b"\x00", px=100_000)
    client.hset("h", b"f\xff", b"")
    client.set("k", "w")
    client.delete("h")
    pair.run(pair.cluster.caught_up())
    reader = pair.client(index, protocol=protocol)
    found = entries(reader, start)
    expires_ms = b"%d" % (clock.now_ms + 100_000)
    one, two = {b"order": b"1", b"changes": b"2"}, {b"order": b"2", b"changes": b"2"}
    alone = {b"order": b"1", b"changes": b"1"}
    string, field, hash = {b"type": b"string"}, {b"type": b"field", b"field": b"f\xff"}, {b"type": b"hash"}
    assert [short(fields) for _, fields in found] == [
        {b"op": b"c", b"row": b"k\x00", **string, b"value": b"\x00", b"expires_ms": expires_ms, **alone},
        {b"op": b"c", b"row": b"h", **field, b"value": b"", **one},
        {b"op": b"c", b"row": b"h", **hash, **two},
        {b"op": b"u", b"row": b"k", **string, b"value": b"w", b"old": b"\xff\r\n", **alone},
        {b"op": b"d", b"row": b"h", **field, b"old": b"", **one},
        {b"op": b"d", b"row": b"h", **hash, **two},
    ]
    assert {fields[b"ts_ms"] for _, fields in found} == {b"%d" % clock.now_ms}
    assert {fields[b"table"] for _, fields in found} == {b"kv"}
    seqs = [int(fields[b"seq"]) for _, fields in found]
    assert seqs == sorted(seqs) and len(set(seqs)) == 4
    reader.close()


def test_all_changes_of_the_log_are_there_under_the_ids_of_the_change_stream(
    serve: Callable[..., ServerThread],
) -> None:
    thread = serve(nodes=3, timing=STEADY)
    draw = random.Random(1)
    for leader in (0, 1, 0):
        thread.claim_leadership(leader)
        with thread.client(leader) as client:
            for _ in range(10):
                pipeline = client.pipeline(transaction=draw.random() < 0.3)  # groups, if it is none
                write_something(pipeline, draw)
                pipeline.execute()
    thread.run(thread.cluster.caught_up())
    codec, timeline = RecordCodec(), thread.node(0).machine.state.timeline
    expected = [
        (str(it.position).encode(), it.op.encode(), it.row, b"%d" % it.source.seq, b"%d" % it.transaction.order)
        for offset, payload in thread.cluster.log.entries
        for it in changes_of("test", offset, codec.decode(payload, timeline))
        if it.transaction is not None
    ]
    assert len({it[0].partition(b"-")[0] for it in expected}) < len(expected) / 2  # there are groups
    for index in range(3):
        with thread.client(index) as reader:
            found: list[tuple[bytes, dict[bytes, bytes]]] = []
            after = b"0"
            while (part := entries(reader, after, count=draw.randrange(1, 50))) and len(found) <= len(expected):
                found += part
                after = part[-1][0]
        assert [(id, it[b"op"], it[b"row"], it[b"seq"], it[b"order"]) for id, it in found] == expected


def write_something(pipeline: Any, draw: random.Random) -> None:
    for number in range(draw.randrange(1, 40)):
        row, kind = draw.choice("abcdef"), draw.randrange(3)
        if kind == 0:
            pipeline.set(row, number)
        elif kind == 1:
            pipeline.hset("h" + row, mapping={"f": number, str(number): 1})
        else:
            pipeline.delete(row, "h" + row)


async def test_the_leader_shows_a_change_once_it_is_confirmed(tmp_path: Path) -> None:
    cluster = ModesCluster(tmp_path)
    await cluster.set_up(SYNC_ALL, SYNC, SYNC)
    leader, follower = cluster.n1.node.recent, cluster.n2.node.recent
    before = leader.end
    cluster.acks.hold("n2")
    writing = asyncio.ensure_future(cluster.n1.write(b"a", b"s1"))
    await until(lambda: follower.end > before)
    assert leader.end == before
    cluster.acks.let("n2")
    assert await writing == leader.end == follower.end
    await cluster.stop()


def test_reading_on_after_an_id(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    for number in range(5):
        client.set("a", number)
    ids = [id for id, _ in entries(client, start)]
    assert len(ids) == 5
    assert [id for id, _ in entries(client, start, count=2)] == ids[:2]
    assert [id for id, _ in entries(client, ids[1], count=10)] == ids[2:]
    assert [id for id, _ in entries(client, ids[1].partition(b"-")[0] + b"-1")] == ids[2:]
    assert [id for id, _ in entries(client, ids[2].partition(b"-")[0])] == ids[3:]  # the first change is place 0
    assert entries(client, ids[4]) == entries(client, "$") == []
    assert [id for id, _ in entries(client, "+")] == ids[4:]


def test_an_id_beyond_the_end_has_nothing_yet(pair: ServerThread, client: Any) -> None:
    offset = int(last_id(pair).partition(b"-")[0])
    assert entries(client, f"{offset + 2}-5") == []

    def run(reader: Any) -> Any:
        return entries(reader, f"{offset + 2}-5", block=0)

    with blocked(pair, 0, run) as result:
        for _ in range(3):
            client.set("a", 1)
    [(id, _)] = result[0]
    assert int(id.partition(b"-")[0]) == offset + 3


def test_one_reply_is_limited(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    client.mset({f"row{number}": number for number in range(MAX_XREAD_COUNT + 10)})
    first = entries(client, start)
    assert len(first) == len(entries(client, start, count=10**9)) == MAX_XREAD_COUNT
    assert len(entries(client, first[-1][0])) == 10


def test_large_records_are_read_one_by_one(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    for number in range(3):
        client.set("a", bytes(200_000 + number))
    assert [len(fields[b"value"]) for fields in read(client, start)] == [200_000]
    with pair.client() as reader:
        assert reader.xrange(KEY, start, "+", count=10)[1:][0][1][b"value"] == bytes(200_000)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("index", [0, 1], ids=["leader", "follower"])
def test_a_blocked_reader_gets_the_next_change(pair: ServerThread, client: Any, index: int, protocol: int) -> None:
    pair.run(pair.cluster.caught_up())
    with blocked(pair, index, lambda it: read(it, "$", block=0), protocol=protocol) as result:
        client.set("a", "new")
    assert [fields[b"value"] for fields in result[0]] == [b"new"]


def test_a_record_without_changes_of_keys_answers_no_blocked_reader(pair: ServerThread, client: Any) -> None:
    with blocked(pair, 0, lambda it: read(it, "$", block=0)) as result:
        client.execute_command("REPL.ONCE", "id1", "DEL", "nosuch")  # writes the id only
        client.set("a", "new")
    assert [fields[b"value"] for fields in result[0]] == [b"new"]


async def test_redis_py_with_asyncio(pair: ServerThread) -> None:
    server = pair.servers[1]
    for protocol in (2, 3):
        async with redis.asyncio.Redis(port=server.port, protocol=protocol) as reader:
            await reader.ping()
            reading = asyncio.ensure_future(reader.xread({KEY: "$"}, block=20_000))
            await asyncio.to_thread(wait_for, lambda: is_blocking(server))
            await asyncio.to_thread(pair.client().set, "a", protocol)
            assert b"%d" % protocol in str(await reading).encode()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_timeout(pair: ServerThread, client: Any, protocol: int) -> None:
    connection = Raw(pair.port, protocol)
    assert connection.ask(b"XREAD", b"BLOCK", b"1", b"STREAMS", KEY.encode(), b"$") is None
    assert connection.ask(b"XREAD", b"BLOCK", b"1", b"STREAMS", b"nosuch", b"0") is None
    connection.close()


def test_the_form_of_replies_is_that_of_redis(pair: ServerThread, client: Any, tmp_path: Path) -> None:
    start = last_id(pair)
    client.set("a", 1)
    with real_redis(tmp_path) as port:
        theirs = Raw(port, 2)
        theirs.ask(b"XADD", KEY.encode(), b"5-0", b"op", b"c")
        theirs.close()
        for protocol in (2, 3):
            for line in (b"XREAD STREAMS %b %b", b"XREAD STREAMS %b $", b"XRANGE %b - + COUNT 1", b"XRANGE %b + - "):
                shapes = []
                for server, id in ((port, b"0"), (pair.port, start)):
                    connection = Raw(server, protocol)
                    words = line.replace(b"%b", KEY.encode(), 1) % id if b"%b %b" in line else line % KEY.encode()
                    shapes.append(shape(connection.ask(*words.split())))
                    connection.close()
                assert shapes[0] == shapes[1], line


def shape(reply: Any) -> Any:
    """Without the fields of entries, and the text of ids."""
    if isinstance(reply, dict):
        return {name: shape(value) for name, value in reply.items()}
    if isinstance(reply, list):
        return (
            [shape(it) for it in reply[:1]] if reply and isinstance(reply[0], list) else [type(it) for it in reply[:2]]
        )
    return type(reply)


LINES = """
XREAD STREAMS s|XREAD STREAMS s x|XREAD COUNT x STREAMS s 0|XREAD BLOCK -1 STREAMS s 0|XREAD COUNT -1 STREAMS s 0
XREAD FOO STREAMS s 0|XREAD STREAMS s t 0|XREAD STREAMS s -|XREAD BLOCK x STREAMS s $|XREAD STREAMS string 0
XREAD STREAMS hash 0|XREAD STREAMS s hash 0 0|XREAD STREAMS|XREAD COUNT 1|XREAD BLOCK 1.5 STREAMS s 0|XRANGE s - +
XRANGE s x +|XRANGE s - + COUNT|XRANGE s - + FOO 1|XRANGE s (0 (1|XRANGE hash - +|XREAD GROUP a b STREAMS s 0
XREAD COUNT 0|XREAD STREAMS s 99999999999999999999999|XREAD STREAMS s 18446744073709551616|XREAD STREAMS s 1-
XREAD STREAMS s 01-2|XREAD streams s t 0 1-1|XRANGE s 5 2|XRANGE s 1-1 (1-1 COUNT 5|XREAD count 5 block 1 streams s 0
XREAD BLOCK 1 STREAMS s $|XRANGE s - + COUNT x|XREAD STREAMS s $|XRANGE s (- +
MULTI|XREAD BLOCK 0 STREAMS s $|XREAD STREAMS string 0|EXEC|MULTI|SET x 1|XREAD STREAMS s 0|XRANGE s - +|EXEC
MULTI|XREAD STREAMS s|EXEC|TYPE replicator:changes|KEYS *|XREAD COUNT 1 COUNT 2 STREAMS s 0
XINFO STREAM s|XINFO STREAM hash|XINFO x|XINFO STREAM|MULTI|XINFO STREAM s|EXEC|XREAD STREAMS STREAMS 0
"""


@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_about_other_keys_are_those_of_redis(
    pair: ServerThread, client: Any, tmp_path: Path, protocol: int
) -> None:
    with real_redis(tmp_path) as port:
        theirs, ours = (replies(it, protocol) for it in (port, pair.port))
    assert ours == theirs


def replies(port: int, protocol: int) -> list[tuple[str, str]]:
    connection = Raw(port, protocol)
    connection.ask(b"SET", b"string", b"1")
    connection.ask(b"HSET", b"hash", b"f", b"1")
    lines = LINES.replace("\n", "|").strip("|").split("|")
    found = []
    for line in lines:
        reply = connection.ask(*line.encode().split())
        found.append((line, repr(sorted(reply) if line == "KEYS *" else reply)))
    connection.close()
    return found


def test_ranges(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    client.mset({"a": 1, "b": 2, "c": 3})
    client.set("d", 4)
    (a, _), (b, _), (c, _), (d, _) = entries(client, start)

    def ids(first: bytes, last: bytes, **options: Any) -> list[bytes]:
        return [id for id, _ in client.xrange(KEY, first, last, **options)]

    offset = a.partition(b"-")[0]
    assert ids(a, d) == ids(a, b"+") == [a, b, c, d]
    assert ids(b"-", b"+")[0] == ids(b"0", b"+", count=1)[0]
    assert ids(offset, offset) == [a, b, c]
    assert ids(b"(" + a, b"(" + c) == [b]
    assert ids(b"(" + c, b"+") == [d]
    assert ids(a, b"(" + d) == ids(a, c) == [a, b, c]
    assert ids(a, d, count=2) == [a, b]
    assert ids(d, a) == ids(b"+", b"-") == ids(a, b"-") == []
    assert client.execute_command("XRANGE", KEY, "-", "+", "COUNT", "0") is None


def test_a_reader_sees_its_own_writes(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    connection = Raw(pair.port, 2)
    connection.send(b"SET", b"mine", b"1")
    connection.send(b"XREAD", b"STREAMS", KEY.encode(), start)
    assert connection.next() == b"OK"
    [[_, [[_, fields]]]] = connection.next()
    assert b"mine" in fields
    connection.close()


def test_within_multi_nothing_waits(pair: ServerThread, client: Any) -> None:
    start = last_id(pair)
    client.set("a", 1)
    for more in ([], [b"SET", b"b", b"2"]):  # a transaction that reads, and one that writes
        connection = Raw(pair.port, 2)
        connection.ask(b"MULTI")
        if more:
            connection.ask(*more)
        assert connection.ask(b"XREAD", b"BLOCK", b"0", b"STREAMS", KEY.encode(), b"$") == b"QUEUED"
        assert connection.ask(b"XREAD", b"COUNT", b"1", b"STREAMS", KEY.encode(), start) == b"QUEUED"
        assert connection.ask(b"XRANGE", KEY.encode(), start, b"+", b"COUNT", b"2") == b"QUEUED"
        assert connection.ask(b"XREAD", b"STREAMS", KEY.encode(), b"x") == b"QUEUED"
        reply = connection.ask(b"EXEC")
        assert isinstance(reply, list), reply
        none, [[_, [[_, fields]]]], [_, [_, again]], error = reply[len(more) // 3 :]
        assert none is None and again == fields and fields[:6] == [b"op", b"c", b"table", b"kv", b"row", b"a"]
        assert "Invalid stream ID" in str(error)
        connection.close()


def test_a_transaction_that_is_too_large_is_aborted(pair: ServerThread) -> None:
    connection = Raw(pair.port, 2)
    connection.ask(b"MULTI")
    keys = [b"s"] * (MAX_WRITE_ITEMS // 4)
    assert connection.ask(b"XREAD", b"STREAMS", *keys, *keys) == b"QUEUED"
    assert "at most 15000 arguments" in str(connection.ask(b"XREAD", b"STREAMS", *keys, *keys))
    assert str(connection.ask(b"EXEC")).startswith("EXECABORT")
    connection.close()


def test_it_cannot_read_the_changes_twice(client: Any) -> None:
    with pytest.raises(redis.ResponseError, match="reads replicator:changes once"):
        client.execute_command("XREAD", "STREAMS", KEY, "other", KEY, "0", "0", "$")


def test_the_key_is_free_for_other_commands(pair: ServerThread, client: Any) -> None:
    client.set(KEY, "mine")
    assert client.get(KEY) == b"mine" and client.type(KEY) == b"string" and client.keys() == [KEY.encode()]
    assert len(entries(client, "+")) == 1


# What is not kept any more


def test_an_id_that_is_too_old(lone: ServerThread) -> None:
    client = lone.client()
    recent = lone.node(0).node.recent
    client.set("a", 0)
    [(first, _)] = entries(client, "0")
    recent._max_records = 5
    for number in range(6):
        client.set("a", number)
    kept = client.xrange(KEY)
    assert [fields[b"value"] for _, fields in kept] == [b"1", b"2", b"3", b"4", b"5"]
    for id in (b"0", first, b"%d-0" % recent.since):
        with pytest.raises(redis.ResponseError) as raised:
            entries(client, id, block=0)
        assert str(raised.value).startswith("TRIMMED this node does not keep the changes after ")
        assert f"the earliest that it has is {kept[0][0].decode()}. Older ones are in the topic" in str(raised.value)
        with pytest.raises(redis.ResponseError, match="TRIMMED"):
            client.xrange(KEY, id, "+")
    assert entries(client, f"{recent.since}-{2**64 - 1}") == kept
    assert entries(client, kept[0][0]) == kept[1:]
    client.close()


def test_a_node_that_has_just_started_has_none(lone: ServerThread) -> None:
    client = lone.client()
    client.set("a", 1)
    [(first, _)] = entries(client, "0")
    machine = lone.node(0).machine
    restarted = RecentRecords(machine.state.offset, lone.node(0).node.recent._decode)
    lone.servers[0].backend.recent = restarted
    for id in (b"0", first):
        with pytest.raises(redis.ResponseError, match=r"TRIMMED .*: it has none, and \$ reads new ones"):
            entries(client, id)
    assert entries(client, "$") == entries(client, "+") == client.xrange(KEY) == []
    client.close()


def test_a_position_to_go_on_from_before_anything_has_changed(lone: ServerThread) -> None:
    client = lone.client()
    client.set("a", 1)
    lone.servers[0].backend.recent = lone.node(0).node.recent = RecentRecords(
        lone.node(0).machine.state.offset, lone.node(0).node.recent._decode
    )
    info = client.xinfo_stream(KEY)
    assert info["last-generated-id"] == info["max-deleted-entry-id"]
    assert info["first-entry"] is info["last-entry"] is None
    assert entries(client, info["last-generated-id"]) == []
    lone.node(0).node._context.replica.recent = lone.node(0).node.recent
    client.set("a", 2)
    assert [fields[b"value"] for fields in read(client, info["last-generated-id"])] == [b"2"]
    client.set("a", 3)
    after = client.xinfo_stream(KEY)
    assert after["max-deleted-entry-id"] == info["max-deleted-entry-id"]
    assert (after["first-entry"][1][b"value"], after["last-entry"][1][b"value"]) == (b"2", b"3")
    assert entries(client, after["last-generated-id"]) == []
    client.close()


def test_a_process_begins_where_its_store_is(lone: ServerThread) -> None:
    client = lone.client()
    client.set("a", 1)
    client.close()
    assert lone.node(0).node.recent.since == BEFORE_LOG
    before = lone.node(0).machine.state.offset
    lone.run(lone.node(0).stop())
    lone.run(lone.cluster.start("n1"))
    assert lone.node(0).node.recent.since == before


def test_a_blocked_reader_does_not_need_what_it_has_looked_at(lone: ServerThread) -> None:
    client, recent = lone.client(), lone.node(0).node.recent
    client.ping()
    recent._max_records = 3
    with blocked(lone, 0, lambda it: read(it, "$", block=0)) as result:
        before = recent.since
        for number in range(5):
            client.execute_command("REPL.ONCE", f"id{number}", "DEL", "nosuch")
            wait_for(lambda: not lone.servers[0].turns._scheduled)
        assert recent.since > before
        client.set("a", "new")
    assert [fields[b"value"] for fields in result[0]] == [b"new"]
    client.close()


def test_what_is_dropped_while_a_read_takes_turns_is_not_skipped() -> None:
    kept = Kept(max_records=4)
    kept.add(10, 11, 12)
    steps = commands._between(kept.recent, ChangeId(9, LAST_PLACE), commands._END, 100)
    next(steps)
    next(steps)  # the first change
    kept.add(20, 21, 22, 23)
    with pytest.raises(StopIteration) as end:
        next(steps)
    assert len(end.value.value) == 1


# Readers that end in another way


def test_a_reader_that_disconnects_leaves_nothing(pair: ServerThread, client: Any) -> None:
    server, recent = pair.servers[1], pair.node(1).node.recent
    with raw(pair) as first, pair.client(1) as other:
        first.close()
        other.ping()
        connection = other.connection_pool.get_connection()
        connection.send_command("XREAD", "BLOCK", "0", "STREAMS", KEY, "$")
        wait_for(lambda: len(recent._waiters) == 1)
        connection.disconnect()
        wait_for(lambda: len(recent._waiters) == 0)
    wait_for(lambda: not server.connections)


def test_a_blocked_reader_does_not_delay_the_end_of_the_server(lone: ServerThread) -> None:
    connection = Raw(lone.port, 2)
    connection.send(b"XREAD", b"BLOCK", b"0", b"STREAMS", KEY.encode(), b"$")
    wait_for(lambda: len(lone.node(0).node.recent._waiters) == 1)
    lone.run(lone.servers[0].close())
    with pytest.raises(AssertionError, match="the connection was closed"):
        connection.next()
    connection.close()


def test_a_blocked_reader_learns_that_the_store_cannot_be_read(
    lone: ServerThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "XREAD_CHECK_S", 0.001)
    connection = Raw(lone.port, 2)
    connection.send(b"XREAD", b"BLOCK", b"0", b"STREAMS", KEY.encode(), b"$")
    wait_for(lambda: len(lone.node(0).node.recent._waiters) == 1)

    async def fail() -> None:
        lone.node(0).node._fail(LogDamage("a gap"))

    lone.run(fail())
    assert "this node has stopped serving: a gap" in str(connection.next())
    connection.close()
