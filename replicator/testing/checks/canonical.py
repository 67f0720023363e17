"""A replay of the log: the state that every node must have reached at each offset."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from replicator.errors import Diverged, LogDamage, UpgradeNeeded
from replicator.limits import MAX_CHANGES
from replicator.log.port import Entry
from replicator.node.commands import Execute, with_changes
from replicator.position import BEFORE_LOG, NodeId, Offset
from replicator.protocol.acceptance import judge, skip
from replicator.protocol.log_state import LogState
from replicator.records.codec import NotARecord, RecordCodec
from replicator.records.types import Command, Membership, Record, Timing, Write, singles
from replicator.server.redis.dedup import DEDUP_TABLE
from replicator.server.redis.execution import Replay
from replicator.sql import catalog
from replicator.steps import finish
from replicator.store.digest import DIGEST_MASK, entry_digest
from replicator.store.keys import decode_key, encode_key, table_range
from replicator.store.rows import KEYSPACE_TABLE
from replicator.store.view import keys_between
from replicator.testing.history import mark_of, marks_in, without_expiry


class StateAt(NamedTuple):
    """The state after the record at one offset."""

    state: LogState
    digest: int
    entries: int


class Place(NamedTuple):
    """A transaction in the log, or the state after it. A record may hold several."""

    offset: Offset
    nth: int  # in its record, from 0 on


def is_of_sql(table: str) -> bool:
    """A table of the store that has rows of SQL, or what belongs to them."""
    return table.startswith(catalog.CATALOG_TABLE)


def end_of(offset: Offset) -> Place:
    """The state after the whole record."""
    return Place(offset, MAX_CHANGES)


class WritesAt(NamedTuple):
    """An accepted record of transactions."""

    author: NodeId
    writes: tuple[Write, ...]


class PresentEntries:
    """The state at the end of what was replayed so far."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []  # sorted

    def get(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def scan(self, start: bytes, stop: bytes, *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        for key in keys_between(self._keys, start, stop, reverse):
            yield key, self.values[key]

    def rows(self, table: str) -> int:
        return sum(not decode_key(key)[2] for key, _ in self.scan(*table_range(table)))

    @contextmanager
    def snapshot(self) -> Iterator[PresentEntries]:
        yield self  # which stays as it is until the next `set`

    def set(self, key: bytes, value: bytes | None) -> bytes | None:
        """Returns the value before."""
        old = self.values.pop(key, None)
        if old is None and value is not None:
            insort(self._keys, key)
        elif old is not None and value is None:
            del self._keys[bisect_left(self._keys, key)]
        if value is not None:
            self.values[key] = value
        return old


class Canonical(NamedTuple):
    states: dict[Offset, StateAt]
    entries: PresentEntries  # at the end
    writes: dict[Offset, WritesAt]
    marked: dict[str, list[Place]]  # by mark: the transactions that write values with it
    once: dict[bytes, list[Offset]]  # by id of REPL.ONCE or REPL.EXEC: the offsets of the records that add it
    values: dict[bytes, list[tuple[Place, bytes | None]]]  # the changes of each store key, in order
    accepted: list[Offset]  # of the accepted records, in order
    timings: list[Timing]  # that the nodes followed, one after the other
    memberships: list[tuple[Offset, Membership]]  # in order, each from that offset on
    commands: dict[Offset, Command]  # of the log, by the offset of their record
    diverged: list[str]  # why commands of the log cannot be executed again
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
    canonical = Canonical({}, PresentEntries(), {}, {}, {}, {}, [], [], [], {}, [])
    execute = Replay()
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
                digest += _take(record, offset, canonical, execute)
        canonical.states[offset] = StateAt(state, digest & DIGEST_MASK, len(canonical.entries.values))
    return canonical


def _take(record: Record, offset: Offset, canonical: Canonical, execute: Execute) -> int:
    """An accepted record. Returns the change of the digest."""
    writes = tuple(body for body in singles(record.body) if isinstance(body, Write))
    if isinstance(record.body, Command):
        canonical.commands[offset] = record.body
        try:
            (write,) = finish(with_changes([record.body], canonical.entries, execute))
        except (Diverged, UpgradeNeeded) as error:
            canonical.diverged.append(f"the command at offset {offset} cannot be executed again: {error}")
        else:
            assert isinstance(write, Write)
            writes = (write,)
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
        old = canonical.entries.set(key, new)
        canonical.values.setdefault(key, []).append((place, new))
        if old is not None:
            growth -= entry_digest(key, old)
        if new is not None:
            growth += entry_digest(key, new)
        if table == KEYSPACE_TABLE:
            value = without_expiry(new)
            mark = mark_of(value)
            if mark is not None and value != without_expiry(old):
                canonical.marked.setdefault(mark, []).append(place)
        elif is_of_sql(table):
            for mark in marks_in(new or b"") - marks_in(old or b""):
                canonical.marked.setdefault(mark, []).append(place)
        elif table == DEDUP_TABLE and new is not None:
            canonical.once.setdefault(row, []).append(place.offset)
    return growth
