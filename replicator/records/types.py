"""What the log says: one header and one body a record (Avro: `schemas/record.v1.avsc`).

Named tuples rather than dataclasses where one is made for every record: they are immutable all the same and cost a
third as much to build.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from replicator.address import Address
from replicator.position import Author, Epoch, NodeId, Offset, Seq

VERSION = 1


class Header(NamedTuple):
    version: int
    timeline: bytes  # 16 bytes
    epoch: Epoch
    author: Author
    seq: Seq
    timestamp_us: int  # the author's wall clock
    chain: bytes  # 8 bytes: xxh3-64(chain before + body)


class Change(NamedTuple):
    """In row R of a table change field F from Old to New; None is "not there"."""

    table: str
    row: bytes
    field: bytes
    old: bytes | None
    new: bytes | None


class Write(NamedTuple):
    """One transaction of one client."""

    changes: tuple[Change, ...]


class Reason(StrEnum):
    FIRST = "first"  # the log is empty
    ELECTION = "election"  # the leader has not been heard of
    RESOLVE = "doubt"  # the leader asks what became of its appends
    HANDOVER = "handover"  # the leader gives the lead to another node
    FORCE = "force"  # an operator's word


@dataclass(frozen=True, slots=True)
class Claim:
    """`leader` leads from here on, if the claim is accepted (`protocol.commit`)."""

    leader: Author
    epoch: Epoch
    observed: Offset
    reason: Reason


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The leader is alive."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What every store holds after the record before this one."""

    digest: int  # 128 bits
    entries: int


class Mode(StrEnum):
    ASYNC = "async"
    JOINING = "joining"  # asked to be sync, has not caught up yet
    SYNC = "sync"
    SNAPSHOTTER = "snapshotter"


class WriteMode(StrEnum):
    ASYNC = "async"
    SYNC = "sync"
    SUSPEND = "suspend"
    INVALIDATE = "invalidate"


class WaitFor(StrEnum):
    ALL = "all"
    QUORUM = "quorum"
    NAMED = "named"


@dataclass(frozen=True, slots=True)
class Member:
    node: NodeId
    mode: Mode
    resp: Address  # of its Redis-protocol server, as others reach it
    http: Address  # of its HTTP server
    priority: int  # lower leads sooner


@dataclass(frozen=True, slots=True)
class Policy:
    write: WriteMode = WriteMode.ASYNC
    wait_for: WaitFor = WaitFor.ALL
    quorum: int = 0
    named: tuple[NodeId, ...] = ()


@dataclass(frozen=True, slots=True)
class Membership:
    """All members and the sync policy, from this record on."""

    members: tuple[Member, ...] = ()
    policy: Policy = Policy()

    def get(self, node: NodeId) -> Member | None:
        return next((member for member in self.members if member.node == node), None)


@dataclass(frozen=True, slots=True)
class Suspend:
    """No sync replica answers linearizable reads of these store keys until they are written, each as often as named."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Every sync replica has applied the writes up to this seq."""

    up_to_seq: Seq


Body = Write | Claim | Heartbeat | Checkpoint | Membership | Suspend | Release


class Record(NamedTuple):
    header: Header
    body: Body
    encoded_body: bytes  # what the chain runs over


class Ack(NamedTuple):
    """A replica's word that it has applied the log up to `offset`."""

    timeline: bytes
    author: Author
    offset: Offset
    seq: Seq
    epoch: Epoch
    timestamp_us: int
