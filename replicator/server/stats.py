"""Counters of client connections, commands and the outcomes of writes."""

from __future__ import annotations

from dataclasses import dataclass

from replicator.errors import Definite, ReplicatorError


@dataclass(slots=True)
class Stats:
    connections: int = 0
    refused_connections: int = 0
    commands: int = 0
    writes_ok: int = 0
    writes_rejected: int = 0
    writes_unknown: int = 0

    def count_failure(self, error: ReplicatorError) -> None:
        if isinstance(error, Definite):
            self.writes_rejected += 1
        else:
            self.writes_unknown += 1

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]
