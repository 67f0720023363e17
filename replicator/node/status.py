"""The status that a node reports in `GET /status`, INFO and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

from replicator.node.context import NodeContext
from replicator.node.damage import NO_HEALS, HealHistory
from replicator.node.health import NodeHealth, NodeState
from replicator.node.record_source import RecordSource, SourceName
from replicator.node.term_history import Term
from replicator.node.timing import ignored_settings
from replicator.position import NodeId
from replicator.protocol.healing import Cause, Heal
from replicator.protocol.roles import Role
from replicator.records.types import Reason


def _no_claims() -> dict[Reason, int]:
    return dict.fromkeys(Reason, 0)


def _no_heals() -> dict[Cause, int]:
    return dict(NO_HEALS.counts)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """The defaults are those of a follower that serves, has caught up, and has nothing to report."""

    id: NodeId
    role: Role = Role.FOLLOWER
    source: SourceName | None = None  # where a follower's records come from; None: it does not follow
    upstream: NodeId | None = None  # the node that sends them; None: they come from Kafka
    state: NodeState = NodeState.SERVING
    trouble: str = ""  # why the node does not serve; empty if it does
    epoch: int
    leader: NodeId | None = None
    leader_silent_ms: float = 0.0  # since its last record or heartbeat was received here; 0 if this node leads
    timeline: str
    topic_id: str
    seq: int
    applied_offset: int
    end_offset: int  # of the last record in the log that this node knows of
    digest: str
    entries: int
    store_bytes: int  # on disk
    kafka_answers: bool = True  # False: this node waits for Kafka
    outage_ms: float | None = None  # while Kafka does not answer: the age of the last record, if one was read
    lag_ms: float = 0.0  # age of the last record applied; 0 if it is the last one in the log
    lease_left_ms: float = 0.0
    is_idle: bool = False  # a leader that renews its lease only for a read
    holds_leadership: bool = False  # a leader that holds its lease, or renews it as soon as a read needs it
    void_records: int = 0
    inflight: int = 0
    refusal: str = ""  # why this leader takes no writes now; empty if it does
    ignored_timing: dict[str, int] = field(default_factory=dict)  # own settings that the cluster's timing overrides
    elected: Term | None = None  # how this term began, if this process has read it
    term_ms: float | None = None  # how long ago that was
    claims: dict[Reason, int] = field(default_factory=_no_claims)  # accepted ones that this process has read
    healed: Heal | None = None  # how the store was rebuilt last
    heals: dict[Cause, int] = field(default_factory=_no_heals)  # how often this process has rebuilt it


def node_status(
    context: NodeContext, health: NodeHealth, source: RecordSource | None, healed: HealHistory | None = None
) -> NodeStatus:
    roles, replica = context.roles, context.replica
    kafka_answers = health.kafka_answers and not roles.log_unavailable
    meta, terms, now_us = replica.machine.meta, replica.terms, context.clock.wall_us()
    log_state = meta.state
    return NodeStatus(
        id=context.author.node,
        role=roles.role,
        source=None if source is None or roles.role.leads else source.name,
        upstream=None if source is None or roles.role.leads else _sender(source),
        state=health.state,
        trouble=health.health.trouble or _refusal(context),
        epoch=log_state.epoch,
        leader=log_state.leader.node if log_state.leader else None,
        leader_silent_ms=roles.leader_silent_ms(),
        timeline=log_state.timeline.hex(),
        topic_id=meta.topic_id,
        seq=log_state.seq,
        applied_offset=log_state.offset,
        end_offset=max(health.end_offset, log_state.offset),
        digest=f"{meta.digest:032x}",
        entries=meta.entries,
        store_bytes=replica.machine.size_bytes,
        kafka_answers=kafka_answers,
        outage_ms=None if kafka_answers else _last_record_ms(context, now_us),
        lag_ms=replica.age_ms(now_us) if log_state.offset < health.end_offset else 0.0,
        lease_left_ms=roles.lease_left_ms(),
        is_idle=roles.is_idle,
        holds_leadership=roles.holds_leadership(),
        void_records=replica.void_records,
        inflight=len(context.writes),
        refusal=str(context.writes.refusal or ""),
        ignored_timing=ignored_settings(context),
        elected=terms.last,
        term_ms=terms.last.age_ms(now_us) if terms.last else None,
        claims=dict(terms.counts),
        healed=healed.last if healed else None,
        heals=dict((healed or NO_HEALS).counts),
    )


def _refusal(context: NodeContext) -> str:
    """Why this process, which is not a member, is not registered."""
    is_member = context.replica.machine.meta.membership.includes(context.author)
    return "" if is_member else context.registration.refusal


def _sender(source: RecordSource) -> NodeId | None:
    """None also while the upstream has agreed to send records, and they still come from Kafka."""
    return source.upstream.node if source.stream is not None and source.upstream is not None else None


def _last_record_ms(context: NodeContext, now_us: int) -> float | None:
    """How long ago the last record was written that this process has read, or committed as leader; None: there is none.

    The age of one that was read is by its author's clock.
    """
    ages_ms = [context.clock.elapsed_ms() - context.roles.last_commit_ms]
    if context.replica.has_applied:
        ages_ms.append(context.replica.age_ms(now_us))
    age_ms = min(ages_ms)
    return age_ms if isfinite(age_ms) else None
