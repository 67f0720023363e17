"""Changes of the membership and of the sync policy: each yields the full membership that a record then carries.

    async  ──asked to be sync──▶  joining  ──has caught up──▶  sync
      ◀─────────────────────────────┴──────asked to be async─────┘

Only an operator makes a member weaker, never the system; and nobody makes a policy that could not be met.
"""

from __future__ import annotations

from dataclasses import replace

from replicator.errors import BadRequest
from replicator.position import NodeId
from replicator.protocol.ack_policy import sync_members
from replicator.records.types import Member, Membership, Mode, Policy, WaitFor, WriteMode


def with_member(membership: Membership, member: Member) -> Membership:
    """`member` added, or in the place of the one of its name."""
    others = tuple(known for known in membership.members if known.node != member.node)
    return replace(membership, members=tuple(sorted((*others, member), key=lambda known: known.node)))


def without_member(membership: Membership, node: NodeId) -> Membership:
    """Raises `BadRequest`."""
    _member(membership, node)
    smaller = replace(membership, members=tuple(known for known in membership.members if known.node != node))
    _check(smaller, f"{node} cannot be removed")
    return smaller


def with_mode(membership: Membership, node: NodeId, mode: Mode, leader: NodeId) -> Membership:
    """`node` in another mode; who asks to be sync is joining until it has caught up. Raises `BadRequest`."""
    member = _member(membership, node)
    if mode is Mode.SNAPSHOTTER and node == leader:
        raise BadRequest(f"{node} leads, which a snapshotter never does: give the lead to another node first")
    if mode is Mode.SYNC and member.mode is not Mode.SYNC:
        mode = Mode.SYNC if node == leader else Mode.JOINING
    changed = with_member(membership, replace(member, mode=mode))
    _check(changed, f"{node} cannot be {mode}")
    return changed


def with_joined(membership: Membership, node: NodeId) -> Membership:
    """A joining member that has caught up counts from here on."""
    return with_member(membership, replace(_member(membership, node), mode=Mode.SYNC))


def with_policy(membership: Membership, policy: Policy) -> Membership:
    """Raises `BadRequest`."""
    changed = replace(membership, policy=policy)
    _check(changed, "this policy cannot be")
    return changed


def _member(membership: Membership, node: NodeId) -> Member:
    member = membership.get(node)
    if member is None:
        raise BadRequest(f"{node} is no member: see `replicator status`")
    return member


def _check(membership: Membership, what: str) -> None:
    """Raises `BadRequest` if the policy could never be met."""
    policy, sync = membership.policy, sync_members(membership)
    joining = ", ".join(member.node for member in membership.members if member.mode is Mode.JOINING)
    hint = f" ({joining} has not caught up yet)" if joining else ""
    if policy.write is WriteMode.ASYNC:
        return
    if not sync:
        raise BadRequest(
            f"{what}: {policy.write} writes wait for sync members, and there would be none{hint}. "
            "Make one with `replicator replica set-mode ID sync`, or writes async first"
        )
    if policy.write is not WriteMode.SYNC and policy.wait_for is not WaitFor.ALL:
        raise BadRequest(f"{what}: {policy.write} writes wait for all sync members, not for {policy.wait_for}")
    if policy.wait_for is WaitFor.QUORUM and not 1 <= policy.quorum <= len(sync):
        raise BadRequest(f"{what}: a quorum of {policy.quorum} is not to be had of {len(sync)} sync members{hint}")
    strangers = sorted(set(policy.named) - set(sync))
    if policy.wait_for is WaitFor.NAMED and (strangers or not policy.named):
        raise BadRequest(f"{what}: {', '.join(strangers) or 'nobody'} is no sync member{hint}")
