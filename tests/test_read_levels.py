"""Read levels of Redis clients, at a leader and at a follower that lags behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import hiredis
import pytest

from replicator.errors import NoReplicas
from replicator.log.memory import MemoryReader
from replicator.protocol.timing import Timeouts
from replicator.server.redis.waiting import Work
from tests.redis_fixture import STEADY, ServerThread
from tests.test_redis_differential import Raw
from tests.test_redis_server import wait_for

INVALID_LEVELS = (
    b"strong",
    b"bounded",
    b"bounded 0",
    b"bounded -5",
    b"bounded " + b"9" * 5000,
    b"session",
    b"session 7",
)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerThread]:
    """n1 is the leader, n2 a follower. Reads time out quickly."""
    thread = ServerThread(tmp_path_factory.mktemp("pair"), nodes=2, timing=STEADY, timeouts=Timeouts(read_ms=300))
    yield thread
    thread.close()


class TwoClients:
    """A client of each node. `k` is "old" at both."""

    def __init__(self, pair: ServerThread, protocol: int) -> None:
        self._pair = pair
        self.leader, self.follower = (Raw(server.port, protocol) for server in pair.servers)
        self.leader.ask(b"SET", b"k", b"old")
        assert self.leader.ask(b"WAIT", b"1", b"10000") == 1

    @contextmanager
    def lagging_follower(self) -> Iterator[None]:
        """The follower reads no new entries of the log meanwhile."""
        reader = self._pair.node(1).node._context.reader
        assert isinstance(reader, MemoryReader)
        with patch.object(reader, "_after", lambda offset: []):
            yield
        self._pair.run(self._wake_readers())

    async def _wake_readers(self) -> None:
        self._pair.cluster.log.append_now([])

    def at_the_follower(self, line: bytes) -> Any:
        return self.follower.ask(*line.split())


@pytest.fixture(params=[2, 3], ids=["RESP2", "RESP3"])
def two(pair: ServerThread, request: pytest.FixtureRequest) -> Iterator[TwoClients]:
    two = TwoClients(pair, request.param)
    yield two
    two.leader.close()
    two.follower.close()


def is_error(reply: Any, words: str) -> bool:
    return isinstance(reply, hiredis.ReplyError) and words in str(reply)


def test_a_connection_sets_and_reads_its_level(two: TwoClients) -> None:
    token = two.leader.ask(b"REPL.TOKEN")
    assert two.leader.ask(b"REPL.READ") == b"default"
    for level in (b"eventual", b"linearizable", b"bounded 500", b"bounded 500 10", b"session " + token):
        assert two.leader.ask(b"repl.read", *level.split()) == b"OK"
        assert two.leader.ask(b"REPL.READ") == level
        assert two.leader.ask(b"GET", b"k") == b"old"
    assert two.leader.ask(b"REPL.READ", b"DEFAULT") == b"OK"
    assert two.leader.ask(b"REPL.READ") == b"default"


def test_reset_restores_the_default_level(two: TwoClients) -> None:
    two.leader.ask(b"REPL.READ", b"eventual")
    two.leader.ask(b"RESET")
    assert two.leader.ask(b"REPL.READ") == b"default"


def test_a_level_for_one_command_does_not_change_that_of_the_connection(two: TwoClients) -> None:
    two.follower.ask(b"REPL.READ", b"bounded", b"500")
    assert two.follower.ask(b"REPL.READ", b"linearizable", b"GET", b"k") == b"old"
    assert two.follower.ask(b"REPL.READ", b"eventual", b"MGET", b"k", b"none") == [b"old", None]
    assert two.follower.ask(b"REPL.READ") == b"bounded 500"


@pytest.mark.parametrize("level", INVALID_LEVELS, ids=lambda level: level[:12].decode())
def test_an_invalid_level_is_refused_and_changes_nothing(two: TwoClients, level: bytes) -> None:
    for command in ((), (b"GET", b"k")):
        assert isinstance(two.leader.ask(b"REPL.READ", *level.split(), *command), hiredis.ReplyError)
    assert two.leader.ask(b"REPL.READ") == b"default"
    assert two.leader.ask(b"GET", b"k") == b"old"


def test_only_a_command_that_reads_takes_a_level(two: TwoClients) -> None:
    ask = two.leader.ask
    assert is_error(ask(b"REPL.READ", b"eventual", b"SET", b"k", b"v"), "takes a read command, not SET")
    assert is_error(ask(b"REPL.READ", b"eventual", b"PING"), "takes a read command, not PING")
    assert is_error(ask(b"REPL.READ", b"eventual", b"REPL.READ"), "takes a read command, not REPL.READ")
    assert is_error(ask(b"REPL.READ", b"eventual", b"GET"), "wrong number of arguments for 'get' command")
    assert is_error(ask(b"REPL.READ", b"eventual", b"NOSUCH"), "unknown command 'NOSUCH'")
    assert ask(b"GET", b"k") == b"old"


def test_readonly_and_readwrite_of_cluster_clients_are_accepted(two: TwoClients) -> None:
    for client in (two.leader, two.follower):
        assert client.ask(b"READONLY") == client.ask(b"READWRITE") == b"OK"
    assert is_error(two.at_the_follower(b"SET k v"), "READONLY")


def test_reads_at_a_follower_are_eventual_by_default(two: TwoClients) -> None:
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        assert two.leader.ask(b"GET", b"k") == b"new"
        assert two.at_the_follower(b"GET k") == two.at_the_follower(b"REPL.READ eventual GET k") == b"old"


def test_a_session_reads_its_own_writes_and_reads_at_every_node(two: TwoClients) -> None:
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        token = two.leader.ask(b"REPL.TOKEN")
        two.follower.send(b"REPL.READ", b"session", token, b"GET", b"k")
    assert two.follower.next() == b"new"
    assert two.follower.ask(b"REPL.READ", b"session", two.follower.ask(b"REPL.TOKEN")) == b"OK"
    assert two.at_the_follower(b"GET k") == b"new"
    seen = two.follower.ask(b"REPL.TOKEN")
    assert two.leader.ask(b"REPL.READ", b"session", seen, b"GET", b"k") == b"new"


def test_the_token_of_a_pipeline_covers_the_writes_before_it(two: TwoClients) -> None:
    for number in range(100):
        two.leader.send(b"SET", b"k", b"%d" % number)
    two.leader.send(b"REPL.TOKEN")
    assert [two.leader.next() for _ in range(100)] == [b"OK"] * 100
    token = two.leader.next()
    assert two.at_the_follower(b"REPL.READ session %b GET k" % token) == b"99"


def test_a_token_beyond_the_log_is_stale_after_the_timeout(two: TwoClients) -> None:
    timeline, _, offset = two.leader.ask(b"REPL.TOKEN").partition(b":")
    future = b"%b:%d" % (timeline, int(offset) + 1_000_000)
    for client in (two.leader, two.follower):
        reply = client.ask(b"REPL.READ", b"session", future, b"GET", b"k")
        assert is_error(reply, "STALE a read of this level cannot be answered here within 300 ms")
        assert client.ask(b"GET", b"k") == b"old"


def test_a_token_of_another_timeline_is_refused_at_once(two: TwoClients) -> None:
    assert two.at_the_follower(b"REPL.READ session %b:1" % (b"0" * 32)) == b"OK"
    two.follower.send(b"GET", b"k")
    two.follower.send(b"REPL.READ", b"eventual", b"GET", b"k")
    assert is_error(two.follower.next(), "STALE the token is of timeline")
    assert two.follower.next() == b"old"


def test_bounded_is_met_by_age_or_waits_for_the_records_that_are_missing(two: TwoClients) -> None:
    assert two.at_the_follower(b"REPL.READ bounded 60000 GET k") == b"old"
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        assert two.at_the_follower(b"REPL.READ bounded 60000 GET k") == b"old"  # it was current recently enough
        assert (
            two.at_the_follower(b"REPL.READ bounded 1 1000000 GET k") == b"old"
        )  # it lacks fewer records than allowed
        reply = two.at_the_follower(b"REPL.READ bounded 1 GET k")
        assert is_error(reply, "STALE a read of this level cannot be answered here within 300 ms")
        two.follower.send(b"REPL.READ", b"bounded", b"1", b"GET", b"k")
    assert two.follower.next() == b"new"


def test_a_linearizable_read_at_a_follower_waits_until_it_has_caught_up(two: TwoClients) -> None:
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        reply = two.at_the_follower(b"REPL.READ linearizable GET k")
        assert is_error(
            reply, "STALE a read of this level cannot be answered here within 300 ms: this node is at offset"
        )
        two.at_the_follower(b"REPL.READ linearizable")
        for _ in range(3):
            two.follower.send(b"GET", b"k")
        two.follower.send(b"REPL.READ", b"eventual", b"STRLEN", b"k")
    assert [two.follower.next() for _ in range(4)] == [b"new", b"new", b"new", 3]


def test_a_transaction_that_only_reads_has_the_level_of_its_connection(two: TwoClients) -> None:
    two.at_the_follower(b"REPL.READ linearizable")
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        for line in (b"MULTI", b"GET k", b"EXISTS k", b"EXEC"):
            two.follower.send(*line.split())
    assert [two.follower.next() for _ in range(3)] == [b"OK", b"QUEUED", b"QUEUED"]
    assert two.follower.next() == [b"new", 1]


def test_a_transaction_that_waits_for_its_level_is_discarded_if_a_watched_key_changes(
    two: TwoClients, pair: ServerThread
) -> None:
    two.at_the_follower(b"REPL.READ linearizable")
    for line in (b"WATCH k", b"MULTI", b"GET k"):
        two.at_the_follower(line)
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        two.follower.send(b"EXEC")
        wait_for(lambda: any(isinstance(it._waiting, Work) for it in pair.servers[1].connections.values()))
    assert two.follower.next() is None


def test_exec_ends_the_transaction_even_if_its_writes_are_refused(two: TwoClients, pair: ServerThread) -> None:
    assert [two.leader.ask(*line.split()) for line in (b"MULTI", b"SET k new")] == [b"OK", b"QUEUED"]
    with patch.object(pair.node(0).node, "begin", side_effect=NoReplicas("n2 is unresponsive")):
        assert is_error(two.leader.ask(b"EXEC"), "NOREPLICAS n2 is unresponsive")
    assert two.leader.ask(b"GET", b"k") == b"old"


@pytest.mark.parametrize("line", [b"REPL.READ", b"REPL.READ eventual", b"REPL.READ eventual GET k", b"REPL.TOKEN"])
def test_levels_and_tokens_are_refused_in_a_transaction(two: TwoClients, line: bytes) -> None:
    two.leader.ask(b"MULTI")
    assert is_error(two.leader.ask(*line.split()), "cannot be part of a transaction")
    assert is_error(two.leader.ask(b"EXEC"), "EXECABORT")
    assert two.leader.ask(b"REPL.READ") == b"default"


def test_wait_counts_the_replicas_that_have_the_last_write(two: TwoClients) -> None:
    with two.lagging_follower():
        two.leader.ask(b"SET", b"k", b"new")
        assert two.leader.ask(b"WAIT", b"1", b"50") == 0
        assert two.leader.ask(b"WAITAOF", b"1", b"1", b"50") == [1, 0]
        assert two.leader.ask(b"WAITAOF", b"1", b"0", b"0") == [1, 0]
        two.leader.send(b"WAITAOF", b"0", b"1", b"0")
    assert two.leader.next() == [1, 1]
    assert two.leader.ask(b"WAIT", b"0", b"0") == 1
    assert two.leader.ask(b"WAITAOF", b"0", b"0", b"0") == [1, 1]


def test_waitaof_waits_for_the_writes_that_were_sent_before_it(two: TwoClients) -> None:
    for number in range(50):
        two.leader.send(b"SET", b"k", b"%d" % number)
    two.leader.send(b"WAITAOF", b"1", b"1", b"10000")
    assert [two.leader.next() for _ in range(51)] == [*[b"OK"] * 50, [1, 1]]
    assert two.at_the_follower(b"GET k") == b"49"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"WAITAOF 1 1", "wrong number of arguments for 'waitaof' command"),
        (b"WAITAOF 1 1 1 1", "wrong number of arguments for 'waitaof' command"),
        (b"WAITAOF x 1 1", "value is not an integer or out of range"),
        (b"WAITAOF 2 1 1", "value is out of range, value must between 0 and 1"),
        (b"WAITAOF -1 1 1", "value is out of range, value must between 0 and 1"),
        (b"WAITAOF 1 x 1", "value is out of range, must be positive"),
        (b"WAITAOF 1 -1 1", "value is out of range, must be positive"),
        (b"WAITAOF 1 1 x", "timeout is not an integer or out of range"),
        (b"WAITAOF 1 1 -1", "timeout is negative"),
        (b"WAIT 1 -1", "timeout is negative"),
        (b"WAIT x 1", "value is not an integer or out of range"),
    ],
)
def test_an_invalid_wait_is_refused(two: TwoClients, line: bytes, message: str) -> None:
    assert is_error(two.leader.ask(*line.split()), message)


@pytest.mark.parametrize("line", [b"WAIT 0 1", b"WAITAOF 0 0 1"])
def test_wait_is_refused_at_a_follower_and_in_a_transaction(two: TwoClients, line: bytes) -> None:
    assert is_error(two.at_the_follower(line), "cannot be used with replica instances.")
    two.leader.ask(b"MULTI")
    assert is_error(two.leader.ask(*line.split()), "cannot be part of a transaction")
    assert is_error(two.leader.ask(b"EXEC"), "EXECABORT")
