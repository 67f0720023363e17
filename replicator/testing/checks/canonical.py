"""A replay of the log: the state that every node must have reached at each offset."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from replicator.errors import LogDamage
from replicator.log.port import Entry
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Body, Write
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.keys import encode_key
from replicator.store.values import expiry_of
from replicator.testing.history import author_of, without_expiry


class StateAt(NamedTuple):
    """The state after the record at one offset."""

    state: LogState
    digest: int
    entries: int


class Expired(NamedTuple):
    """A change that removes or replaces a value with an expiry."""

    offset: Offset
    row: bytes
    value: bytes | None  # the old one


class Canonical(NamedTuple):
    states: dict[Offset, StateAt]
    entries: dict[bytes, bytes]  # at the end
    written: dict[str, list[Offset]]  # by name of the operation: the offsets of its records
    values: dict[bytes, list[tuple[Offset, bytes | None]]]  # the changes of each store key, in order
    expired: list[Expired]
    damage: str  # why the entries from the next offset on cannot be read; empty: they can

    def value_at(self, key: bytes, offset: Offset) -> bytes | None:
        """The value of the key in a store that has applied up to `offset`."""
        changes = self.values.get(key, [])
        index = bisect_right(changes, offset, key=lambda change: change[0])
        return changes[index - 1][1] if index else None

    def before(self, offset: Offset, records: int) -> Offset:
        """The first offset at which all accepted records up to `offset` are applied, except the last `records`."""
        if offset not in self.states:
            return BEFORE_LOG
        seq = self.states[offset].state.seq - records
        return Offset(bisect_left(range(offset), seq, key=lambda it: self.states[Offset(it)].state.seq))


def read_log(log: list[Entry], codec: RecordCodec) -> Canonical:
    state = LogState()
    digest = 0
    entries: dict[bytes, bytes] = {}
    states: dict[Offset, StateAt] = {}
    written: dict[str, list[Offset]] = {}
    values: dict[bytes, list[tuple[Offset, bytes | None]]] = {}
    expired: list[Expired] = []
    damage = ""
    for offset, payload in log:
        try:
            record = codec.decode(payload, state.timeline)
            state, void = judge(state, offset, record)
        except NotARecord:
            state = skip(state, offset)
        except LogDamage as error:
            damage = str(error)
            break
        else:
            if void is None:
                digest += _apply(record.body, entries, offset, written, values, expired)
        states[offset] = StateAt(state, digest & DIGEST_MASK, len(entries))
    return Canonical(states, entries, written, values, expired, damage)


def _apply(
    body: Body,
    entries: dict[bytes, bytes],
    offset: Offset,
    written: dict[str, list[Offset]],
    values: dict[bytes, list[tuple[Offset, bytes | None]]],
    expired: list[Expired],
) -> int:
    """Apply the body to the arguments. Returns the change of the digest."""
    if not isinstance(body, Write):
        return 0
    growth = 0
    for table, row, field, _, new in body.changes:
        key = encode_key(table, row, field)
        old = entries.pop(key, None)
        values.setdefault(key, []).append((offset, without_expiry(new)))
        if expiry_of(old) is not None:
            expired.append(Expired(offset, row, without_expiry(old)))
        if old is not None:
            growth -= entry_digest(key, old)
        if new is not None:
            growth += entry_digest(key, new)
            entries[key] = new
        name = author_of(without_expiry(new))
        if name is not None:
            written.setdefault(name, []).append(offset)
    return growth
