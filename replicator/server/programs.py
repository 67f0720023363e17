"""What executes the programs that clients send or call, and what it keeps between two of them. One for each server."""

from __future__ import annotations

import time
from functools import cached_property

from replicator.server.scripts import Scripts
from replicator.sql.engine import SqlEngine


class Programs:
    def __init__(self, *, limited: bool = True) -> None:
        """`limited`: what runs at once ends with an error if it takes too long."""
        self.scripts = Scripts()
        self._limited = limited

    @cached_property
    def sql(self) -> SqlEngine:
        return SqlEngine(cpu_clock=time.thread_time if self._limited else _stopped_clock)


def _stopped_clock() -> float:
    return 0.0
