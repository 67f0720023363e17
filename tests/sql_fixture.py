"""An SQL engine on a store in memory, for tests without a node."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterator

from replicator.records.tape import Recorder, Tape
from replicator.records.types import Change
from replicator.sql.engine import Result, SqlEngine
from replicator.sql.parsing import parse
from replicator.sql.tokens import Parameters
from replicator.steps import finish
from replicator.store.view import Transaction

NOW_MS = 1_700_000_000_000  # 2023-11-14 22:13:20


class SortedEntries:
    """`store.view.Entries`, fast to scan."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []
        self.read = 0  # entries
        self._rows: dict[str, int] = {}

    def get(self, key: bytes) -> bytes | None:
        self.read += 1
        return self.values.get(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys[bisect_left(self._keys, start) : bisect_left(self._keys, stop)]
        for key in reversed(keys) if reverse else keys:
            self.read += 1
            yield key, self.values[key]

    def rows(self, table: str) -> int:
        return self._rows.get(table, 0)

    def apply(self, transaction: Transaction) -> list[Change]:
        changes = [*transaction.changes.values()]
        for key, change in transaction.changes.items():
            if change.new is None:
                self.values.pop(key, None)
            else:
                self.values[key] = change.new
            step = (change.old is None) - (change.new is None)
            self._rows[change.table] = self._rows.get(change.table, 0) + step
        self._keys = sorted(self.values)
        return changes


class MemoryDatabase:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.engine = SqlEngine(clock=clock)
        self.entries = SortedEntries()
        self.changes: list[Change] = []  # of the last statement

    def run(self, statement: str, parameters: Parameters = (), tape: Tape | None = None) -> Result:
        """A transaction of one statement. Raises what the engine does; nothing has changed then."""
        transaction = Transaction(self.entries)
        result = finish(self.engine.execute(transaction, tape or Recorder(), NOW_MS, parse(statement), parameters))
        self.changes = self.entries.apply(transaction)
        return result

    def rows(self, statement: str, *parameters: object) -> list[tuple[object, ...]]:
        return [*self.run(statement, parameters).rows]  # type: ignore[arg-type]

    def query(self, statement: str, parameters: Parameters = ()) -> Result:
        """As a read, in steps."""
        return finish(self.engine.query(self.entries, parse(statement), parameters, NOW_MS))
