"""Plans how a statement reads a table: in full, by its key or by an index, and which range of it.

A plan never depends on the data: replicas that execute a statement must read the rows in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import apsw

from replicator.sql.tables import Index, Table
from replicator.sql.values import Affinity

ROWID = -1  # SQLite's number of this column

_ROWS = 1_000_000.0
"""Assumed number of rows of a table."""
_PER_EQUAL, _PER_RANGE = 1_000.0, 4.0
"""Assumed selectivity: a column that is equal to a value, or within a bound, selects one of so many rows."""
_PER_ENTRY, _PER_INDEXED = 1.0, 2.5
"""Relative cost of a row that is read in the order of the table, and by an index."""
_SORT = 1.5
"""Relative cost of rows that have to be sorted."""
_SET = 10
"""Assumed number of values of a set (`IN`)."""

EQUAL = frozenset({apsw.SQLITE_INDEX_CONSTRAINT_EQ})  # and not IS, which also selects NULL
LOWER = {apsw.SQLITE_INDEX_CONSTRAINT_GT: False, apsw.SQLITE_INDEX_CONSTRAINT_GE: True}
UPPER = {apsw.SQLITE_INDEX_CONSTRAINT_LT: False, apsw.SQLITE_INDEX_CONSTRAINT_LE: True}
"""The operators of lower and upper bounds, and whether they are inclusive."""


@dataclass(frozen=True, slots=True)
class Constraint:
    """`column operator value` in a statement."""

    number: int  # as SQLite numbers them
    column: int
    operator: int
    collation: str
    is_in: bool = False  # `column IN (…)`: SQLite reads the rows once for each value


@dataclass(frozen=True, slots=True)
class Bound:
    inclusive: bool


@dataclass(frozen=True, slots=True)
class Access:
    """A range of a table or an index. Its operands: the values of equal columns, the lower bound, the upper bound."""

    index: Index | None  # None: the table itself, in the order of its key
    columns: tuple[int, ...]  # that the rows are ordered by
    equal: int  # how many of these, the first ones, are equal to an operand
    has_set: bool  # the last of them takes the values of a set, one at a time
    lower: Bound | None  # of the next column
    upper: Bound | None
    descending: bool

    @property
    def is_one_row(self) -> bool:
        """Whether it reads one row at most, if only one value of each of these columns is equal to the operand."""
        is_unique = self.index is None or self.index.unique
        return is_unique and not self.has_set and self.equal == len(self.columns)

    def description(self, table: Table) -> str:
        """For EXPLAIN QUERY PLAN."""
        names = ["rowid" if it == ROWID else table.columns[it].name for it in self.columns]
        parts = [f"{name}=?" for name in names[: self.equal]]
        parts += [f"{names[self.equal]}{sign}?" for sign, bound in ((">", self.lower), ("<", self.upper)) if bound]
        where = self.index.name if self.index else "PRIMARY KEY"
        return f"{where} ({' AND '.join(parts)})" if parts or self.index else "all rows"


@dataclass(frozen=True, slots=True)
class Plan:
    access: Access
    used: tuple[int, ...]  # numbers of the constraints whose values are the operands of `access`, in their order
    cost: float  # in reads of a row
    rows: float  # assumed
    is_one_row: bool  # it reads one row at most
    is_ordered: bool  # in the order that the statement asks for


def plan(table: Table, constraints: Sequence[Constraint], order: Sequence[tuple[int, bool]]) -> Plan:
    """The cheapest plan. `order`: columns of ORDER BY, and whether each is descending."""
    return min(_plans(table, constraints, order), key=lambda it: it.cost)


def _plans(table: Table, constraints: Sequence[Constraint], order: Sequence[tuple[int, bool]]) -> Iterable[Plan]:
    key = table.key or (ROWID,)
    yield _plan(table, None, key, table.key_collations or ("BINARY",), constraints, order)
    for index in table.indexes:
        yield _plan(table, index, index.columns, index.collations, constraints, order)


def _plan(
    table: Table,
    index: Index | None,
    columns: tuple[int, ...],
    collations: Sequence[str],
    constraints: Sequence[Constraint],
    order: Sequence[tuple[int, bool]],
) -> Plan:
    used: list[int] = []
    equal, has_set = 0, False
    for column, collation in zip(columns, collations, strict=True):
        found = _first(constraints, column, collation, EQUAL)
        if found is None or (found.is_in and not _can_be_in(table, column)):
            break
        used.append(found.number)
        equal += 1
        has_set = has_set or found.is_in
    bounds: list[Bound | None] = [None, None]
    if equal < len(columns) and not has_set:
        for place, operators in enumerate((LOWER, UPPER)):
            found = _first(constraints, columns[equal], collations[equal], operators)
            if found is not None:
                used.append(found.number)
                bounds[place] = Bound(operators[found.operator])
    descending = bool(order) and order[0][1]
    access = Access(index, columns, equal, has_set, bounds[0], bounds[1], descending)
    is_single = all(_has_one_value(table, column) for column in columns[: equal - has_set])
    if access.is_one_row:
        rows = 1.0
    else:
        rows = max(
            2.0,
            _ROWS * (_SET if has_set else 1) / _PER_EQUAL**equal / _PER_RANGE ** sum(it is not None for it in bounds),
        )
    cost = rows * (_PER_ENTRY if index is None else _PER_INDEXED)
    is_one_row = access.is_one_row and is_single
    is_ordered = is_one_row or (is_single and _is_ordered(table, collations, access, order))
    if order and not is_ordered:
        cost *= _SORT
    return Plan(access, tuple(used), cost, rows, is_one_row, is_ordered)


def _can_be_in(table: Table, column: int) -> bool:
    """SQLite does not compare again what is read for a value of a set, and might have to convert an untyped column."""
    return column == ROWID or table.columns[column].affinity is not Affinity.BLOB


def _has_one_value(table: Table, column: int) -> bool:
    """Whether only one value is equal to another one. Of texts, several may be equal to a number."""
    return column == ROWID or table.columns[column].affinity.is_numeric


def _first(
    constraints: Sequence[Constraint], column: int, collation: str, operators: Iterable[int]
) -> Constraint | None:
    for it in constraints:
        if it.column == column and it.operator in operators and it.collation.upper() == collation.upper():
            return it
    return None


def _is_ordered(table: Table, collations: Sequence[str], access: Access, order: Sequence[tuple[int, bool]]) -> bool:
    """Whether rows come as ORDER BY asks; columns that are equal in all of them do not matter."""
    ordered = access.equal - access.has_set
    fixed = access.columns[:ordered]
    wanted = [(column, descending) for column, descending in order if column not in fixed]
    if any(descending is not access.descending for _, descending in wanted):
        return False
    rest = [*zip(access.columns, collations, strict=True)][ordered:]
    return len(wanted) <= len(rest) and all(
        column == has and (column == ROWID or collation.upper() == table.columns[column].collation.upper())
        for (column, _), (has, collation) in zip(wanted, rest, strict=False)
    )
