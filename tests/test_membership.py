"""Members, modes and write policies: valid changes, and the changes that are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.address import Address
from replicator.errors import BadRequest
from replicator.position import BEFORE_LOG, Author, NodeId, Offset
from replicator.protocol.ack_policy import MAX_OFFSET, AckRequirement, local_readers, required
from replicator.protocol.membership import with_joined, with_member, with_mode, with_policy, without_member
from replicator.records.types import Member, Membership, Mode, Policy, WaitFor, WriteMode

N1, N2, N3, N4, OUTSIDER = map(NodeId, ("n1", "n2", "n3", "n4", "n9"))
NODES = (N1, N2, N3, N4)
P1, P2, P3, P4 = PROCESSES = tuple(Author(node, 70 + number) for number, node in enumerate(NODES))

ASYNC = Policy()
SYNC = Policy(WriteMode.SYNC)
SUSPEND = Policy(WriteMode.SUSPEND)
INVALIDATE = Policy(WriteMode.INVALIDATE)


def quorum(needed: int, write: WriteMode = WriteMode.SYNC) -> Policy:
    return Policy(write, WaitFor.QUORUM, quorum=needed)


def named(*nodes: NodeId, write: WriteMode = WriteMode.SYNC) -> Policy:
    return Policy(write, WaitFor.NAMED, named=nodes)


def member(node: NodeId, mode: Mode) -> Member:
    return Member(node, mode, Address(node, 1), Address(node, 2), 0, dict(PROCESSES).get(node, 0))


def cluster(policy: Policy, *modes: Mode) -> Membership:
    """n1, n2, … in these modes."""
    return Membership(tuple(map(member, NODES, modes)), policy)


def mode_of(membership: Membership, node: NodeId) -> Mode:
    found = membership.get(node)
    assert found is not None
    return found.mode


def test_members_are_unique_and_sorted_by_name() -> None:
    membership = Membership()
    for node in (N3, N1, N2, N1):
        membership = with_member(membership, member(node, Mode.ASYNC))
    assert [it.node for it in membership.members] == [N1, N2, N3]
    moved = with_member(membership, replace(member(N2, Mode.ASYNC), resp=Address("elsewhere", 1)))
    assert [str(it.resp) for it in moved.members] == ["n1:1", "elsewhere:1", "n3:1"]


def test_adding_a_member_does_not_change_the_policy() -> None:
    assert with_member(cluster(SYNC, Mode.SYNC), member(N2, Mode.ASYNC)).policy == SYNC


TRANSITIONS = [
    (Mode.ASYNC, Mode.SYNC, Mode.JOINING),  # until it has caught up
    (Mode.ASYNC, Mode.ASYNC, Mode.ASYNC),
    (Mode.ASYNC, Mode.SNAPSHOTTER, Mode.SNAPSHOTTER),
    (Mode.JOINING, Mode.SYNC, Mode.JOINING),
    (Mode.JOINING, Mode.ASYNC, Mode.ASYNC),
    (Mode.JOINING, Mode.SNAPSHOTTER, Mode.SNAPSHOTTER),
    (Mode.SYNC, Mode.SYNC, Mode.SYNC),  # it has caught up already
    (Mode.SYNC, Mode.ASYNC, Mode.ASYNC),
    (Mode.SYNC, Mode.SNAPSHOTTER, Mode.SNAPSHOTTER),
    (Mode.SNAPSHOTTER, Mode.SYNC, Mode.JOINING),
    (Mode.SNAPSHOTTER, Mode.ASYNC, Mode.ASYNC),
    (Mode.SNAPSHOTTER, Mode.SNAPSHOTTER, Mode.SNAPSHOTTER),
]


@pytest.mark.parametrize(("before", "asked", "after"), TRANSITIONS)
def test_the_mode_transitions_of_a_follower(before: Mode, asked: Mode, after: Mode) -> None:
    membership = cluster(SYNC, Mode.SYNC, before, Mode.SYNC)
    changed = with_mode(membership, N2, asked, leader=N1)
    assert mode_of(changed, N2) is after
    assert changed == with_member(membership, member(N2, after))  # and nothing else


def test_the_leader_becomes_sync_at_once() -> None:
    assert mode_of(with_mode(cluster(ASYNC, Mode.ASYNC), N1, Mode.SYNC, leader=N1), N1) is Mode.SYNC


def test_a_joining_member_that_has_caught_up_becomes_sync() -> None:
    membership = cluster(SYNC, Mode.SYNC, Mode.JOINING)
    assert with_joined(membership, N2) == cluster(SYNC, Mode.SYNC, Mode.SYNC)


def test_the_leader_cannot_become_a_snapshotter() -> None:
    with pytest.raises(BadRequest, match="n1 is the leader, and a snapshotter cannot be leader"):
        with_mode(cluster(ASYNC, Mode.ASYNC, Mode.ASYNC), N1, Mode.SNAPSHOTTER, leader=N1)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: with_mode(it, OUTSIDER, Mode.SYNC, N1),
        lambda it: with_joined(it, OUTSIDER),
        lambda it: without_member(it, OUTSIDER),
    ],
    ids=["with_mode", "with_joined", "without_member"],
)
def test_a_node_that_is_not_a_member_has_no_mode_and_cannot_be_removed(
    change: Callable[[Membership], Membership],
) -> None:
    with pytest.raises(BadRequest, match="n9 is not a member"):
        change(cluster(ASYNC, Mode.ASYNC))


def test_a_member_that_the_policy_does_not_need_can_be_removed() -> None:
    membership = cluster(quorum(1), Mode.SYNC, Mode.SYNC, Mode.ASYNC)
    assert without_member(membership, N3) == cluster(quorum(1), Mode.SYNC, Mode.SYNC)
    assert without_member(membership, N1).members == (member(N2, Mode.SYNC), member(N3, Mode.ASYNC))


@pytest.mark.parametrize("policy", [SYNC, SUSPEND, INVALIDATE, quorum(1), named(N2)])
def test_the_last_sync_member_can_neither_be_removed_nor_become_async(policy: Policy) -> None:
    membership = cluster(policy, Mode.ASYNC, Mode.SYNC)
    with pytest.raises(BadRequest, match=r"n2 cannot be removed: .* there would be none"):
        without_member(membership, N2)
    for mode in (Mode.ASYNC, Mode.SNAPSHOTTER):
        with pytest.raises(BadRequest, match=rf"n2 cannot be {mode}: .* there would be none"):
            with_mode(membership, N2, mode, leader=N1)


def test_any_member_can_be_removed_while_writes_are_async() -> None:
    assert without_member(cluster(ASYNC, Mode.SYNC), N1).members == ()


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (quorum(2), "a quorum of 2 needs 2 sync members, and there is 1"),
        (named(N1, N2), "not a sync member: n2"),
    ],
)
def test_a_member_that_the_policy_needs_cannot_be_removed(policy: Policy, words: str) -> None:
    membership = cluster(policy, Mode.SYNC, Mode.SYNC)
    with pytest.raises(BadRequest, match=f"n2 cannot be removed: {words}"):
        without_member(membership, N2)
    with pytest.raises(BadRequest, match=f"n2 cannot be async: {words}"):
        with_mode(membership, N2, Mode.ASYNC, leader=N1)


@pytest.mark.parametrize(
    "policy", [ASYNC, SYNC, SUSPEND, INVALIDATE, quorum(1), quorum(2), named(N1), named(N1, N2)], ids=str
)
def test_a_policy_that_can_be_met_is_accepted(policy: Policy) -> None:
    assert with_policy(cluster(ASYNC, Mode.SYNC, Mode.SYNC, Mode.ASYNC), policy).policy == policy


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (quorum(3), "a quorum of 3 needs 3 sync members, and there are 2"),
        (quorum(0), "a quorum of 0 is invalid: it must be 1 or more"),
        (quorum(-1), "a quorum of -1"),
        (named(), "the policy names no sync member"),
        (named(N1, N3), "not a sync member: n3"),
        (named(OUTSIDER, N3), "not a sync member: n3, n9"),
        (quorum(1, WriteMode.SUSPEND), "suspend writes wait for all sync members, not for quorum"),
        (named(N1, write=WriteMode.SUSPEND), "suspend writes wait for all sync members, not for named"),
        (quorum(1, WriteMode.INVALIDATE), "invalidate writes wait for all sync members, not for quorum"),
        (named(N1, write=WriteMode.INVALIDATE), "invalidate writes wait for all sync members, not for named"),
    ],
)
def test_a_policy_that_cannot_be_met_is_refused(policy: Policy, words: str) -> None:
    with pytest.raises(BadRequest, match=f"^this policy cannot be set: {words}"):
        with_policy(cluster(ASYNC, Mode.SYNC, Mode.SYNC, Mode.ASYNC), policy)


@pytest.mark.parametrize("policy", [SYNC, SUSPEND, INVALIDATE, quorum(1), named(N1)], ids=str)
def test_without_sync_members_only_async_writes_are_accepted(policy: Policy) -> None:
    with pytest.raises(BadRequest, match=r"there would be none\. Add one with `replicator replica set-mode ID sync`"):
        with_policy(cluster(ASYNC, Mode.ASYNC, Mode.SNAPSHOTTER), policy)


def test_a_member_that_is_still_joining_is_named_in_the_refusal() -> None:
    with pytest.raises(BadRequest, match="n2 has not caught up yet"):
        with_policy(cluster(ASYNC, Mode.ASYNC, Mode.JOINING), SYNC)
    with pytest.raises(BadRequest, match="n3 has not caught up yet"):
        with_policy(cluster(ASYNC, Mode.SYNC, Mode.SYNC, Mode.JOINING), quorum(3))


S, A, J = Mode.SYNC, Mode.ASYNC, Mode.JOINING


@pytest.mark.parametrize(
    ("policy", "modes", "expected"),
    [
        (ASYNC, (S, S, S), AckRequirement()),
        (SYNC, (S, S, S), AckRequirement((P2, P3), 2)),
        (SYNC, (A, S, S), AckRequirement((P2, P3), 2)),
        (SYNC, (S, S, A, J), AckRequirement((P2,), 1)),  # only sync members count
        (SYNC, (S, A), AckRequirement((), 0)),  # the leader is the only one
        (quorum(1), (S, S, S), AckRequirement((P2, P3), 0)),  # a sync leader is one of the quorum
        (quorum(1), (A, S, S), AckRequirement((P2, P3), 1)),
        (quorum(2), (S, S, S), AckRequirement((P2, P3), 1)),
        (quorum(2), (A, S, S), AckRequirement((P2, P3), 2)),
        (named(N2), (S, S, S), AckRequirement((P2,), 1)),
        (named(N1), (S, S, S), AckRequirement((), 0)),
        (named(N1, N3), (S, S, S), AckRequirement((P3,), 1)),
        (named(N2, N3), (A, S, S), AckRequirement((P2, P3), 2)),
        (SUSPEND, (S, S, A), AckRequirement((P2,), 1)),
        (SUSPEND, (A, S, S), AckRequirement((P2, P3), 2)),
        (INVALIDATE, (S, S, A), AckRequirement((P2,), 1)),
        (INVALIDATE, (A, S, S), AckRequirement((P2, P3), 2)),
    ],
)
def test_the_acks_that_a_write_of_n1_requires(
    policy: Policy, modes: tuple[Mode, ...], expected: AckRequirement
) -> None:
    assert required(cluster(policy, *modes), P1) == expected


def test_a_leader_that_has_not_registered_yet_requires_the_ack_of_the_process_that_has() -> None:
    again = Author(N1, 99)
    assert required(cluster(SUSPEND, S, S), again) == AckRequirement((P1, P2), 2)
    assert required(cluster(quorum(1), S, S), again) == AckRequirement((P1, P2), 1)
    assert required(cluster(named(N1), S, S), again) == AckRequirement((P1,), 1)


def test_sync_members_read_locally_only_in_suspend_and_invalidate_mode() -> None:
    for policy in (ASYNC, SYNC, quorum(2), named(N1, N2)):
        assert local_readers(cluster(policy, S, S, A, J)) == frozenset()
    for policy in (SUSPEND, INVALIDATE):
        assert local_readers(cluster(policy, S, S, A, J)) == {P1, P2}


positions = st.lists(st.integers(-1, 5).map(Offset), min_size=1, max_size=4)


@given(positions, st.integers(1, 5))
def test_an_offset_is_confirmed_if_and_only_if_enough_members_have_acked_it(acked: list[Offset], needed: int) -> None:
    requirement = AckRequirement(PROCESSES[: len(acked)], needed)
    confirmed = requirement.confirmed(dict(zip(PROCESSES, acked, strict=False)).__getitem__)
    for offset in range(6):
        assert (offset <= confirmed) is (sum(at >= offset for at in acked) >= needed)


@given(positions)
def test_a_requirement_of_no_acks_is_confirmed_at_once(acked: list[Offset]) -> None:
    requirement = AckRequirement(PROCESSES[: len(acked)], 0)
    assert requirement.confirmed(dict(zip(PROCESSES, acked, strict=False)).__getitem__) == MAX_OFFSET
    assert requirement.missing(lambda node: False) == ()


def test_more_acks_than_members_are_never_reached() -> None:
    assert AckRequirement((P2,), 2).confirmed(lambda node: Offset(9)) == BEFORE_LOG


@given(st.sets(st.sampled_from(PROCESSES)), st.integers(0, 4))
def test_unresponsive_members_are_named_if_and_only_if_too_few_are_left(unresponsive: set[Author], needed: int) -> None:
    missing = AckRequirement(PROCESSES, needed).missing(lambda node: node not in unresponsive)
    assert missing == (tuple(sorted(unresponsive)) if len(PROCESSES) - len(unresponsive) < needed else ())
