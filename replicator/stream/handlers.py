"""Which changes a consumer wants, and its functions that handle them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from replicator.patterns import glob
from replicator.stream.change import Change

Handler = Callable[[Change], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Selection:
    """Changes of a table, or of all, whose rows match a pattern."""

    table: str | None
    rows: re.Pattern[bytes] | None

    @classmethod
    def parse(cls, table: str | None, rows: str | bytes | None) -> Selection:
        """`table`: `kv`, or a SQL table as CREATE TABLE names it. `rows`: a glob as in KEYS of Redis.

        Raises `BadRequest`.
        """
        pattern = rows.encode(errors="surrogateescape") if isinstance(rows, str) else rows
        return cls(
            table,
            None if pattern is None or pattern == b"*" else glob(pattern),
        )

    def has(self, change: Change) -> bool:
        if self.table is not None and change.table != self.table:
            return False
        return self.rows is None or self.rows.match(change.row) is not None


class Handlers:
    def __init__(self) -> None:
        self._handlers: list[tuple[Selection, Handler]] = []

    def on_table(self, table: str, *, rows: str | bytes = b"*") -> Callable[[Handler], Handler]:
        """Raises `BadRequest`."""
        selection = Selection.parse(table, rows)

        def register(handler: Handler) -> Handler:
            self._handlers.append((selection, handler))
            return handler

        return register

    async def handle(self, change: Change) -> None:
        """Await all functions that want the change, in the order in which they were registered."""
        for selection, handler in self._handlers:
            if selection.has(change):
                await handler(change)
