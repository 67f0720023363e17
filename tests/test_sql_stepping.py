"""SQL on threads: who runs when, and what is too long to run at once."""

from __future__ import annotations

import gc
import weakref
from _thread import allocate_lock
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import apsw
import pytest

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_SQL_S
from replicator.records.tape import Recorder
from replicator.sql import functions, limits, stepping
from replicator.sql.database import Database
from replicator.sql.engine import Result, SqlEngine
from replicator.sql.errors import OutOfMemory, SqlError
from replicator.sql.parsing import parse
from replicator.sql.stepping import MAX_ABANDONED, Turn, Work, wait_for_thread
from replicator.steps import finish
from replicator.store.tracking import TrackedEntries
from replicator.store.view import Transaction
from tests.sql_fixture import NOW_MS, MemoryDatabase

WAIT_S = 0.000_1
LARGE = "[" + "1," * 400_000 + "1]"
ON_THREAD = ", (SELECT 1)"
"""It makes a query one that is not executed at once."""


class Computing:
    """Work that computes in C until the test lets it go on."""

    def __init__(self, work: Callable[[Turn], str]) -> None:
        self.lock = allocate_lock()
        self.lock.acquire()
        self.begun = self.interrupted = self.discarded = False
        self._ended = allocate_lock()
        self._ended.acquire()
        self._work = work
        self.is_overdue = False
        self.work = Work(self._run, self._interrupt, self._discard, lambda: self.is_overdue)

    def _run(self, turn: Turn) -> str:
        self.begun = True
        turn.outside(self.lock.acquire)
        return self._work(turn)

    def _interrupt(self) -> None:
        self.interrupted = True
        self.lock.release()

    def _discard(self) -> None:
        self.discarded = True
        self._ended.release()

    def wait_for_end(self) -> None:
        assert self._ended.acquire(timeout=60)


def test_steps_end_while_c_code_computes_and_then_it_waits_for_a_turn() -> None:
    done = []

    def work(turn: Turn) -> str:
        done.append("work")
        turn.pause(7)
        return "result"

    computing = Computing(work)
    steps = computing.work.run(WAIT_S)
    assert [next(steps) for _ in range(20)] == [0] * 20
    computing.lock.release()
    for _ in range(100_000):
        assert done == []  # without a turn, however much time passes
    sizes = []
    with pytest.raises(StopIteration) as end:
        while True:
            sizes.append(next(steps))
    assert end.value.value == "result" and sum(sizes) == 7
    assert computing.work.close(WAIT_S)


def test_closing_does_not_wait_for_c_code() -> None:
    done: list[str] = []

    def work(turn: Turn) -> str:
        done.append("work")
        return ""

    computing = Computing(work)
    steps = computing.work.run(WAIT_S)
    next(steps)
    assert not computing.work.close(WAIT_S)
    assert computing.interrupted
    computing.wait_for_end()
    assert computing.discarded and done == []


def test_overdue_work_is_interrupted_while_it_computes() -> None:
    computing = Computing(lambda turn: "interrupted")
    steps = computing.work.run(WAIT_S)
    next(steps)
    assert not computing.interrupted
    computing.is_overdue = True
    assert finish(steps) == "interrupted" and computing.interrupted


def test_closing_ends_work_that_has_paused() -> None:
    ended = []

    def work(turn: Turn) -> str:
        try:
            while True:
                turn.pause(1)
        finally:
            ended.append(True)

    work_ = Work(work, lambda: None, lambda: None, lambda: False)
    steps = work_.run(None)
    assert [next(steps) for _ in range(5)] == [1] * 5
    assert work_.close(None) and ended == [True]


def test_closed_work_needs_no_garbage_collection() -> None:
    def work(turn: Turn) -> str:
        while True:
            turn.pause(1)

    gc.disable()
    try:
        work_ = Work(work, lambda: None, lambda: None, lambda: False)
        steps = work_.run(None)
        next(steps)
        left = weakref.ref(work_)
        assert work_.close(None)
        steps.close()
        del work_, steps
        assert left() is None
    finally:
        gc.enable()


def test_what_has_failed_needs_no_memory() -> None:
    """Although its error, and what that comes from, is kept."""

    class Large:
        pass

    left: list[weakref.ref[Large]] = []

    def fail() -> None:
        large = Large()
        left.append(weakref.ref(large))
        raise ValueError

    def work(turn: Turn) -> str:
        large = Large()
        left.append(weakref.ref(large))
        try:
            fail()
        except ValueError as error:
            raise SqlError("refused") from error
        return ""

    work_ = Work(work, lambda: None, lambda: None, lambda: False)
    with pytest.raises(SqlError) as failure:
        finish(work_.run(WAIT_S))
    assert work_.close(WAIT_S)
    assert isinstance(failure.value.__cause__, ValueError)
    assert [it() for it in left] == [None, None]


def test_work_goes_on_after_no_thread_could_be_started(
    database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without:
        without.setattr(stepping, "start_new_thread", none)
        without.setattr(stepping, "_idle", [])
        for _ in range(MAX_ABANDONED + 1):
            with pytest.raises(OutOfMemory):
                database.query("SELECT 1" + ON_THREAD)
            with pytest.raises(TransactionTooLarge):
                database.run("UPDATE t SET b = a WHERE a IN (SELECT 1 FROM v)")
    assert [*database.query("SELECT 1" + ON_THREAD).rows] == [(1, 1)]


def test_few_threads_compute_for_nobody() -> None:
    class Uninterrupted(Computing):
        def _interrupt(self) -> None:
            pass

    left = [Uninterrupted(lambda turn: "") for _ in range(MAX_ABANDONED)]
    for it in left:
        steps = it.work.run(WAIT_S)
        while not it.begun:
            next(steps)
        assert not it.work.close(WAIT_S)
    waiting = wait_for_thread(0)
    assert [next(waiting) for _ in range(20)] == [0] * 20
    for it in left:
        it.lock.release()
        it.wait_for_end()
    finish(waiting)


def test_an_error_of_the_work_is_raised_by_the_step() -> None:
    def work(turn: Turn) -> str:
        turn.pause(1)
        raise SqlError("refused")

    steps = Work(work, lambda: None, lambda: None, lambda: False).run(None)
    assert next(steps) == 1
    with pytest.raises(SqlError, match="refused"):
        next(steps)


@pytest.fixture
def database() -> MemoryDatabase:
    database = MemoryDatabase()
    database.engine._wait_s = WAIT_S
    database.run("CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)")
    database.run("CREATE VIEW v AS SELECT a + a AS a FROM t")
    database.run("INSERT INTO t VALUES (1, 'x')")
    database.run("INSERT INTO t VALUES (2, ?)", (LARGE[:300_000],))
    return database


def on_threads(database: MemoryDatabase) -> Database:
    """The database for the next statement on a thread."""
    database.query("SELECT 1" + ON_THREAD)
    [*_, schema] = database.engine._schemas.values()
    return schema.of_threads[-1]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The function `compute` may be called."""
    monkeypatch.setattr(functions, "ALLOWED", functions.ALLOWED | {"compute"})


@pytest.mark.usefixtures("allowed")
def test_others_are_served_while_a_function_of_sqlite_computes(database: MemoryDatabase) -> None:
    lock = allocate_lock()
    lock.acquire()
    on_threads(database).connection.create_scalar_function("compute", lambda *arguments: lock.acquire(), 0)
    steps = database.engine.query(database.entries, parse(f"SELECT compute(), b{ON_THREAD} FROM t WHERE a = 1"), (), 0)
    for number in range(20):
        assert next(steps) == 0
        database.run("INSERT INTO t VALUES (?, 'y')", (100 + number,))
        assert database.rows("SELECT count(*)" + ON_THREAD + " FROM t") == [(3 + number, 1)]
    lock.release()
    assert finish(steps).rows == [(1, "x", 1)]


@pytest.mark.usefixtures("allowed")
def test_a_query_that_is_cancelled_while_a_function_computes(database: MemoryDatabase) -> None:
    lock = allocate_lock()
    lock.acquire()
    used = on_threads(database)
    used.connection.create_scalar_function("compute", lambda *arguments: lock.acquire(), 0)
    steps = database.engine.query(database.entries, parse(f"SELECT compute(), b{ON_THREAD} FROM t"), (), 0)
    for _ in range(3):
        next(steps)
    read = database.entries.read
    steps.close()
    lock.release()
    assert on_threads(database) is not used
    assert database.rows("SELECT count(*) FROM t") == [(2,)]
    assert database.entries.read - read < 20


def test_a_query_is_cancelled_in_time_though_functions_of_sqlite_take_long() -> None:
    now_s = 0.0
    database = MemoryDatabase()
    database.engine = SqlEngine(wait_s=WAIT_S, clock=lambda: now_s)
    few = "WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 50) SELECT ?1 GLOB ?2 FROM n"
    steps = database.engine.query(database.entries, parse(few), ("a" * 100_000, "*" + "[a-z]" * 48 + "b"), NOW_MS)
    for _ in range(3):
        next(steps)
    now_s = MAX_SQL_S + 1
    with pytest.raises(SqlError, match="takes more than 60 s"):
        finish(steps)
    assert database.rows("SELECT 1" + ON_THREAD) == [(1, 1)]


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (f"SELECT {', '.join(['json_valid(?1)'] * 50)}", (LARGE,)),
        ("SELECT ?1 GLOB ?2", ("a" * 1_000_000, "*" + "[a-z]" * 48 + "b")),
        ("SELECT ?1 LIKE ?2", ("a" * 1_000, "%" + "_" * 240 + "b")),
        (f"SELECT {'+'.join(['length(hex(?1))'] * 60)}", ("a" * 500_000,)),
        (f"SELECT {'+'.join(['length(hex(zeroblob(400000)))'] * 20)}", ()),
        (f"SELECT {'+'.join(['abs(a)'] * 20)} AS y FROM t WHERE {'+'.join(['y'] * 100)}", ()),
        ("SELECT b FROM t WHERE a = 2", ()),
        ("SELECT a FROM v", ()),
        ("SELECT *, * FROM t WHERE a = 1", ()),
        ("SELECT x FROM (SELECT 1 AS x)", ()),
        ("WITH n AS (VALUES (1)) VALUES (1)", ()),
    ],
)
def test_what_may_take_long_is_not_executed_at_once(
    database: MemoryDatabase, query: str, parameters: tuple[Any, ...]
) -> None:
    """At once, the first step is the last one, and nothing ends it."""
    steps = database.engine.query(database.entries, parse(query), parameters, NOW_MS)
    assert next(steps) == 0
    steps.close()


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("SELECT a, length(b) + ? FROM t WHERE a = 1", (1,)),
        ("SELECT upper(b), json_extract('[1,2]', '$[1]'), now(), replace('aa', 'a', 'b') FROM t WHERE a < 2", ()),
        ("INSERT INTO t (b) VALUES (?) RETURNING a", ("new",)),
        ("UPDATE t SET b = b || 'z' WHERE a = 1 RETURNING *", ()),
        ("DELETE FROM t WHERE a = 1 AND b LIKE 'x%'", ()),
    ],
)
def test_what_is_short_is_executed_at_once_with_the_same_result(
    database: MemoryDatabase, query: str, parameters: tuple[Any, ...]
) -> None:
    def run(*, at_once: bool) -> tuple[Any, int]:
        parsed = replace(parse(query), may_run_at_once=at_once)
        steps = database.engine.execute(Transaction(database.entries), Recorder(), NOW_MS, parsed, parameters)
        found = 0
        try:
            while True:
                next(steps)
                found += 1
        except StopIteration as end:
            return end.value[:4], found

    (result, steps_at_once), (again, steps) = run(at_once=True), run(at_once=False)
    assert result == again
    assert steps_at_once == 0 < steps


def query_on_thread(database: MemoryDatabase, query: str) -> tuple[Result, int]:
    """The result, and the number of entries that were read for it."""
    before = database.entries.read
    parsed = replace(parse(query), may_run_at_once=False)
    result = finish(database.engine.query(database.entries, parsed, (), NOW_MS))
    return result, database.entries.read - before


def test_few_rows_are_read_ahead_for_a_query_that_wants_few(database: MemoryDatabase) -> None:
    database.run(f"INSERT INTO t (b) VALUES {', '.join(['(1)'] * 200)}")
    _, nothing = query_on_thread(database, "SELECT 1")
    for wanted in (1, 2, 5, 30):
        _, read = query_on_thread(database, f"SELECT *, 1 FROM t ORDER BY a LIMIT {wanted}")
        assert read - nothing <= 2 * wanted


def test_the_tables_of_a_join_share_the_rows_that_are_read_ahead(database: MemoryDatabase) -> None:
    """A row may have megabytes."""
    database.run(f"INSERT INTO t (b) VALUES {', '.join(f'({it})' for it in range(200))}")
    tables = [f"t{it}" for it in range(30)]
    found = " AND ".join(f"{it}.b || '' = '17'" for it in tables)
    query = f"SELECT 1 FROM {', '.join(f't AS {it}' for it in tables)} WHERE {found} LIMIT 1"
    for _ in range(2):
        result, read = query_on_thread(database, query)
        assert len(result.rows) == 1
        assert read < len(tables) * 22
    [*_, schema] = database.engine._schemas.values()
    assert [it.source.cursors for it in schema.of_threads] == [0]


def test_what_is_compared_at_the_end_of_a_transaction_is_not_read_ahead(database: MemoryDatabase) -> None:
    database.run(f"INSERT INTO t (b) VALUES {', '.join(['(1)'] * 200)}")
    reads = TrackedEntries()
    reads.base = Transaction(database.entries)
    parsed = replace(parse("SELECT *, 1 FROM t ORDER BY a LIMIT 30"), may_run_at_once=False)
    transaction = Transaction(reads, is_stable=False)
    finish(database.engine.execute(transaction, Recorder(), NOW_MS, parsed, ()))
    assert reads.unchanged(Transaction(database.entries))
    database.run("DELETE FROM t WHERE a = 31")
    assert reads.unchanged(Transaction(database.entries))
    database.run("DELETE FROM t WHERE a = 30")
    assert not reads.unchanged(Transaction(database.entries))


def test_rows_that_were_read_ahead_are_forgotten_when_a_scan_begins_again(database: MemoryDatabase) -> None:
    database.run(f"INSERT INTO t (b) VALUES {', '.join(f'({it})' for it in range(200))}")
    first = "(SELECT b FROM t AS u WHERE u.a >= t.a ORDER BY u.a LIMIT 5)"
    query = f"SELECT b, (SELECT sum(b) FROM {first}) FROM t ORDER BY a LIMIT 100 OFFSET 2"
    result, _ = query_on_thread(database, query)
    assert [*result.rows] == [(str(it), sum(range(it, it + 5))) for it in range(100)]


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(limits, "MAX_SQL_MEMORY_BYTES", apsw.memory_used() + (8 << 20))
    limits._set_heap_limit()
    yield
    monkeypatch.undo()
    limits._set_heap_limit()


NEEDS_MUCH = "+".join(f"(a <> hex(zeroblob({500_000 - number})))" for number in range(10))


def test_a_long_message_is_not_lost_at_once(database: MemoryDatabase) -> None:
    with pytest.raises(SqlError, match="no such column"):
        database.query(f'SELECT "{"é" * 600}" FROM t WHERE a = 1')


@pytest.mark.usefixtures("little_memory")
def test_out_of_memory_a_query_fails_and_a_transaction_ends(database: MemoryDatabase) -> None:
    """An error reply would be logged with the other commands, and other replicas might execute the statement."""
    with pytest.raises(OutOfMemory):
        database.query(f"SELECT {NEEDS_MUCH} FROM t")
    with pytest.raises(TransactionTooLarge, match="out of memory"):
        database.run(f"INSERT INTO t (b) SELECT {NEEDS_MUCH} FROM t")
    assert database.run("INSERT INTO t (b) VALUES ('small')").changes == 1


def test_a_statement_that_was_out_of_memory_leaves_it_at_once(
    database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without garbage collection: other statements need it."""
    monkeypatch.setattr("replicator.sql.engine.MAX_SQL_QUERY_MEMORY_BYTES", apsw.memory_used() + (4 << 20))
    numbers = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 10000)"
    query = f"{numbers} SELECT count(*) FROM n WHERE {NEEDS_MUCH.replace('(a', '(x')}"
    before = apsw.memory_used()
    gc.disable()
    try:
        for _ in range(5):
            with pytest.raises(OutOfMemory):
                database.query(query)
            assert apsw.memory_used() < before + (1 << 20)
    finally:
        gc.enable()


@pytest.mark.usefixtures("little_memory")
def test_a_replica_has_more_memory_than_the_leader_had(database: MemoryDatabase) -> None:
    database.engine = SqlEngine(limited=False)
    assert database.run(f"INSERT INTO t (b) SELECT {NEEDS_MUCH} FROM t").changes == 2
    assert database.rows("SELECT b FROM t WHERE a > 2") == [("10",), ("10",)]
    assert apsw.hard_heap_limit(-1) == limits.MAX_SQL_MEMORY_BYTES  # type: ignore[attr-defined]


def test_queries_leave_memory_to_writes(database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.sql.engine.MAX_SQL_QUERY_MEMORY_BYTES", apsw.memory_used() + (4 << 20))
    numbers = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 1000)"
    sort = f"{numbers} SELECT count(*) FROM (SELECT x FROM n ORDER BY hex(zeroblob(10000)) || x LIMIT 1000)"
    with pytest.raises(OutOfMemory):
        database.query(sort)
    assert database.rows(sort) == [(1000,)]


def test_what_does_not_fit_into_a_cache_is_in_memory_not_in_files(database: MemoryDatabase) -> None:
    used = on_threads(database)
    with used.authorizer.internal():
        assert used.connection.execute("PRAGMA temp_store").get == 2


def test_no_memory_for_another_database_is_not_an_error_of_the_statement(
    database: MemoryDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be logged with the other commands of the transaction, and replicas might execute the statement."""

    def opened(*args: Any, at_once: bool, **kwargs: Any) -> Database:
        if at_once:
            raise apsw.NoMemError
        return Database(*args, at_once=at_once, **kwargs)

    database.engine = SqlEngine()
    monkeypatch.setattr("replicator.sql.engine.Database", opened)
    assert database.run("INSERT INTO t (b) VALUES ('small')").changes == 1
