"""The records of the log: each has one header and one body (Avro: `schemas/record.v4.avsc`).

Types that are created for every record are named tuples: they are immutable too, and cost a third of a dataclass.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, NamedTuple

from replicator.address import Address
from replicator.position import Author, Epoch, NodeId, Offset, Seq
from replicator.records.tape import Call

VERSION = 4
"""The newest version of records that this program reads and writes."""

GROUPS_SINCE = 3
"""The version of records from which on there are groups."""

COMMANDS_SINCE = 4
"""The version of records from which on there are commands."""


class Header(NamedTuple):
    version: int
    timeline: bytes  # 16 bytes
    epoch: Epoch
    author: Author
    seq: Seq  # of the first transaction, if the body is a `Group`
    timestamp_us: int  # wall clock of the author
    chain: bytes  # 8 bytes: xxh3-64(chain before + body)


class Change(NamedTuple):
    """Changes one field of a row from `old` to `new`. None: the field is absent."""

    table: str
    row: bytes
    field: bytes
    old: bytes | None
    new: bytes | None


class Write(NamedTuple):
    """The changes of one client transaction."""

    changes: tuple[Change, ...]


class Group(NamedTuple):
    """Transactions that were appended together, as one record. Each takes the next seq."""

    writes: tuple[Write, ...]  # at least one


class Command(NamedTuple):
    """One client transaction, as the commands that each replica executes again, on the state before it."""

    engine: str  # what executes them: `name:version`, separated by commas. Empty: plain Redis commands
    lines: tuple[tuple[bytes, ...], ...]  # of the Redis protocol, in order
    tape: tuple[Call, ...]
    now_ms: int  # for which they were executed: the wall clock of the leader
    changes: int  # entries that they change
    reads: int  # rows that they read, or what takes as long: a measure of the time that they take


class Reason(StrEnum):
    FIRST = "first"  # the log is empty
    ELECTION = "election"  # the heartbeat of the leader timed out
    RESOLVE = "doubt"  # the leader resolves an append whose outcome is unknown
    HANDOVER = "handover"  # the leader transfers leadership to another node
    FORCE = "force"  # forced by an operator


@dataclass(frozen=True, slots=True)
class Claim:
    """If the claim is accepted, `leader` is the leader from this record on (`protocol.acceptance`)."""

    leader: Author
    epoch: Epoch
    observed: Offset  # of the last entry that the author had read
    reason: Reason


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Shows that the leader is alive, and renews its lease."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The content of every store after the record before this one."""

    digest: int  # 128 bits
    entries: int


class Mode(StrEnum):
    ASYNC = "async"
    JOINING = "joining"  # set to sync, has not caught up yet
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
    incarnation: int = 0  # of its process that registered last; 0: none has

    @property
    def author(self) -> Author:
        """The process that counts as this member (`protocol.registration`)."""
        return Author(self.node, self.incarnation)


class Replication(StrEnum):
    """What the log has of a transaction."""

    ROW = "row"  # its changes
    COMMAND = "command"  # its commands, if it can be executed again
    MIXED = "mixed"  # the smaller of both


@dataclass(frozen=True, slots=True)
class Policy:
    write: WriteMode = WriteMode.ASYNC
    wait_for: WaitFor = WaitFor.ALL
    quorum: int = 0
    named: tuple[NodeId, ...] = ()
    replicate: Replication = Replication.ROW


@dataclass(frozen=True, slots=True)
class Membership:
    """All members and the write policy, from this record on."""

    members: tuple[Member, ...] = ()
    policy: Policy = Policy()
    version: int = VERSION  # of records: the newest one that all members read

    def get(self, node: NodeId) -> Member | None:
        return next((member for member in self.members if member.node == node), None)

    def includes(self, author: Author) -> bool:
        """Whether this process, and no other of its node, counts as a member."""
        member = self.get(author.node)
        return member is not None and member.author == author


@dataclass(frozen=True, slots=True)
class Suspend:
    """Sync replicas block linearizable reads of these store keys until each is written, as often as it is listed."""

    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """Every sync replica has applied the writes up to this seq."""

    up_to_seq: Seq


@dataclass(frozen=True, slots=True)
class Timing:
    """The timing that all nodes follow, from this record on (`protocol.timing`).

    The defaults are those of a new cluster, the texts the descriptions in docs/configuration.md.
    """

    heartbeat_ms: Annotated[int, "A leader without writes appends a heartbeat this often; an idle one every 5 s."] = 250
    lease_ms: Annotated[
        int, "A leader answers reads from its store for this long after it sent its last committed record."
    ] = 600
    election_ms: Annotated[
        int, "Election timeout: a candidate claims leadership this long after the last record of the leader."
    ] = 750
    step_ms: Annotated[int, "Added to the election timeout for each candidate that is preferred to this one."] = 150
    jitter_ms: Annotated[int, "Largest random addition to the election timeout."] = 50
    follower_lease_ms: Annotated[
        int,
        "In suspend and invalidate mode, a sync replica answers linearizable reads for this long after it asked for "
        "the read index and had applied it.",
    ] = 500
    sync_ms: Annotated[
        int, "A sync replica that sent no ack for this long is unresponsive: new writes fail with `NOREPLICAS`."
    ] = 1000


Single = Write | Command | Claim | Heartbeat | Checkpoint | Membership | Suspend | Release | Timing
"""What takes one seq."""
Body = Single | Group


def singles(body: Body) -> tuple[Single, ...]:
    """In order, each with the next seq."""
    return body.writes if type(body) is Group else (body,)  # type: ignore[return-value]


class Record(NamedTuple):
    header: Header
    body: Body
    encoded_body: bytes  # input of the chain

    @property
    def last_seq(self) -> Seq:
        """Of its last transaction, unless it is a claim."""
        body, seq = self.body, self.header.seq
        return Seq(seq + len(body.writes) - 1) if type(body) is Group else seq


class Ack(NamedTuple):
    """A replica reports that it has applied the log up to `offset`."""

    timeline: bytes
    author: Author
    offset: Offset
    seq: Seq
    epoch: Epoch
    timestamp_us: int
