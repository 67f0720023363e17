"""Computes the digest of a store from its entries, in slices, while records are applied.

The audit reads the entries in the order of their keys. A change of a key that it has read already changes its sums in
the same way as those of the store (`batch.RecordBatch`). So at the end both are equal, unless an entry has changed in
any other way, or cannot be read as it was written. No read transaction lasts longer than a slice.
"""

from __future__ import annotations

from typing import Any

from replicator.store.digest import DIGEST_MASK, entry_digest


class StoreAudit:
    def __init__(self) -> None:
        self.position = b""  # the last key that was read
        self.is_complete = False
        self._digest = 0
        self._entries = 0

    @property
    def sums(self) -> tuple[int, int]:
        """Digest and number of the entries up to `position`, in the present state of the store."""
        return self._digest & DIGEST_MASK, self._entries

    def note(self, digest: int, entries: int) -> None:
        """The entries up to `position` were changed; what that adds to the sums."""
        self._digest += digest
        self._entries += entries

    def read(self, cursor: Any, max_entries: int, max_bytes: int) -> None:
        """Read the next entries with a cursor of the present state."""
        found = cursor.set_range(self.position) if self.position else cursor.first()
        if found and cursor.key() == self.position:
            found = cursor.next()
        key, digest, entries, size = self.position, 0, 0, 0
        self.is_complete = True
        for key, value in cursor if found else ():
            digest += entry_digest(key, value)
            entries += 1
            size += len(value)
            if entries == max_entries or size >= max_bytes:
                self.is_complete = False
                break
        self.position = key
        self.note(digest, entries)
