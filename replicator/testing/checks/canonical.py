"""A replay of the log: the state that every node must have reached at each offset."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from replicator.errors import LogDamage
from replicator.log.port import Entry
from replicator.position import BEFORE_LOG, NodeId, Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Change, Timing, Write
from replicator.server.keyspace import KEYSPACE_TABLE
from replicator.server.redis.dedup import DEDUP_TABLE
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.keys import encode_key
from replicator.testing.history import mark_of, without_expiry


class StateAt(NamedTuple):
    """The state after the record at one offset."""

    state: LogState
    digest: int
    entries: int


class WriteAt(NamedTuple):
    """An accepted `Write` record."""

    author: NodeId
    changes: tuple[Change, ...]


class Canonical(NamedTuple):
    states: dict[Offset, StateAt]
    entries: dict[bytes, bytes]  # at the end
    writes: dict[Offset, WriteAt]
    marked: dict[str, list[Offset]]  # by mark: the offsets of the records that write values with it
    once: dict[bytes, list[Offset]]  # by id of REPL.ONCE or REPL.EXEC: the offsets of the records that add it
    values: dict[bytes, list[tuple[Offset, bytes | None]]]  # the changes of each store key, in order
    timings: list[Timing]  # that the nodes followed, one after the other
    damage: str = ""  # why the entries from the next offset on cannot be read; empty: they can

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
    canonical = Canonical({}, {}, {}, {}, {}, {}, [])
    for offset, payload in log:
        try:
            record = codec.decode(payload, state.timeline)
            state, void = judge(state, offset, record)
        except NotARecord:
            state = skip(state, offset)
        except LogDamage as error:
            return canonical._replace(damage=str(error))
        else:
            if void is None and isinstance(record.body, Write):
                canonical.writes[offset] = WriteAt(record.header.author.node, tuple(record.body.changes))
                digest += _apply(record.body, offset, canonical)
            elif void is None and isinstance(record.body, Timing):
                canonical.timings.append(record.body)
        canonical.states[offset] = StateAt(state, digest & DIGEST_MASK, len(canonical.entries))
    return canonical


def _apply(body: Write, offset: Offset, canonical: Canonical) -> int:
    """Returns the change of the digest."""
    growth = 0
    for table, row, field, _, new in body.changes:
        key = encode_key(table, row, field)
        old = canonical.entries.pop(key, None)
        canonical.values.setdefault(key, []).append((offset, new))
        if old is not None:
            growth -= entry_digest(key, old)
        if new is not None:
            growth += entry_digest(key, new)
            canonical.entries[key] = new
        if table == KEYSPACE_TABLE:
            value = without_expiry(new)
            mark = mark_of(value)
            if mark is not None and value != without_expiry(old):
                canonical.marked.setdefault(mark, []).append(offset)
        elif table == DEDUP_TABLE and new is not None:
            canonical.once.setdefault(row, []).append(offset)
    return growth
