"""Subscriptions to the events of a sentinel, and the restrictions on connections that subscribe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator.address import Address
from replicator.position import NodeId
from replicator.records.types import Member, Mode, Timing
from replicator.server.redis.topology import Topology, events
from tests.redis_fixture import CLUSTER, ServerThread, real_redis
from tests.test_redis_differential import Raw
from tests.test_redis_server import exchange, raw, wait_for

N1, N2, N3 = (
    Member(NodeId(f"n{it}"), Mode.ASYNC, Address(f"h{it}", 7000 + it), Address(f"h{it}", 8000 + it), it)
    for it in (1, 2, 3)
)
SEEN = Topology(
    node=N3.node,
    serving=True,
    leader=N1,
    leader_down=False,
    leader_silent_ms=0.0,
    epoch=1,
    replicas=(N2, N3),
    sentinels=(N1, N2),
)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (SEEN, []),
        (SEEN._replace(epoch=2), []),
        (SEEN._replace(leader_down=True), [("+sdown", "master c h1 7001")]),
        (SEEN._replace(leader=None, leader_down=True), []),
        (SEEN._replace(replicas=(N2,)), []),
        (
            SEEN._replace(replicas=(N2, replace(N3, resp=Address("h9", 7009)))),
            [("+slave", "slave h9:7009 h9 7009 @ c h1 7001")],
        ),
        (
            SEEN._replace(replicas=(N2, replace(N3, resp=Address("::1", 7009)))),
            [("+slave", "slave [::1]:7009 ::1 7009 @ c h1 7001")],
        ),
        (
            SEEN._replace(leader=N2, replicas=(N1, N3)),
            [
                ("+switch-master", "c h1 7001 h2 7002"),
                ("+slave", "slave h1:7001 h1 7001 @ c h2 7002"),
                ("+slave", "slave h3:7003 h3 7003 @ c h2 7002"),
            ],
        ),
        (
            SEEN._replace(leader=replace(N1, resp=Address("::1", 7009)), replicas=()),
            [("+switch-master", "c h1 7001 ::1 7009")],
        ),
    ],
)
def test_the_events_of_a_change(after: Topology, expected: list[tuple[str, str]]) -> None:
    assert list(events("c", SEEN, after)) == expected


def test_a_leader_that_sends_heartbeats_again() -> None:
    assert list(events("c", SEEN._replace(leader_down=True), SEEN)) == [("-sdown", "master c h1 7001")]


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[ServerThread]:
    thread = ServerThread(tmp_path, nodes=3)
    yield thread
    thread.close()


def subscriber(thread: ServerThread, index: int, *channels: str, patterns: tuple[str, ...] = (), **more: Any) -> Any:
    pubsub = thread.client(index, decode_responses=True, **more).pubsub()
    if channels:
        pubsub.subscribe(*channels)
    if patterns:
        pubsub.psubscribe(*patterns)
    for _ in (*channels, *patterns):
        assert pubsub.get_message(timeout=10)["type"] in ("subscribe", "psubscribe")
    return pubsub


@pytest.mark.parametrize("protocol", [2, 3])
def test_subscribers_at_every_node_learn_of_a_new_leader(trio: ServerThread, protocol: int) -> None:
    listeners = [subscriber(trio, it, "+switch-master", "news", protocol=protocol) for it in range(3)]
    trio.claim_leadership(1)
    first, second, third = (server.port for server in trio.servers)
    for listener in listeners:
        message = listener.get_message(timeout=10)
        assert (message["type"], message["channel"]) == ("message", "+switch-master")
        assert message["data"] == f"{CLUSTER} 127.0.0.1 {first} 127.0.0.1 {second}"
    listeners.pop(1).close()
    trio.kill(1)
    for listener in listeners:
        data = listener.get_message(timeout=10)["data"]
        assert data in [f"{CLUSTER} 127.0.0.1 {second} 127.0.0.1 {it}" for it in (first, third)]
        listener.close()


def test_patterns_receive_the_messages_that_they_match(trio: ServerThread) -> None:
    listener = subscriber(trio, 2, patterns=("+s[lw]*",))
    trio.claim_leadership(1)
    heard = [listener.get_message(timeout=10) for _ in range(3)]
    assert {it["type"] for it in heard} == {"pmessage"}
    assert [it["channel"] for it in heard] == ["+switch-master", "+slave", "+slave"]
    listener.close()


def test_a_leader_whose_heartbeat_timed_out_is_reported_once(tmp_path: Path) -> None:
    thread = ServerThread(tmp_path, nodes=2, timing=Timing(election_ms=600_000))
    listener = subscriber(thread, 1, patterns=("*",))
    thread.kill(0)
    assert listener.get_message(timeout=10)["channel"] == "+sdown"
    assert listener.get_message(timeout=0.2) is None
    listener.close()
    thread.close()


CONVERSATION = """
UNSUBSCRIBE|PUNSUBSCRIBE|SUBSCRIBE a b a|PING|PING x|PING x y|GET a|GET|NOSUCH x|DISCARD|ECHO x|UNSUBSCRIBE b none
PUNSUBSCRIBE|subscribe A|SUBSCRIBE|PSUBSCRIBE|PSUBSCRIBE x* x*|UNSUBSCRIBE a|UNSUBSCRIBE|PUNSUBSCRIBE|GET a
PSUBSCRIBE y|UNSUBSCRIBE|RESET|GET a|SUBSCRIBE a|SUBSCRIBE b|RESET|PING|UNSUBSCRIBE
"""


@pytest.mark.parametrize("protocol", [2, 3])
def test_every_answer_is_that_of_redis(trio: ServerThread, tmp_path: Path, protocol: int) -> None:
    with real_redis(tmp_path) as port:
        theirs, ours = (_replies(it, protocol) for it in (port, trio.port))
    assert ours == theirs


def _replies(port: int, protocol: int) -> list[tuple[str, list[str]]]:
    connection = Raw(port, protocol)
    found = []
    for line in CONVERSATION.replace("\n", "|").strip("|").split("|"):
        connection.send(*line.encode().split())
        connection.send(b"PING", b"end")
        replies = []
        while (reply := connection.next()) not in (b"end", [b"pong", b"end"]):
            replies.append(f"{type(reply).__name__} {reply!r}")
        found.append((line, replies))
    connection.close()
    return found


def test_a_subscription_is_refused_within_multi(trio: ServerThread) -> None:
    exchange(
        trio,
        b"MULTI\r\nSUBSCRIBE a\r\nEXEC\r\n",
        b"+OK\r\n-ERR SUBSCRIBE cannot be part of a transaction\r\n"
        b"-EXECABORT Transaction discarded because of previous errors.\r\n",
    )


def test_the_cluster_is_not_observed_without_subscribers(trio: ServerThread) -> None:
    source = trio.servers[0].sentinel_events
    first, second = subscriber(trio, 0, "a", "b"), subscriber(trio, 0, patterns=("c",))
    assert source.watching
    client = trio.client(decode_responses=True)
    assert {(it["sub"], it["psub"]) for it in client.client_list()} == {("2", "0"), ("0", "1"), ("0", "0")}
    first.close()
    wait_for(lambda: len(client.client_list()) == 2)
    assert source.watching
    second.close()
    wait_for(lambda: not source.watching)
    client.close()


def test_a_subscriber_that_does_not_read_is_cut_off(trio: ServerThread) -> None:
    server = trio.servers[0]
    listener = subscriber(trio, 0, "news")
    with raw(trio) as deaf:
        deaf.sendall(b"SUBSCRIBE news\r\n")
        assert deaf.recv(100)
        published = 0

        async def publish() -> None:
            server.sentinel_events.publish(b"news", b"x" * 100_000)

        while len(server.connections) == 2:
            trio.run(publish())
            published += 1
            assert published < 1000, "the server keeps everything for a client that does not read"
            assert len(listener.get_message(timeout=10)["data"]) == 100_000
    listener.close()
