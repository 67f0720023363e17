"""Views of the state: the port `View`, an overlay of the writes in flight, and a transaction on top of both."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from replicator.errors import Busy, TransactionTooLarge
from replicator.limits import FLUSH_BYTES, FLUSH_ENTRIES, MAX_CHANGES, MAX_RECORD_BYTES, MAX_REPLACED_BYTES
from replicator.records.types import Change
from replicator.store.keys import decode_key, encode_key, row_range, table_range
from replicator.store.values import LONG_AGO_MS, expiry_of, with_expiry


class Entries(Protocol):
    """What can be read of a state. Keys are store keys (`store.keys`), values are encoded (`store.values`)."""

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Entries with start <= key < stop, in key order or the reverse. Invalid once the state changes."""
        ...

    def rows(self, table: str) -> int:
        """Number of rows of a table, which is the number of its entries with an empty field."""
        ...


class View(Entries, Protocol):
    """The state as of one moment; good for as long as nothing else runs on the event loop."""

    def snapshot(self) -> AbstractContextManager[View]:
        """The state as of now, for a long read that lets other code run. It may raise `SnapshotEnded` at any time."""
        ...


class SnapshotEnded(Exception):
    """The store had to end a snapshot: read again from a new view."""


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

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for key in self._candidates():
            if start <= key < stop and self._is_blocked(key):
                raise self._blocked(key)
        return self._base.scan(start, stop, reverse=reverse)

    def rows(self, table: str) -> int:
        self.scan(*table_range(table))
        return self._base.rows(table)

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        blocked = frozenset(key for key in self._candidates() if self._is_blocked(key))
        with self._base.snapshot() as base:
            yield BlockingView(base, lambda: blocked, lambda key: True, self._unblocked)

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

    @contextmanager
    def snapshot(self) -> Iterator[View]:
        with self._base.snapshot() as base:
            yield ExpiringView(base, self._now_ms, self._shown, self._deleted)


class AddedRows:
    """The number of rows that some changes add to each table; negative if they remove more."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def get(self, table: str) -> int:
        return self._counts.get(table, 0)

    def add(self, change: Change) -> None:
        if not change.field and (change.old is None) is not (change.new is None):
            self._count(change.table, 1 if change.old is None else -1)

    def remove(self, change: Change) -> None:
        if not change.field and (change.old is None) is not (change.new is None):
            self._count(change.table, -1 if change.old is None else 1)

    def _count(self, table: str, step: int) -> None:
        self._counts[table] = self._counts.get(table, 0) + step


class Overlay:
    """A view of `base` with the changes of the writes in flight on top."""

    def __init__(self, base: Entries) -> None:
        self.base = base
        self._values: dict[bytes, bytes | None] = {}  # the newest value in flight of each key; None: removed
        self._added = AddedRows()  # by the writes in flight
        self._writers: dict[bytes, int] = {}  # number of writes in flight of each key of `_values`, at least 1
        self._field_writers: dict[
            tuple[str, bytes], int
        ] = {}  # changes in flight of fields with a name, by table and row
        self._keys: list[bytes] | None = None  # those of `_values`, sorted; None: no scan has needed them

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

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        base = self.base.scan(start, stop, reverse=reverse)
        if not self._values:
            return base
        if self._keys is None:
            self._keys = sorted(self._values)
        written = ((key, self._values[key]) for key in keys_between(self._keys, start, stop, reverse))
        return merge(base, written, reverse)

    def rows(self, table: str) -> int:
        return self.base.rows(table) + self._added.get(table)

    def changes_row(self, table: str, row: bytes) -> bool:
        """Whether a write in flight changes the row."""
        return encode_key(table, row, b"") in self._values or (table, row) in self._field_writers

    def push(self, changes: Mapping[bytes, Change]) -> None:
        """Add the changes of one write, by store key."""
        for key, change in changes.items():
            if self._keys is not None and key not in self._values:
                insort(self._keys, key)
            self._values[key] = change.new
            self._writers[key] = self._writers.get(key, 0) + 1
            self._added.add(change)
            if change.field:
                at = change.table, change.row
                self._field_writers[at] = self._field_writers.get(at, 0) + 1

    def pop(self, changes: Mapping[bytes, Change]) -> None:
        """Remove the oldest write, once it is applied or void. The newest value of each key stays until the last."""
        for key, change in changes.items():
            self._added.remove(change)
            remaining = self._writers[key] - 1
            if remaining:
                self._writers[key] = remaining
            else:
                del self._writers[key], self._values[key]
                if self._keys is not None:
                    del self._keys[bisect_left(self._keys, key)]
            if change.field:
                at = change.table, change.row
                self._field_writers[at] -= 1
                if not self._field_writers[at]:
                    del self._field_writers[at]
        if not self._values:
            self._keys = None

    def clear(self) -> None:
        self._keys = None
        self._values.clear()
        self._writers.clear()
        self._field_writers.clear()
        self._added = AddedRows()


class RowPart(NamedTuple):
    keys: list[bytes]  # of the store
    header: bytes  # the value of the empty field
    is_last: bool


class RowIsExpiring(Busy):
    """The row has expired, and is too large to be removed at once: the leader removes it in parts."""


class Transaction:
    """The reads and writes of one client transaction, executed at the leader. Its changes become one record."""

    def __init__(self, base: Entries, *, is_stable: bool = True) -> None:
        """`is_stable`: nothing else changes `base` until the transaction has ended.

        Otherwise, what it reads may contradict what it has read before, which a check at its end finds.
        """
        self.is_stable = is_stable
        self._base = base
        self._last: tuple[bytes, bytes | None] = (b"", None)  # the last key that was read in `base`, and its value
        self._changes: dict[bytes, Change] = {}
        self._bytes = 0  # of the old and new values of `_changes`
        self._added = AddedRows()  # by `_changes`
        self._keys: list[bytes] | None = None  # of `_changes`, sorted; None until the first scan
        self._removed_from: dict[bytes, bytes] = {}  # all keys of `_base` from the value up to the key are removed
        self._undo: list[tuple[bytes, Change | None]] | None = None  # changes before each `put` since the first mark
        self._undo_bytes = 0
        self._savepoint = 0  # a mark
        self._expired: list[tuple[str, bytes]] = []  # table and row, since the last savepoint
        self.has_read = False

    def get(self, key: bytes) -> bytes | None:
        self.has_read = True
        change = self._changes.get(key)
        return change.new if change else self._get_in_base(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        self.has_read = True
        if not self._changes:
            return self._base.scan(start, stop, reverse=reverse)
        if self._keys is None:
            self._keys = sorted(self._changes)
        base = self._base.scan(start, stop, reverse=reverse)
        written = ((key, self._changes[key].new) for key in keys_between(self._keys, start, stop, reverse))
        return merge(base, written, reverse)

    def last(self, start: bytes, stop: bytes) -> bytes | None:
        """The last key with start <= key < stop. Takes no longer if the transaction has removed many of them."""
        self.has_read = True
        if self._keys is None:
            self._keys = sorted(self._changes)
        own = next(
            (it for it in keys_between(self._keys, start, stop, True) if self._changes[it].new is not None), None
        )
        for key, _ in self._base.scan(own or start, self._removed_from.get(stop, stop), reverse=True):
            change = self._changes.get(key)
            if change is None or change.new is not None:
                return key
            self._removed_from[stop] = key
        return own

    def rows(self, table: str) -> int:
        self.has_read = True
        return self._base.rows(table) + self._added.get(table)

    def put(self, table: str, row: bytes, field: bytes, value: bytes | None) -> None:
        """Set a field, or remove it (None). Removing an absent field changes nothing. Raises `TransactionTooLarge`."""
        self.put_at(encode_key(table, row, field), table, row, field, value)

    def put_at(self, key: bytes, table: str, row: bytes, field: bytes, value: bytes | None) -> None:
        """`put`, for a caller that already has the store key."""
        before = self._changes.get(key)
        old = before.old if before else self._get_in_base(key)
        if self._undo is not None:
            self._undo.append((key, before))
            if before is not None:
                self._undo_bytes += _size(before)
        self._replace(key, None if value is None and old is None else Change(table, row, field, old, value))
        if len(self._changes) > MAX_CHANGES:
            raise TransactionTooLarge(
                f"one transaction can change at most {MAX_CHANGES} entries, and each index of a row counts: split it"
            )
        if self._undo_bytes > MAX_REPLACED_BYTES:
            raise TransactionTooLarge(
                f"a transaction can replace at most {MAX_REPLACED_BYTES >> 20} MiB of what it has written: split it"
            )
        if self._bytes > MAX_RECORD_BYTES:
            raise TransactionTooLarge(
                f"the old and new values of one transaction can take at most {MAX_RECORD_BYTES} bytes: split it"
            )

    def remove_expired(self, table: str, row: bytes) -> None:
        """Remove a row that has expired. A roll-back does not undo this: the client is told that the row is gone.

        Raises `RowIsExpiring`, and `TransactionTooLarge` if there are too many changes besides.
        """
        if not self._part_of_row(table, row).is_last:
            raise RowIsExpiring("an expired key of this command is large, and being deleted in parts: try again")
        self._expired.append((table, row))
        self._remove_row(table, row)

    def remove_part_of_expired(self, table: str, row: bytes) -> None:
        """Remove a row that has expired or, if it is large, a part of it. The rest then has expired for every clock."""
        part = self._part_of_row(table, row)
        for key in part.keys:
            self.put_at(key, table, row, decode_key(key)[2], None)
        if not part.is_last:
            self.put(table, row, b"", with_expiry(part.header, LONG_AGO_MS))

    def _remove_row(self, table: str, row: bytes) -> None:
        for key in self._part_of_row(table, row).keys:
            self.put(table, row, decode_key(key)[2], None)

    def _part_of_row(self, table: str, row: bytes) -> RowPart:
        """The entries of the row, but for its header if they are more than one record should remove."""
        header, size = b"", 0
        keys: list[bytes] = []
        for key, value in self.scan(*row_range(table, row)):
            header = header or value  # the empty field is the first
            if len(keys) == FLUSH_ENTRIES or (keys and size + len(value) > FLUSH_BYTES):
                return RowPart(keys[1:], header, is_last=False)
            keys.append(key)
            size += len(value)
        return RowPart(keys, header, is_last=True)

    def set_savepoint(self) -> None:
        """`roll_back` undoes what changes from now on."""
        self._savepoint = self.mark()
        self._expired.clear()

    def roll_back(self) -> bool:
        """Undo the changes since the savepoint, but for the removal of expired rows. Returns whether there are any."""
        self.roll_back_to(self._savepoint)
        for table, row in self._expired:
            self._remove_row(table, row)
        return bool(self._expired)

    def mark(self) -> int:
        """For `roll_back_to`: as many marks as there are, each can be used until an earlier one is."""
        if self._undo is None:
            self._undo = []
        return len(self._undo)

    def roll_back_to(self, mark: int) -> None:
        """Undo the changes since `mark` was called."""
        self._removed_from.clear()
        undo = self._undo or []
        while len(undo) > mark:
            key, before = undo.pop()
            if before is not None:
                self._undo_bytes -= _size(before)
            self._replace(key, before)

    @property
    def changes(self) -> dict[bytes, Change]:
        """The changes by store key."""
        return self._changes

    def _get_in_base(self, key: bytes) -> bytes | None:
        """Most keys are read once more when they are written."""
        if self._last[0] != key:
            self._last = (key, self._base.get(key))
        return self._last[1]

    def _replace(self, key: bytes, change: Change | None) -> None:
        before = self._changes.pop(key, None) if change is None else self._changes.get(key)
        if before is not None:
            self._bytes -= _size(before)
            self._added.remove(before)
        if change is not None:
            self._bytes += _size(change)
            self._added.add(change)
            self._changes[key] = change
        if self._keys is not None and (before is None) is not (change is None):
            at = bisect_left(self._keys, key)
            if change is None:
                del self._keys[at]
            else:
                self._keys.insert(at, key)


def _size(change: Change) -> int:
    return len(change.old or b"") + len(change.new or b"")


def keys_between(keys: list[bytes], start: bytes, stop: bytes, reverse: bool) -> Iterator[bytes]:
    """Of sorted keys, those with start <= key < stop, in order or the reverse."""
    first, end = bisect_left(keys, start), bisect_left(keys, stop)
    for index in range(end - 1, first - 1, -1) if reverse else range(first, end):
        yield keys[index]


def merge(
    base: Iterator[tuple[bytes, bytes]], written: Iterator[tuple[bytes, bytes | None]], reverse: bool = False
) -> Iterator[tuple[bytes, bytes]]:
    """The entries of `base`, overwritten by those of `written` (None: removed). All are in order, or in the reverse."""
    other = next(written, None)
    for key, value in base:
        while other is not None and (other[0] > key if reverse else other[0] < key):
            if other[1] is not None:
                yield other[0], other[1]
            other = next(written, None)
        if other is not None and other[0] == key:
            if other[1] is not None:
                yield key, other[1]
            other = next(written, None)
        else:
            yield key, value
    while other is not None:
        if other[1] is not None:
            yield other[0], other[1]
        other = next(written, None)
