"""Runs Redis commands on a keyspace in memory, for the changes that they write."""

from __future__ import annotations

from collections.abc import Iterator

from replicator.records.types import Write
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.commands.registry import look_up
from replicator.store.keys import table_range
from replicator.store.view import Transaction

NOW_MS = 1_800_000_000_000


class MemoryEntries:
    """`store.view.Entries` of a dict."""

    def __init__(self) -> None:
        self.stored: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.stored.get(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        yield from ((key, self.stored[key]) for key in sorted(self.stored, reverse=reverse) if start <= key < stop)

    def rows(self, table: str) -> int:
        return sum(1 for _ in self.scan(*table_range(table)))

    def apply(self, transaction: Transaction) -> Write:
        for key, change in transaction.changes.items():
            if change.new is None:
                self.stored.pop(key, None)
            else:
                self.stored[key] = change.new
        return Write(tuple(transaction.changes.values()))

    def run(self, *commands: str, now_ms: int = NOW_MS) -> Write:
        """What the commands write, as one transaction."""
        transaction = Transaction(self)
        for line in commands:
            args = line.encode().split()
            look_up(args).handler(WritableKeyspace(transaction, now_ms), args)
        return self.apply(transaction)


def writes(*commands: str, now_ms: int = NOW_MS) -> list[Write]:
    """What each command writes to an empty store on which those before it have run."""
    entries = MemoryEntries()
    return [entries.run(line, now_ms=now_ms) for line in commands]
