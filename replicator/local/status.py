"""The status that a node reports about itself and its cluster: the JSON of `GET /status`, parsed.

Unknown fields are ignored. Fields that a node does not report yet have defaults: before it has opened its store, it
reports only its id, its state and the reason why it is not ready.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from replicator.address import Address
from replicator.node.change_stream import PublisherState
from replicator.position import BEFORE_LOG
from replicator.protocol.healing import Cause, Damage, Heal
from replicator.protocol.roles import Role
from replicator.records.types import Policy, Replication, Timing, WaitFor, WriteMode

SERVING, FAILED, REPLACED = "serving", "failed", "replaced"
STARTING, UNREACHABLE = "starting", "unreachable"  # set by this program for nodes that do not answer
LEADING_ROLES = frozenset(role.value for role in Role if role.leads)


@dataclass(frozen=True, slots=True)
class TermInfo:
    """How a term began."""

    epoch: int
    leader: str = ""
    before: str | None = None  # the previous leader
    reason: str = ""
    why: str = ""  # the reason in words
    offset: int = BEFORE_LOG
    at_ms: int = 0  # since 1970


@dataclass(frozen=True, slots=True)
class NodeInfo:
    id: str
    state: str
    trouble: str = ""  # empty if there is no problem
    role: str | None = None
    source: str | None = None  # of a follower's records: kafka, leader or follower
    upstream: str | None = None  # the node that sends them
    kafka_answers: bool = True
    outage_ms: float | None = None  # while Kafka does not answer: how long ago the last record was written, if known
    epoch: int = 0
    leader: str | None = None
    timeline: str = ""
    topic_id: str = ""
    applied_offset: int | None = None
    seq: int | None = None
    end_offset: int = BEFORE_LOG  # of the last record in the log that the node knows of
    digest: str | None = None
    entries: int | None = None
    store_bytes: int | None = None  # on disk
    lag_ms: float | None = None
    lease_left_ms: float = 0.0
    is_idle: bool = False  # a leader that renews its lease only for a read
    holds_leadership: bool = False  # it holds its lease, or is idle
    ignored_timing: Mapping[str, int] = field(default_factory=dict)  # settings of its config that the cluster overrides
    refusal: str = ""  # why the leader takes no writes now; empty if it does
    elected: TermInfo | None = None  # how the current term began, if the node has read its claim
    term_ms: float | None = None  # how long ago that was
    healed: Heal | None = None  # how its store was rebuilt last

    @property
    def leads(self) -> bool:
        return self.role in LEADING_ROLES

    @property
    def serves(self) -> bool:
        return self.state == SERVING

    @property
    def applied(self) -> int:
        """The applied offset, -1 if it is unknown."""
        return BEFORE_LOG if self.applied_offset is None else self.applied_offset

    @property
    def recency(self) -> tuple[bool, int, int]:
        """Greater if the node has read more of the log."""
        return self.state != UNREACHABLE, self.epoch, self.applied


@dataclass(frozen=True, slots=True)
class MemberInfo:
    node: str
    mode: str
    resp: Address | None  # for Redis clients; None: unknown
    http: Address
    priority: int
    incarnation: str = ""  # of its process that has registered


@dataclass(frozen=True, slots=True)
class PublisherInfo:
    """What the publisher of the change stream at a node does."""

    state: str
    offset: int = BEFORE_LOG  # of the last entry of the log that is published
    changes: int = 0  # published so far
    changes_per_s: float = 0.0
    lag_records: int = 0
    lag_ms: float = 0.0
    trouble: str = ""

    @property
    def publishes(self) -> bool:
        return self.state in (PublisherState.BACKFILLING, PublisherState.PUBLISHING)


@dataclass(frozen=True, slots=True)
class StatusReply:
    cluster: str
    node: NodeInfo
    incarnation: str = ""  # of the process that replied
    log_bytes: int | None = None  # of one copy of the log; None: Kafka does not report it
    members: tuple[MemberInfo, ...] = ()
    policy: Policy | None = None
    timing: Timing | None = None  # None: the log has no record of it yet
    record_version: int | None = None  # of the records that are written now
    publisher: PublisherInfo | None = None  # of the change stream; None: a node of an older version

    @property
    def is_registered(self) -> bool:
        """Whether this process, and no other, counts as its node."""
        member = self.member(self.node.id)
        return member is not None and member.incarnation == self.incarnation

    def member(self, id: str | None) -> MemberInfo | None:
        return next((member for member in self.members if member.node == id), None)


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member, and what its node reports."""

    member: MemberInfo
    reply: StatusReply

    @property
    def node(self) -> NodeInfo:
        return self.reply.node


def parse_status(reply: Any) -> StatusReply:
    """Raises `KeyError`, `TypeError` or `ValueError` if this is not the status of a node."""
    node, elected, healed = reply["node"], reply["node"].get("elected"), reply["node"].get("healed")
    parsed = {"elected": parse_term(elected), "healed": parse_heal(healed)}
    return StatusReply(
        cluster=reply["cluster"],
        node=NodeInfo(**{**known_fields(NodeInfo, node), **parsed}),
        incarnation=reply.get("incarnation", ""),
        log_bytes=reply.get("log_bytes"),
        members=tuple(map(parse_member, reply["members"])),
        policy=parse_policy(reply.get("policy")),
        timing=parse_timing(reply.get("timing")),
        record_version=reply.get("record_version"),
        publisher=PublisherInfo(**known_fields(PublisherInfo, reply["publisher"])) if "publisher" in reply else None,
    )


def parse_member(member: Any) -> MemberInfo:
    addresses = {name: Address.from_record(member[name]) for name in ("resp", "http")}
    return MemberInfo(**{**known_fields(MemberInfo, member), **addresses})


def parse_term(elected: Any) -> TermInfo | None:
    return None if elected is None else TermInfo(**known_fields(TermInfo, elected))


def parse_heal(healed: Any) -> Heal | None:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    if healed is None:
        return None
    damage = known_fields(Damage, healed["damage"])
    return Heal(**{**known_fields(Heal, healed), "damage": Damage(**{**damage, "cause": Cause(damage["cause"])})})


def parse_policy(policy: Any) -> Policy | None:
    """Raises `KeyError`, `TypeError` or `ValueError`."""
    if policy is None:
        return None
    return Policy(
        WriteMode(policy["write"]),
        WaitFor(policy["wait_for"]),
        policy["quorum"],
        tuple(policy["named"]),
        Replication(policy.get("replicate", Replication.ROW)),
    )


def parse_timing(timing: Any) -> Timing | None:
    """Raises `TypeError`."""
    return None if timing is None else Timing(**known_fields(Timing, timing))


def known_fields(type: type[Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Those `values` that are fields of the dataclass `type`."""
    return {field.name: values[field.name] for field in fields(type) if field.name in values}


def unreachable(member: MemberInfo, trouble: str) -> MemberStatus:
    return MemberStatus(member, StatusReply("", NodeInfo(member.node, UNREACHABLE, trouble)))
