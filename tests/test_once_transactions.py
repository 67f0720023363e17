"""REPL.EXEC: a transaction that is sent again is decided once for all its commands."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from replicator.server.redis.dedup import DEDUP_TABLE
from tests.client_fixture import Connect
from tests.redis_fixture import ServerThread
from tests.test_redis_differential import Raw


def send(client: Raw, id: bytes, *lines: bytes) -> Any:
    client.ask(b"MULTI")
    for line in lines:
        client.ask(*line.split())
    return client.ask(b"REPL.EXEC", id)


@pytest.fixture
def raw_client(server: ServerThread, client: Any) -> Any:
    raw = Raw(server.port, 2)
    yield raw
    raw.close()


LINES = (b"INCR n", b"INCR text", b"HGETALL h", b"SET text 1 GET", b"GETDEL none", b"GET n")


def test_all_replies_are_those_of_the_first_time(server: ServerThread, client: Any, raw_client: Raw) -> None:
    client.set("text", "words")
    client.hset("h", mapping={"f": 1})
    first = send(raw_client, b"same", *LINES)
    assert first[0] == 1 and first[2:] == [[b"f", b"1"], b"words", None, b"1"]
    client.set("text", 5)  # now the second command would succeed
    client.incr("n")
    assert str(send(raw_client, b"same", *LINES)) == str(first)
    assert (client.get("n"), client.get("text")) == (b"2", b"5")
    other = Raw(server.port, 3)
    again = send(other, b"same", *LINES)
    other.close()
    assert again[2] == {b"f": b"1"} and again[3:] == first[3:]


def test_a_transaction_without_changes_is_remembered(client: Any, raw_client: Raw) -> None:
    assert send(raw_client, b"reads", b"GET n") == [None]
    client.set("n", 1)
    assert send(raw_client, b"reads", b"GET n") == [None]


@pytest.mark.parametrize("other", [(b"INCR a",), (b"INCR a", b"INCR c"), (b"INCR b", b"INCR a"), (b"MGET INCR a",)])
def test_an_id_is_of_one_transaction(client: Any, raw_client: Raw, other: tuple[bytes, ...]) -> None:
    send(raw_client, b"own-%b" % other[-1], b"INCR a", b"INCR b")
    assert "another command line" in str(send(raw_client, b"own-%b" % other[-1], *other))
    assert raw_client.ask(b"PING") == b"PONG"  # and MULTI is over


def test_a_watched_key_that_changed_decides_nothing(client: Any, raw_client: Raw) -> None:
    raw_client.ask(b"WATCH", b"w")
    client.set("w", 1)
    assert send(raw_client, b"watched", b"INCR n") is None
    assert send(raw_client, b"watched", b"INCR n") == [1]


def test_a_watched_key_that_changed_does_not_hide_what_was_decided(client: Any, raw_client: Raw) -> None:
    assert send(raw_client, b"decided", b"INCR n") == [1]
    raw_client.ask(b"WATCH", b"w")
    client.set("w", 1)
    assert send(raw_client, b"decided", b"INCR n") == [1]
    assert client.get("n") == b"1"


def test_it_needs_multi_and_an_id(raw_client: Raw) -> None:
    assert "without MULTI" in str(raw_client.ask(b"REPL.EXEC", b"id"))
    assert "1 to 128 bytes" in str(send(raw_client, b"x" * 129, b"INCR n"))
    assert "EXECABORT" in str(send(raw_client, b"id", b"NO-SUCH"))


def test_a_transaction_takes_one_id(server: ServerThread, client: Any, connect: Connect) -> None:
    def ids() -> int:
        return server.node(0).machine.view.rows(DEDUP_TABLE)

    before = ids()
    with pytest.raises(redis.ResponseError):
        client.execute_command("REPL.EXEC", "none")
    cluster = connect([f"127.0.0.1:{server.port}"], cluster="test")
    assert cluster.transaction([("INCR", "a"), ("INCR", "b"), ("INCR", "a")]) == [1, 1, 2]
    assert ids() == before + 1
