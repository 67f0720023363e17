"""SQL statements, as `parsing` divides them. Clauses are texts for the engine."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replicator.sql.tokens import Tokens


class Conflict(Enum):
    """What a statement does about a row that violates a constraint (sqlite.org/lang_conflict.html)."""

    ABORT = "ABORT"  # the statement has no effect; FAIL and ROLLBACK do the same here
    IGNORE = "IGNORE"  # the row is left out
    REPLACE = "REPLACE"  # the rows in its way are deleted


@dataclass(frozen=True, slots=True)
class Query:
    """SELECT, VALUES, EXPLAIN, or a PRAGMA that describes the schema."""

    sql: str


@dataclass(frozen=True, slots=True)
class Insert:
    with_clause: str
    table: str
    alias: str  # AS …, or empty
    columns: tuple[str, ...] | None  # None: all
    source: str | None  # a query; None: DEFAULT VALUES
    conflict: Conflict
    upsert: str  # ON CONFLICT …, or empty
    returning: str  # the list, or empty


@dataclass(frozen=True, slots=True)
class Assignment:
    columns: tuple[str, ...]
    values: tuple[str, ...]  # an expression for each column


@dataclass(frozen=True, slots=True)
class Update:
    with_clause: str
    table: str
    alias: str
    assignments: tuple[Assignment, ...]
    from_clause: str  # without the word, one table or subquery, or a join in parentheses; or empty
    where: str  # without the word, or empty
    conflict: Conflict
    returning: str


@dataclass(frozen=True, slots=True)
class Delete:
    with_clause: str
    table: str
    alias: str
    where: str  # without the word, or empty
    returning: str


@dataclass(frozen=True, slots=True)
class Create:
    type: str  # table, index or view
    name: str
    table: str  # of an index; otherwise the name again
    if_not_exists: bool
    sql: str


@dataclass(frozen=True, slots=True)
class Drop:
    type: str
    name: str
    if_exists: bool


class ControlAction(Enum):
    BEGIN = "BEGIN"
    COMMIT = "COMMIT"
    ROLLBACK = "ROLLBACK"
    SAVEPOINT = "SAVEPOINT"
    RELEASE = "RELEASE"
    ROLLBACK_TO = "ROLLBACK TO"


@dataclass(frozen=True, slots=True)
class Control:
    action: ControlAction
    savepoint: str  # its folded name, or empty


Write = Insert | Update | Delete | Create | Drop
Statement = Query | Write | Control


@dataclass(frozen=True, slots=True)
class Parsed:
    statement: Statement
    tokens: Tokens  # without the items
    may_run_at_once: bool
    """Whether SQLite needs little time to compile it, and the engine may try to execute it at once."""
