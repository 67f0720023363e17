"""Counters of client connections, commands and the outcomes of writes, and the latencies of reads and writes."""

from __future__ import annotations

from dataclasses import dataclass, field

from replicator.errors import Definite, Indefinite, ReplicatorError
from replicator.node.latencies import Histogram

REJECTIONS = ("READONLY", "NOREPLICAS", "BUSY", "FENCED", "LOADING", "ERR")
"""The codes of the errors with which writes are rejected."""


def _no_rejections() -> dict[str, int]:
    return dict.fromkeys(REJECTIONS, 0)


@dataclass(slots=True)
class Stats:
    connections: int = 0
    refused_connections: int = 0
    commands: int = 0
    writes_ok: int = 0
    writes_unknown: int = 0
    rejections: dict[str, int] = field(default_factory=_no_rejections)  # writes that were rejected, by error code
    reads: Histogram = field(default_factory=Histogram)
    writes: Histogram = field(default_factory=Histogram)

    @property
    def writes_rejected(self) -> int:
        return sum(self.rejections.values())

    def count_failure(self, error: ReplicatorError) -> None:
        """A write has failed. A node that has stopped serving rejects it with a plain ERR."""
        if isinstance(error, Indefinite):
            self.writes_unknown += 1
            return
        code = error.code if isinstance(error, Definite) else "ERR"
        self.rejections[code] = self.rejections.get(code, 0) + 1

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]
