"""How the client handles each answer, without a network: the test is the cluster and advances the clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from replicator.address import Address
from replicator.client.errors import Rejected, Unavailable, UnknownOutcome
from replicator.client.plans import ATTEMPT_TIMEOUT_S, Pause, Plan, Planner, Send
from replicator.client.requests import (
    TOKEN,
    EncodedCommand,
    SessionProgress,
    bounded,
    encode,
    read_command,
    transaction_commands,
    write_command,
)
from replicator.client.routing import (
    LOST,
    NAME_COMMAND,
    NOT_SENT,
    ClusterMap,
    Failure,
    LookupResult,
    RetryDecision,
    after_read_failure,
    after_write_failure,
)
from replicator.errors import BadRequest, ConfigError, Definite, Stale
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE

T = TypeVar("T")

N1, N2, N3 = NODES = tuple(Address("host", port) for port in (1, 2, 3))
WRITE: list[EncodedCommand] = [(b"REPL.ONCE", b"id", b"INCR", b"n")]
READ: list[EncodedCommand] = [(b"GET", b"n")]
DOWN = Failure(NOT_SENT, "connection refused")
GONE = Failure(LOST, "connection lost")
READONLY = Failure("READONLY", "no")
TIMEOUT_S = 10.0


class FakeCluster:
    """Answers the steps of a plan and records them."""

    def __init__(self, leader: Address | None = N1, epoch: int = 1) -> None:
        self.now_s = 0.0
        self.planner = Planner(NODES, "c", TIMEOUT_S, lambda: self.now_s)
        # the leader and epoch that each node reports, or its failure
        self.lookups: dict[Address, Any] = dict.fromkeys(NODES, (leader, epoch))
        self.name: Any = Failure("ERR", "unknown subcommand")  # of the cluster of the nodes
        self.answers: dict[Address, Iterator[Any]] = {}
        self.asked: list[Address] = []  # without lookups
        self.commands: list[Any] = []
        self.silent_s: list[float | None] = []

    def at(self, node: Address, *answers: Any) -> None:
        """Set the answers of a node; the last one is repeated."""
        self.answers[node] = _repeat_last(answers)

    def write(self, id: str | None = "id", commands: list[EncodedCommand] = WRITE) -> Any:
        return self.run(self.planner.write(commands, id))

    def read(self, prefer: Any = "follower") -> Any:
        return self.run(self.planner.read(READ, prefer))

    def run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(self._run_step(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _run_step(self, step: Send | Pause) -> list[Any]:
        if isinstance(step, Pause):
            self.now_s += step.seconds
            return []
        assert step.timeout_s > 0
        if step.commands[0][0] == b"SENTINEL":
            found = self.lookups[step.node]
            if step.commands == [NAME_COMMAND]:
                return [self.name]
            return [found] if isinstance(found, Failure) else _sentinel(*found)
        self.asked.append(step.node)
        self.commands.append(step.commands)
        self.silent_s.append(step.silent_s)
        answer = next(self.answers[step.node])
        if callable(answer):
            answer = answer()
        if answer is GONE:
            self.now_s += min(step.timeout_s, step.silent_s or step.timeout_s)
        return answer if isinstance(answer, list) else [answer]


def by_port(nodes: list[Address]) -> list[Address]:
    return sorted(nodes, key=lambda node: node.port)


def _repeat_last(answers: tuple[Any, ...]) -> Iterator[Any]:
    yield from answers
    while True:
        yield answers[-1]


def _sentinel(leader: Address | None, epoch: int, flags: bytes = b"master") -> list[Any]:
    ip, port = (leader.host.encode(), b"%d" % leader.port) if leader else (b"", b"0")
    master = [b"ip", ip, b"port", port, b"config-epoch", b"%d" % epoch, b"flags", flags]
    return [master, [[b"ip", it.host.encode(), b"port", b"%d" % it.port] for it in NODES if it != leader]]


class TestWrites:
    def test_the_leader_is_looked_up_once_and_gets_all_writes(self) -> None:
        cluster = FakeCluster(leader=N2)
        cluster.at(N2, 1, 2)
        assert (cluster.write(), cluster.write()) == ([1], [2])
        cluster.lookups = {}
        assert cluster.write() == [2]

    @pytest.mark.parametrize("code", [NOT_SENT, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS"])
    @pytest.mark.parametrize("id", ["id", None])
    def test_a_retryable_write_is_sent_to_the_new_leader(self, code: str, id: str | None) -> None:
        cluster = FakeCluster(leader=N1)

        def refuse() -> Failure:
            cluster.lookups = dict.fromkeys(NODES, (N2, 2))
            return Failure(code, "…")

        cluster.at(N1, refuse)
        cluster.at(N2, 7)
        assert cluster.write(id) == [7]
        assert cluster.asked == [N1, N2]

    @pytest.mark.parametrize("code", [LOST, "UNKNOWN"])
    def test_a_write_with_an_id_is_sent_again_after_an_unknown_outcome(self, code: str) -> None:
        cluster = FakeCluster()
        cluster.at(N1, Failure(code, "…"), 7)
        assert cluster.write() == [7]
        assert cluster.commands == [WRITE, WRITE]

    @pytest.mark.parametrize("code", [LOST, "UNKNOWN"])
    def test_a_write_without_an_id_is_not_sent_again_after_an_unknown_outcome(self, code: str) -> None:
        cluster = FakeCluster()
        cluster.at(N1, Failure(code, "offset 5"), 7)
        with pytest.raises(UnknownOutcome, match=r"may or may not take effect.*offset 5") as end:
            cluster.write(id=None)
        assert cluster.asked == [N1] and end.value.id is None

    def test_a_refusal_is_final(self) -> None:
        cluster = FakeCluster()
        cluster.at(N1, Failure("WRONGTYPE", "another kind"))
        with pytest.raises(Rejected, match="another kind") as end:
            cluster.write()
        assert end.value.code == "WRONGTYPE" and cluster.asked == [N1]

    def test_a_refusal_after_an_unknown_outcome_leaves_the_outcome_unknown(self) -> None:
        cluster = FakeCluster()
        cluster.at(N1, GONE, Failure("WRONGTYPE", "another kind"))
        with pytest.raises(UnknownOutcome, match="another kind") as end:
            cluster.write()
        assert end.value.id == "id"

    @pytest.mark.parametrize(
        ("answers", "end"), [([READONLY], Unavailable), ([DOWN], Unavailable), ([GONE, READONLY], UnknownOutcome)]
    )
    def test_time_is_bounded_and_the_error_names_each_node(self, answers: list[Failure], end: type[Exception]) -> None:
        cluster = FakeCluster()
        cluster.at(N1, *answers)
        with pytest.raises(end, match=f"{N1}: .*{answers[-1].message}"):
            cluster.write()
        assert TIMEOUT_S <= cluster.now_s < TIMEOUT_S + 1

    def test_without_a_leader_nothing_is_sent(self) -> None:
        cluster = FakeCluster(leader=None)
        cluster.lookups[N3] = DOWN
        with pytest.raises(Unavailable, match=r"host:1: this node does not know the leader.*host:3: .* refused"):
            cluster.write()
        assert not cluster.asked

    def test_a_batch_fails_with_its_first_error(self) -> None:
        """EXEC itself only answers EXECABORT."""
        cluster = FakeCluster()
        cluster.at(N1, [b"OK", Failure("NOREPLICAS", "…"), Failure("EXECABORT", "…")], [b"OK", b"QUEUED", [1]])
        assert cluster.write(commands=transaction_commands([["INCR", "n"]], "id")) == [b"OK", b"QUEUED", [1]]

    def test_a_write_without_its_session_token_has_an_unknown_outcome(self) -> None:
        cluster = FakeCluster()
        cluster.at(N1, [7, Failure("ERR", "stopped serving")])
        with pytest.raises(UnknownOutcome):
            cluster.write(commands=[*WRITE, TOKEN])
        cluster.at(N1, [7, Failure("ERR", "stopped serving")], [7, b"token"])
        assert cluster.write(commands=[*WRITE, TOKEN]) == [7, b"token"]


class TestLookUp:
    def test_a_node_with_an_old_epoch_is_not_believed(self) -> None:
        cluster = FakeCluster()
        cluster.lookups = dict.fromkeys(NODES, (N2, 5))
        assert cluster.run(cluster.planner.leader()) == N2
        cluster.lookups = {N1: (N1, 4), N2: (N1, 4), N3: (N3, 6)}
        assert [cluster.run(cluster.planner.leader()) for _ in range(4)] == [N3] * 4

    def test_a_node_that_receives_heartbeats_is_preferred_to_one_that_does_not(self) -> None:
        cluster = FakeCluster()
        cluster.lookups = {N1: (N1, 5, b"s_down,o_down,master"), N2: (N2, 5), N3: (N1, 5, b"s_down,o_down,master")}
        assert [cluster.run(cluster.planner.leader()) for _ in range(4)] == [N2] * 4

    def test_a_recreated_cluster_is_found_again(self) -> None:
        cluster = FakeCluster(epoch=100)
        assert cluster.run(cluster.planner.leader()) == N1
        cluster.lookups = dict.fromkeys(NODES, (N2, 1))
        assert cluster.run(cluster.planner.leader()) == N2

    def test_nodes_that_do_not_answer_are_skipped(self) -> None:
        cluster = FakeCluster()
        cluster.lookups = {N1: DOWN, N2: GONE, N3: (N3, 1)}
        assert cluster.run(cluster.planner.leader()) == N3

    @pytest.mark.parametrize(
        ("failure", "end"),
        [(Failure("ERR", "No such master with that name"), ConfigError), (Failure("NOAUTH", "password"), Rejected)],
    )
    def test_a_permanent_lookup_error_is_raised_at_once(self, failure: Failure, end: type[Exception]) -> None:
        cluster = FakeCluster()
        cluster.lookups = dict.fromkeys(NODES, failure)
        with pytest.raises(end, match=failure.message):
            cluster.write()
        assert cluster.now_s == 0

    def test_the_name_of_another_cluster_is_said(self) -> None:
        """As after a restore under a new name."""
        cluster = FakeCluster()
        cluster.name = [[b"name", b"c-2", b"ip", b"h"]]
        cluster.lookups = dict.fromkeys(NODES, Failure("ERR", "No such master with that name"))
        with pytest.raises(
            ConfigError, match=r"belongs to the cluster 'c-2', not to 'c': connect with cluster='c-2', in"
        ):
            cluster.write()

    def test_a_node_of_another_cluster_is_skipped(self) -> None:
        cluster = FakeCluster()
        cluster.lookups[N1] = cluster.lookups[N2] = Failure("ERR", "No such master with that name")
        cluster.lookups[N3] = (N3, 1)
        assert [cluster.run(cluster.planner.leader()) for _ in range(3)] == [N3] * 3

    def test_an_unknown_outcome_stays_unknown_when_no_leader_is_found(self) -> None:
        cluster = FakeCluster()

        def vanish() -> Failure:
            cluster.lookups = dict.fromkeys(NODES, Failure("ERR", "No such master with that name"))
            return GONE

        cluster.at(N1, vanish)
        with pytest.raises(UnknownOutcome, match="No such master"):
            cluster.write()


class TestReads:
    def test_followers_are_asked_in_turn(self) -> None:
        cluster = FakeCluster(leader=N1)
        for node in NODES:
            cluster.at(node, 1)
        for _ in range(4):
            cluster.read()
        assert by_port(cluster.asked) == [N2, N2, N3, N3]
        cluster.asked.clear()
        cluster.read("leader")
        assert cluster.asked == [N1]

    @pytest.mark.parametrize("prefer", ["leader", "follower"])
    def test_another_node_answers_for_one_that_does_not(self, prefer: str) -> None:
        cluster = FakeCluster(leader=N1)
        cluster.at(N1, 1 if prefer == "follower" else DOWN)
        cluster.at(N2, DOWN if prefer == "follower" else 1)
        cluster.at(N3, DOWN if prefer == "follower" else 1)
        assert cluster.read(prefer) == [1]
        cluster.asked.clear()
        assert cluster.read(prefer) == [1]
        assert len(cluster.asked) == 1, "those that did not answer are asked last"

    def test_reads_continue_without_a_leader(self) -> None:
        cluster = FakeCluster(leader=None)
        for node in NODES:
            cluster.at(node, 1)
        assert cluster.read() == [1] and cluster.now_s == 0

    def test_a_read_is_stale_if_all_nodes_answer_stale(self) -> None:
        cluster = FakeCluster()
        for node in NODES:
            cluster.at(node, Failure("STALE", "behind"))
        with pytest.raises(Stale, match="behind"):
            cluster.read()
        assert by_port(cluster.asked) == list(NODES) and cluster.now_s == 0

    def test_a_read_succeeds_although_one_node_has_stopped(self) -> None:
        cluster = FakeCluster()
        cluster.at(N1, 1)
        cluster.at(N2, Failure("ERR", "this node has stopped serving"))
        cluster.at(N3, Failure("STALE", "behind"))
        assert cluster.read() == [1]

    def test_a_bad_request_is_raised_if_all_nodes_refuse_it(self) -> None:
        cluster = FakeCluster()
        for node in NODES:
            cluster.at(node, Failure("ERR", "syntax error"))
        with pytest.raises(Rejected, match="syntax error"):
            cluster.read()
        assert len(cluster.asked) == 3

    def test_stale_nodes_are_asked_again_while_another_node_is_down(self) -> None:
        cluster = FakeCluster()
        cluster.at(N1, DOWN)
        cluster.at(N2, Failure("STALE", "behind"))
        cluster.at(N3, Failure("STALE", "behind"))
        with pytest.raises(Stale):
            cluster.read()
        assert TIMEOUT_S <= cluster.now_s < TIMEOUT_S + 1

    def test_time_is_bounded_when_all_nodes_are_down(self) -> None:
        cluster = FakeCluster()
        cluster.lookups = dict.fromkeys(NODES, GONE)
        for node in NODES:
            cluster.at(node, GONE)
        with pytest.raises(Unavailable, match=r"within 10 s \(host:1: connection lost; host:2: .*; host:3: "):
            cluster.read()
        assert TIMEOUT_S <= cluster.now_s < TIMEOUT_S + 1


CODES = [NOT_SENT, LOST, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS", "UNKNOWN", "STALE", "ERR", "WRONGTYPE"]


@pytest.mark.parametrize("code", CODES)
def test_a_write_of_unknown_outcome_is_never_rejected(code: str) -> None:
    failure = Failure(code, "")
    for has_id in (True, False):
        assert after_write_failure(failure, has_id=has_id, outcome_unknown=True) is not RetryDecision.REJECTED
    if after_write_failure(failure, has_id=False, outcome_unknown=code in (LOST, "UNKNOWN")) is RetryDecision.RETRY:
        assert code not in (LOST, "UNKNOWN"), "it could be executed twice"
        assert after_read_failure(failure) is RetryDecision.RETRY


def test_a_leader_is_removed_only_if_no_other_was_found_meanwhile() -> None:
    found = ClusterMap(NODES).updated(LookupResult(N2, (N1, N3), 2, False))
    assert found.without_leader(N1) is found
    assert found.without_leader(N2).leader is None
    assert by_port(found.without_leader(N2).read_order("follower", 0, frozenset())) == list(NODES)


def test_encoded_commands() -> None:
    assert encode(["SET", b"k", 1, 1.5]) == (b"SET", b"k", b"1", b"1.5")
    assert read_command(["GET", "k"], bounded(100)) == (b"REPL.READ", b"bounded", b"100", b"GET", b"k")
    assert read_command(["GET", "k"], bounded(100, 5))[:4] == (b"REPL.READ", b"bounded", b"100", b"5")
    assert read_command(["GET", "k"], LINEARIZABLE)[:2] == (b"REPL.READ", b"linearizable")
    assert transaction_commands([["INCR", "a"], ["INCR", "b"]], "x")[1:] == [
        (b"INCR", b"a"),
        (b"INCR", b"b"),
        (b"REPL.EXEC", b"x"),
    ]


@pytest.mark.parametrize("values", [[], ["SET", "k", None], ["SET", "k", True], ["SET", "k", [1]]])
def test_invalid_arguments_are_refused(values: Any) -> None:
    with pytest.raises(BadRequest):
        encode(values)


@pytest.mark.parametrize("ms", [0, -1, 10**10])
def test_an_invalid_bound_is_refused(ms: int) -> None:
    with pytest.raises(Definite):
        bounded(ms)


def test_the_position_of_a_session_never_decreases_within_a_timeline() -> None:
    progress = SessionProgress(None)
    assert progress.token is None and progress.level == EVENTUAL
    for offset, then in ((5, 5), (3, 5), (9, 9)):
        progress.update(f"{'a' * 32}:{offset}".encode())
        assert progress.token == f"{'a' * 32}:{then}" == str(progress.level).split()[1]
    progress.update(f"{'b' * 32}:1".encode())
    assert progress.token == f"{'b' * 32}:1", "offsets of different timelines cannot be compared"


@pytest.mark.parametrize(
    ("commands", "silent_s"),
    [
        ([(b"REPL.ONCE", b"id", b"REPL.SQL", b"UPDATE t SET a = 1")], ATTEMPT_TIMEOUT_S),
        ([(b"REPL.ONCE", b"id", b"REPL.BY", b"row", b"repl.sql", b"UPDATE t SET a = 1")], ATTEMPT_TIMEOUT_S),
        ([(b"MULTI",), (b"REPL.SQL", b"DELETE FROM t"), (b"REPL.EXEC", b"id")], ATTEMPT_TIMEOUT_S),
        (WRITE, None),
    ],
)
def test_a_statement_is_not_sent_again_while_its_node_answers_pings(
    commands: list[EncodedCommand], silent_s: float | None
) -> None:
    """The node would begin again."""
    cluster = FakeCluster()
    cluster.at(N1, [b"1"] * len(commands))
    cluster.write(commands=commands)
    assert cluster.silent_s == [silent_s]


@pytest.mark.parametrize(
    "line", ["EXEC", "discard", "RESET", "WATCH k", "MULTI", "subscribe c", "HELLO 3", "REPL.SQL begin"]
)
def test_connections_are_shared(line: str) -> None:
    command = line.split()
    with pytest.raises(BadRequest, match=f"{command[0]} cannot be part of a transaction"):
        transaction_commands([("SET", "a", 1), command], "id")
    with pytest.raises(BadRequest, match=f"{command[0]} cannot be executed alone"):
        write_command(command, None)


def test_an_argument_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(BadRequest, match="not valid Unicode"):
        encode(["SET", "\ud800", 1])
