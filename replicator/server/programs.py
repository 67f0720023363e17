"""What executes the programs that clients send or call, and what it keeps between two of them. One for each server."""

from __future__ import annotations

from functools import cached_property

from replicator.server.scripts import Scripts
from replicator.sql.engine import SqlEngine


class Programs:
    def __init__(self, *, limited: bool = True) -> None:
        """Unless they are `limited`, statements that write may take any time."""
        self.scripts = Scripts()
        self._limited = limited

    @cached_property
    def sql(self) -> SqlEngine:
        return SqlEngine(limited=self._limited)
