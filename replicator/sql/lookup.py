"""Statements that read one row by its key, or none, and have no expressions: they need no engine.

    SELECT columns | * FROM table WHERE key = :parameter
    UPDATE table SET column = :parameter | column, … WHERE key = :parameter
    INSERT … VALUES (:parameter, …)

The engine has compiled the statement before, so it is valid, and executes it whenever it might convert a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from replicator.sql import key_order, reading
from replicator.sql.names import fold
from replicator.sql.statement import Update
from replicator.sql.tables import Row, Table
from replicator.sql.tokens import Values
from replicator.sql.values import INT64, Affinity, SqlValue
from replicator.store.view import Entries

_NAME = r'(?:[A-Za-z_]\w*|"\w+")'
_CONDITION = rf"(?P<key>{_NAME})\s*=\s*:p(?P<number>\d+)\s*"
_SELECT = re.compile(
    rf"SELECT\s+(?P<columns>\*|{_NAME}(?:\s*,\s*{_NAME})*)\s+FROM\s+(?P<table>{_NAME})\s+WHERE\s+{_CONDITION}",
    re.ASCII | re.IGNORECASE,
)
_UPDATE_WHERE = re.compile(_CONDITION, re.ASCII | re.IGNORECASE)
_A_NAME = re.compile(_NAME, re.ASCII)
_PARAMETER = re.compile(r":p(\d+)")
_VALUES = re.compile(r"VALUES\s*\(\s*:p\d+(?:\s*,\s*:p\d+)*\s*\)\s*", re.ASCII | re.IGNORECASE)
_CONSTANTS = frozenset({"null", "current_date", "current_time", "current_timestamp"})
"""Words that are no columns, although a column may have such a name."""


class KeyLookup(NamedTuple):
    table: Table
    of_text: bool  # otherwise of integers
    place: int  # of the parameter that the key is equal to

    def key(self, values: Values) -> bytes | None:
        """The row in the store; None: the engine might convert the value."""
        value = values[self.place]
        is_certain = type(value) is str if self.of_text else type(value) is int and value in INT64
        return key_order.encode_last(value) if is_certain else None


class RowQuery(NamedTuple):
    lookup: KeyLookup
    columns: tuple[int, ...]

    def run(self, entries: Entries, values: Values) -> list[tuple[SqlValue, ...]] | None:
        """The rows, one at most; None: the engine has to execute the statement."""
        key = self.lookup.key(values)
        if key is None:
            return None
        row = reading.get(entries, self.lookup.table, key)
        return [] if row is None else [tuple([row[it] for it in self.columns])]


class NewValues(NamedTuple):
    lookup: KeyLookup
    sources: tuple[tuple[bool, int], ...]  # for each column that is set: whether it is a parameter, and its place

    def key(self, values: Values) -> bytes | None:
        """The row in the store; None: the engine might convert a value."""
        return self.lookup.key(values) if are_certain(values) else None

    def of(self, row: Row, values: Values) -> list[SqlValue]:
        return [(values if is_parameter else row)[place] for is_parameter, place in self.sources]


def query_of(sql: str, tables: Mapping[str, Table]) -> RowQuery | None:
    """None: it has another form."""
    found = _SELECT.fullmatch(sql)
    table = tables.get(_name(found["table"])) if found else None
    if found is None or table is None:
        return None
    lookup = _lookup(table, found)
    if lookup is None:
        return None
    if found["columns"] == "*":
        return RowQuery(lookup, tuple(range(len(table.columns))))
    columns = [_column(table, it.strip()) for it in found["columns"].split(",")]
    return None if None in columns else RowQuery(lookup, tuple(it for it in columns if it is not None))


def new_values_of(statement: Update, table: Table) -> NewValues | None:
    """None: it has another form."""
    found = _UPDATE_WHERE.fullmatch(statement.where)
    lookup = _lookup(table, found) if found else None
    if lookup is None or statement.with_clause or statement.from_clause:
        return None
    sources = [_source(table, value) for it in statement.assignments for value in it.values]
    return None if None in sources else NewValues(lookup, tuple(it for it in sources if it is not None))


def parameters_of(source: str) -> Sequence[int] | None:
    """The places of those that are the values of one row; None: the source has another form."""
    return [_place(it) for it in _PARAMETER.findall(source)] if _VALUES.fullmatch(source) else None


def are_certain(values: Values) -> bool:
    """Whether the engine would return each value as it is."""
    return all(map(_stays, values))


def _lookup(table: Table, found: re.Match[str]) -> KeyLookup | None:
    number = _column(table, found["key"])
    if number is None or table.key != (number,):
        return None
    column = table.columns[number]
    of_text = column.affinity is Affinity.TEXT and {column.collation, *table.key_collations} == {"BINARY"}
    return (
        KeyLookup(table, of_text, _place(found["number"])) if of_text or column.affinity is Affinity.INTEGER else None
    )


def _place(number: str) -> int:
    return int(number) - 1


def _source(table: Table, value: str) -> tuple[bool, int] | None:
    parameter = _PARAMETER.fullmatch(value.strip())
    if parameter:
        return True, _place(parameter[1])
    column = _column(table, value.strip()) if _A_NAME.fullmatch(value.strip()) else None
    return None if column is None else (False, column)


def _column(table: Table, text: str) -> int | None:
    name = _name(text)
    return None if name in _CONSTANTS else table.positions.get(name)


def _name(text: str) -> str:
    return fold(text.strip('"'))


def _stays(value: SqlValue) -> bool:
    """Whether the engine would return the value as it is."""
    if type(value) is int:
        return value in INT64
    return value == value  # not NaN, for which it returns NULL
