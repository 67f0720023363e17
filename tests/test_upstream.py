"""Which process a follower receives records from."""

from __future__ import annotations

from itertools import pairwise

import pytest

from replicator.address import Address
from replicator.intervals import MAX_STREAM_RETRY_MS, STREAM_RETRY_MS
from replicator.node.upstream_choice import UpstreamChoice
from replicator.position import AUTO, FANOUT, LEADER, Author, NodeId, Seq
from replicator.protocol.upstream import UpstreamRule, upstreams
from replicator.records.types import Member, Membership, Mode


def member(number: int, mode: Mode = Mode.ASYNC) -> Member:
    return Member(NodeId(f"n{number:03}"), mode, Address("h", 1), Address("h", 2), number, number)


def membership(count: int) -> Membership:
    return Membership(tuple(map(member, range(1, count + 1))))


def names(members: Membership, own: int, wanted: str, leader: int = 1) -> list[str]:
    found = upstreams(UpstreamRule(wanted), members, member(leader).author, member(own).author, Seq(0))
    assert found is not None
    return [it.node for it in found]


@pytest.mark.parametrize(
    ("own", "wanted", "expected"),
    [
        (3, LEADER, ["n001"]),
        (3, "n002", ["n002", "n001"]),
        (3, "n001", ["n001"]),
        (3, "n003", ["n001"]),
        (3, "n999", ["n001"]),
        (1, AUTO, []),
        (5, AUTO, ["n001"]),
        (6, AUTO, ["n002", "n001"]),
        (22, AUTO, ["n006", "n002", "n001"]),
        (40, AUTO, ["n008", "n002"]),
        (40, LEADER, []),
        (40, "n002", ["n002"]),
    ],
)
def test_the_upstreams_of_a_node(own: int, wanted: str, expected: list[str]) -> None:
    assert FANOUT == 4
    assert names(membership(30), own, wanted) == expected


def test_a_leader_that_is_not_registered_sends_nothing() -> None:
    rule, members = UpstreamRule(), membership(3)
    assert upstreams(rule, members, Author(NodeId("n001"), 99), member(2).author, Seq(0)) == ()
    assert upstreams(UpstreamRule("n003"), members, member(9).author, member(2).author, Seq(0)) == ()


@pytest.mark.parametrize("leader", [1, 17])
def test_the_tree_of_all_members(leader: int) -> None:
    members = membership(100)
    others = [number for number in range(1, 101) if number != leader]
    paths = [names(members, own, AUTO, leader) for own in others]
    assert all(path[-1] == f"n{leader:03}" and len(path) <= 4 for path in paths)
    parents = [path[0] for path in paths]
    assert max(map(parents.count, parents)) == FANOUT


def test_snapshotters_are_leaves_and_sync_replicas_near_the_leader() -> None:
    members = Membership((member(1), member(2, Mode.SNAPSHOTTER), *map(member, range(3, 8)), member(8, Mode.SYNC)))
    assert names(members, 8, AUTO) == ["n001"]
    assert names(members, 2, AUTO) == ["n008", "n001"]
    assert "n002" not in {path[0] for path in (names(members, own, AUTO) for own in range(2, 9))}


def test_the_preferred_upstream_is_asked_again_and_again() -> None:
    choice, (first, second) = UpstreamChoice(), membership(2).members
    asked = []
    for now_ms in range(0, 20_000, STREAM_RETRY_MS):
        found = choice.next((first, second), second.author, now_ms)
        if found is not None:
            choice.asked(found.author, now_ms)
            asked.append(now_ms)
    pauses = [after - before for before, after in pairwise(asked)]
    assert pauses[:3] == [STREAM_RETRY_MS, 2 * STREAM_RETRY_MS, 4 * STREAM_RETRY_MS]
    assert MAX_STREAM_RETRY_MS <= max(pauses) <= MAX_STREAM_RETRY_MS + STREAM_RETRY_MS


def test_another_one_is_asked_meanwhile() -> None:
    choice, members = UpstreamChoice(), membership(2).members
    assert choice.next(members, None, 0) == members[0]
    choice.asked(members[0].author, 0)
    assert choice.next(members, None, 0) == members[1]
    choice.asked(members[1].author, 0)
    assert choice.next(members, None, 0) is None
    choice.brought_records(members[0].author)
    assert choice.next(members, members[1].author, 0) == members[0]
    assert choice.next(members, members[0].author, 0) is None


def test_one_that_fell_behind_is_asked_again_later() -> None:
    choice, (first, second) = UpstreamChoice(), membership(2).members
    choice.fell_behind(first.author, 0)
    assert choice.next((first, second), None, MAX_STREAM_RETRY_MS - 1) == second
    assert choice.next((first, second), second.author, MAX_STREAM_RETRY_MS) == first
