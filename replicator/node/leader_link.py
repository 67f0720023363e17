"""The interface between a node and the leader, when that is another node. The adapter is `server.leader_link`."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from replicator.errors import ReplicatorError
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


class LeaderLink(Protocol):
    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """The answer of `leader` to `LeaderIndex.committed_offset`. The caller limits the time, by cancelling it.

        One question at a time. Raises `LinkFailed`.
        """
        ...

    async def close(self) -> None: ...
