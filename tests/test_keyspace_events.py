"""Keyspace notifications: the events of changes, compared with those of a real Redis, and their subscribers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hiredis
import pytest
import redis
import redis.asyncio

from replicator.errors import BadRequest
from replicator.limits import FLUSH_ENTRIES, MAX_EVENT_PATTERNS
from replicator.records.types import Change
from replicator.server.redis.keyspace_events import check_wanted, events_of
from replicator.store.rows import HASH
from replicator.store.values import encode_value
from tests.keyspace_fixture import NOW_MS, writes
from tests.memory_cluster import SetWallClock
from tests.redis_fixture import STEADY, ServerThread, real_redis
from tests.test_redis_differential import Raw
from tests.test_redis_server import raw, wait_for
from tests.test_subscriptions import subscriber

LATER_MS = NOW_MS + 1_000
ALL = "__key*__:*"


def events(*commands: str, written_ms: int = NOW_MS) -> list[str]:
    """Of the last command."""
    return [f"{name.decode()} {row.decode()}" for row, name in events_of(writes(*commands)[-1].changes, written_ms)]


def test_the_first_fields_of_a_hash_are_one_event() -> None:
    assert events("HSET h a 1 b 2") == ["hset h"]
    assert events("HSET h a 1", "HSET h a 1") == ["hset h"]


def test_an_expiry_alone_is_not_a_set() -> None:
    assert events("SET k v", f"PEXPIREAT k {LATER_MS}") == ["expire k"]
    assert events(f"SET k v PXAT {LATER_MS}", "PERSIST k") == ["persist k"]
    assert events("HSET h a 1", f"PEXPIREAT h {LATER_MS}") == ["expire h"]
    assert events("HSET h a 1", f"PEXPIREAT h {LATER_MS}", "PERSIST h") == ["persist h"]


def test_the_same_value_is_set_again() -> None:
    assert events("SET k v", "SET k v") == ["set k"]
    assert events(f"SET k v PXAT {LATER_MS}", "SET k v KEEPTTL") == ["set k"]


def test_a_value_that_loses_its_expiry_is_only_set() -> None:
    assert events(f"SET k v PXAT {LATER_MS}", "SET k w") == ["set k"]


def test_a_deletion_of_an_expired_row_is_an_expiration() -> None:
    commands = f"SET k v PXAT {LATER_MS}", "DEL k"
    assert events(*commands, written_ms=LATER_MS - 1) == ["del k"]
    assert events(*commands, written_ms=LATER_MS) == ["expired k"]


def test_a_row_that_replaces_an_expired_one_is_new() -> None:
    assert events(f"SET k v PXAT {LATER_MS}", "SET k v", written_ms=LATER_MS) == ["expired k", "set k"]
    hash = "HSET h a 1 b 2", f"PEXPIREAT h {LATER_MS}"
    assert events(*hash, "SET h v", written_ms=LATER_MS) == ["expired h", "set h"]


def test_the_fields_of_an_expired_hash_are_not_deleted_from_its_successor() -> None:
    header = encode_value(HASH, (1).to_bytes(8, "big"), LATER_MS), encode_value(HASH, (1).to_bytes(8, "big"))
    changes = [
        Change("kv", b"h", b"fa", b"f1", None),
        Change("kv", b"h", b"", *header),
        Change("kv", b"h", b"fb", None, b"f1"),
    ]
    assert list(events_of(changes, LATER_MS)) == [(b"h", b"expired"), (b"h", b"hset")]
    assert list(events_of(changes, NOW_MS)) == [(b"h", b"hdel"), (b"h", b"hset"), (b"h", b"persist")]


def test_a_renamed_row_is_deleted_and_set() -> None:
    assert events(f"SET k v PXAT {LATER_MS}", "RENAME k l") == ["del k", "set l", "expire l"]
    assert events("HSET h a 1", "RENAME h i") == ["del h", "hset i"]
    assert events("HSET h a 1", "SET i v", "RENAME h i") == ["hset i", "del h"]


def test_tables_besides_the_keyspace_have_no_events() -> None:
    changes = writes("SET k v")[0].changes
    assert list(events_of([changes[0]._replace(table="once")], NOW_MS)) == []


@pytest.fixture
def clock() -> SetWallClock:
    return SetWallClock()


@pytest.fixture
def pair(tmp_path: Path, clock: SetWallClock) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path, nodes=2, timing=STEADY, clock=clock)
    yield thread
    thread.close()


def received(listener: Any, count: int) -> list[tuple[str, str]]:
    """Channels without their prefix, and messages."""
    found: list[tuple[str, str]] = []
    for _ in range(count):
        message = listener.get_message(timeout=10)
        assert message is not None, found
        found.append((message["channel"].removeprefix("__key"), message["data"]))
    return found


def until_end(listener: Any) -> list[str]:
    """The events before the row `end` is set."""
    found: list[str] = []
    while (message := listener.get_message(timeout=10)) is not None:
        kind, _, name = message["channel"].partition("@0__:")
        if kind == "__keyevent" and message["data"] != "end":
            found.append(f"{name} {message['data']}")
        elif (kind, name) == ("__keyevent", "set"):
            return found
    raise AssertionError(found)


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("index", [0, 1], ids=["leader", "follower"])
def test_channels_of_keys_and_of_events(pair: ServerThread, index: int, protocol: int) -> None:
    channels = "__keyspace@0__:a", "__keyevent@0__:del", "__keyspace@1__:a"
    listener = subscriber(pair, index, *channels, protocol=protocol)
    client = pair.client()
    client.mset({"a": 1, "b": 2})
    client.delete("b", "a")
    expected = [("space@0__:a", "set"), ("event@0__:del", "b"), ("space@0__:a", "del"), ("event@0__:del", "a")]
    assert received(listener, 4) == expected
    listener.close()


@pytest.mark.parametrize("index", [0, 1], ids=["leader", "follower"])
def test_patterns(pair: ServerThread, index: int) -> None:
    listener = subscriber(pair, index, patterns=("__keyspace@0__:user:*", "__keyevent@*__:[hs]set"))
    client = pair.client()
    client.set("other", 1)
    client.hset("user:1", "name", "x")
    client.delete("user:1")
    expected = [("space@0__:user:1", "hset"), ("event@0__:hset", "user:1"), ("space@0__:user:1", "del")]
    assert received(listener, 3) == expected
    listener.close()


async def test_redis_py_with_asyncio(pair: ServerThread) -> None:
    for protocol in (2, 3):
        async with redis.asyncio.Redis(port=pair.servers[1].port, protocol=protocol).pubsub() as listener:
            await listener.psubscribe("__keyevent@0__:*")
            assert (await listener.get_message(timeout=10))["type"] == "psubscribe"
            await asyncio.to_thread(pair.client().set, "a", protocol)
            message: Any = await listener.get_message(timeout=10)
            assert (message["type"], message["channel"], message["data"]) == ("pmessage", b"__keyevent@0__:set", b"a")


def test_rows_that_expire(pair: ServerThread, clock: SetWallClock) -> None:
    listeners = [subscriber(pair, index, "__keyevent@0__:expired", "__keyevent@0__:del") for index in (0, 1)]
    client = pair.client()
    client.set("a", 1, px=50)
    client.set("b", 1, px=50)
    client.delete("b")
    client.hset("big", mapping={str(number): "" for number in range(2 * FLUSH_ENTRIES + 10)})
    client.pexpire("big", 60)
    clock.now_ms += 60
    for listener in listeners:
        assert received(listener, 3) == [
            ("event@0__:del", "b"),
            ("event@0__:expired", "a"),
            ("event@0__:expired", "big"),
        ]
        listener.close()


def test_a_large_row_that_expires_is_one_event(pair: ServerThread, clock: SetWallClock) -> None:
    listener = subscriber(pair, 1, patterns=("__keyevent@0__:*",))
    client = pair.client()
    client.hset("big", mapping={str(number): "" for number in range(2 * FLUSH_ENTRIES + 10)})
    client.pexpire("big", 60)
    clock.now_ms += 60
    wait_for(lambda: not client.exists("big"))
    client.set("end", 1)
    assert until_end(listener) == ["hset big", "expire big", "expired big"]
    listener.close()


def test_flushall_deletes_each_row_once(pair: ServerThread) -> None:
    client = pair.client()
    names = [f"k{number:05}" for number in range(3 * FLUSH_ENTRIES)]
    for first in range(0, len(names), FLUSH_ENTRIES):
        client.mset(dict.fromkeys(names[first : first + FLUSH_ENTRIES], "v"))
    client.hset("k00900-hash", mapping={str(number): "" for number in range(FLUSH_ENTRIES)})  # in two records
    listeners = [subscriber(pair, index, patterns=("__keyevent@0__:*",)) for index in (0, 1)]
    client.flushall()
    client.set("end", 1)
    for listener in listeners:
        events = until_end(listener)
        events.remove("hdel k00900-hash")  # the fields of the first record
        assert sorted(events) == [f"del {name}" for name in sorted([*names, "k00900-hash"])]
        listener.close()


SAME_AS_REDIS = """
SET k v|SET k w EX 100|SET k x|SETEX k 10 v|PSETEX k 20000 w|SETNX n 1|SETNX n 2|MSET a 1 b 2|MSETNX x 1 y 2|GETSET k z
GETEX k EX 10|GETEX k PERSIST|GETEX k|GETDEL k|EXPIRE a 100|PEXPIRE a 1000000|PERSIST a|PERSIST a|EXPIRE a -1
DEL b nosuch|UNLINK x|DEL nosuch|HSET h f 1 g 2|HSET h f 3|HSET h f 3|HSETNX h q 1|HSETNX h q 2|HMSET h r 1 s 2|HDEL h f
HDEL h nosuch|EXPIRE h 100|HSET h t 1|PERSIST h|SET h str|DEL h|HSET h f 1|DEL h|SET k v KEEPTTL|EXPIREAT k 1
SET k v PX 100000|SET k w KEEPTTL|SET k x XX GET|SET nosuch x XX|SET k y NX|GET k|DEL k|MULTI|SET m 1|HSET l f 1
DEL y|EXEC
"""

DIFFERENT_FROM_REDIS = [  # in docs/redis.md
    (["SET i 1"], "INCR i", ["set i"], ["incrby i"]),
    (["SET i 1"], "APPEND i 0", ["set i"], ["append i"]),
    (["SET i 1"], "INCRBYFLOAT i 1.5", ["set i"], ["incrbyfloat i"]),
    (["HSET h f 1"], "HINCRBY h f 1", ["hset h"], ["hincrby h"]),
    (["HSET h f 1"], "HINCRBYFLOAT h f 1", ["hset h"], ["hincrbyfloat h"]),
    (["SET k v"], "RENAME k l", ["del k", "set l"], ["rename_from k", "rename_to l"]),
    (["HSET h f 1"], "HDEL h f", ["del h"], ["hdel h", "del h"]),
    (["SET k v"], "SET k v EX 100", ["expire k"], ["set k", "expire k"]),
    (["SET k v EX 100"], "SET k v", ["persist k"], ["set k"]),
    (["SET k v"], "FLUSHALL", ["del k"], []),
]


def test_the_events_are_those_of_redis(pair: ServerThread, tmp_path: Path) -> None:
    lines = SAME_AS_REDIS.replace("\n", "|").strip("|").split("|")
    with real_redis(tmp_path, "--notify-keyspace-events", "AKE") as port:
        expected = events_of_each(port, port, lines)
    ours = pair.port
    assert events_of_each(ours, ours, lines) == expected
    with pair.client() as client:
        client.flushall()
    assert events_of_each(ours, pair.servers[1].port, lines) == expected


@pytest.mark.parametrize(("before", "line", "ours", "theirs"), DIFFERENT_FROM_REDIS, ids=str)
def test_where_they_differ(
    pair: ServerThread, tmp_path: Path, before: list[str], line: str, ours: list[str], theirs: list[str]
) -> None:
    with real_redis(tmp_path, "--notify-keyspace-events", "AKE") as port:
        assert events_of_each(port, port, [*before, line])[-1] == (line, theirs)
    assert events_of_each(pair.port, pair.port, [*before, line])[-1] == (line, ours)


def events_of_each(port: int, subscribed_port: int, lines: list[str]) -> list[tuple[str, list[str]]]:
    """The events of each line; those of a transaction with its EXEC."""
    found = []
    connection = Raw(port, 2)
    client: Any = redis.Redis(port=subscribed_port, decode_responses=True)
    with client.pubsub() as listener:
        listener.psubscribe(ALL)
        assert listener.get_message(timeout=10)["type"] == "psubscribe"
        within_multi = False
        for line in lines:
            reply = connection.ask(*line.encode().split())
            assert not isinstance(reply, hiredis.ReplyError), reply
            within_multi = line == "MULTI" or (within_multi and line != "EXEC")
            if not within_multi:
                connection.ask(b"SET", b"end", b"")
                found.append((line, until_end(listener)))
    connection.close()
    return found


def test_a_star_receives_failover_events_only(pair: ServerThread) -> None:
    listener = subscriber(pair, 0, patterns=("*",))
    assert pair.servers[0].backend.change_listener is None
    listener.close()


def test_only_subscribers_of_failover_events_make_the_server_observe_the_cluster(pair: ServerThread) -> None:
    server = pair.servers[0]
    channels, patterns = ("__keyevent@0__:set", "__keyspace@0__:a"), (ALL,)
    listener = subscriber(pair, 0, *channels, patterns=patterns)
    assert server.keyspace_notifications.listening and not server.sentinel_events.watching
    listener.subscribe("+switch-master")
    assert listener.get_message(timeout=10)["type"] == "subscribe"
    assert server.sentinel_events.watching
    listener.unsubscribe("+switch-master")
    assert listener.get_message(timeout=10)["type"] == "unsubscribe"
    assert not server.sentinel_events.watching and server.keyspace_notifications.listening
    listener.unsubscribe()
    listener.punsubscribe()
    for _ in range(3):
        listener.get_message(timeout=10)
    assert not server.keyspace_notifications.listening and server.backend.change_listener is None
    listener.close()


def test_a_subscriber_that_leaves_is_forgotten(pair: ServerThread) -> None:
    server, client = pair.servers[0], pair.client()
    first, second = (
        subscriber(pair, 0, "__keyevent@0__:set"),
        subscriber(pair, 0, "__keyevent@0__:set", patterns=(ALL,)),
    )
    second.close()
    wait_for(lambda: len(server.connections) == 1)
    client.set("a", 1)
    assert received(first, 1) == [("event@0__:set", "a")]
    first.close()
    wait_for(lambda: server.backend.change_listener is None)
    client.close()


def test_a_topic_counts_once(pair: ServerThread) -> None:
    server = pair.servers[0]
    for kind in (b"", b"P"):
        connection = Raw(pair.port, 2)
        connection.send(kind + b"SUBSCRIBE", b"a", b"a", b"__key", b"__key")
        assert [connection.next()[2] for _ in range(4)] == [1, 1, 2, 2]
        assert server.sentinel_events.watching and server.keyspace_notifications.listening
        connection.send(kind + b"UNSUBSCRIBE", b"a", b"__key")
        assert [connection.next()[2] for _ in range(2)] == [1, 0]
        assert not server.sentinel_events.watching and not server.keyspace_notifications.listening
        connection.close()


def test_a_client_with_resp3_is_sent_its_own_events(pair: ServerThread) -> None:
    with raw(pair) as connection:
        connection.sendall(b"HELLO 3\r\nSUBSCRIBE __keyspace@0__:a\r\n")
        data = b""
        while b">3\r\n$9\r\nsubscribe" not in data:
            data += connection.recv(1 << 16)
        connection.sendall(b"SET a 1\r\n")
        expected = b"+OK\r\n>3\r\n$7\r\nmessage\r\n$16\r\n__keyspace@0__:a\r\n$3\r\nset\r\n"
        data = b""
        while len(data) < len(expected):
            data += connection.recv(1 << 16)
        assert data == expected


def test_too_many_patterns(pair: ServerThread) -> None:
    listeners = [subscriber(pair, 0, patterns=(f"__keyspace@0__:{number}:*",)) for number in range(MAX_EVENT_PATTERNS)]
    listeners.append(subscriber(pair, 0, patterns=("__keyspace@0__:0:*",)))  # one that exists
    one_more = pair.client(0).pubsub()
    one_more.psubscribe("__keyspace@0__:more:*")
    with pytest.raises(redis.ResponseError, match="100 patterns of keyspace notifications"):
        one_more.get_message(timeout=10)
    listeners.pop(5).close()
    wait_for(lambda: len(pair.servers[0].connections) == MAX_EVENT_PATTERNS + 1)
    subscriber(pair, 0, patterns=("__keyspace@0__:more:*",)).close()
    for listener in (one_more, *listeners):
        listener.close()


def test_a_subscriber_that_does_not_read_is_disconnected(pair: ServerThread) -> None:
    server, client = pair.servers[0], pair.client()
    row = "r" * 400
    listener = subscriber(pair, 0, f"__keyspace@0__:{row}")
    with raw(pair) as deaf:
        deaf.sendall(b"PSUBSCRIBE __key*\r\n")
        assert deaf.recv(100)
        sent = 0
        while len(server.connections) == 3:
            pipeline = client.pipeline(transaction=False)
            for _ in range(1000):
                pipeline.set(row, "")
            pipeline.execute()
            received(listener, 1000)
            sent += 1
            assert sent < 100, "the server keeps everything for a client that does not read"
    listener.close()
    client.close()


def test_config(pair: ServerThread) -> None:
    client = pair.client(decode_responses=True)
    assert client.config_get("notify-*") == {"notify-keyspace-events": "AKE"}
    assert client.config_set("notify-keyspace-events", "Ex")
    assert client.config_get("notify-keyspace-events") == {"notify-keyspace-events": "AKE"}
    for line, error in [
        ("SET", "wrong number of arguments for 'config|set' command"),
        ("SET notify-keyspace-events", "wrong number of arguments for 'config|set' command"),
        ("SET notify-keyspace-events Ex maxmemory", "syntax error"),
        ("SET notify-keyspace-events Ex maxmemory 0", "CONFIG SET cannot change settings"),
        ("SET maxmemory 0", "CONFIG SET cannot change settings"),
        ("SET notify-keyspace-events Q", "Invalid event class character. Use 'Ag$lshzxeKEtmdn'."),
    ]:
        with pytest.raises(redis.ResponseError) as raised:
            client.execute_command("CONFIG", *line.split())
        assert error in str(raised.value)
    client.close()


@pytest.mark.parametrize(
    ("flags", "refused"),
    [("AKE", ""), ("Ex", ""), ("Kg$", ""), ("", "off"), ("x", "off"), ("E", "off"), ("KEAm", "(m)"), ("EAn", "(n)")],
)
def test_a_setting_that_asks_for_what_is_not_sent_is_refused(flags: str, refused: str) -> None:
    if refused:
        with pytest.raises(BadRequest) as raised:
            check_wanted(flags.encode())
        assert refused in str(raised.value)
    else:
        check_wanted(flags.encode())
