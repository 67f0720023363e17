"""What the command line reads of a node's status, and how it finds the leader."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from replicator.address import Address
from replicator.cli.output import print_whole, size
from replicator.cli.status import _watch, describe_policy, describe_timing, draw
from replicator.errors import ConfigError
from replicator.local.admin_client import ClusterAdmin, NodeAdmin, NodeUnreachable
from replicator.local.folder import ClusterFile, ClusterFolder
from replicator.local.kafka import LocalBroker
from replicator.local.operations import changed_policy, policy_of
from replicator.local.status import MemberStatus, StatusReply, parse_status, unreachable
from replicator.local.summary import summarise
from replicator.records.types import Policy, Timing, WaitFor, WriteMode

MEMBERS = [{"node": f"n{n}", "mode": "async", "resp": f"h:{n}", "http": f"h:1{n}", "priority": n} for n in (1, 2)]
POLICY = {"write": "sync", "wait_for": "named", "quorum": 0, "named": ["n2"]}


def reply(id: str, **node: Any) -> dict[str, Any]:
    return {"cluster": "c", "node": {"id": id, "state": "serving", **node}, "members": MEMBERS, "policy": POLICY}


class Replies(ClusterAdmin):
    """A cluster of which only the replies are there."""

    def __init__(self, *replies: StatusReply) -> None:
        super().__init__([], "")
        self._replies = replies

    def statuses(self) -> list[MemberStatus]:
        known = {it.node.id: it for it in self._replies}
        members = parse_status(reply("?")).members
        return [
            MemberStatus(it, known[it.node]) if it.node in known else unreachable(it, "no answer") for it in members
        ]


def test_unknown_fields_are_ignored() -> None:
    status = parse_status({**reply("n1", epoch=3, applied_offset=7, new="x"), "another": 1})
    assert (status.node.epoch, status.node.applied, status.policy) == (
        3,
        7,
        Policy(WriteMode.SYNC, WaitFor.NAMED, named=("n2",)),  # type: ignore[arg-type]
    )
    assert [member.http for member in status.members] == [Address("h", 11), Address("h", 12)]


def test_settings_of_a_config_that_the_cluster_overrides_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    timing = {**asdict(Timing()), "lease_ms": 500, "new_ms": 1}
    first, second = reply("n1"), reply("n2", ignored_timing={"lease_ms": 600})
    summary = summarise(Replies(*(parse_status({**it, "timing": timing}) for it in (first, second))))
    assert summary.timing == Timing(lease_ms=500)
    assert summary.as_json()["timing"]["lease_ms"] == 500
    assert [node.ignored_timing for node in summary.nodes] == [{}, {"lease_ms": 600}]
    print_whole(*draw(summary))
    shown = capsys.readouterr().out
    assert "n2: its config has lease_ms 600, but the cluster has 500: `replicator cluster timing`" in shown
    assert "n1: its config" not in shown


def test_a_timing_in_words() -> None:
    assert describe_timing(Timing()).splitlines()[:2] == ["heartbeat_ms 250", "lease_ms 600"]
    assert "the log has no timing yet" in describe_timing(parse_status(reply("n1")).timing)


def test_a_starting_node_reports_only_its_id_and_state() -> None:
    waiting = {"id": "n1", "state": "waiting", "trouble": "Kafka does not answer"}
    status = parse_status({"cluster": "c", "incarnation": 1, "node": waiting, "members": []})
    assert (status.node.role, status.node.applied_offset, status.node.applied, status.policy) == (None, None, -1, None)
    assert not status.node.leads and not status.node.serves


@pytest.mark.parametrize(
    ("role", "leads"),
    [
        ("leader", True),
        ("draining", True),
        ("transferring", True),
        ("follower", False),
        ("candidate", False),
        ("stepping down", False),
        ("checking", False),
        ("resolving", False),
    ],
)
def test_a_node_is_leader_until_it_has_transferred_leadership(role: str, leads: bool) -> None:
    assert parse_status(reply("n1", role=role)).node.leads is leads


def test_another_program_at_the_address_is_not_a_node(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Any] = [[], {"status": "ok"}, {"cluster": "c", "node": "n1", "members": []}, None]
    for answer in answers:
        monkeypatch.setattr(NodeAdmin, "_request", lambda *_, answer=answer, timeout_s: answer)
        with pytest.raises(NodeUnreachable, match="is not a node"):
            NodeAdmin(Address("h", 1)).status()


def test_the_leader_is_the_one_that_the_newest_epoch_names() -> None:
    old = parse_status(reply("n1", epoch=6, leader="n1", role="leader", applied_offset=90))
    new = parse_status(reply("n2", epoch=7, leader="n2", role="leader", applied_offset=80))
    assert Replies(old, new).leader().http == Address("h", 12)
    assert Replies(old).leader().http == Address("h", 11)
    with pytest.raises(NodeUnreachable, match="no leader"):
        Replies(parse_status(reply("n1"))).leader()


def test_a_summary_shows_nodes_that_do_not_answer() -> None:
    summary = summarise(Replies(parse_status(reply("n2", epoch=1, leader="n2", applied_offset=8, end_offset=9))))
    first, second = summary.nodes
    assert (first.state, first.trouble, first.applied_offset, first.lag_records) == (
        "unreachable",
        "no answer",
        None,
        None,
    )
    assert (second.state, second.applied_offset, second.lag_records) == ("serving", 8, 1)
    assert not summary.all_serve and summary.as_json()["elected"] is None and "term_ms" not in summary.as_json()


def test_policies_are_written_as_in_the_help() -> None:
    assert policy_of("all", WriteMode.SYNC) == Policy(WriteMode.SYNC)
    assert policy_of("quorum:2", WriteMode.SYNC) == Policy(WriteMode.SYNC, WaitFor.QUORUM, 2)
    assert policy_of("named:n2,n3", WriteMode.SUSPEND).named == ("n2", "n3")
    with pytest.raises(ConfigError, match="invalid node id ''"):
        policy_of("named:n2,", WriteMode.SYNC)


def test_a_change_of_the_policy_keeps_what_is_not_given() -> None:
    quorum = Policy(WriteMode.INVALIDATE, WaitFor.QUORUM, 2)
    assert changed_policy(quorum, "all", None) == Policy(WriteMode.INVALIDATE)
    assert changed_policy(quorum, None, WriteMode.SYNC) == Policy(WriteMode.SYNC, WaitFor.QUORUM, 2)
    assert changed_policy(quorum, "all", WriteMode.SUSPEND) == Policy(WriteMode.SUSPEND)
    assert changed_policy(Policy(), "quorum:1", None) == Policy(WriteMode.ASYNC, WaitFor.QUORUM, 1)


def test_each_write_mode_is_described_in_its_own_words() -> None:
    texts = {mode: describe_policy(Policy(mode), ["n2"], "n1") for mode in WriteMode}
    assert all(text.startswith(f"writes are {mode}: ") for mode, text in texts.items())
    assert len({text.partition(":")[2] for text in texts.values()}) == len(WriteMode)
    assert "all sync members (n2)" in texts[WriteMode.SYNC]
    assert "quorum has no effect until" in describe_policy(Policy(WriteMode.ASYNC, WaitFor.QUORUM, 1), ["n2"], "n1")


@pytest.mark.parametrize(
    ("policy", "sync", "redundant"),
    [
        (Policy(WriteMode.SYNC), ["n1", "n2"], True),
        (Policy(WriteMode.SYNC), ["n1"], False),
        (Policy(WriteMode.INVALIDATE), [], False),
        (Policy(WriteMode.SYNC, WaitFor.QUORUM, 1), ["n1", "n2"], False),
        (Policy(WriteMode.SYNC, WaitFor.QUORUM, 2), ["n1", "n2"], True),
        (policy_of("named:n1", WriteMode.SYNC), ["n1", "n2"], False),
        (Policy(WriteMode.ASYNC), [], True),
    ],
)
def test_a_policy_under_which_writes_wait_for_the_leader_alone_says_so(
    policy: Policy, sync: list[str], redundant: bool
) -> None:
    assert ("no redundancy" not in describe_policy(policy, sync, "n1")) == redundant


class Answers(ClusterAdmin):
    """Nodes that answer with a status, by the port of their address; the others do not answer."""

    def __init__(self, https: Sequence[Address], answers: Mapping[int, dict[str, Any]], **ids: str) -> None:
        super().__init__(https, "", ids={Address("h", int(port[1:])): id for port, id in ids.items()})
        self._answers = answers

    def node(self, http: Address) -> NodeAdmin:
        return Answer(http, answers=self._answers)


@dataclass(frozen=True, slots=True)
class Answer(NodeAdmin):
    answers: Mapping[int, dict[str, Any]] = field(default_factory=dict)

    def status(self, timeout_s: float = 0) -> StatusReply:
        if self.http.port not in self.answers:
            raise NodeUnreachable(f"no node answers at {self.http}")
        return parse_status(self.answers[self.http.port])


def listed(admin: ClusterAdmin) -> list[tuple[str, str]]:
    return [(it.node.id, it.node.state) for it in admin.statuses()]


def test_a_member_that_runs_at_another_address_than_in_the_folder_is_listed_once() -> None:
    n1, n2 = reply("n1", epoch=1), reply("n2", epoch=1)
    admin = Answers([Address("h", 11), Address("h", 99)], {11: n1, 12: n2}, p11="n1", p99="n2")
    assert listed(admin) == [("n1", "serving"), ("n2", "serving")]


def test_a_node_that_is_asked_at_another_name_of_its_address_is_listed_once() -> None:
    admin = Answers([Address("localhost", 11)], {11: reply("n1"), 12: reply("n2")})
    assert listed(admin) == [("n1", "serving"), ("n2", "serving")]
    behind_nat = Answers([Address("h", 21)], {21: reply("n1"), 12: reply("n2")})
    assert listed(behind_nat) == [("n1", "serving"), ("n2", "serving")]


def test_the_registered_process_of_a_node_counts_not_the_one_that_it_replaced() -> None:
    members = [{**it, "incarnation": "b"} for it in MEMBERS]
    old = {**reply("n2", epoch=9), "node": {"id": "n2", "state": "replaced"}, "incarnation": "a", "members": members}
    new = {**reply("n2", epoch=9), "incarnation": "b", "members": members}
    assert listed(Answers([Address("h", 22)], {22: old, 12: new}, p22="n2"))[1] == ("n2", "serving")


def test_a_node_of_the_folder_that_is_not_a_member_is_listed_by_its_id() -> None:
    admin = Answers([Address("h", 11), Address("h", 13)], {11: reply("n1")}, p11="n1", p13="n3")
    assert listed(admin) == [("n1", "serving"), ("n2", "unreachable"), ("n3", "unreachable")]


def test_another_node_at_the_address_of_a_member_is_not_taken_for_it() -> None:
    first, second = Answers([Address("h", 11)], {11: reply("n1"), 12: reply("n7")}).statuses()
    assert (first.node.state, second.node.id, second.node.state) == ("serving", "n2", "unreachable")
    assert second.node.trouble == "n7 of cluster c answers at h:12 instead"


def test_no_node_answers() -> None:
    with pytest.raises(NodeUnreachable, match=r"no node of the cluster answers: no node answers at h:1, .*h:2"):
        Answers([Address("h", 1), Address("h", 2)], {}).statuses()


NO_KAFKA = {"state": "waiting", "trouble": "Kafka at k:1 is unavailable", "kafka_answers": False}


def test_an_outage_of_kafka_is_reported_once_and_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    first = reply("n1", **NO_KAFKA, outage_ms=90_000.0)
    second = reply("n2", **NO_KAFKA, outage_ms=61_500.0)
    summary = summarise(Replies(parse_status(first), parse_status(second)))
    assert (summary.kafka_answers, summary.kafka_down_ms) == (False, 61_500.0)
    print_whole(*draw(summary))
    shown = capsys.readouterr().out
    assert re.search(r"^Kafka unreachable since \d{4}-.* UTC \(61 s\): writes fail, eventual reads go on$", shown, re.M)
    assert "n1, n2: Kafka at k:1 is unavailable\n" in shown


def test_one_node_that_cannot_reach_kafka_is_no_outage(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarise(Replies(parse_status(reply("n1")), parse_status(reply("n2", **NO_KAFKA, outage_ms=5.0))))
    assert (summary.kafka_answers, summary.kafka_down_ms) == (True, None)
    print_whole(*draw(summary))
    assert "Kafka unreachable" not in capsys.readouterr().out


def test_a_summary_has_the_source_of_records_and_their_version() -> None:
    first, second = reply("n1", source=None), reply("n2", source="leader")
    summary = summarise(Replies(*(parse_status({**it, "record_version": 3}) for it in (first, second)))).as_json()
    assert summary["record_version"] == 3
    assert [node["source"] for node in summary["nodes"]] == [None, "leader"]


def test_sizes_are_bytes_for_programs_and_in_units_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    replies = parse_status({**reply("n1", store_bytes=16_384), "log_bytes": 5_242_880}), parse_status(reply("n2"))
    summary = summarise(Replies(*replies))
    as_json = summary.as_json()
    assert as_json["log_bytes"] == 5_242_880  # n2 was not told
    assert [node["store_bytes"] for node in as_json["nodes"]] == [16_384, None]
    print_whole(*draw(summary))
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "c: log end -1, 5.0 MiB"
    assert "size of the stores: n1 16.0 KiB" in shown


def test_sizes_that_nobody_reports_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summarise(Replies(parse_status(reply("n1"))))
    print_whole(*draw(summary))
    shown = capsys.readouterr().out
    assert shown.startswith("c: log end -1\n") and "size" not in shown
    assert summary.as_json()["log_bytes"] is None


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1_048_575, "1.0 MiB"),
        (1_048_576, "1.0 MiB"),
        (1_610_612_736, "1.5 GiB"),
        (1 << 51, "2048.0 TiB"),
    ],
)
def test_sizes_in_units(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_a_table_in_a_pipe_is_whole_and_has_no_padding(capsys: pytest.CaptureFixture[str]) -> None:
    host = "a-host-with-a-long-name.of-a-department.example.com"
    members = [{**it, "resp": f"{host}:7001"} for it in MEMBERS]
    node = reply("n1", role="follower", source="kafka", digest="0123456789", applied_offset=4, entries=10**9)
    print_whole(*draw(summarise(Answers([Address("h", 11)], {11: {**node, "members": members}}))))
    lines = capsys.readouterr().out.splitlines()
    assert all(line and line == line.rstrip() for line in lines)
    assert lines[3] == f"n1   follower async {host}:7001 serving     Kafka  4       0   {10**9} 01234567"


@pytest.mark.parametrize(
    ("own_broker", "pid", "remedy"),
    [
        (False, None, "check Kafka at k:1"),
        (True, None, "`replicator cluster up --dir {}` starts the cluster's own Kafka again"),
        (True, 42, "the cluster's own Kafka runs as process 42, but does not answer: see {}/broker/broker.log"),
    ],
)
def test_what_to_do_if_kafka_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_broker: bool, pid: int | None, remedy: str
) -> None:
    monkeypatch.setattr(LocalBroker, "pid", pid)
    folder = ClusterFolder(tmp_path)
    folder.save(ClusterFile("c", "k:1", own_broker, 7001))
    assert folder.kafka_remedy() == remedy.format(tmp_path)


def test_watching_into_a_pipe_prints_each_status_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pipe(StringIO):
        flushed = ""

        def flush(self) -> None:
            self.flushed = self.getvalue()

    pipe, seen = Pipe(), list[str]()

    def stop_after_two(seconds: float) -> None:
        seen.append(pipe.flushed)
        if len(seen) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdout", pipe)
    monkeypatch.setattr("replicator.cli.status.time.sleep", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        _watch(Replies(parse_status(reply("n1"))), json=False)
    assert [text.count("c: log end") for text in seen] == [1, 2]


def test_the_publisher_of_the_change_stream_has_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    publishing = {"state": "publishing", "offset": 7, "changes_per_s": 12.4, "lag_records": 1}
    failed = {"state": "failed", "trouble": "topic c.changes was deleted"}
    idle = {"state": "standby", "of a later version": 1}
    for publisher, line in [
        (publishing, "change stream: n1 is publishing, 1 record behind, 12 changes/s"),
        (failed, "change stream: n1 cannot publish: topic c.changes was deleted"),
    ]:
        replies = {**reply("n1"), "publisher": publisher}, {**reply("n2"), "publisher": idle}
        print_whole(*draw(summarise(Replies(*map(parse_status, replies)))))
        assert [it for it in capsys.readouterr().out.splitlines() if "change stream" in it] == [line]
    print_whole(*draw(summarise(Replies(parse_status(reply("n1"))))))
    assert "change stream" not in capsys.readouterr().out
