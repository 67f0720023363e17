"""A replay of the log: the state that every node must have reached at each offset."""

from __future__ import annotations

from bisect import bisect_right
from typing import NamedTuple

from replicator.errors import LogDamage
from replicator.limits import MAX_CHANGES
from replicator.log.port import Entry
from replicator.position import BEFORE_LOG, NodeId, Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Membership, Record, Timing, Write, singles
from replicator.server.redis.dedup import DEDUP_TABLE
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.keys import encode_key
from replicator.store.rows import KEYSPACE_TABLE
from replicator.testing.history import mark_of, without_expiry


class StateAt(NamedTuple):
    """The state after the record at one offset."""

    state: LogState
    digest: int
    entries: int


class Place(NamedTuple):
    """A transaction in the log, or the state after it. A record may hold several."""

    offset: Offset
    nth: int  # in its record, from 0 on


def end_of(offset: Offset) -> Place:
    """The state after the whole record."""
    return Place(offset, MAX_CHANGES)


class WritesAt(NamedTuple):
    """An accepted record of transactions."""

    author: NodeId
    writes: tuple[Write, ...]


class Canonical(NamedTuple):
    states: dict[Offset, StateAt]
    entries: dict[bytes, bytes]  # at the end
    writes: dict[Offset, WritesAt]
    marked: dict[str, list[Place]]  # by mark: the transactions that write values with it
    once: dict[bytes, list[Offset]]  # by id of REPL.ONCE or REPL.EXEC: the offsets of the records that add it
    values: dict[bytes, list[tuple[Place, bytes | None]]]  # the changes of each store key, in order
    accepted: list[Offset]  # of the accepted records, in order
    timings: list[Timing]  # that the nodes followed, one after the other
    memberships: list[tuple[Offset, Membership]]  # in order, each from that offset on
    damage: str = ""  # why the entries from the next offset on cannot be read; empty: they can

    def value_at(self, key: bytes, place: Place) -> bytes | None:
        """The value of the key after that transaction."""
        changes = self.values.get(key, [])
        index = bisect_right(changes, place, key=lambda change: change[0])
        return changes[index - 1][1] if index else None

    def before(self, offset: Offset, records: int) -> Offset:
        """The first offset at which all accepted records up to `offset` are applied, except the last `records`."""
        if offset not in self.states:
            return BEFORE_LOG
        needed = bisect_right(self.accepted, offset) - records
        return self.accepted[needed - 1] if needed > 0 else Offset(0)


def read_log(log: list[Entry], codec: RecordCodec) -> Canonical:
    state = LogState()
    digest = 0
    canonical = Canonical({}, {}, {}, {}, {}, {}, [], [], [])
    for offset, payload in log:
        try:
            record = codec.decode(payload, state.timeline)
            state, void = judge(state, offset, record)
        except NotARecord:
            state = skip(state, offset)
        except LogDamage as error:
            return canonical._replace(damage=str(error))
        else:
            if void is None:
                canonical.accepted.append(offset)
                digest += _take(record, offset, canonical)
        canonical.states[offset] = StateAt(state, digest & DIGEST_MASK, len(canonical.entries))
    return canonical


def _take(record: Record, offset: Offset, canonical: Canonical) -> int:
    """An accepted record. Returns the change of the digest."""
    writes = tuple(body for body in singles(record.body) if isinstance(body, Write))
    if writes:
        canonical.writes[offset] = WritesAt(record.header.author.node, writes)
    if isinstance(record.body, Timing):
        canonical.timings.append(record.body)
    elif isinstance(record.body, Membership):
        canonical.memberships.append((offset, record.body))
    return sum(_apply(write, Place(offset, index), canonical) for index, write in enumerate(writes))


def _apply(body: Write, place: Place, canonical: Canonical) -> int:
    """Returns the change of the digest."""
    growth = 0
    for table, row, field, _, new in body.changes:
        key = encode_key(table, row, field)
        old = canonical.entries.pop(key, None)
        canonical.values.setdefault(key, []).append((place, new))
        if old is not None:
            growth -= entry_digest(key, old)
        if new is not None:
            growth += entry_digest(key, new)
            canonical.entries[key] = new
        if table == KEYSPACE_TABLE:
            value = without_expiry(new)
            mark = mark_of(value)
            if mark is not None and value != without_expiry(old):
                canonical.marked.setdefault(mark, []).append(place)
        elif table == DEDUP_TABLE and new is not None:
            canonical.once.setdefault(row, []).append(place.offset)
    return growth
