"""The statements of the log, executed by SQLite itself in the order of the log, make the tables that the stores have.

A command of the log is executed with its tape and its time, and the rows of a transaction are those of the statements
of its request. Where neither is known, as the outcome of the request is not, SQLite gets the content of the store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import apsw

from replicator.position import Offset
from replicator.records.tape import Call, TapeValue
from replicator.server.redis.command import Args
from replicator.sql import catalog
from replicator.sql.engine import SqlEngine
from replicator.sql.parsing import parse
from replicator.steps import finish
from replicator.store.keys import encode_key
from replicator.testing.checks.canonical import Canonical, PresentEntries, is_of_sql
from replicator.testing.checks.execution import Executions, drawn_by, times_in
from replicator.testing.history import History, Request, is_sql

Content = dict[str, Sequence[tuple[object, ...]]]
"""The rows of each table."""


class _Sqlite:
    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._now_ms = 0
        self._database = self._opened()

    def _opened(self) -> apsw.Connection:
        database = apsw.Connection(":memory:")
        database.create_scalar_function("random", self._random, 0)
        database.create_scalar_function("now", self._now, 0)
        return database

    def _random(self, *none: object) -> TapeValue:
        return self._calls.pop(0).result

    def _now(self, *none: object) -> str:
        return f"{datetime.fromtimestamp(self._now_ms // 1000, UTC):%Y-%m-%d %H:%M:%S}"

    def execute(self, statements: Sequence[str], calls: Sequence[Call], now_ms: int) -> str:
        """A statement that fails has no effect. Returns what is wrong with the calls, if anything is."""
        self._calls, self._now_ms = [*calls], now_ms
        for statement in statements:
            try:
                self._database.execute(statement).fetchall()
            except (apsw.ConstraintError, apsw.SQLError):
                pass
            except IndexError:
                return f"{statement} draws more random numbers"
        return f"{len(self._calls)} random numbers are not drawn" if self._calls else ""

    def content(self, tables: Sequence[str]) -> Content:
        present = {name for (name,) in self._database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        return {
            name: self._database.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
            for name in sorted(present | {*tables})
            if name in present
        }

    def replace(self, schema: Sequence[catalog.SchemaObject], content: Content) -> None:
        self._database.close()
        self._database = self._opened()
        for made in schema:
            self._database.execute(made.sql)
        for name, rows in content.items():
            for row in rows:
                self._database.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(row))})", row)


def check(history: History, executions: Executions, canonical: Canonical) -> Iterator[str]:
    requests = {executions.record_of(it): it for it in history.answered() if any(map(is_sql, it.lines))}
    entries, sqlite, engine = PresentEntries(), _Sqlite(), SqlEngine(limited=False)
    for offset, (_, writes) in sorted(canonical.writes.items()):
        changed = False
        for write in writes:
            for table, row, field, _, new in write.changes:
                entries.set(encode_key(table, row, field), new)
                changed = changed or is_of_sql(table)
        if not changed:
            continue
        schema = catalog.read_objects(entries)
        stored = {it.name: _rows(engine, entries, it.name) for it in schema if it.type == "table"}
        known = _executed(offset, canonical, requests, len(writes))
        if known is not None:
            problem = sqlite.execute(*known)
            found = sqlite.content([*stored])
            if not problem and found != stored:
                problem = f"{stored} instead of {found}"
            if problem:
                yield f"at offset {offset} SQLite disagrees: {'; '.join(known[0])}: {problem}"
        sqlite.replace(schema, stored)


def _rows(engine: SqlEngine, entries: PresentEntries, table: str) -> Sequence[tuple[object, ...]]:
    result = finish(engine.query(entries, parse(f"SELECT * FROM {table} ORDER BY id"), (), 0))
    return [tuple(row) for row in result.rows]


def _executed(
    offset: Offset, canonical: Canonical, requests: dict[Offset | None, Request], transactions: int
) -> tuple[list[str], Sequence[Call], int] | None:
    """The statements of a record, their calls and their time; None if they are not known."""
    command = canonical.commands.get(offset)
    if command is not None:
        return _statements([[*line] for line in command.lines]), command.tape, command.now_ms
    request = requests.get(offset)
    if request is None or transactions > 1:
        return None
    return _statements(request.lines), drawn_by(request), max(times_in(request), default=0)


def _statements(lines: Sequence[Args]) -> list[str]:
    """Without those that only read."""
    found = [line[line.index(b"REPL.SQL") + 1].decode() for line in lines if b"REPL.SQL" in line]
    return [it for it in found if not it.startswith("SELECT")]
