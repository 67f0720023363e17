"""Executes SQL statements on a view of the store, or in a transaction. One engine for each node."""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import NamedTuple

import apsw

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_SQL_QUERY_MEMORY_BYTES, MAX_SQL_S
from replicator.records.tape import Tape, Unrecorded
from replicator.sql import catalog, defining, limits, writing
from replicator.sql.database import Database, Queries
from replicator.sql.errors import ConstraintFailed, OutOfMemory, SqlError
from replicator.sql.functions import Calls
from replicator.sql.progress import ROWS_PER_CHECK, Limit, RowLimit, TakesLonger, TimedSteps, takes_too_long
from replicator.sql.statement import Control, Create, Drop, Parsed, Query, Write
from replicator.sql.stepping import Turn, Work, wait_for_thread
from replicator.sql.tokens import Parameters, bind
from replicator.sql.values import ResultColumn, SqlValue
from replicator.sql.writing import Written
from replicator.steps import Steps
from replicator.store.view import Entries, Transaction

_DATABASES = 4
_PREPARED = 500  # statements that write, of a database
_UNKNOWN = ((), None)
"""Of a query that the database has not executed yet, in `Database.queries`."""


class Result(NamedTuple):
    columns: Sequence[ResultColumn]  # empty: the statement returns no rows
    rows: Sequence[tuple[SqlValue, ...]]
    changes: int = 0  # rows inserted, updated or deleted
    last_id: int | None = None  # rowid of the last row that was inserted
    reads: int = 0  # rows that were read or written, or what takes as long


@dataclass(frozen=True, slots=True)
class _Schema:
    """The databases of one version of the schema that execute nothing."""

    at_once: list[Database] = field(default_factory=list)
    of_threads: list[Database] = field(default_factory=list)
    queries: Queries = field(default_factory=dict)

    def idle(self, *, at_once: bool) -> list[Database]:
        return self.at_once if at_once else self.of_threads

    def close(self) -> None:
        for database in (*self.at_once, *self.of_threads):
            database.close()


Run = Callable[[Database, Limit], Result]


class SqlEngine:
    """Statements are executed at once if they are short, otherwise on threads, in steps (`stepping`)."""

    def __init__(
        self, *, limited: bool = True, wait_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Unless it is `limited`, a statement may take any time.

        `wait_s`: so long does a step wait for SQLite, which may compute for longer; None: any time, and steps are as
        short as possible, so that their number depends on nothing but the data.
        """
        self._is_limited = limited
        self._wait_s = wait_s
        self._clock = clock
        self._schemas: OrderedDict[catalog.Version, _Schema] = OrderedDict()

    def query(self, view: Entries, parsed: Parsed, parameters: Parameters, now_ms: int) -> Steps[Result]:
        """Execute a query in steps (`replicator.steps`). Raises `SqlError`, and what the view does."""
        found = self.look_up(view, parsed, parameters)
        if found is not None:
            return found
        run = partial(_query, parsed, parameters)
        if parsed.may_run_at_once:
            try:
                return self._at_once(view, Unrecorded(), now_ms, run)
            except TakesLonger:
                pass
        return (yield from self._in_steps(view, Unrecorded(), now_ms, run, MAX_SQL_QUERY_MEMORY_BYTES))

    def execute(
        self, transaction: Transaction, tape: Tape, now_ms: int, parsed: Parsed, parameters: Parameters
    ) -> Steps[Result]:
        """Any statement but those that control transactions, in steps. `now_ms`: the time that it sees.

        If other code runs between two steps, what the transaction reads has to be the same afterwards, or to be
        compared at the end. Raises `SqlError`, `TransactionTooLarge`: a part of the changes may be in the transaction
        then, and of its calls on the tape.

        The command in the log must have the same effect at other nodes: if the engine is short of memory, the
        transaction has to end. A replica executes it again, with more memory.
        """
        statement = parsed.statement
        if isinstance(statement, Control):
            raise SqlError(f"{statement.action.value} is not allowed here")

        alone = self._write_alone(transaction, parsed, parameters)
        if alone is not None:
            return alone

        def run(database: Database, limit: Limit) -> Result:
            if isinstance(statement, Query):
                return _query(parsed, parameters, database, limit)
            written = _write(database, transaction, statement, parsed, parameters)
            written.columns = parsed.tokens.with_parameters(written.columns)
            return _result(written, limit.steps)

        mark, calls = transaction.mark(), tape.mark()
        if parsed.may_run_at_once:
            try:
                return self._at_once(transaction, tape, now_ms, run)
            except (TakesLonger, OutOfMemory):
                transaction.roll_back_to(mark)
                tape.cut(calls)
        try:
            return (yield from self._in_steps(transaction, tape, now_ms, run))
        except OutOfMemory as error:
            if self._is_limited:
                raise TransactionTooLarge(f"{error}: divide the transaction, or try again later") from None
        with limits.more_memory():
            while True:
                transaction.roll_back_to(mark)
                tape.cut(calls)
                try:
                    return (yield from self._in_steps(transaction, tape, now_ms, run))
                except OutOfMemory:
                    pass  # queries have it, or the threads, and they end

    def _at_once(self, entries: Entries, tape: Tape, now_ms: int, run: Run) -> Result:
        """Raises `TakesLonger`."""
        version, database = self._take(entries, at_once=True)
        try:
            with _errors_as_sql(database):
                limit = RowLimit()
                _begin(database, entries, tape, now_ms, limit)
                return run(database, limit)
        finally:
            self._give_back(version, database)

    def _in_steps(
        self, entries: Entries, tape: Tape, now_ms: int, run: Run, max_memory: int = sys.maxsize
    ) -> Steps[Result]:
        """`max_memory`: of all statements, where this one is ended. There is another limit, see `limits`."""
        yield 0  # a caller with time for one step only starts no thread
        yield from wait_for_thread(self._wait_s)
        until_s = self._clock() + (MAX_SQL_S if self._is_limited else inf)
        version, database = self._take(entries, at_once=False)

        def on_thread(turn: Turn) -> Result:
            with _errors_as_sql(database):
                rows = 1 if self._wait_s is None else ROWS_PER_CHECK
                limit = TimedSteps(turn.pause, self._clock, until_s, max_memory, rows)
                _begin(database, entries, tape, now_ms, limit)
                database.source.turn = turn
                # what a transaction that is not stable has read is compared at its end, and limited
                database.source.ahead = rows if not isinstance(entries, Transaction) or entries.is_stable else 1
                return run(database, limit)

        work = Work(on_thread, database.interrupt, database.close, lambda: self._clock() > until_s)
        try:
            return (yield from work.run(self._wait_s))
        finally:
            if work.close(self._wait_s):
                self._give_back(version, database)

    def look_up(self, entries: Entries, parsed: Parsed, parameters: Parameters) -> Result | None:
        """The result of a query that reads one row by its key. None: the engine has to execute it."""
        schema = self._schemas.get(catalog.version_of(entries))
        assert isinstance(parsed.statement, Query)
        columns, query = (schema.queries.get(parsed.statement.sql) if schema else None) or _UNKNOWN
        if query is None:
            return None
        rows = query.run(entries, parsed.tokens.values_of(parameters))
        return None if rows is None else Result(columns, rows)

    def _write_alone(self, transaction: Transaction, parsed: Parsed, parameters: Parameters) -> Result | None:
        """Execute a statement that changes one row, found by its key. None: the engine has to execute it."""
        schema = self._schemas.get(catalog.version_of(transaction))
        prepared = schema.at_once[-1].prepared.get(parsed.tokens.text) if schema and schema.at_once else None
        written = prepared.run_alone(transaction, parsed.tokens.values_of(parameters)) if prepared else None
        return None if written is None else _result(written, 1)

    def _take(self, entries: Entries, *, at_once: bool) -> tuple[catalog.Version, Database]:
        """One that has the schema of these entries, for `_give_back`. Raises `SqlError`."""
        version = catalog.version_of(entries)
        schema = self._schemas.get(version)
        if schema is not None:
            self._schemas.move_to_end(version)
            idle = schema.idle(at_once=at_once)
            if idle:
                return version, idle.pop()
        version, objects = catalog.read_schema(entries)
        schema = self._schemas.setdefault(version, _Schema())
        self._schemas.move_to_end(version)
        with _errors_as_sql(None):
            return version, Database(objects, Calls(), schema.queries, at_once=at_once)

    def _give_back(self, version: catalog.Version, database: Database) -> None:
        database.source.entries = database.source.turn = None
        schema = self._schemas.get(version)
        idle = schema.idle(at_once=database.at_once) if schema else None
        if idle is None or len(idle) == _DATABASES or database.is_broken:
            database.close()
        else:
            idle.append(database)
        while len(self._schemas) > _DATABASES:
            self._schemas.popitem(last=False)[1].close()


def _begin(database: Database, entries: Entries, tape: Tape, now_ms: int, limit: Limit) -> None:
    """From now on, it reads these entries."""
    database.calls.begin(tape, now_ms)
    database.source.entries, database.source.limit = entries, limit


@contextmanager
def _errors_as_sql(database: Database | None) -> Iterator[None]:
    """Errors of the engine become `SqlError`; `TakesLonger` if they may be those of limits of statements at once."""
    try:
        yield
    except OutOfMemory:
        if database is not None:
            database.is_broken = True
        raise
    except apsw.Error as error:
        if database is not None and database.at_once and limits.is_of_limits_at_once(error):
            raise TakesLonger from error
        if isinstance(error, apsw.NoMemError):
            if database is not None:
                database.is_broken = True
            raise OutOfMemory from error
        if isinstance(error, apsw.InterruptError):
            if database is not None:
                database.is_broken = True  # SQLite may have rolled back its transaction
            raise takes_too_long() from error
        if isinstance(error, (apsw.ConstraintError, apsw.MismatchError)):
            raise ConstraintFailed(str(error)) from error
        raise SqlError(database.authorizer.explain(error) if database else str(error)) from error
    except UnicodeError as error:
        raise SqlError("a text is not valid UTF-8: use BLOB for bytes") from error
    except OverflowError as error:
        raise SqlError(str(error)) from error


def _query(parsed: Parsed, parameters: Parameters, database: Database, limit: Limit) -> Result:
    assert isinstance(parsed.statement, Query)
    sql = parsed.statement.sql
    columns, found = database.execute(sql, bind(parsed.tokens.values_of(parameters)))
    rows = []
    for row in found:
        rows.append(row)
        limit.on_result(row)
    database.note_query(sql, columns)
    return Result(parsed.tokens.with_parameters(columns), rows, reads=limit.steps)


def _result(written: Written, reads: int) -> Result:
    return Result(written.columns, written.rows, written.changes, written.last_id, reads)


def _write(
    database: Database, transaction: Transaction, statement: Write, parsed: Parsed, parameters: Parameters
) -> Written:
    values = parsed.tokens.values_of(parameters)
    match statement:
        case Create():
            defining.create(database, transaction, statement)
        case Drop():
            defining.drop(database, transaction, statement)
        case _:
            text = parsed.tokens.text
            prepared = database.prepared.get(text)
            if prepared is None:
                prepared = writing.prepare(database, statement)
                if len(text) <= limits.KEPT_CHARS:
                    if len(database.prepared) == _PREPARED:
                        database.prepared.clear()
                    database.prepared[text] = prepared
            return prepared.run(transaction, values)
    return Written()
