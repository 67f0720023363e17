"""Which members fetch a range of the log from Kafka, and who sends it to whom."""

from __future__ import annotations

from collections import Counter

import pytest

from replicator.address import Address
from replicator.position import GOSSIP, Author, NodeId, Offset, Seq
from replicator.protocol.gossip import RANGE_SEQS, members_of_range
from replicator.protocol.upstream import Distance, UpstreamRule, ancestors, falls_behind, upstreams
from replicator.records.types import Member, Membership, Mode

RANGES = range(200)


def membership(count: int) -> Membership:
    names = [NodeId(f"n{number}") for number in range(1, count + 1)]
    return Membership(tuple(Member(it, Mode.ASYNC, Address("h", 1), Address("h", 2), 0, 7) for it in names))


LEADER_OF_ALL = Author(NodeId("n1"), 7)


@pytest.mark.parametrize(("followers", "fanout"), [(1, 1), (8, 1), (8, 2), (8, 4), (100, 3), (3, 64)])
def test_each_range_reaches_all_followers_once(followers: int, fanout: int) -> None:
    for range_number in RANGES[:20]:
        members = members_of_range(membership(followers + 1), LEADER_OF_ALL, range_number)
        assert sorted(it.node for it in members) == sorted(f"n{number}" for number in range(2, followers + 2))
        paths = {it.node: ancestors(members, it.node, fanout) for it in members}
        assert sum(not path for path in paths.values()) == min(fanout, followers)
        sent = Counter(path[0].node for path in paths.values() if path)
        assert all(count <= fanout for count in sent.values())
        for path in paths.values():
            if path:
                assert path[1:] == paths[path[0].node]  # so it has no circles


def test_all_followers_fetch_and_send_about_as_much() -> None:
    members = membership(9)
    fetched: Counter[str] = Counter()
    for range_number in RANGES:
        fetched.update(it.node for it in members_of_range(members, LEADER_OF_ALL, range_number)[:2])
    expected = 2 * len(RANGES) / 8
    assert all(0.7 * expected < count < 1.3 * expected for count in fetched.values()) and len(fetched) == 8


def test_a_member_that_joins_or_leaves_moves_few_others() -> None:
    before, after = membership(20), membership(21)
    moved = 0
    for range_number in RANGES:
        fetching = {it.node for it in members_of_range(before, LEADER_OF_ALL, range_number)[:3]}
        moved += len(fetching - {it.node for it in members_of_range(after, LEADER_OF_ALL, range_number)[:3]})
    assert moved <= 2 * 3 * len(RANGES) / 20


def test_a_process_that_is_not_registered_has_the_place_of_its_node_or_the_last() -> None:
    members = members_of_range(membership(9), LEADER_OF_ALL, 5)
    assert ancestors(members, NodeId("n999"), 2) == (members[3], members[0])
    rule, own = UpstreamRule(GOSSIP, fanout=2), Author(members[-1].node, 8)
    assert upstreams(rule, membership(9), LEADER_OF_ALL, own, Seq(5 * RANGE_SEQS)) == ancestors(members, own.node, 2)


def test_the_first_of_a_range_fetch_it_from_kafka() -> None:
    members, rule = membership(9), UpstreamRule(GOSSIP, fanout=2)
    for range_number in RANGES[:20]:
        first, *_ = members_of_range(members, LEADER_OF_ALL, range_number)
        assert upstreams(rule, members, LEADER_OF_ALL, first.author, Seq(range_number * RANGE_SEQS)) is None
    assert upstreams(rule, members, LEADER_OF_ALL, LEADER_OF_ALL, Seq(0)) == ()
    assert [UpstreamRule(GOSSIP, range_seqs=8).range_of(Seq(seq)) for seq in (0, 7, 8)] == [0, 0, 1]


def test_an_upstream_falls_behind_if_the_distance_does_not_shrink() -> None:
    def distance(applied: int, end: int) -> Distance:
        return Distance(Offset(applied), Offset(end))

    assert falls_behind(distance(10, 100), distance(20, 150))
    assert falls_behind(distance(10, 100), distance(10, 100))
    assert not falls_behind(distance(10, 100), distance(60, 110))  # it catches up
    assert not falls_behind(distance(10, 100), distance(99, 500))  # it has sent all that was there
    assert not falls_behind(distance(99, 100), distance(99, 100))
