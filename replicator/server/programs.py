"""What executes the programs that clients send or call, and what it keeps between two of them. One for each server."""

from __future__ import annotations

from functools import cached_property

from replicator.procedures.loading import NONE, Procedures
from replicator.server.scripts import Scripts
from replicator.sql.engine import SqlEngine


class Programs:
    def __init__(self, procedures: Procedures = NONE, *, limited: bool = True, sql_wait_s: float | None = None) -> None:
        """Unless they are `limited`, programs run again, as the leader has run them: they may take any time.

        `sql_wait_s`: as `SqlEngine.wait_s`.
        """
        self.procedures = procedures
        self.scripts = Scripts(limited=limited)
        self.limited = limited
        self._sql_wait_s = sql_wait_s

    @cached_property
    def sql(self) -> SqlEngine:
        return SqlEngine(limited=self.limited, wait_s=self._sql_wait_s)
