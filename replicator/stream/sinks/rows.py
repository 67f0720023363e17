"""What a batch of changes does to the rows of tables: several changes of one row become one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from replicator.sql.values import SqlValue
from replicator.store.rows import KEYSPACE_TABLE, Image
from replicator.stream.change import Change

HEX_PREFIX = "\\x"  # of the text form of bytea


def to_column_text(data: bytes) -> str:
    """UTF-8 as it is; anything else as PostgreSQL prints a bytea: `\\x` and hexadecimal digits.

    Text with a NUL, which PostgreSQL has not, and text that begins with `\\x`, are written so, too: each text means one
    sequence of bytes.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return HEX_PREFIX + data.hex()
    return HEX_PREFIX + data.hex() if "\0" in text or text.startswith(HEX_PREFIX) else text


class RowEffect(StrEnum):
    """What changes do to a row of the table. Its values are those of the column `op` of the batch."""

    UPDATE = "u"  # fields of the row are deleted, if it exists
    MERGE = "m"  # the row exists afterwards, and keeps what the changes do not say
    DELETE = "d"
    REPLACE = "r"  # the row exists afterwards, and keeps nothing: it was deleted in between


_WRITTEN = {
    RowEffect.UPDATE: RowEffect.MERGE,
    RowEffect.MERGE: RowEffect.MERGE,
    RowEffect.DELETE: RowEffect.REPLACE,
    RowEffect.REPLACE: RowEffect.REPLACE,
}
"""The effect once a further change writes a value or the header; a deletion makes it `DELETE`."""


@dataclass(slots=True)
class RowState:
    """What is known about a row after the changes so far."""

    effect: RowEffect = RowEffect.UPDATE
    has_header: bool = False  # whether `expires_at_ms` is known
    is_string: bool = False
    value: bytes | None = None  # of a string
    expires_at_ms: int | None = None
    fields: dict[bytes, bytes | None] = field(default_factory=dict)  # of a hash; None: the field was deleted

    def delete(self) -> None:
        self.effect, self.has_header = RowEffect.DELETE, False
        self.is_string, self.value, self.expires_at_ms = False, None, None
        self.fields.clear()

    def change_field(self, name: bytes, value: bytes | None) -> None:
        if value is not None:
            if self.is_string:  # it becomes a hash; its header follows
                self.is_string, self.value, self.has_header = False, None, False
            self.effect = _WRITTEN[self.effect]
        self.fields[name] = value

    def change_header(self, after: Image) -> None:
        self.effect, self.has_header = _WRITTEN[self.effect], True
        self.expires_at_ms = after.expires_at_ms
        self.is_string = after.type == "string"
        self.value = after.value


@dataclass(frozen=True, slots=True)
class TableShape:
    """What a table has columns for."""

    strings: bool
    hashes: bool
    fields: frozenset[bytes] | None = None  # None: for all


Rows = dict[str, dict[bytes, RowState]]
"""By table and key, in the order of their first change."""


def fold(changes: Iterable[Change], table_of: Callable[[bytes], str | None], shapes: dict[str, TableShape]) -> Rows:
    """Rows that no table is for are left out; a row that its table has no columns for is deleted from it.

    The changes are of `kv`.
    """
    rows: Rows = {table: {} for table in shapes}
    for change in changes:
        table = table_of(change.row)
        if table is None:
            continue
        shape, states = shapes[table], rows[table]
        name, after = change.field, change.after
        if name is not None and (not shape.hashes or (shape.fields is not None and name not in shape.fields)):
            continue
        state = states.get(change.row)
        if state is None:
            state = states[change.row] = RowState()
        if name is not None:
            state.change_field(name, None if after is None else after.value)
        elif after is None or not (shape.strings if after.type == "string" else shape.hashes):
            state.delete()
        else:
            state.change_header(after)
    return rows


@dataclass(slots=True)
class SqlRowState:
    """What is known about a row of a SQL table after the changes so far."""

    before: list[Mapping[str, SqlValue]] = field(default_factory=list)  # it had these columns
    after: Mapping[str, SqlValue] | None = None


def of_keys(changes: Iterable[Change]) -> list[Change]:
    return [change for change in changes if change.table == KEYSPACE_TABLE]


def fold_sql(changes: Iterable[Change]) -> dict[str, dict[bytes, SqlRowState]]:
    """By SQL table and primary key, in the order of their first change; without the keys of Redis."""
    rows: dict[str, dict[bytes, SqlRowState]] = {}
    for change in changes:
        if change.table == KEYSPACE_TABLE:
            continue
        state = rows.setdefault(change.table, {}).setdefault(change.row, SqlRowState())
        if change.before is not None and change.before.columns is not None:
            state.before.append(change.before.columns)
        state.after = None if change.after is None else change.after.columns
    return rows
