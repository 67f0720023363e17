"""A change as the change stream publishes it, and the changes of an accepted record of the log."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from enum import StrEnum
from typing import NamedTuple, Self

from replicator.errors import BadRequest
from replicator.position import Epoch, Offset, Seq
from replicator.records.types import Command, Record, Write, singles
from replicator.store.rows import KEYSPACE_TABLE, Image, RowChange, command_error, row_changes
from replicator.stream.sql_rows import Tables, sql_changes, tables_after, touches_sql

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
    table_order: int  # of the change among those of its table, from 1


class Change(NamedTuple):
    op: Op
    table: str  # `kv`, the keys of Redis, or a SQL table
    row: bytes  # a Redis key; or the primary key of a row of a SQL table as JSON, such as {"id":1}
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


def changes_of(cluster: str, offset: Offset, record: Record, tables: Tables | None = None) -> Iterator[Change]:
    """The changes of an accepted record, in order. `tables`: before it; None: rows of SQL tables are left out.

    Raises `ConfigError`: the columns of a table are not known, or the record is a command.
    """
    header = record.header
    timeline, before = header.timeline.hex(), 0  # entries of the record that earlier transactions change
    for seq, write in enumerate(singles(record.body), header.seq):
        if type(write) is Command:
            raise command_error()
        if type(write) is not Write:
            continue
        has_sql = touches_sql(write.changes)
        for block, table, (place, row, field, old, new) in _of_transaction(write, tables, has_sql=has_sql):
            source = Source(cluster, timeline, header.epoch, offset, Seq(seq), before + place, header.timestamp_us)
            yield Change(_op(old, new), table, row, field, old, new, source, block)
        before += len(write.changes)
        if has_sql and tables is not None:
            tables = tables_after(tables, write.changes)


def _of_transaction(
    write: Write, tables: Tables | None, *, has_sql: bool
) -> Iterator[tuple[TransactionBlock, str, RowChange]]:
    """What is left out is counted."""
    if not has_sql:
        keys = list(row_changes(write.changes))
        for order, change in enumerate(keys, 1):
            yield TransactionBlock(order, len(keys), order), KEYSPACE_TABLE, change
        return
    found = [*((KEYSPACE_TABLE, it) for it in row_changes(write.changes)), *sql_changes(write.changes, tables)]
    found.sort(key=lambda it: it[1].place)
    orders = Counter[str]()
    for order, (table, change) in enumerate(found, 1):
        orders[table] += 1
        if change.before is not None or change.after is not None:
            yield TransactionBlock(order, len(found), orders[table]), table, change


def _op(before: Image | None, after: Image | None) -> Op:
    if before is None:
        return Op.CREATE
    return Op.DELETE if after is None else Op.UPDATE
