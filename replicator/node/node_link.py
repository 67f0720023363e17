"""The interface between a node and others: the leader, and the upstream. The adapter is `server.node_link`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """A message that is not a record. Each requests an ack once all records before it are applied.

    The values are those of the messages between nodes (`server.record_stream`).
    """

    GETACK = b"GETACK"
    HEARTBEAT = b"HEARTBEAT"  # the leader is alive, though it may append nothing for a while


class ReceivedRecords(NamedTuple):
    entries: Sequence[Entry]  # may be empty
    signal: StreamSignal | None  # after them


class RecordStream(Protocol):
    """The follower's end of a stream: records that the leader has committed, in the order in which they arrive."""

    async def next(self) -> ReceivedRecords:
        """Wait for more. One task at a time; cancelling it loses nothing. Raises `LinkFailed`."""
        ...

    def ack(self, *payloads: bytes) -> None:
        """Send acks, as `log.port.Acks.send` does, but without waiting. They may be lost."""
        ...

    def report_downstream(self, downstream: Mapping[Author, int]) -> None:
        """Report the processes to which this node sends records, with the newest version that each reads."""
        ...

    def close(self) -> None:
        """`next` fails from then on."""
        ...


class NodeLink(Protocol):
    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """The answer of `leader` to `LeaderIndex.committed_offset`. The caller limits the time, by cancelling it.

        One question at a time. Raises `LinkFailed`.
        """
        ...

    async def open_stream(self, upstream: Member, request: StreamRequest) -> RecordStream:
        """Open a stream of the records of the leader, sent by `upstream`, after those that this node has read.

        The caller limits the time, by cancelling it. Raises `LinkFailed`, also if `upstream` refuses
        (`ReplicationBacklog.start_stream`).
        """
        ...

    async def close(self) -> None:
        """Streams stay open: their callers close them."""
        ...
