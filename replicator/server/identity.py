"""Who a process is, and whether another process passes for the same node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replicator.position import Author


@dataclass(frozen=True, slots=True)
class Identity:
    """As `GET /status` tells it."""

    cluster: str
    author: Author

    @property
    def incarnation(self) -> str:
        return f"{self.author.incarnation:016x}"

    def is_claimed_by(self, status: Any, topic_id: str) -> bool:
        """Whether `status` is that of another process with this id in this cluster, whose log is topic `topic_id`.

        Ids and names of clusters are alike in many places, the ids of topics are not; a process that has no store yet
        does not know its own.
        """
        try:
            cluster, incarnation, node = status["cluster"], status["incarnation"], status["node"]
            same_node = (cluster, node["id"]) == (self.cluster, self.author.node)
            return same_node and incarnation != self.incarnation and node.get("topic_id", topic_id) == topic_id
        except (KeyError, TypeError, AttributeError):
            return False  # something else listens there now
