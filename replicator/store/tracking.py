"""Remembers what was read, to find out later whether it is still the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import xxhash

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_TRACKED_BYTES, MAX_TRACKED_ENTRIES
from replicator.store.view import Entries

_FIRST_BATCH, _LAST_BATCH = 8, 128
"""Entries that a scan reads at once: most scans end after a few."""


class TrackedEntries:
    """Entries that may change between two reads, and while a scan is not at its end.

    An entry that was read before is the same when it is read again; `unchanged` tells whether it still is.
    """

    def __init__(self) -> None:
        self.base: Entries
        """Has to be set before a read, and whenever the state has changed."""
        self._values: dict[bytes, bytes | None] = {}
        self._scans: list[_Scan] = []
        self._rows: dict[str, int] = {}
        self._entries = self._bytes = 0

    def get(self, key: bytes) -> bytes | None:
        if key not in self._values:
            self._values[key] = value = self.base.get(key)
            self._bytes += len(value or b"")
            self._count()
        return self._values[key]

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        scan = _Scan(start, stop, reverse)
        self._scans.append(scan)
        self._count()  # also if it finds nothing
        size = _FIRST_BATCH
        while True:
            batch = [*islice(self.base.scan(start, stop, reverse=reverse), size)]
            for key, value in batch:
                scan.note(key, value)
                self._count()
                yield key, value
            if len(batch) < size:
                break
            if reverse:
                stop = batch[-1][0]
            else:
                start = batch[-1][0] + b"\x00"
            size = min(2 * size, _LAST_BATCH)
        scan.at_end = True

    def rows(self, table: str) -> int:
        if table not in self._rows:
            self._rows[table] = self.base.rows(table)
        return self._rows[table]

    def unchanged(self, entries: Entries) -> bool:
        """Whether all reads would have the same result now, in `entries`."""
        return (
            all(entries.get(key) == value for key, value in self._values.items())
            and all(entries.rows(table) == rows for table, rows in self._rows.items())
            and all(scan.is_repeated(entries) for scan in self._scans)
        )

    def is_different(self, key: bytes, entries: Entries) -> bool:
        """Whether it was read by its key, and is not the same in `entries`."""
        return key in self._values and entries.get(key) != self._values[key]

    def _count(self) -> None:
        self._entries += 1
        if self._bytes > MAX_TRACKED_BYTES:
            raise TransactionTooLarge(
                f"a statement that writes, or a transaction, can read at most {MAX_TRACKED_BYTES >> 20} MiB by keys: "
                "divide it, or read them before"
            )
        if self._entries > MAX_TRACKED_ENTRIES:
            raise TransactionTooLarge(
                f"a statement that writes, or a transaction, can read at most {MAX_TRACKED_ENTRIES} entries: divide "
                "it, let an index select the rows, or read them before"
            )


class _Scan:
    """A scan, up to where its reader went on."""

    def __init__(self, start: bytes, stop: bytes, reverse: bool) -> None:
        self._start, self._stop, self._reverse = start, stop, reverse
        self._entries = 0
        self._digest = xxhash.xxh3_128()
        self.at_end = False

    def note(self, key: bytes, value: bytes) -> None:
        self._entries += 1
        self._digest.update(b"%d %d " % (len(key), len(value)) + key + value)

    def is_repeated(self, entries: Entries) -> bool:
        again = _Scan(self._start, self._stop, self._reverse)
        found = entries.scan(self._start, self._stop, reverse=self._reverse)
        for key, value in found:
            if again._entries == self._entries:
                if self.at_end:
                    return False
                break
            again.note(key, value)
        return again._entries == self._entries and again._digest.digest() == self._digest.digest()
