"""The interface between a node and the leader, when that is another node. The adapter is `server.leader_link`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from replicator.errors import ReplicatorError
from replicator.log.port import Entry
from replicator.node.backlog import StreamRequest
from replicator.position import Author, Epoch, Offset
from replicator.records.types import Member


class LinkFailed(ReplicatorError):
    """The node that was asked does not answer, or does not hold the lease of a leader."""


class CommittedOffset(NamedTuple):
    """A leader's answer."""

    offset: Offset
    lease_left_ms: float  # a lease of the node that asked must not last longer
    epoch: Epoch  # of the leader; the claim of this epoch is at or below the offset
    leader: Author


class StreamSignal(Enum):
    """A message of the leader that is not a record. Each requests an ack once all records before it are applied.

    The values are those of the messages between nodes (`server.record_stream`).
    """

    GETACK = b"GETACK"
    HEARTBEAT = b"HEARTBEAT"  # the leader is alive, though it may append nothing for a while


class ReceivedRecords(NamedTuple):
    entries: Sequence[Entry]  # may be empty
    signal: StreamSignal | None  # after them


class RecordStream(Protocol):
    """The follower's end of a stream: the records that a leader has committed, in the order in which they arrive."""

    async def next(self) -> ReceivedRecords:
        """Wait for more. One task at a time; cancelling it loses nothing. Raises `LinkFailed`."""
        ...

    def ack(self, payload: bytes) -> None:
        """Send an ack, as `log.port.Acks.send` does, but without waiting. It may be lost."""
        ...

    def close(self) -> None:
        """`next` fails from then on."""
        ...


class LeaderLink(Protocol):
    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """The answer of `leader` to `LeaderIndex.committed_offset`. The caller limits the time, by cancelling it.

        One question at a time. Raises `LinkFailed`.
        """
        ...

    async def open_stream(self, leader: Member, request: StreamRequest) -> RecordStream:
        """Open a stream of the records that `leader` commits after those that this node has read.

        The caller limits the time, by cancelling it. Raises `LinkFailed`, also if the leader refuses
        (`ReplicationBacklog.start_stream`).
        """
        ...

    async def close(self) -> None:
        """Streams stay open: their callers close them."""
        ...
