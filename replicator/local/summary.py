"""The state of a whole cluster, from what its nodes report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from replicator.address import UNKNOWN
from replicator.local.admin_client import ClusterAdmin
from replicator.local.status import SERVING, UNREACHABLE, MemberStatus, NodeInfo, PublisherInfo, TermInfo
from replicator.log.kafka.topic import wal_topic
from replicator.position import Author, NodeId
from replicator.protocol.ack_policy import required
from replicator.protocol.healing import Heal
from replicator.records.types import Member, Membership, Mode, Policy, Timing


@dataclass(frozen=True, slots=True)
class NodeSummary:
    id: str
    role: str | None  # None, as below: the node does not report it
    mode: str
    resp: str
    http: str
    state: str
    source: str | None  # of a follower's records: kafka, leader or follower
    upstream: str | None  # the node that sends them
    kafka_answers: bool
    trouble: str  # empty if there is no problem
    applied_offset: int | None
    lag_records: int | None
    lag_ms: float | None
    digest: str | None
    entries: int | None
    store_bytes: int | None  # on disk
    publisher: PublisherInfo | None  # of the change stream
    ignored_timing: Mapping[str, int]  # settings of its config that the timing of the cluster overrides
    healed: Heal | None  # how its store was rebuilt last


@dataclass(frozen=True, slots=True)
class ClusterSummary:
    """According to the node that has read most of the log."""

    cluster: str
    timeline: str
    topic: str
    topic_id: str
    epoch: int
    leader: str | None
    lease_left_ms: int | None  # None if the leader does not answer
    leader_is_idle: bool  # it renews its lease only for a read
    elected: TermInfo | None  # how the term began, if any node has read its claim
    term_ms: float | None  # how long ago that was
    end_offset: int
    log_bytes: int | None  # of one copy of the log; None if Kafka reports it to no node
    record_version: int | None  # of the records that are written now
    kafka_down_ms: float | None  # since the last record, if no node that answers reaches Kafka
    policy: Policy | None
    timing: Timing | None
    nodes: Sequence[NodeSummary]

    @property
    def kafka_answers(self) -> bool:
        """Whether Kafka answers a node, as far as is known."""
        reporting = [node for node in self.nodes if node.state != UNREACHABLE]
        return not reporting or any(node.kafka_answers for node in reporting)

    @property
    def all_serve(self) -> bool:
        return all(node.state == SERVING for node in self.nodes)

    def as_json(self) -> dict[str, Any]:
        """The fields of `replicator status --json`."""
        fields = asdict(self)
        term_ms = fields.pop("term_ms")
        if self.elected is not None:
            fields["elected"]["term_ms"] = term_ms
        return fields


def summarise(admin: ClusterAdmin) -> ClusterSummary:
    """Raises `NodeUnreachable` if no node answers."""
    statuses = admin.statuses()
    nodes = [it.node for it in statuses]
    newest = max(statuses, key=lambda it: it.node.recency).reply
    node = newest.node
    end_offset = max(it.end_offset for it in nodes)
    term = _term(nodes, node.epoch)
    return ClusterSummary(
        cluster=newest.cluster,
        timeline=node.timeline,
        topic=wal_topic(newest.cluster),
        topic_id=node.topic_id,
        epoch=node.epoch,
        leader=node.leader,
        lease_left_ms=_lease_left_ms(nodes, node.epoch),
        leader_is_idle=any(it.is_idle and it.epoch == node.epoch for it in nodes),
        elected=term.elected if term else None,
        term_ms=term.term_ms if term else None,
        end_offset=end_offset,
        log_bytes=max((it.reply.log_bytes for it in statuses if it.reply.log_bytes is not None), default=None),
        record_version=newest.record_version,
        kafka_down_ms=_kafka_down_ms(nodes),
        policy=newest.policy,
        timing=newest.timing,
        nodes=[_summarise_node(it, end_offset) for it in statuses],
    )


def _lease_left_ms(nodes: Iterable[NodeInfo], epoch: int) -> int | None:
    return next((round(node.lease_left_ms) for node in nodes if node.leads and node.epoch == epoch), None)


def _kafka_down_ms(nodes: Sequence[NodeInfo]) -> float | None:
    """The last record came when the latest of them came to any node."""
    reporting = [node for node in nodes if node.state != UNREACHABLE]
    if any(node.kafka_answers for node in reporting):
        return None
    return min((node.outage_ms for node in reporting if node.outage_ms is not None), default=None)


def _term(nodes: Iterable[NodeInfo], epoch: int) -> NodeInfo | None:
    """A node that has read how the term of this epoch began."""
    return next((node for node in nodes if node.elected is not None and node.elected.epoch == epoch), None)


def _summarise_node(status: MemberStatus, end_offset: int) -> NodeSummary:
    node, member = status.node, status.member
    applied = node.applied_offset
    return NodeSummary(
        id=node.id,
        role=node.role,
        mode=member.mode,
        resp=str(member.resp or ""),
        http=str(member.http),
        state=node.state,
        source=node.source,
        upstream=node.upstream,
        kafka_answers=node.kafka_answers,
        trouble=node.trouble or node.refusal,
        applied_offset=applied,
        lag_records=None if applied is None else max(0, end_offset - applied),
        lag_ms=node.lag_ms,
        digest=node.digest,
        entries=node.entries,
        store_bytes=node.store_bytes,
        publisher=status.reply.publisher,
        ignored_timing=node.ignored_timing,
        healed=node.healed,
    )


def awaits_others(policy: Policy, sync: Iterable[str], leader: str | None) -> bool:
    """Whether a write waits for any node but the leader, given the ids of the sync members."""
    members = tuple(Member(NodeId(id), Mode.SYNC, UNKNOWN, UNKNOWN, 0, 0) for id in sync)
    return required(Membership(members, policy), Author(NodeId(leader or ""), 0)).needed > 0
