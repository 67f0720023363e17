"""What a client does with each answer, played without a network: the test is the cluster, and moves the clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import pytest

from replicator.address import Address
from replicator.client.errors import Rejected, Unavailable, UnknownOutcome
from replicator.client.plans import Ask, Pause, Plan, Planner
from replicator.client.requests import TOKEN, Line, Progress, bounded, encode, read_line, transaction_lines
from replicator.client.routing import LOST, NOT_SENT, Failure, Finding, Map, Verdict, judge_read, judge_write
from replicator.errors import BadRequest, ConfigError, Definite, Stale
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE

T = TypeVar("T")

N1, N2, N3 = NODES = tuple(Address("host", port) for port in (1, 2, 3))
WRITE: list[Line] = [(b"REPL.ONCE", b"id", b"INCR", b"n")]
READ: list[Line] = [(b"GET", b"n")]
DOWN = Failure(NOT_SENT, "connection refused")
GONE = Failure(LOST, "connection lost")
READONLY = Failure("READONLY", "no")
TIMEOUT_S = 10.0


class Played:
    """Answers what a plan asks, and keeps what it asked."""

    def __init__(self, leader: Address | None = N1, epoch: int = 1) -> None:
        self.now_s = 0.0
        self.planner = Planner(NODES, "c", TIMEOUT_S, lambda: self.now_s)
        self.told: dict[Address, Any] = dict.fromkeys(NODES, (leader, epoch))  # who each says leads, or its failure
        self.answers: dict[Address, Iterator[Any]] = {}
        self.asked: list[Address] = []  # not counting the questions who leads
        self.lines: list[Any] = []

    def at(self, place: Address, *answers: Any) -> None:
        """What the node answers; the last one it goes on to answer."""
        self.answers[place] = _going_on(answers)

    def write(self, id: str | None = "id", lines: list[Line] = WRITE) -> Any:
        return self.run(self.planner.write(lines, id))

    def read(self, prefer: Any = "follower") -> Any:
        return self.run(self.planner.read(READ, prefer))

    def run(self, plan: Plan[T]) -> T:
        try:
            step = next(plan)
            while True:
                step = plan.send(self._do(step))
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Ask | Pause) -> list[Any]:
        if isinstance(step, Pause):
            self.now_s += step.seconds
            return []
        assert step.within_s > 0
        if step.lines[0][0] == b"SENTINEL":
            told = self.told[step.place]
            return [told] if isinstance(told, Failure) else _sentinel(*told)
        self.asked.append(step.place)
        self.lines.append(step.lines)
        answer = next(self.answers[step.place])
        if callable(answer):
            answer = answer()
        if answer is GONE:
            self.now_s += step.within_s
        return answer if isinstance(answer, list) else [answer]


def by_port(places: list[Address]) -> list[Address]:
    return sorted(places, key=lambda place: place.port)


def _going_on(answers: tuple[Any, ...]) -> Iterator[Any]:
    yield from answers
    while True:
        yield answers[-1]


def _sentinel(leader: Address | None, epoch: int, flags: bytes = b"master") -> list[Any]:
    ip, port = (leader.host.encode(), b"%d" % leader.port) if leader else (b"", b"0")
    master = [b"ip", ip, b"port", port, b"config-epoch", b"%d" % epoch, b"flags", flags]
    return [master, [[b"ip", it.host.encode(), b"port", b"%d" % it.port] for it in NODES if it != leader]]


class TestWrites:
    def test_a_write_goes_to_the_leader_which_is_asked_for_once(self) -> None:
        played = Played(leader=N2)
        played.at(N2, 1, 2)
        assert (played.write(), played.write()) == ([1], [2])
        played.told = {}
        assert played.write() == [2]

    @pytest.mark.parametrize("code", [NOT_SENT, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS"])
    @pytest.mark.parametrize("id", ["id", None])
    def test_what_had_no_effect_for_now_is_sent_again_to_whoever_leads(self, code: str, id: str | None) -> None:
        played = Played(leader=N1)

        def refuse() -> Failure:
            played.told = dict.fromkeys(NODES, (N2, 2))
            return Failure(code, "…")

        played.at(N1, refuse)
        played.at(N2, 7)
        assert played.write(id) == [7]
        assert played.asked == [N1, N2]

    @pytest.mark.parametrize("code", [LOST, "UNKNOWN"])
    def test_in_doubt_a_write_under_an_id_is_sent_again_as_it_was(self, code: str) -> None:
        played = Played()
        played.at(N1, Failure(code, "…"), 7)
        assert played.write() == [7]
        assert played.lines == [WRITE, WRITE]

    @pytest.mark.parametrize("code", [LOST, "UNKNOWN"])
    def test_in_doubt_a_write_under_no_id_is_not_sent_again(self, code: str) -> None:
        played = Played()
        played.at(N1, Failure(code, "offset 5"), 7)
        with pytest.raises(UnknownOutcome, match=r"may or may not take effect.*offset 5") as end:
            played.write(id=None)
        assert played.asked == [N1] and end.value.id is None

    def test_a_refusal_is_final(self) -> None:
        played = Played()
        played.at(N1, Failure("WRONGTYPE", "another kind"))
        with pytest.raises(Rejected, match="another kind") as end:
            played.write()
        assert end.value.code == "WRONGTYPE" and played.asked == [N1]

    def test_a_refusal_says_nothing_of_the_attempt_before_it(self) -> None:
        played = Played()
        played.at(N1, GONE, Failure("WRONGTYPE", "another kind"))
        with pytest.raises(UnknownOutcome, match="another kind") as end:
            played.write()
        assert end.value.id == "id"

    @pytest.mark.parametrize(
        ("answers", "end"), [([READONLY], Unavailable), ([DOWN], Unavailable), ([GONE, READONLY], UnknownOutcome)]
    )
    def test_time_is_bounded_and_the_end_tells_of_each_node(self, answers: list[Failure], end: type[Exception]) -> None:
        played = Played()
        played.at(N1, *answers)
        with pytest.raises(end, match=f"{N1}: .*{answers[-1].message}"):
            played.write()
        assert TIMEOUT_S <= played.now_s < TIMEOUT_S + 1

    def test_without_a_leader_nothing_is_sent(self) -> None:
        played = Played(leader=None)
        played.told[N3] = DOWN
        with pytest.raises(Unavailable, match=r"host:1: ERR does not know who leads.*host:3: connection refused"):
            played.write()
        assert not played.asked

    def test_a_batch_fails_with_its_first_error(self) -> None:
        """EXEC only says that it was given up."""
        played = Played()
        played.at(N1, [b"OK", Failure("NOREPLICAS", "…"), Failure("EXECABORT", "…")], [b"OK", b"QUEUED", [1]])
        assert played.write(lines=transaction_lines([["INCR", "n"]], "id")) == [b"OK", b"QUEUED", [1]]

    def test_a_write_whose_token_is_missing_was_carried_out(self) -> None:
        played = Played()
        played.at(N1, [7, Failure("ERR", "stopped serving")])
        with pytest.raises(UnknownOutcome):
            played.write(lines=[*WRITE, TOKEN])
        played.at(N1, [7, Failure("ERR", "stopped serving")], [7, b"token"])
        assert played.write(lines=[*WRITE, TOKEN]) == [7, b"token"]


class TestLookUp:
    def test_a_node_that_is_behind_is_not_believed(self) -> None:
        played = Played()
        played.told = dict.fromkeys(NODES, (N2, 5))
        assert played.run(played.planner.leader()) == N2
        played.told = {N1: (N1, 4), N2: (N1, 4), N3: (N3, 6)}
        assert [played.run(played.planner.leader()) for _ in range(4)] == [N3] * 4

    def test_one_that_hears_the_leader_is_believed_before_one_that_does_not(self) -> None:
        played = Played()
        played.told = {N1: (N1, 5, b"s_down,o_down,master"), N2: (N2, 5), N3: (N1, 5, b"s_down,o_down,master")}
        assert [played.run(played.planner.leader()) for _ in range(4)] == [N2] * 4

    def test_a_cluster_that_begins_anew_is_found_again(self) -> None:
        played = Played(epoch=100)
        assert played.run(played.planner.leader()) == N1
        played.told = dict.fromkeys(NODES, (N2, 1))
        assert played.run(played.planner.leader()) == N2

    def test_nodes_that_do_not_answer_are_passed_over(self) -> None:
        played = Played()
        played.told = {N1: DOWN, N2: GONE, N3: (N3, 1)}
        assert played.run(played.planner.leader()) == N3

    @pytest.mark.parametrize(
        ("failure", "end"),
        [(Failure("ERR", "No such master with that name"), ConfigError), (Failure("NOAUTH", "password"), Rejected)],
    )
    def test_what_waiting_does_not_help_against_ends_at_once(self, failure: Failure, end: type[Exception]) -> None:
        played = Played()
        played.told = dict.fromkeys(NODES, failure)
        with pytest.raises(end, match=failure.message):
            played.write()
        assert played.now_s == 0

    def test_a_node_of_another_cluster_is_passed_over(self) -> None:
        played = Played()
        played.told[N1] = played.told[N2] = Failure("ERR", "No such master with that name")
        played.told[N3] = (N3, 1)
        assert [played.run(played.planner.leader()) for _ in range(3)] == [N3] * 3

    def test_a_write_in_doubt_stays_in_doubt_when_nobody_tells_who_leads(self) -> None:
        played = Played()

        def vanish() -> Failure:
            played.told = dict.fromkeys(NODES, Failure("ERR", "No such master with that name"))
            return GONE

        played.at(N1, vanish)
        with pytest.raises(UnknownOutcome, match="No such master"):
            played.write()


class TestReads:
    def test_followers_are_asked_in_turn(self) -> None:
        played = Played(leader=N1)
        for place in NODES:
            played.at(place, 1)
        for _ in range(4):
            played.read()
        assert by_port(played.asked) == [N2, N2, N3, N3]
        played.asked.clear()
        played.read("leader")
        assert played.asked == [N1]

    @pytest.mark.parametrize("prefer", ["leader", "follower"])
    def test_another_node_answers_for_one_that_does_not(self, prefer: str) -> None:
        played = Played(leader=N1)
        played.at(N1, 1 if prefer == "follower" else DOWN)
        played.at(N2, DOWN if prefer == "follower" else 1)
        played.at(N3, DOWN if prefer == "follower" else 1)
        assert played.read(prefer) == [1]
        played.asked.clear()
        assert played.read(prefer) == [1]
        assert len(played.asked) == 1, "those that did not answer are asked last"

    def test_reads_go_on_without_a_leader(self) -> None:
        played = Played(leader=None)
        for place in NODES:
            played.at(place, 1)
        assert played.read() == [1] and played.now_s == 0

    def test_a_read_is_stale_once_all_have_said_so(self) -> None:
        played = Played()
        for place in NODES:
            played.at(place, Failure("STALE", "behind"))
        with pytest.raises(Stale, match="behind"):
            played.read()
        assert by_port(played.asked) == list(NODES) and played.now_s == 0

    def test_a_node_that_has_stopped_is_no_reason_to_fail(self) -> None:
        played = Played()
        played.at(N1, 1)
        played.at(N2, Failure("ERR", "this node has stopped serving"))
        played.at(N3, Failure("STALE", "behind"))
        assert played.read() == [1]

    def test_a_bad_request_is_told_once_all_have_said_so(self) -> None:
        played = Played()
        for place in NODES:
            played.at(place, Failure("ERR", "syntax error"))
        with pytest.raises(Rejected, match="syntax error"):
            played.read()
        assert len(played.asked) == 3

    def test_while_a_node_is_down_stale_ones_are_asked_again_until_time_is_up(self) -> None:
        played = Played()
        played.at(N1, DOWN)
        played.at(N2, Failure("STALE", "behind"))
        played.at(N3, Failure("STALE", "behind"))
        with pytest.raises(Stale):
            played.read()
        assert TIMEOUT_S <= played.now_s < TIMEOUT_S + 1

    def test_with_all_nodes_down_time_is_bounded(self) -> None:
        played = Played()
        played.told = dict.fromkeys(NODES, GONE)
        for place in NODES:
            played.at(place, GONE)
        with pytest.raises(Unavailable, match=r"within 10 s \(host:1: connection lost; host:2: .*; host:3: "):
            played.read()
        assert TIMEOUT_S <= played.now_s < TIMEOUT_S + 1


CODES = [NOT_SENT, LOST, "READONLY", "BUSY", "LOADING", "FENCED", "NOREPLICAS", "UNKNOWN", "STALE", "ERR", "WRONGTYPE"]


@pytest.mark.parametrize("code", CODES)
def test_a_write_in_doubt_is_never_told_to_be_rejected(code: str) -> None:
    failure = Failure(code, "")
    for has_id in (True, False):
        assert judge_write(failure, has_id=has_id, doubtful=True) is not Verdict.REJECTED
    if judge_write(failure, has_id=False, doubtful=code in (LOST, "UNKNOWN")) is Verdict.AGAIN:
        assert code not in (LOST, "UNKNOWN"), "it may be carried out twice"
        assert judge_read(failure) is Verdict.AGAIN


def test_a_leader_is_forgotten_only_if_no_other_was_found_since() -> None:
    found = Map(NODES).after(Finding(N2, (N1, N3), 2, False))
    assert found.without(N1) is found
    assert found.without(N2).leader is None
    assert by_port(found.without(N2).readers("follower", 0, frozenset())) == list(NODES)


def test_lines() -> None:
    assert encode(["SET", b"k", 1, 1.5]) == (b"SET", b"k", b"1", b"1.5")
    assert read_line(["GET", "k"], bounded(100)) == (b"REPL.READ", b"bounded", b"100", b"GET", b"k")
    assert read_line(["GET", "k"], bounded(100, 5))[:4] == (b"REPL.READ", b"bounded", b"100", b"5")
    assert read_line(["GET", "k"], LINEARIZABLE)[:2] == (b"REPL.READ", b"linearizable")
    assert transaction_lines([["INCR", "a"], ["INCR", "b"]], "x")[1:3] == [
        (b"REPL.ONCE", b"x:0", b"INCR", b"a"),
        (b"REPL.ONCE", b"x:1", b"INCR", b"b"),
    ]


@pytest.mark.parametrize("values", [[], ["SET", "k", None], ["SET", "k", True], ["SET", "k", [1]]])
def test_what_cannot_be_sent_is_refused(values: Any) -> None:
    with pytest.raises(BadRequest):
        encode(values)


@pytest.mark.parametrize("ms", [0, -1, 10**10])
def test_a_bound_that_no_node_takes_is_refused(ms: int) -> None:
    with pytest.raises(Definite):
        bounded(ms)


def test_a_session_never_goes_back() -> None:
    progress = Progress(None)
    assert progress.token is None and progress.level == EVENTUAL
    for offset, then in ((5, 5), (3, 5), (9, 9)):
        progress.note(f"{'a' * 32}:{offset}".encode())
        assert progress.token == f"{'a' * 32}:{then}" == str(progress.level).split()[1]
    progress.note(f"{'b' * 32}:1".encode())
    assert progress.token == f"{'b' * 32}:1", "of another history, so nothing can be compared"
