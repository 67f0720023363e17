"""Views of the state: the port `View`, an overlay of the writes in flight, and a transaction on top of both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from typing import Protocol

from replicator.records.types import Change
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.values import expiry_of


class View(Protocol):
    """The state as of one moment. Keys are store keys (`store.keys`), values are encoded (`store.values`)."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in key order. The iterator is invalid once the state changes."""
        ...

    def rows(self, table: str) -> int:
        """Number of rows of a table, which is the number of its entries with an empty field."""
        ...


class KeyBlocked(Exception):
    """A read would see a key of which another node may show another value."""

    def __init__(self, key: bytes, unblocked: Callable[[], Awaitable[View]]) -> None:
        """`unblocked`: waits until the key can be read, and returns the view to read it from, which may block again."""
        super().__init__(key)
        self.key = key
        self.unblocked = unblocked


class BlockingView:
    """A view that raises `KeyBlocked` instead of answering from a blocked key."""

    def __init__(
        self,
        base: View,
        candidates: Callable[[], Collection[bytes]],
        is_blocked: Callable[[bytes], bool],
        unblocked: Callable[[bytes], Awaitable[View]],
    ) -> None:
        """`candidates`: the keys that may be blocked now; `is_blocked`: whether one of them is."""
        self._base = base
        self._candidates = candidates
        self._is_blocked = is_blocked
        self._unblocked = unblocked

    def get(self, key: bytes) -> bytes | None:
        if key in self._candidates() and self._is_blocked(key):
            raise self._blocked(key)
        return self._base.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key in self._candidates():
            if start <= key < stop and self._is_blocked(key):
                raise self._blocked(key)
        return self._base.scan(start, stop)

    def rows(self, table: str) -> int:
        self.scan(*table_range(table))
        return self._base.rows(table)

    def _blocked(self, key: bytes) -> KeyBlocked:
        return KeyBlocked(key, lambda: self._unblocked(key))


class ExpiringView:
    """A view that raises `KeyBlocked` instead of showing a value that has expired.

    Only `get` looks at the expiry: scans and counts show what is in the store.
    """

    def __init__(
        self, base: View, now_ms: int, shown: frozenset[bytes], deleted: Callable[[bytes], Awaitable[View]]
    ) -> None:
        """`shown`: keys whose values are shown although they have expired; `deleted`: as `KeyBlocked.unblocked`."""
        self._base = base
        self._now_ms = now_ms
        self._shown = shown
        self._deleted = deleted
        self.scan = base.scan
        self.rows = base.rows

    def get(self, key: bytes) -> bytes | None:
        value = self._base.get(key)
        expires_at_ms = expiry_of(value)
        if expires_at_ms is not None and expires_at_ms <= self._now_ms and key not in self._shown:
            raise KeyBlocked(key, lambda: self._deleted(key))
        return value


class Overlay:
    """A view of `base` with the changes of the writes in flight on top."""

    def __init__(self, base: View) -> None:
        self.base = base
        self._values: dict[bytes, bytes | None] = {}  # the newest value in flight of each key; None: removed
        self._writers: dict[bytes, int] = {}  # number of writes in flight of each key of `_values`, at least 1

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._values)

    def get(self, key: bytes) -> bytes | None:
        if key in self._values:
            return self._values[key]
        return self.base.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        return merge(self.base.scan(start, stop), self._values, start, stop)

    def rows(self, table: str) -> int:
        return self.base.rows(table) + row_delta(self.base, table, self._values)

    def push(self, changes: Mapping[bytes, Change]) -> None:
        """Add the changes of one write, by store key."""
        for key, change in changes.items():
            self._values[key] = change.new
            self._writers[key] = self._writers.get(key, 0) + 1

    def pop(self, keys: Iterable[bytes]) -> None:
        """Remove the oldest write of each key, once it is applied or void. The newest value stays until the last."""
        for key in keys:
            remaining = self._writers[key] - 1
            if remaining:
                self._writers[key] = remaining
            else:
                del self._writers[key], self._values[key]

    def clear(self) -> None:
        self._values.clear()
        self._writers.clear()


class Transaction:
    """The reads and writes of one client transaction, executed at the leader. Its changes become one record."""

    def __init__(self, base: View) -> None:
        self._base = base
        self._changes: dict[bytes, Change] = {}
        self._expired: list[tuple[str, bytes]] = []  # table and row, since the last savepoint
        self.has_read = False

    def get(self, key: bytes) -> bytes | None:
        self.has_read = True
        change = self._changes.get(key)
        return change.new if change else self._base.get(key)

    def scan(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        self.has_read = True
        return merge(self._base.scan(start, stop), self._written(), start, stop)

    def rows(self, table: str) -> int:
        self.has_read = True
        return self._base.rows(table) + row_delta(self._base, table, self._written())

    def put(self, table: str, row: bytes, field: bytes, value: bytes | None) -> None:
        """Set a field, or remove it (None). Removing an absent field changes nothing."""
        self.put_at(encode_key(table, row, field), table, row, field, value)

    def put_at(self, key: bytes, table: str, row: bytes, field: bytes, value: bytes | None) -> None:
        """`put`, for a caller that already has the store key."""
        before = self._changes.get(key)
        old = before.old if before else self._base.get(key)
        if value is None and old is None:
            self._changes.pop(key, None)
        else:
            self._changes[key] = Change(table, row, field, old, value)

    def remove_expired(self, table: str, row: bytes) -> None:
        """Remove a row that has expired. A roll-back does not undo this: the client is told that the row is gone."""
        self._expired.append((table, row))
        self._remove_row(table, row)

    def _remove_row(self, table: str, row: bytes) -> None:
        for key, _ in list(self.scan(*row_range(table, row))):
            self.put(table, row, decode_key(key)[2], None)

    def savepoint(self) -> dict[bytes, Change]:
        """For `roll_back`."""
        self._expired.clear()
        return dict(self._changes)

    def roll_back(self, savepoint: dict[bytes, Change]) -> None:
        """Undo the changes since the last savepoint."""
        self._changes = savepoint
        for table, row in self._expired:
            self._remove_row(table, row)

    @property
    def changes(self) -> dict[bytes, Change]:
        """The changes by store key, in the order in which the keys were first written."""
        return self._changes

    def _written(self) -> dict[bytes, bytes | None]:
        return {key: change.new for key, change in self._changes.items()}


def merge(
    base: Iterator[tuple[bytes, bytes]], written: dict[bytes, bytes | None], start: bytes, stop: bytes
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of `base`, overwritten by those of `written` (None: removed), in key order."""
    keys = sorted(key for key in written if start <= key < stop)
    index = 0
    for key, value in base:
        while index < len(keys) and keys[index] < key:
            new = written[keys[index]]
            if new is not None:
                yield keys[index], new
            index += 1
        if index < len(keys) and keys[index] == key:
            continue
        yield key, value
    for key in keys[index:]:
        new = written[key]
        if new is not None:
            yield key, new


def row_delta(base: View, table: str, written: dict[bytes, bytes | None]) -> int:
    """The number of rows that `written` adds to a table of `base`; negative if it removes more."""
    prefix = table.encode() + b"\x00"
    return sum(
        (value is not None) - (base.get(key) is not None)
        for key, value in written.items()
        if key.startswith(prefix) and key.endswith(b"\x00\x01")
    )
