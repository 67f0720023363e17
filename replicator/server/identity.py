"""The identity of a process, and the check for a second process that runs the same node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from replicator.position import Author


@dataclass(frozen=True, slots=True)
class Identity:
    """As reported by `GET /status`."""

    cluster: str
    author: Author

    @property
    def incarnation(self) -> str:
        return f"{self.author.incarnation:016x}"

    def is_duplicated_by(self, status: Any, topic_id: str) -> bool:
        """Whether `status` is of another process that runs this node of this cluster, with topic `topic_id` as its log.

        Node ids and cluster names may be reused by unrelated clusters, topic ids are unique. A process that has not
        opened its store yet does not report a topic id.
        """
        try:
            cluster, incarnation, node = status["cluster"], status["incarnation"], status["node"]
            same_node = (cluster, node["id"]) == (self.cluster, self.author.node)
            return same_node and incarnation != self.incarnation and node.get("topic_id", topic_id) == topic_id
        except (KeyError, TypeError, AttributeError):
            return False  # another program listens there now
