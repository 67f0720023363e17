"""A change as the change stream publishes it, and the changes of an accepted record of the log."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, Self

from replicator.errors import BadRequest
from replicator.position import Epoch, Offset, Seq
from replicator.records.types import Record
from replicator.store.rows import KEYSPACE_TABLE, Image, record_changes

_POSITION = re.compile(r"([0-9]{1,19})(?:-([0-9]{1,9}))?")


class Op(StrEnum):
    """As in the envelope of Debezium."""

    CREATE = "c"
    UPDATE = "u"
    DELETE = "d"
    READ = "r"  # not a change: the state in a snapshot


class Position(NamedTuple):
    """Of a change in the log. Those of the changes of a timeline are unique, and rise in the topic for each row."""

    offset: Offset  # of the record; of an `Op.READ`, that of the snapshot
    place: int  # of the change in the record, from 0; of an `Op.READ`, in the snapshot

    def __str__(self) -> str:
        return f"{self.offset}-{self.place}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Of the form OFFSET-INDEX, or OFFSET for the first change of a record. Raises `BadRequest`."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise BadRequest(f"invalid position {text!r}: expected OFFSET or OFFSET-INDEX, such as 1520-0")
        return cls(Offset(int(match[1])), int(match[2] or 0))


class Source(NamedTuple):
    """Where in the log a change is. Changes of one transaction differ in `place` only."""

    cluster: str
    timeline: str  # 32 hexadecimal digits
    epoch: Epoch
    offset: Offset
    seq: Seq  # of the transaction
    place: int  # of the change in the record: `index` in the envelope
    timestamp_us: int  # by the clock of the leader that wrote the record


class TransactionBlock(NamedTuple):
    """Which part of a transaction a change is."""

    order: int  # of the change, from 1
    changes: int  # of the transaction: the last one has this `order`


class Change(NamedTuple):
    op: Op
    table: str
    row: bytes
    field: bytes | None  # the name of a hash field; None: the row itself, which is a string, or a hash as a whole
    before: Image | None
    after: Image | None
    source: Source
    transaction: TransactionBlock | None  # None: of a snapshot
    published_ms: int = 0  # by the clock of the publisher, ms since 1970

    @property
    def position(self) -> Position:
        return Position(self.source.offset, self.source.place)

    @property
    def transaction_id(self) -> str | None:
        """The same for all changes of a transaction, and for no other."""
        return None if self.transaction is None else f"{self.source.timeline}:{self.source.seq}"

    @property
    def ends_transaction(self) -> bool:
        """Also of a change that is not part of one."""
        return self.transaction is None or self.transaction.order == self.transaction.changes


def changes_of(cluster: str, offset: Offset, record: Record) -> Iterator[Change]:
    """The changes of an accepted record, in order."""
    header = record.header
    timeline = header.timeline.hex()
    for seq, order, changes, place, (_, row, field, old, new) in record_changes(record):
        source = Source(cluster, timeline, header.epoch, offset, seq, place, header.timestamp_us)
        yield Change(_op(old, new), KEYSPACE_TABLE, row, field, old, new, source, TransactionBlock(order, changes))


def _op(before: Image | None, after: Image | None) -> Op:
    if before is None:
        return Op.CREATE
    return Op.DELETE if after is None else Op.UPDATE
