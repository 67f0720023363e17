"""Changes of a running cluster, by the admin API. Each returns once the change is in effect."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace

from replicator.config import checked_name
from replicator.errors import ConfigError, ReplicatorError
from replicator.local.admin_client import PROMOTE_S, ChangeStreamInfo, ClusterAdmin, NodeAdmin, TakenSnapshot
from replicator.local.progress import ProgressReporter
from replicator.local.status import FAILED, REPLACED, MemberStatus
from replicator.local.waiting import NodeFailed, wait_for_membership
from replicator.position import NodeId
from replicator.records.types import Mode, Policy, Replication, WaitFor, WriteMode

PROMOTE_POLL_S = 0.01
SNAPSHOT_POLL_S = 0.5


def promote(admin: ClusterAdmin, id: str, *, force: bool = False) -> int:
    """Make the node the leader, and return its epoch.

    By default the leader transfers leadership. With `force` the node becomes the leader without the old one's consent.
    Raises `NodeFailed`, `ReplicatorError`.
    """
    for status in admin.statuses():
        if status.node.id == id and status.node.state in (FAILED, REPLACED):
            raise NodeFailed(status.node)  # the leader knows only that it sends no acks
    asked = admin.member(id) if force else admin.leader()
    asked.promote(id, force=force)
    deadline = time.monotonic() + PROMOTE_S
    while True:
        node = admin.member(id).status().node
        # A node of an older version does not report `holds_leadership`.
        if node.leads and (node.holds_leadership or node.lease_left_ms > 0):
            return node.epoch
        if time.monotonic() > deadline:
            raise ReplicatorError(f"{id} is not the leader after {PROMOTE_S:.0f} s: see `replicator status`")
        time.sleep(PROMOTE_POLL_S)


def set_mode(admin: ClusterAdmin, id: str, mode: Mode) -> None:
    """Raises `ReplicatorError`."""
    admin.leader().set_mode(id, mode)
    wait_for_membership(
        admin,
        lambda status: any((it.node, it.mode) == (id, mode) for it in status.members),
        f"{id} is not {mode} yet: it may still be catching up, see `replicator status`",
    )


def remove_member(admin: ClusterAdmin, id: str) -> None:
    """Raises `ConfigError` if the node is the leader, `ReplicatorError`."""
    if admin.any_status().node.leader == id:
        raise ConfigError(f"{id} is the leader: transfer leadership first, with `replicator replica promote`")
    leader = admin.leader()
    if leader.status().member(id) is None:
        return
    leader.remove_member(id)
    wait_for_membership(admin, lambda status: status.member(id) is None, f"{id} is still a member: try again")


def remove_foreign_member(admin: ClusterAdmin, id: str) -> None:
    """As `remove_member`, for a process that was not started from the folder. `ConfigError` if it is not a member."""
    members = admin.any_status().members
    if not any(member.node == id for member in members):
        known = ", ".join(member.node for member in members)
        raise ConfigError(f"{id} is not a member of this cluster, only {known}: see `replicator status`")
    remove_member(admin, id)


def set_policy(admin: ClusterAdmin, policy: Policy) -> None:
    """Raises `ReplicatorError`."""
    admin.leader().set_policy(policy)
    wait_for_membership(
        admin, lambda status: status.policy == policy, "the policy is not in effect yet: see `replicator status`"
    )


def change_timing(admin: ClusterAdmin, settings: Mapping[str, int]) -> None:
    """Change these settings of the timing that all nodes follow. Raises `ReplicatorError`."""
    admin.leader().change_timing(settings)
    wait_for_membership(
        admin,
        lambda status: all(getattr(status.timing, name, None) == value for name, value in settings.items()),
        "the timing is not in effect yet: see `replicator cluster timing`",
    )


def policy_of(wait_for: str, write: WriteMode) -> Policy:
    """`wait_for`: all, quorum:K or named:A,B. Raises `ConfigError`."""
    kind, _, rest = wait_for.partition(":")
    if kind == WaitFor.QUORUM and rest.isdecimal():
        return Policy(write, WaitFor.QUORUM, int(rest))
    if kind == WaitFor.NAMED and rest:
        names = (checked_name("node id", name.strip()) for name in rest.split(","))
        return Policy(write, WaitFor.NAMED, named=tuple(map(NodeId, names)))
    if wait_for == WaitFor.ALL:
        return Policy(write, WaitFor.ALL)
    raise ConfigError(f"invalid policy {wait_for!r}: expected all, quorum:K or named:ID,…")


def changed_policy(
    current: Policy, wait_for: str | None, write: WriteMode | None, replicate: Replication | None = None
) -> Policy:
    """`current` with what is not None changed; `wait_for` as in `policy_of`. Raises `ConfigError`."""
    changed = current if wait_for is None else policy_of(wait_for, current.write)
    return replace(changed, write=write or current.write, replicate=replicate or current.replicate)


def take_snapshot(admin: ClusterAdmin, id: str | None, progress: ProgressReporter) -> TakenSnapshot:
    """On the given node; by default on a snapshotter, else on a follower that has caught up.

    Raises `ConfigError` if the node is not a member or does not serve, `ReplicatorError`.
    """
    chosen = _snapshot_node(admin.statuses(), id)
    progress.step(f"taking a snapshot on {chosen.node.id}")
    node = admin.node(chosen.member.http)
    with ThreadPoolExecutor(1) as thread:
        taking = thread.submit(node.take_snapshot)
        while not wait([taking], SNAPSHOT_POLL_S).done:
            with contextlib.suppress(ReplicatorError):  # what is wrong is the result of the other request
                if (it := node.snapshot_progress()) is not None:
                    progress.bar("snapshot", it.doing, it.done, it.total or None)
        return taking.result()


def enable_change_stream(
    admin: ClusterAdmin, options: Mapping[str, object], progress: ProgressReporter
) -> ChangeStreamInfo:
    """Create the change stream, or go on with a disabled one. The node that has most of the log is asked.

    To start from a snapshot, that is a snapshotter or a follower, which then publishes its content.
    Raises `ConfigError`, `ReplicatorError`.
    """
    if options.get("start_from") == "snapshot":
        node = admin.node(_snapshot_node(admin.statuses(), None).member.http)
        progress.step("taking a snapshot, and creating the change stream")
    else:
        node = admin.leader()
        progress.step("creating the change stream")
    return node.enable_change_stream(options)


def publishing_node(admin: ClusterAdmin) -> NodeAdmin:
    """The node that publishes the change stream, or any. Raises `NodeUnreachable`."""
    statuses = admin.statuses()
    publishers = [it for it in statuses if it.reply.publisher is not None and it.reply.publisher.publishes]
    return admin.node(publishers[0].member.http) if publishers else admin.any_node()


def _snapshot_node(statuses: Sequence[MemberStatus], id: str | None) -> MemberStatus:
    asked = [it for it in statuses if id in (None, it.node.id)]
    if not asked:
        raise ConfigError(f"{id} is not a member of this cluster: see `replicator status`")
    candidates = [it for it in asked if it.node.serves]
    if not candidates:
        raise ConfigError(f"{f'{id} does not serve' if id else 'no node serves'} now: see `replicator status`")
    return max(candidates, key=lambda it: (it.member.mode == Mode.SNAPSHOTTER, not it.node.leads, it.node.applied))
