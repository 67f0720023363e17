"""What `REPL.ONCE` remembers: ids, and how the command line of each was answered. Rows of the store like any other.

    table        row       value
    once         id        tag a: its slot (4 bytes), digest of the line (16 bytes), the answer in RESP3; it expires
    once.slots   a number  tag i: the id that took the slot last
    once.slots   next      tag n: how many ids have taken one (8 bytes)

The slots are a ring: whoever takes a slot drives out the id that has it. An id that expired and came again has a slot
of its own, and is not driven out of the one before.
"""

from __future__ import annotations

from typing import NamedTuple

import xxhash

from replicator.errors import BadRequest
from replicator.limits import ONCE_AGE_MS, ONCE_IDS
from replicator.server.redis import resp
from replicator.server.redis.commands.registry import Args
from replicator.store.keys import encode_key
from replicator.store.values import decode_value, encode_value
from replicator.store.view import Transaction

TABLE, SLOTS = "once", "once.slots"
NEXT = b"next"
ANSWER, ID, NUMBER = b"a", b"i", b"n"
_SLOT_BYTES, _LINE_BYTES = 4, 16


class _Answer(NamedTuple):
    slot: int
    line: bytes  # digest
    reply: bytes
    expires_at_ms: int | None


class Answers:
    """Those that one transaction sees and adds."""

    def __init__(
        self, transaction: Transaction, time_ms: int, *, ids: int = ONCE_IDS, age_ms: int = ONCE_AGE_MS
    ) -> None:
        self._transaction = transaction
        self._time_ms = time_ms
        self._ids = ids
        self._age_ms = age_ms

    def recall(self, id: bytes, line: Args) -> bytes | None:
        """The encoded answer, if the id is known. Raises `BadRequest` if it was used for another line."""
        answer = self._answer(id)
        if answer is None or (answer.expires_at_ms is not None and answer.expires_at_ms <= self._time_ms):
            return None
        if answer.line != _digest(line):
            raise BadRequest("this id was used for another command line: take a new id for each command")
        return answer.reply

    def remember(self, id: bytes, line: Args, reply: bytes) -> None:
        """`reply` is encoded in RESP3."""
        slot = self._take_slot(id)
        data = slot.to_bytes(_SLOT_BYTES, "big") + _digest(line) + reply
        self._transaction.put(TABLE, id, b"", encode_value(ANSWER, data, self._time_ms + self._age_ms))

    def _take_slot(self, id: bytes) -> int:
        count = int.from_bytes(self._data(SLOTS, NEXT) or b"", "big")
        self._transaction.put(SLOTS, NEXT, b"", NUMBER + (count + 1).to_bytes(8, "big"))
        slot = count % self._ids
        row = b"%d" % slot
        last = self._data(SLOTS, row)
        if last is not None:
            answer = self._answer(last)
            if answer is not None and answer.slot == slot:
                self._transaction.put(TABLE, last, b"", None)
        self._transaction.put(SLOTS, row, b"", ID + id)
        return slot

    def _data(self, table: str, row: bytes) -> bytes | None:
        stored = self._transaction.get(encode_key(table, row, b""))
        return None if stored is None else decode_value(stored).data

    def _answer(self, id: bytes) -> _Answer | None:
        stored = self._transaction.get(encode_key(TABLE, id, b""))
        if stored is None:
            return None
        _, data, expires_at_ms = decode_value(stored)
        line = data[_SLOT_BYTES:]
        slot = int.from_bytes(data[:_SLOT_BYTES], "big")
        return _Answer(slot, line[:_LINE_BYTES], line[_LINE_BYTES:], expires_at_ms)


def _digest(line: Args) -> bytes:
    return bytes(xxhash.xxh3_128_digest(resp.encode([*line], 3)))
