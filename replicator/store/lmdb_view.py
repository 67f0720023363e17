"""The port `View` on LMDB."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lmdb

from replicator.store.view import SnapshotEnded, View


class LmdbView:
    """The store as of the last applied batch. Iterators are invalid once the next batch is applied."""

    def __init__(self, env: Any, entries: Any, rows: Mapping[str, int]) -> None:
        """`entries`: the LMDB database to read; `rows`: number of rows by table."""
        self._env = env
        self._entries = entries
        self._rows = rows
        self._snapshots: set[LmdbSnapshot] = set()
        self._transaction: Any = None  # None, or a read transaction begun after the last applied batch

    def get(self, key: bytes) -> bytes | None:
        transaction = self._transaction or self._begin()
        value: bytes | None = transaction.get(key)
        return value

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        transaction = self._transaction or self._begin()
        return (
            _reverse_range(transaction.cursor(), start, stop) if reverse else _range(transaction.cursor(), start, stop)
        )

    def rows(self, table: str) -> int:
        return self._rows.get(table, 0)

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        snapshot = LmdbSnapshot(self._env.begin(db=self._entries), self._rows)
        self._snapshots.add(snapshot)
        try:
            yield snapshot
        finally:
            self._snapshots.discard(snapshot)
            snapshot.end()

    def end_snapshots(self) -> None:
        """Call it before the store is resized or closed."""
        while self._snapshots:
            self._snapshots.pop().end()

    def end_transaction(self) -> None:
        """Call it before the store is written, resized or closed."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None

    def set_rows(self, rows: Mapping[str, int]) -> None:
        """Call it after a batch is applied."""
        self._rows = rows

    def _begin(self) -> Any:
        self._transaction = self._env.begin(db=self._entries)
        return self._transaction


class LmdbSnapshot:
    """The store as of one moment, while later batches are applied. LMDB keeps the pages that it needs until it ends."""

    def __init__(self, transaction: Any, rows: Mapping[str, int]) -> None:
        self._transaction: Any = transaction  # None: it has ended
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._open().get(key)
        return value

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        try:
            cursor = self._open().cursor()
            yield from _reverse_range(cursor, start, stop) if reverse else _range(cursor, start, stop)
        except lmdb.Error:
            self._open()
            raise

    def rows(self, table: str) -> int:
        return self._rows.get(table, 0)

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        yield self

    def end(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            transaction.abort()

    def _open(self) -> Any:
        if self._transaction is None:
            raise SnapshotEnded
        return self._transaction


def _range(cursor: Any, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not cursor.set_range(start):
        return
    for key, value in cursor:
        if key >= stop:
            return
        yield key, value


def _reverse_range(cursor: Any, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not (cursor.prev() if cursor.set_range(stop) else cursor.last()):
        return
    for key, value in cursor.iterprev():
        if key < start:
            return
        yield key, value
