"""Remembers what was read, to find out later whether it is still the same."""

from __future__ import annotations

from collections.abc import Iterator

import xxhash

from replicator.limits import MAX_TRACKED_ENTRIES
from replicator.store.view import Entries, TransactionTooLarge


class TrackedEntries:
    """Entries that may change between two reads."""

    def __init__(self) -> None:
        self.base: Entries
        """Has to be set before a read, and whenever the state has changed."""
        self._values: dict[bytes, bytes | None] = {}
        self._scans: list[_Scan] = []
        self._rows: dict[str, int] = {}
        self._entries = 0

    def get(self, key: bytes) -> bytes | None:
        value = self.base.get(key)
        if key not in self._values:
            self._values[key] = value
            self._count()
        return value

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        scan = _Scan(start, stop, reverse)
        self._scans.append(scan)
        for key, value in self.base.scan(start, stop, reverse=reverse):
            scan.note(key, value)
            self._count()
            yield key, value
        scan.at_end = True

    def rows(self, table: str) -> int:
        found = self.base.rows(table)
        return self._rows.setdefault(table, found)

    def unchanged(self, entries: Entries) -> bool:
        """Whether all reads would have the same result now, in `entries`."""
        return (
            all(entries.get(key) == value for key, value in self._values.items())
            and all(entries.rows(table) == rows for table, rows in self._rows.items())
            and all(scan.is_repeated(entries) for scan in self._scans)
        )

    def _count(self) -> None:
        self._entries += 1
        if self._entries > MAX_TRACKED_ENTRIES:
            raise TransactionTooLarge(
                f"a transaction can read at most {MAX_TRACKED_ENTRIES} entries between BEGIN and COMMIT: divide it, or "
                "read them before"
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
