"""The ids of `REPL.ONCE` with the reply of each. They are rows of the store like any others.

    table        row       value
    once         id        tag a: its slot (4 bytes), digest of the line (16 bytes), the reply in RESP3; it expires
    once.slots   a number  tag i: the id that took the slot last
    once.slots   next      tag n: how many ids have taken one (8 bytes)

The slots are a ring: an id that takes a slot evicts the id that had it before. An id that has expired and is used again
has taken a new slot, so the next id in its old slot does not evict it.
"""

from __future__ import annotations

from typing import NamedTuple

import xxhash

from replicator.errors import BadRequest
from replicator.limits import ONCE_AGE_MS, ONCE_IDS
from replicator.server.redis import resp
from replicator.server.redis.command import Args
from replicator.store.keys import encode_key
from replicator.store.values import decode_value, encode_value
from replicator.store.view import Transaction

DEDUP_TABLE, SLOTS_TABLE = "once", "once.slots"
NEXT = b"next"
REPLY, ID, NUMBER = b"a", b"i", b"n"
_SLOT_BYTES, _LINE_BYTES = 4, 16


class _Entry(NamedTuple):
    slot: int
    line: bytes  # digest
    reply: bytes
    expires_at_ms: int | None


class Dedup:
    """The replies that one transaction finds and adds."""

    def __init__(
        self, transaction: Transaction, time_ms: int, *, ids: int = ONCE_IDS, age_ms: int = ONCE_AGE_MS
    ) -> None:
        self._transaction = transaction
        self._time_ms = time_ms
        self._ids = ids
        self._age_ms = age_ms

    def find(self, id: bytes, line: Args) -> bytes | None:
        """The encoded reply, if the id is known. Raises `BadRequest` if it was used for another line.

        Deletes the id if it has expired.
        """
        entry = self._entry(id)
        if entry is None:
            return None
        if entry.expires_at_ms is not None and entry.expires_at_ms <= self._time_ms:
            self._transaction.remove_expired(DEDUP_TABLE, id)
            return None
        if entry.line != _digest(line):
            raise BadRequest("this id was used for another command line: use a new id for each command")
        return entry.reply

    def add(self, id: bytes, line: Args, reply: bytes) -> None:
        """`reply` is encoded in RESP3."""
        slot = self._take_slot(id)
        data = slot.to_bytes(_SLOT_BYTES, "big") + _digest(line) + reply
        self._transaction.put(DEDUP_TABLE, id, b"", encode_value(REPLY, data, self._time_ms + self._age_ms))

    def _take_slot(self, id: bytes) -> int:
        count = int.from_bytes(self._data(SLOTS_TABLE, NEXT) or b"", "big")
        self._transaction.put(SLOTS_TABLE, NEXT, b"", NUMBER + (count + 1).to_bytes(8, "big"))
        slot = count % self._ids
        row = b"%d" % slot
        last = self._data(SLOTS_TABLE, row)
        if last is not None:
            entry = self._entry(last)
            if entry is not None and entry.slot == slot:
                self._transaction.put(DEDUP_TABLE, last, b"", None)
        self._transaction.put(SLOTS_TABLE, row, b"", ID + id)
        return slot

    def _data(self, table: str, row: bytes) -> bytes | None:
        stored = self._transaction.get(encode_key(table, row, b""))
        return None if stored is None else decode_value(stored).data

    def _entry(self, id: bytes) -> _Entry | None:
        stored = self._transaction.get(encode_key(DEDUP_TABLE, id, b""))
        if stored is None:
            return None
        _, data, expires_at_ms = decode_value(stored)
        line = data[_SLOT_BYTES:]
        slot = int.from_bytes(data[:_SLOT_BYTES], "big")
        return _Entry(slot, line[:_LINE_BYTES], line[_LINE_BYTES:], expires_at_ms)


def _digest(line: Args) -> bytes:
    return bytes(xxhash.xxh3_128_digest(resp.encode([*line], 3)))
