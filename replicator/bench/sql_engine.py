"""SQL in this process, without a server: scans of a store, and single rows by their key, next to SQLite in memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw

from replicator.bench.raw_rates import iteration_rate
from replicator.bench.sql_table import COLUMNS, CREATE, SELECT, UPDATE, fill_statements
from replicator.limits import MAX_SQL_WAIT_MS
from replicator.records.tape import Recorder
from replicator.records.types import Write
from replicator.sql.engine import Result, SqlEngine
from replicator.sql.parsing import parse
from replicator.steps import finish
from replicator.store.machine import Machine, open_machine
from replicator.store.view import Overlay, Transaction

STATEMENTS = 20_000
APPLIED_TOGETHER = 100  # transactions
NOW_MS = 1_700_000_000_000


@dataclass(frozen=True, slots=True)
class EngineRates:
    rows: int  # of the table, with 5 columns
    sum_fields_per_s: float  # of SELECT sum(…) of each column
    fetch_fields_per_s: float  # of SELECT *
    iteration_per_s: float  # entries of the same store, read by LMDB's cursor and nothing else
    sum_ratio: float  # rows a second of SELECT sum(…), as a part of `iteration_per_s`
    fetch_ratio: float  # the same of SELECT *
    selects_per_s: float  # of one row by its key
    updates_per_s: float  # the same, and applied to the store
    sqlite_selects_per_s: float  # SQLite in memory
    sqlite_updates_per_s: float
    select_ratio: float  # `selects_per_s`, as a part of that of SQLite
    update_ratio: float


def measure_engine(rows: int, statements: int = STATEMENTS) -> EngineRates:
    with tempfile.TemporaryDirectory(prefix="replicator-bench-", ignore_cleanup_errors=True) as name:
        store = Path(name) / "store"
        subject = _Subject(open_machine(store, "bench", "bench"), rows)
        sums = ", ".join(f"sum({it})" for it in COLUMNS)
        sum_per_s = rows / _seconds(lambda: subject.query(f"SELECT {sums} FROM t"))
        fetch_per_s = rows / _seconds(lambda: subject.query("SELECT * FROM t"))
        selects_per_s = statements / _seconds(lambda: subject.select_rows(statements))
        updates_per_s = statements / _seconds(lambda: subject.update_rows(statements))
        subject.close()
        iteration_per_s = iteration_rate(store)
    plain = _sqlite(rows)
    plain_selects_per_s = statements / _seconds(lambda: _repeat(plain, SELECT, lambda it: (it % rows,), statements))
    plain_updates_per_s = statements / _seconds(lambda: _repeat(plain, UPDATE, lambda it: (it, it % rows), statements))
    return EngineRates(
        rows=rows,
        sum_fields_per_s=sum_per_s * len(COLUMNS),
        fetch_fields_per_s=fetch_per_s * len(COLUMNS),
        iteration_per_s=iteration_per_s,
        sum_ratio=sum_per_s / iteration_per_s,
        fetch_ratio=fetch_per_s / iteration_per_s,
        selects_per_s=selects_per_s,
        updates_per_s=updates_per_s,
        sqlite_selects_per_s=plain_selects_per_s,
        sqlite_updates_per_s=plain_updates_per_s,
        select_ratio=selects_per_s / plain_selects_per_s,
        update_ratio=updates_per_s / plain_updates_per_s,
    )


class _Subject:
    """A store with the table."""

    def __init__(self, machine: Machine, rows: int) -> None:
        self._machine = machine
        self._engine = SqlEngine(wait_s=MAX_SQL_WAIT_MS / 1000)
        self._overlay = Overlay(machine.view)
        self._rows = rows
        for statement in (CREATE, *fill_statements(rows)):
            self._apply([self._executed(statement)])

    def close(self) -> None:
        self._machine.close()

    def query(self, statement: str, *parameters: int) -> Result:
        return finish(self._engine.query(self._machine.view, parse(statement), parameters, NOW_MS))

    def select_rows(self, count: int) -> None:
        for number in range(count):
            self.query(SELECT, number % self._rows)

    def update_rows(self, count: int) -> None:
        for first in range(0, count, APPLIED_TOGETHER):
            numbers = range(first, min(first + APPLIED_TOGETHER, count))
            self._apply([self._executed(UPDATE, number, number % self._rows) for number in numbers])

    def _executed(self, statement: str, *parameters: int) -> Transaction:
        transaction = Transaction(self._overlay)
        finish(self._engine.execute(transaction, Recorder(), NOW_MS, parse(statement), parameters))
        self._overlay.push(transaction.changes)
        return transaction

    def _apply(self, transactions: list[Transaction]) -> None:
        self._machine.apply([Write(tuple(it.changes.values())) for it in transactions], self._machine.state)
        self._overlay.clear()


def _sqlite(rows: int) -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    for statement in (CREATE, *fill_statements(rows)):
        connection.execute(statement)
    return connection


def _repeat(connection: apsw.Connection, statement: str, values: Callable[[int], Any], count: int) -> None:
    for number in range(count):
        connection.execute(statement, values(number)).fetchall()


def _seconds(work: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s
