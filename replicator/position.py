"""The words for where something stands: in the log, in a term, in the cluster."""

from __future__ import annotations

from typing import NamedTuple, NewType

NodeId = NewType("NodeId", str)
Epoch = NewType("Epoch", int)  # term of one leader; 0 before the first claim
Offset = NewType("Offset", int)  # Kafka offset of a record; -1 before the first
Seq = NewType("Seq", int)  # number of accepted records so far, without holes; 0 before the first

BEFORE_LOG = Offset(-1)


class Author(NamedTuple):
    """Who wrote a record: a node and the random number that it drew when its process started."""

    node: NodeId
    incarnation: int  # 63 random bits

    def __str__(self) -> str:
        return f"{self.node}#{self.incarnation & 0xFFFF:04x}"


class Token(NamedTuple):
    """How far a client has seen one history of the log."""

    timeline: str
    offset: Offset
