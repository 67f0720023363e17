"""Decides which changes of the members and of the write policy are allowed. Each change returns the full membership.

    async  ──set to sync──▶  joining  ──caught up──▶  sync
      ◀───────────────────────┴────set to async────────┘

Only an operator weakens the mode of a member, never the system. A policy that could never be met is refused.

The version of records rises once every member has said that it reads the next one, and never falls: a program that does
not read it stops, and asks to be upgraded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from replicator.errors import BadRequest
from replicator.position import Author, NodeId
from replicator.protocol.ack_policy import sync_members
from replicator.records.types import VERSION, Member, Membership, Mode, Policy, WaitFor, WriteMode


def with_member(membership: Membership, member: Member) -> Membership:
    """`member` added, or replaced if a member has its name."""
    others = tuple(known for known in membership.members if known.node != member.node)
    return replace(membership, members=tuple(sorted((*others, member), key=lambda known: known.node)))


def without_member(membership: Membership, node: NodeId) -> Membership:
    """Raises `BadRequest` if `node` is not a member, or the policy needs it."""
    _member(membership, node)
    smaller = replace(membership, members=tuple(known for known in membership.members if known.node != node))
    _check(smaller, f"{node} cannot be removed")
    return smaller


def with_mode(membership: Membership, node: NodeId, mode: Mode, leader: NodeId) -> Membership:
    """`node` in another mode; a node set to sync is joining until it has caught up. Raises `BadRequest`."""
    member = _member(membership, node)
    if mode is Mode.SNAPSHOTTER and node == leader:
        raise BadRequest(
            f"{node} is the leader, and a snapshotter cannot be leader: transfer leadership to another node first"
        )
    if mode is Mode.SYNC and member.mode is not Mode.SYNC:
        mode = Mode.SYNC if node == leader else Mode.JOINING
    changed = with_member(membership, replace(member, mode=mode))
    _check(changed, f"{node} cannot be {mode}")
    return changed


def with_joined(membership: Membership, node: NodeId) -> Membership:
    """A joining member that has caught up becomes sync. Raises `BadRequest` if `node` is not a member."""
    return with_member(membership, replace(_member(membership, node), mode=Mode.SYNC))


def with_policy(membership: Membership, policy: Policy) -> Membership:
    """Raises `BadRequest` if the policy could never be met."""
    changed = replace(membership, policy=policy)
    _check(changed, "this policy cannot be set")
    return changed


def with_version(membership: Membership, leader: Author, versions: Mapping[Author, int]) -> Membership:
    """With the newest version of records that all members read. `versions`: those of the members that are known."""
    others = (member.author for member in membership.members if member.author != leader)
    common = min((versions.get(author, 0) for author in others), default=VERSION)
    return replace(membership, version=max(membership.version, min(common, VERSION)))


def _member(membership: Membership, node: NodeId) -> Member:
    member = membership.get(node)
    if member is None:
        raise BadRequest(f"{node} is not a member: see `replicator status`")
    return member


def _check(membership: Membership, what: str) -> None:
    """Raises `BadRequest` if the policy could never be met."""
    policy, sync = membership.policy, [member.node for member in sync_members(membership)]
    joining = ", ".join(member.node for member in membership.members if member.mode is Mode.JOINING)
    hint = f" ({joining} has not caught up yet)" if joining else ""
    if policy.write is WriteMode.ASYNC:
        return
    if not sync:
        raise BadRequest(
            f"{what}: {policy.write} writes wait for sync members, and there would be none{hint}. "
            "Add one with `replicator replica set-mode ID sync`, or set the write policy to async first"
        )
    if policy.write is not WriteMode.SYNC and policy.wait_for is not WaitFor.ALL:
        raise BadRequest(
            f"{what}: {policy.write} writes wait for all sync members, not for {policy.wait_for}. "
            f"Set both: `replicator cluster policy all --write {policy.write}`"
        )
    if policy.wait_for is WaitFor.QUORUM and not 1 <= policy.quorum <= len(sync):
        raise BadRequest(f"{what}: {_quorum_problem(policy.quorum, len(sync))}{hint}")
    if policy.wait_for is WaitFor.NAMED and not policy.named:
        raise BadRequest(f"{what}: the policy names no sync member")
    not_sync = sorted(set(policy.named) - set(sync))
    if policy.wait_for is WaitFor.NAMED and not_sync:
        raise BadRequest(f"{what}: not a sync member: {', '.join(not_sync)}{hint}")


def _quorum_problem(quorum: int, sync: int) -> str:
    if quorum < 1:
        return f"a quorum of {quorum} is invalid: it must be 1 or more"
    members = "is 1" if sync == 1 else f"are {sync}"
    return f"a quorum of {quorum} needs {quorum} sync members, and there {members}"
