"""The client with in-memory clusters: failovers, lost answers, replicas that lag behind."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from replicator.client import (
    EVENTUAL,
    LINEARIZABLE,
    BadRequest,
    Client,
    ConfigError,
    Rejected,
    Stale,
    Unavailable,
    UnknownOutcome,
    bounded,
)
from replicator.protocol.timing import Timeouts
from replicator.server.redis.replies import PendingReply
from tests.builds import needs_interpreted
from tests.client_fixture import Connect
from tests.redis_fixture import CLUSTER, STEADY, ServerThread
from tests.test_redis_server import wait_for

SHORT_READS = Timeouts(read_ms=50)


def nodes(thread: ServerThread) -> list[str]:
    return [f"127.0.0.1:{server.port}" for server in thread.servers]


@pytest.fixture(scope="module")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """Three nodes; n1 is the leader."""
    thread = ServerThread(tmp_path_factory.mktemp("calm"), nodes=3, timing=STEADY, timeouts=SHORT_READS)
    yield thread
    thread.close()


@pytest.fixture
def client(calm: ServerThread, connect: Connect) -> Any:
    client = connect(nodes(calm), cluster=CLUSTER)
    client.execute("FLUSHALL", once=False)
    return client


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[ServerThread]:
    """Three nodes; n1 is the leader until it is killed."""
    thread = ServerThread(tmp_path, nodes=3)
    yield thread
    thread.close()


@contextmanager
def lagging(thread: ServerThread, *indexes: int) -> Iterator[None]:
    """These nodes read no new entries of the log meanwhile."""
    readers: list[Any] = [thread.node(index).node._context.reader for index in indexes]
    for reader in readers:
        reader._after = lambda offset: []
    yield
    for reader in readers:
        del reader._after
    thread.run(thread.cluster.caught_up())


def test_commands(client: Any) -> None:
    client.set("s", "text")
    assert client.get("s") == b"text" and client.get("none") is None
    assert (client.incr("n"), client.incr("n", 5), client.incr("n", -2)) == (1, 6, 4)
    assert client.hset("h", {"a": 1, "b": b"\0"}) == 2
    assert client.hgetall("h") == {b"a": b"1", b"b": b"\0"} and client.hgetall("none") == {}
    assert client.delete("s", "n", "none") == 2
    assert client.execute("SET", "s", 1.5, "GET") is None and client.read("MGET", "s", "n") == [b"1.5", None]


def test_one_node_is_enough_to_discover_the_others(calm: ServerThread, connect: Connect) -> None:
    client = connect(nodes(calm)[2:], cluster=CLUSTER)
    before = [server.stats.commands for server in calm.servers]
    client.set("a", 1)
    for _ in range(4):
        assert client.get("a") == b"1"
    assert str(client.leader()) == nodes(calm)[0]
    assert all(server.stats.commands > count for server, count in zip(calm.servers, before, strict=True))


@pytest.mark.parametrize("level", [EVENTUAL, LINEARIZABLE, bounded(60_000), bounded(60_000, 10)])
@pytest.mark.parametrize("prefer", ["leader", "follower"])
def test_levels(calm: ServerThread, connect: Connect, level: Any, prefer: str) -> None:
    client = connect(nodes(calm), cluster=CLUSTER, prefer=prefer, level=level)
    client.set("a", 1)
    calm.run(calm.cluster.caught_up())
    assert client.get("a") == client.get("a", level=EVENTUAL) == b"1"


def test_a_refusal_has_the_message_of_the_node(client: Any) -> None:
    client.set("a", "text")
    for line, message in (
        (("INCR", "a"), "not an integer"),
        (("HSET", "a", "b", 1), "wrong kind"),
        (("GET", "a"), "send that without REPL.ONCE"),
        (("NONSENSE",), "unknown command"),
    ):
        with pytest.raises(Rejected, match=message):
            client.execute(*line)
    with pytest.raises(Rejected, match="takes a read command"):
        client.read("SET", "a", 1)
    with pytest.raises(Rejected, match="wrong kind"):
        client.read("HGET", "a", "b")
    with pytest.raises(BadRequest, match="NoneType"):
        client.set("a", None)


def test_a_transaction_is_atomic(client: Any) -> None:
    id = uuid.uuid4().hex
    client.set("text", "text")
    commands = [("INCR", "n"), ("HSET", "text", "a", 1), ("INCR", "n")]
    one, error, two = client.transaction(commands, id=id)
    assert (one, two, error.code) == (1, 2, "WRONGTYPE")
    assert client.transaction(commands, id=id)[::2] == [1, 2] and client.get("n") == b"2"
    with pytest.raises(BadRequest):
        client.transaction([("INCR", "n"), ()])
    assert client.get("n") == b"2"


class TestOnce:
    @pytest.fixture
    def lost(self, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
        """One answer to a write is lost for each entry: the connection is closed before it is sent."""
        lost: list[bytes] = []
        ready = PendingReply.__call__

        def cut(reply: PendingReply, *outcome: Any) -> None:
            ready(reply, *outcome)
            if lost:
                lost.pop()
                reply.replies.transport.abort()

        monkeypatch.setattr(PendingReply, "__call__", cut)
        return lost

    @needs_interpreted
    def test_a_write_whose_answer_is_lost_takes_effect_once(self, client: Any, lost: list[bytes]) -> None:
        lost.extend([b""] * 3)
        assert client.incr("n") == 1
        assert not lost and client.get("n") == b"1"

    @needs_interpreted
    def test_a_transaction_whose_answer_is_lost_takes_effect_once(self, client: Any, lost: list[bytes]) -> None:
        lost.append(b"")
        assert client.transaction([("INCR", "n"), ("INCR", "n")]) == [1, 2]
        assert not lost and client.get("n") == b"2"

    @needs_interpreted
    def test_a_session_reads_its_write_whose_answer_was_lost(self, client: Any, lost: list[bytes]) -> None:
        session = client.session()
        lost.append(b"")
        assert session.incr("n") == 1
        assert not lost and session.get("n") == b"1"

    @needs_interpreted
    def test_without_an_id_a_lost_answer_is_an_unknown_outcome(self, client: Any, lost: list[bytes]) -> None:
        lost.append(b"")
        with pytest.raises(UnknownOutcome, match="may or may not take effect"):
            client.execute("INCR", "n", once=False)
        assert client.get("n") == b"1"

    def test_a_write_can_be_repeated_with_its_own_id(self, client: Any, calm: ServerThread, connect: Connect) -> None:
        id = uuid.uuid4().hex
        assert client.execute("INCR", "n", id=id) == 1
        other = connect(nodes(calm), cluster=CLUSTER)
        assert other.execute("INCR", "n", id=id) == 1
        with pytest.raises(Rejected, match="another command line"):
            other.execute("DEL", "n", id=id)


class Counting(threading.Thread):
    """Increments a counter until it is stopped."""

    def __init__(self, client: Any) -> None:
        super().__init__(daemon=True)
        self._client = client
        self.answers: list[int] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.answers.append(self._client.incr("n"))


class TestFailover:
    def test_increments_continue_and_each_takes_effect_once(self, trio: ServerThread, connect: Connect) -> None:
        counting = Counting(connect(nodes(trio), cluster=CLUSTER))
        counting.start()
        wait_for(lambda: len(counting.answers) > 50)
        trio.kill(0)
        killed = len(counting.answers)
        wait_for(lambda: len(counting.answers) > killed + 50)
        counting.stop.set()
        counting.join()
        assert counting.answers == list(range(1, len(counting.answers) + 1))

    def test_the_client_leaves_a_deposed_leader(self, trio: ServerThread, connect: Connect) -> None:
        client = connect(nodes(trio), cluster=CLUSTER)
        assert client.incr("n") == 1
        trio.claim_leadership(2)
        assert client.incr("n") == 2
        assert str(client.leader()) == nodes(trio)[2]

    def test_reads_and_sessions_continue(self, trio: ServerThread, connect: Connect) -> None:
        client = connect(nodes(trio), cluster=CLUSTER)
        session = client.session()
        session.set("a", 1)
        trio.kill(0)
        assert session.get("a") == client.get("a") == b"1"
        session.set("a", 2)
        assert session.get("a") == b"2"

    def test_requests_time_out_when_all_nodes_are_down(self, trio: ServerThread, connect: Connect) -> None:
        client = connect(nodes(trio), cluster=CLUSTER, timeout_s=0.3)
        client.set("a", 1)
        for index in range(3):
            trio.kill(index)
        for request in (client.leader, lambda: client.get("a"), lambda: client.set("a", 2)):
            began_s = time.monotonic()
            with pytest.raises(Unavailable, match=r"within 0\.3 s") as end:
                request()
            assert time.monotonic() - began_s < 5
            assert all(node in str(end.value) for node in nodes(trio))

    def test_an_unresponsive_node_delays_a_request_only_briefly(self, calm: ServerThread, connect: Connect) -> None:
        """It accepts connections but never answers."""
        unresponsive = socket.create_server(("127.0.0.1", 0))
        address = f"127.0.0.1:{unresponsive.getsockname()[1]}"
        client = connect([address, *nodes(calm)], cluster=CLUSTER, timeout_s=20)
        client.set("a", 1)
        assert client.get("a") == b"1"
        client = connect([address], cluster=CLUSTER, timeout_s=0.2)
        with pytest.raises(Unavailable, match=address):
            client.get("a")
        unresponsive.close()


class TestLevels:
    """With replicas that lag behind."""

    def test_a_session_reads_its_writes_at_every_node(self, client: Any, calm: ServerThread) -> None:
        session = client.session()
        session.set("a", "old")
        calm.run(calm.cluster.caught_up())
        with lagging(calm, 1, 2):
            session.set("a", "new")
            assert client.get("a", level=EVENTUAL) == b"old"
            assert [session.get("a") for _ in range(3)] == [b"new"] * 3
            assert session.get("a", level=EVENTUAL) == b"old"

    def test_a_session_never_reads_older_values_than_before_at_any_node(self, client: Any, calm: ServerThread) -> None:
        client.set("a", "old")
        calm.run(calm.cluster.caught_up())
        with lagging(calm, 2):
            client.set("a", "new")
            first = client.session()
            while first.get("a", level=EVENTUAL) != b"new":  # followers are asked in turn
                pass
            assert [first.get("a") for _ in range(4)] == [b"new"] * 4
            assert [client.session(first.token).get("a") for _ in range(4)] == [b"new"] * 4
            assert b"old" in [client.session().get("a") for _ in range(4)]

    def test_session_reads_are_monotonic(self, calm: ServerThread, client: Any) -> None:
        writer = Client(nodes(calm), cluster=CLUSTER)
        counting = Counting(writer)
        counting.start()
        session = client.session()
        seen: list[int] = []
        while len(seen) < 200:
            seen.append(int(session.get("n") or 0))
        counting.stop.set()
        counting.join()
        writer.close()
        assert seen == sorted(seen) and len(set(seen)) > 1

    def test_a_linearizable_read_returns_writes_acknowledged_to_others(self, client: Any, calm: ServerThread) -> None:
        client.set("a", "old")
        calm.run(calm.cluster.caught_up())
        with lagging(calm, 2), calm.client() as other:
            other.set("a", "new")
            assert [client.get("a") for _ in range(4)] == [b"new"] * 4
            assert b"old" in [client.get("a", level=EVENTUAL) for _ in range(2)]

    def test_a_read_is_stale_if_no_node_can_meet_its_level(self, client: Any, calm: ServerThread) -> None:
        session = client.session()
        session.set("a", 1)
        timeline, _, offset = session.token.partition(":")
        ahead = client.session(f"{timeline}:{int(offset) + 1000}")
        with pytest.raises(Stale, match="cannot be answered here within 50 ms"):
            ahead.get("a")

    def test_invalid_tokens_are_refused(self, client: Any) -> None:
        with pytest.raises(BadRequest, match="is not a token"):
            client.session("nonsense")
        with pytest.raises(Stale, match="Start a new session"):
            client.session("0" * 32 + ":7").get("a")


def test_a_password(serve: Callable[..., ServerThread], connect: Connect) -> None:
    thread = serve(password="sesame")
    client = connect(nodes(thread), cluster=CLUSTER, password="sesame")
    client.set("a", 1)
    assert client.get("a") == b"1"
    for password in ("", "wrong"):
        client = connect(nodes(thread), cluster=CLUSTER, password=password)
        for request, line in ((client.read, ("GET", "a")), (client.execute, ("SET", "a", 1))):
            with pytest.raises(Rejected, match=r"invalid username-password|Authentication required") as end:
                request(*line)
            assert end.value.code == "NOAUTH"


def test_invalid_settings_are_refused(calm: ServerThread, connect: Connect) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        connect(["somewhere"])
    for addresses in ((), "127.0.0.1:7001"):
        with pytest.raises(ConfigError, match="in a list"):
            connect(addresses)
    with pytest.raises(
        ConfigError, match=f"belongs to the cluster '{CLUSTER}', .*: connect with cluster='{CLUSTER}', in"
    ):
        connect(nodes(calm), cluster="other").set("a", 1)


def test_threads_share_a_client(calm: ServerThread) -> None:
    with Client(nodes(calm), cluster=CLUSTER) as client:
        client.delete("n")
        threads = [threading.Thread(target=lambda: [client.incr("n") for _ in range(25)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert client.get("n") == b"200"
