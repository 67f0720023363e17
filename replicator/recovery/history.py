"""The history of one key of the table `kv`: which record changed it, when, and by which leader."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from replicator.position import Author
from replicator.protocol.log_state import LogState
from replicator.records.types import Command
from replicator.recovery.accepted_log import AcceptedRecord
from replicator.store import snapshot
from replicator.store.keys import decode_key, row_range
from replicator.store.rows import KEYSPACE_TABLE, image
from replicator.stream.change import Change, Op, Source, changes_of
from replicator.stream.envelope import to_fields


class ChangeKind(StrEnum):
    CREATED = "created"
    UPDATED = "updated"
    EXPIRY_CHANGED = "expiry changed"
    DELETED = "deleted"
    EXPIRED = "expired"  # deleted because its expiry had passed
    SNAPSHOT = "in snapshot"  # not a change: its state in a snapshot


class KeyChange(NamedTuple):
    kind: ChangeKind
    leader: Author | None  # None: of a snapshot
    change: Change

    def as_json(self) -> dict[str, Any]:
        """The envelope of the change stream, but for what only a published change has."""
        fields = to_fields(self.change)
        return {
            "kind": self.kind.value,
            "leader": None if self.leader is None else self.leader.node,
            "incarnation": None if self.leader is None else f"{self.leader.incarnation:016x}",
            **{name: fields[name] for name in ("before", "after", "source", "transaction")},
        }


def history_of(cluster: str, row: bytes, accepted: AcceptedRecord) -> Iterator[KeyChange]:
    """The changes of this key in one record, in order. Raises `ConfigError`: the record is a command."""
    record = accepted.record
    if type(record.body) is not Command and row not in record.encoded_body:
        return
    for change in changes_of(cluster, accepted.offset, record):
        if change.row == row:
            yield KeyChange(kind_of(change), record.header.author, change)


def kind_of(change: Change) -> ChangeKind:
    before, after = change.before, change.after
    if before is None:
        return ChangeKind.CREATED
    if after is None:
        expires_at_ms = before.expires_at_ms
        has_expired = expires_at_ms is not None and expires_at_ms * 1000 <= change.source.timestamp_us
        return ChangeKind.EXPIRED if has_expired else ChangeKind.DELETED
    if before[:2] == after[:2] and before.expires_at_ms != after.expires_at_ms:
        return ChangeKind.EXPIRY_CHANGED
    return ChangeKind.UPDATED


def values_in(cluster: str, store: Path, taken_ms: int, state: LogState, row: bytes) -> Iterator[KeyChange]:
    """What a store restored from a snapshot, at `state`, has of a key: the row itself, and the fields of a hash.

    Raises `StoreError`.
    """
    start, stop = row_range(KEYSPACE_TABLE, row)
    place, taken_us = 0, taken_ms * 1000
    for key, stored in snapshot.entries(store, after=start[:-1]):
        if key >= stop:
            return
        if key < start:
            continue
        _, _, field = decode_key(key)
        source = Source(cluster, state.timeline.hex(), state.epoch, state.offset, state.seq, place, taken_us)
        name = field[1:] if field else None
        change = Change(Op.READ, KEYSPACE_TABLE, row, name, None, image(stored), source, None)
        yield KeyChange(ChangeKind.SNAPSHOT, None, change)
        place += 1
