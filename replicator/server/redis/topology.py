"""The cluster as a sentinel sees it: the leader and the replicas that this node knows, and how they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from replicator.address import Address
from replicator.node.health import NodeState
from replicator.position import BEFORE_LOG, NodeId, Offset
from replicator.records.types import Member, Mode
from replicator.server.backend import Backend

NO_LEADER = Address("", 0)  # the address of an unknown leader, as Redis reports it


class Topology(NamedTuple):
    node: NodeId  # the node that observes
    serving: bool  # whether that node is caught up with the log
    leader: Member | None  # None: not known at the moment
    leader_down: bool  # its heartbeat timed out, or it has no lease
    leader_silent_ms: float
    epoch: int
    replicas: tuple[Member, ...]  # all others that serve clients
    sentinels: tuple[Member, ...]  # all but `node` that serve clients


def observe(backend: Backend) -> Topology:
    status, members = backend.status(), backend.membership.members
    serving = status.state is NodeState.SERVING  # otherwise there may be a newer leader in the log
    leader = next((it for it in members if serving and it.node == status.leader), None)
    own = status.leader == status.id
    down = not status.holds_leadership if own else status.leader_silent_ms > backend.timing.lease_ms
    others = [member for member in members if member.mode is not Mode.SNAPSHOTTER]
    return Topology(
        node=status.id,
        serving=serving,
        leader=leader,
        leader_down=down or leader is None,
        leader_silent_ms=status.leader_silent_ms,
        epoch=status.epoch,
        replicas=tuple(member for member in others if member is not leader),
        sentinels=tuple(member for member in others if member.node != status.id),
    )


def leader_address(backend: Backend) -> Address:
    """Where Redis clients reach the leader; `NO_LEADER` if its address is not known."""
    leader = backend.status().leader
    member = backend.membership.get(leader) if leader else None
    return member.resp if member else NO_LEADER


@dataclass(frozen=True, slots=True)
class OnlineReplica:
    address: Address
    offset: Offset  # that it has acked
    lag_s: int  # since its last ack


def online_replicas(backend: Backend) -> Iterator[OnlineReplica]:
    """At the leader: the replicas that ack records. Redis does not list disconnected replicas either."""
    for replica in backend.replicas:
        member = backend.membership.get(replica.node)
        if member is not None and replica.is_responsive and replica.offset > BEFORE_LOG:
            yield OnlineReplica(member.resp, replica.offset, int(replica.ack_age_ms / 1000))


def shown_offset(backend: Backend) -> Offset:
    """The replication offset of this node: the last applied one, 0 in an empty log."""
    return Offset(max(0, backend.status().applied_offset))


def events(name: str, before: Topology, after: Topology) -> Iterator[tuple[str, str]]:
    """Channels and messages by which Redis Sentinel reports the change. `name` is that of the cluster."""
    if before.leader is None or after.leader is None:
        return
    old, new = _words(before.leader), _words(after.leader)
    if old != new:
        yield "+switch-master", f"{name} {old} {new}"
    elif before.leader_down != after.leader_down:
        yield "+sdown" if after.leader_down else "-sdown", f"master {name} {new}"
    known = set() if old != new else {member.resp for member in before.replicas}
    for member in after.replicas:
        if member.resp not in known:
            yield "+slave", f"slave {member.resp} {_words(member)} @ {name} {new}"


def _words(member: Member) -> str:
    """Host and port as Redis Sentinel puts them into messages."""
    return f"{member.resp.host} {member.resp.port}"
