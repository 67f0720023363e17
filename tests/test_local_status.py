"""What the command line reads of a node's status, and how it finds the leader."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from replicator.address import Address
from replicator.cli.output import console
from replicator.cli.status import describe_policy, describe_timing, draw
from replicator.errors import ConfigError
from replicator.local.admin_client import ClusterAdmin, NodeAdmin, NodeUnreachable
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


def test_settings_of_a_config_that_the_cluster_overrides_are_shown() -> None:
    timing = {**asdict(Timing()), "lease_ms": 500, "new_ms": 1}
    first, second = reply("n1"), reply("n2", ignored_timing={"lease_ms": 600})
    summary = summarise(Replies(*(parse_status({**it, "timing": timing}) for it in (first, second))))
    assert summary.timing == Timing(lease_ms=500)
    assert summary.as_json()["timing"]["lease_ms"] == 500
    assert [node.ignored_timing for node in summary.nodes] == [{}, {"lease_ms": 600}]
    with console.capture() as shown:
        console.print(draw(summary), soft_wrap=True)
    assert "n2: its config has lease_ms 600, but the cluster has 500: `replicator cluster timing`" in shown.get()
    assert "n1: its config" not in shown.get()


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
        monkeypatch.setattr(NodeAdmin, "_request", lambda self, method, path, answer=answer: answer)
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
