"""Identifiers and positions: nodes, epochs, offsets in the log."""

from __future__ import annotations

from typing import NamedTuple, NewType

NodeId = NewType("NodeId", str)
Epoch = NewType("Epoch", int)  # term of one leader; 0 before the first accepted claim
Offset = NewType("Offset", int)  # Kafka offset of a log entry; -1 before the first
Seq = NewType("Seq", int)  # number of accepted records so far, without gaps; 0 before the first

BEFORE_LOG = Offset(-1)


class Author(NamedTuple):
    """The author of a record: a node, and the random number that its process chose when it started."""

    node: NodeId
    incarnation: int  # 63 random bits

    def __str__(self) -> str:
        return f"{self.node}#{self.incarnation & 0xFFFF:04x}"


class Token(NamedTuple):
    """A session token: the last offset of a timeline that a client has seen."""

    timeline: str
    offset: Offset


LEADER, AUTO, GOSSIP = NodeId("leader"), NodeId("auto"), NodeId("gossip")
"""Of a follower's upstream, instead of the id of a node: `protocol.upstream`."""

FANOUT = 4
"""Default of how many followers receive records from the same node: `protocol.upstream.UpstreamRule`."""
