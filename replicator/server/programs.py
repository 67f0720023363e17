"""What executes the programs that clients send or call, and what it keeps between two of them. One for each server."""

from __future__ import annotations

from functools import cached_property

from replicator.sql.engine import SqlEngine


class Programs:
    @cached_property
    def sql(self) -> SqlEngine:
        return SqlEngine()
