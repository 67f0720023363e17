"""Executes SQL statements on a view of the store, or in a transaction. One engine for each node."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import apsw

from replicator.limits import MAX_SQL_MS, MAX_SQL_READ_S
from replicator.records.tape import Recorder, Tape
from replicator.sql import catalog, defining, writing
from replicator.sql.database import Database, ResultColumn
from replicator.sql.errors import ConstraintFailed, SqlError
from replicator.sql.functions import Calls
from replicator.sql.statement import Control, Create, Drop, Parsed, Query, Write
from replicator.sql.stepping import Pause, in_steps
from replicator.sql.tokens import Parameters
from replicator.sql.values import SqlValue
from replicator.sql.writing import Written
from replicator.store.view import Entries, Transaction, TransactionTooLarge

_DATABASES = 4
_PREPARED = 500  # statements that write, of a database
_ROWS = 20
"""That are read between two calls."""
_ROWS_AT_ONCE = 100
"""A query that reads more is executed in steps."""


@dataclass(frozen=True, slots=True)
class Result:
    columns: Sequence[ResultColumn]  # empty: the statement returns no rows
    rows: Sequence[tuple[SqlValue, ...]]
    changes: int = 0  # rows inserted, updated or deleted
    last_id: int | None = None  # rowid of the last row that was inserted
    reads: int = 0  # rows that were read or written, or what takes as long


class SqlEngine:
    def __init__(
        self,
        *,
        limited: bool = True,
        clock: Callable[[], float] = time.monotonic,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """Unless it is `limited`, a statement that writes is executed in one step, however long that takes."""
        self._limited = limited
        self._clock = clock
        self._cpu_clock = cpu_clock
        self._databases: OrderedDict[catalog.Version, list[Database]] = OrderedDict()
        """Those that execute nothing, by the version of their schema."""

    def query(self, view: Entries, parsed: Parsed, parameters: Parameters, now_ms: int) -> Generator[int, None, Result]:
        """A query, in steps (`server.redis.turns.Steps`). Raises `SqlError`, and what the view does."""
        try:
            return self._query(view, Recorder(), now_ms, parsed, parameters, _RowLimit())
        except _TakesLonger:
            pass

        def work(pause: Pause) -> Result:
            return self._query(view, Recorder(), now_ms, parsed, parameters, _Steps(pause, self._clock))

        return (yield from _spread(in_steps(work)))

    def execute(
        self, transaction: Transaction, tape: Tape, now_ms: int, parsed: Parsed, parameters: Parameters
    ) -> Generator[int, None, Result]:
        """Any statement but those that control transactions, in steps. `now_ms`: the time that it sees.

        Other code may change what the transaction reads only between two steps. Raises `SqlError`,
        `TransactionTooLarge`: a part of the changes may be in the transaction then, and of its calls on the tape.
        """
        statement = parsed.statement
        if isinstance(statement, Control):
            raise SqlError(f"{statement.action.value} is not allowed here")

        def run(limit: _Limit) -> Result:
            if isinstance(statement, Query):
                return self._query(transaction, tape, now_ms, parsed, parameters, limit)
            with self._database(transaction, tape, now_ms, limit) as database:
                written = _write(database, transaction, statement, parsed, parameters)
                return Result(written.columns, written.rows, written.changes, written.last_id, limit.steps)

        if not self._limited:
            return run(_NoLimit())
        mark, calls = transaction.mark(), tape.mark()
        try:
            return run(_RowLimit())
        except _TakesLonger:
            transaction.roll_back_to(mark)
            tape.cut(calls)
        return (yield from _spread(in_steps(lambda pause: run(_WriteSteps(pause, self._cpu_clock)))))

    def _query(
        self, entries: Entries, tape: Tape, now_ms: int, parsed: Parsed, parameters: Parameters, limit: _Limit
    ) -> Result:
        assert isinstance(parsed.statement, Query)
        with self._database(entries, tape, now_ms, limit) as database:
            columns, found = database.execute(parsed.statement.sql, parsed.tokens.bind(parameters))
            rows = []
            for row in found:
                rows.append(row)
                limit.on_result(row)
            return Result(columns, rows, reads=limit.steps)

    @contextmanager
    def _database(self, entries: Entries, tape: Tape, now_ms: int, limit: _Limit) -> Iterator[Database]:
        """One that reads these entries. Errors of the engine become `SqlError`."""
        version = catalog.version_of(entries)
        idle = self._databases.setdefault(version, [])
        self._databases.move_to_end(version)
        database: Database | None = None
        try:
            database = idle.pop() if idle else Database(catalog.read_objects(entries), Calls())
            database.calls.begin(tape, now_ms)
            source = database.source
            source.entries, source.on_row, source.on_write = entries, limit.on_row, limit.on_write
            source.on_instructions = limit.on_instructions
            yield database
        except (apsw.ConstraintError, apsw.MismatchError) as error:
            raise ConstraintFailed(str(error)) from error
        except apsw.AuthError as error:
            raise SqlError((database.authorizer.refusal if database else None) or str(error)) from error
        except (apsw.Error, OverflowError, UnicodeError, TypeError) as error:
            raise SqlError(str(error)) from error
        finally:
            if database is not None:
                database.source.entries = None
                self._give_back(version, database)

    def _give_back(self, version: catalog.Version, database: Database) -> None:
        idle = self._databases.get(version)
        if idle is None or len(idle) == _DATABASES:
            database.close()
        else:
            idle.append(database)
        while len(self._databases) > _DATABASES:
            for other in self._databases.popitem(last=False)[1]:
                other.close()


def _spread(steps: Generator[int, None, Result]) -> Generator[int, None, Result]:
    """A step is one row, or what takes as long: `steps` pauses after several."""
    try:
        while True:
            yield next(steps)
            for _ in range(_ROWS - 1):
                yield 0
    except StopIteration as end:
        result: Result = end.value
        return result
    finally:
        steps.close()


def _write(
    database: Database, transaction: Transaction, statement: Write, parsed: Parsed, parameters: Parameters
) -> Written:
    bindings = parsed.tokens.bind(parameters)
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
                if len(database.prepared) == _PREPARED:
                    database.prepared.clear()
                database.prepared[text] = prepared
            return prepared.run(transaction, bindings)
    return Written()


class _TakesLonger(Exception):
    """The query is to be executed in steps."""


class _Limit:
    """What happens while a statement is executed. What its methods raise ends the statement."""

    def __init__(self) -> None:
        self.steps = 0  # rows that were read or written, or what takes as long

    def on_row(self) -> None:
        """A row was read."""
        self.steps += 1
        if self.steps % _ROWS == 0:
            self.check()

    def on_write(self) -> None:
        """A row is to be written, and nothing is being read."""
        self.on_row()

    def on_instructions(self) -> bool:
        """The engine has computed for a while. False: it goes on."""
        self.steps += _ROWS
        self.check()
        return False

    def on_result(self, row: Sequence[SqlValue]) -> None:
        """A row of the result was added."""

    def check(self) -> None:
        raise NotImplementedError


class _RowLimit(_Limit):
    """Of a query that is executed at once."""

    def on_instructions(self) -> bool:
        raise _TakesLonger

    def check(self) -> None:
        if self.steps >= _ROWS_AT_ONCE:
            raise _TakesLonger


class _Steps(_Limit):
    """Of a query that is executed in steps."""

    def __init__(self, pause: Pause, clock: Callable[[], float]) -> None:
        super().__init__()
        self._pause = pause
        self._clock = clock
        self._until_s = clock() + MAX_SQL_READ_S
        self._size = 0

    def on_result(self, row: Sequence[SqlValue]) -> None:
        self._size += 16 * len(row) + sum(len(it) for it in row if isinstance(it, (str, bytes)))

    def check(self) -> None:
        if self._clock() > self._until_s:
            raise SqlError(f"the query takes more than {MAX_SQL_READ_S} s: it was cancelled")
        size, self._size = self._size, 0
        self._pause(size)


class _WriteSteps(_Limit):
    """Of a statement that writes, and is executed in steps. What it writes is read before, in one step."""

    def __init__(self, pause: Pause, cpu_clock: Callable[[], float]) -> None:
        super().__init__()
        self._pause = pause
        self._clock = cpu_clock
        self._until_s = cpu_clock() + MAX_SQL_MS / 1000

    def on_write(self) -> None:
        self.steps += 1
        if self.steps % _ROWS == 0:
            self._pause(0)
            self._until_s = self._clock() + MAX_SQL_MS / 1000

    def check(self) -> None:
        if self._clock() > self._until_s:
            raise TransactionTooLarge(
                f"a statement that writes may read for {MAX_SQL_MS} ms, in which no other client is served: divide it, "
                "or let an index select the rows"
            )


class _NoLimit(_Limit):
    def check(self) -> None:
        pass
