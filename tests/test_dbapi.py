"""The module of PEP 249: what the PEP demands, transactions, and faults."""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from replicator.client import dbapi, sync
from replicator.client.dbapi.connection import Connection
from replicator.client.dbapi.settings import ConnectionSettings, Isolation, parse_settings
from replicator.client.dbapi.transaction import PIPELINED
from replicator.errors import BadRequest, ConfigError
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from tests.fake_sql_server import PASSWORD, FakeSqlCluster, Lose

BEERS = ["Augustiner", 'Cooper\'s "Original"', "Guinness", "O'Hara's", "Victoria?", ":name"]


@pytest.fixture
def connection(dsn: str) -> Iterator[Connection]:
    connection = dbapi.connect(dsn)
    connection.execute("CREATE TABLE beers (id INTEGER PRIMARY KEY, name VARCHAR(20) UNIQUE, data BLOB, at TIMESTAMP)")
    connection.commit()
    yield connection
    connection.close()


@pytest.fixture
def cursor(connection: Connection) -> dbapi.Cursor:
    return connection.cursor()


@pytest.fixture
def other(dsn: str) -> Iterator[Connection]:
    """Another connection, which is in autocommit mode."""
    with_autocommit = dbapi.connect(dsn, autocommit=True)
    yield with_autocommit
    with_autocommit.close()


def fill(cursor: dbapi.Cursor) -> None:
    cursor.executemany("INSERT INTO beers (name) VALUES (?)", [(beer,) for beer in BEERS])


def names(connection: Connection) -> list[Any]:
    return [name for (name,) in connection.execute("SELECT name FROM beers ORDER BY id")]


class TestModule:
    def test_globals(self) -> None:
        assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 1, "qmark")

    def test_exceptions(self) -> None:
        assert issubclass(dbapi.Warning, Exception) and issubclass(dbapi.Error, Exception)
        assert not issubclass(dbapi.Warning, dbapi.Error)
        assert issubclass(dbapi.InterfaceError, dbapi.Error) and issubclass(dbapi.DatabaseError, dbapi.Error)
        for name in ("Data", "Operational", "Integrity", "Internal", "Programming", "NotSupported"):
            assert issubclass(getattr(dbapi, f"{name}Error"), dbapi.DatabaseError)
        assert issubclass(dbapi.ConflictError, dbapi.OperationalError)
        assert issubclass(dbapi.UnknownOutcomeError, dbapi.OperationalError)

    def test_exceptions_are_attributes_of_connections(self, connection: Connection) -> None:
        for name in ("Interface", "Database", "Data", "Operational", "Integrity", "Internal", "Programming"):
            assert getattr(connection, f"{name}Error") is getattr(dbapi, f"{name}Error")
        assert (connection.Warning, connection.Error) == (dbapi.Warning, dbapi.Error)
        assert connection.NotSupportedError is dbapi.NotSupportedError

    def test_constructors(self) -> None:
        assert dbapi.Date(2026, 1, 31) == datetime.date(2026, 1, 31)
        assert dbapi.Time(12, 30, 15) == datetime.time(12, 30, 15)
        moment = datetime.datetime(2026, 1, 31, 12, 30, 15)
        assert dbapi.Timestamp(2026, 1, 31, 12, 30, 15) == moment
        ticks = moment.timestamp()
        assert dbapi.DateFromTicks(ticks) == moment.date()
        assert dbapi.TimeFromTicks(ticks) == moment.time()
        assert dbapi.TimestampFromTicks(ticks) == moment
        assert dbapi.Binary(bytearray(b"a\0")) == b"a\0" and dbapi.Binary(b"") == b""

    def test_type_objects_equal_the_codes_of_their_columns(self, cursor: dbapi.Cursor) -> None:
        cursor.execute("SELECT id, name, data, at, 1 FROM beers")
        number, string, binary, moment, expression = (column[1] for column in cursor.description or ())
        assert number == dbapi.NUMBER and string == dbapi.STRING and binary == dbapi.BINARY
        assert moment == dbapi.DATETIME != dbapi.NUMBER
        assert expression is None and expression != dbapi.ROWID
        assert dbapi.STRING == dbapi.STRING != dbapi.BINARY


class TestCursor:
    def test_description(self, cursor: dbapi.Cursor) -> None:
        assert cursor.description is None
        cursor.execute("CREATE TABLE t (a)")
        assert cursor.description is None
        cursor.execute("SELECT name, id AS key FROM beers WHERE 0")
        none = (None,) * 5
        assert cursor.description == (("name", "VARCHAR(20)", *none), ("key", "INTEGER", *none))
        cursor.execute("INSERT INTO beers (name) VALUES ('a')")
        assert cursor.description is None

    def test_rowcount(self, cursor: dbapi.Cursor) -> None:
        assert cursor.rowcount == -1
        cursor.execute("CREATE TABLE t (a)")
        assert cursor.rowcount == -1
        fill(cursor)
        assert cursor.rowcount == len(BEERS)
        cursor.execute("SELECT * FROM beers")
        assert cursor.rowcount == -1
        cursor.execute("UPDATE beers SET data = 1 WHERE id > 1")
        assert cursor.rowcount == len(BEERS) - 1
        cursor.execute("DELETE FROM beers WHERE 0")
        assert cursor.rowcount == 0
        cursor.executemany("DELETE FROM beers WHERE id = ?", [])
        assert cursor.rowcount == 0

    def test_lastrowid(self, cursor: dbapi.Cursor) -> None:
        assert cursor.lastrowid is None
        assert cursor.execute("INSERT INTO beers (name) VALUES ('a'), ('b')").lastrowid == 2
        assert cursor.execute("SELECT 1").lastrowid is None

    @pytest.mark.parametrize("beer", BEERS)
    def test_parameters_are_not_part_of_the_statement(self, cursor: dbapi.Cursor, beer: str) -> None:
        cursor.execute("INSERT INTO beers (name) VALUES (?)", (beer,))
        cursor.execute("SELECT name FROM beers WHERE name = :beer", {"beer": beer})
        assert cursor.fetchall() == [(beer,)]

    def test_executemany(self, cursor: dbapi.Cursor, connection: Connection) -> None:
        cursor.executemany("INSERT INTO beers (name) VALUES (?)", ((beer,) for beer in BEERS[:3]))
        cursor.executemany("INSERT INTO beers (name) VALUES (:beer)", [{"beer": beer} for beer in BEERS[3:]])
        assert names(connection) == BEERS
        with pytest.raises(dbapi.ProgrammingError, match="executemany"):
            cursor.executemany("SELECT ?", [(1,)])

    def test_fetchone(self, cursor: dbapi.Cursor) -> None:
        with pytest.raises(dbapi.ProgrammingError):
            cursor.fetchone()
        cursor.execute("INSERT INTO beers (name) VALUES ('a')")
        with pytest.raises(dbapi.ProgrammingError):
            cursor.fetchone()
        cursor.execute("SELECT name FROM beers")
        assert (cursor.fetchone(), cursor.fetchone(), cursor.fetchone()) == (("a",), None, None)

    def test_fetchmany(self, cursor: dbapi.Cursor) -> None:
        with pytest.raises(dbapi.ProgrammingError):
            cursor.fetchmany(4)
        fill(cursor)
        cursor.execute("SELECT id FROM beers ORDER BY id")
        assert [len(cursor.fetchmany(size)) for size in (4, 4, 4)] == [4, 2, 0]
        cursor.execute("SELECT id FROM beers ORDER BY id")
        assert cursor.fetchmany() == [(1,)]
        cursor.arraysize = 4
        assert cursor.fetchmany() == [(2,), (3,), (4,), (5,)]
        assert cursor.fetchmany(0) == cursor.fetchmany(-1) == []
        assert cursor.fetchmany() == [(6,)]

    def test_fetchall(self, cursor: dbapi.Cursor) -> None:
        with pytest.raises(dbapi.ProgrammingError):
            cursor.fetchall()
        fill(cursor)
        with pytest.raises(dbapi.ProgrammingError):
            cursor.fetchall()
        cursor.execute("SELECT id FROM beers ORDER BY id")
        assert cursor.fetchall() == [(1,), (2,), (3,), (4,), (5,), (6,)]
        assert cursor.fetchall() == []
        cursor.execute("SELECT id FROM beers WHERE 0")
        assert cursor.fetchall() == []

    def test_fetches_of_one_result_continue_each_other(self, cursor: dbapi.Cursor) -> None:
        fill(cursor)
        cursor.execute("SELECT id FROM beers ORDER BY id")
        assert (cursor.fetchone(), cursor.fetchmany(2), next(cursor), cursor.fetchall()) == (
            (1,),
            [(2,), (3,)],
            (4,),
            [(5,), (6,)],
        )
        assert list(cursor) == []

    def test_cursors_of_a_connection_see_the_changes_of_each_other(self, connection: Connection) -> None:
        fill(connection.cursor())
        assert connection.cursor().execute("SELECT count(*) FROM beers").fetchone() == (len(BEERS),)

    def test_values(self, cursor: dbapi.Cursor) -> None:
        row = (1, None, dbapi.Binary(b"\0\xff"), datetime.datetime(2026, 1, 31, 12, 30))
        cursor.execute("INSERT INTO beers VALUES (?, ?, ?, ?)", row)
        cursor.execute("SELECT *, 0.5, typeof(at) FROM beers")
        assert cursor.fetchall() == [(1, None, b"\0\xff", "2026-01-31 12:30:00", 0.5, "text")]
        with pytest.raises(dbapi.ProgrammingError, match="parameter 1 is of type object"):
            cursor.execute("SELECT ?", (object(),))

    def test_sizes_are_accepted(self, cursor: dbapi.Cursor) -> None:
        cursor.setinputsizes((25,))
        cursor.setoutputsize(1000)
        cursor.setoutputsize(2000, 0)

    def test_a_closed_cursor(self, connection: Connection) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with pytest.raises(dbapi.Error):
            cursor.fetchone()
        with pytest.raises(dbapi.Error):
            cursor.execute("SELECT 1")
        cursor.close()


class TestConnection:
    def test_a_closed_connection(self, dsn: str) -> None:
        connection = dbapi.connect(dsn)
        cursor = connection.cursor()
        connection.close()
        calls = (
            connection.commit,
            connection.rollback,
            connection.cursor,
            lambda: cursor.execute("SELECT 1"),
            cursor.fetchall,
        )
        for call in calls:
            with pytest.raises(dbapi.Error):
                call()
        connection.close()

    def test_closing_rolls_back(self, connection: Connection, other: Connection) -> None:
        fill(connection.cursor())
        connection.close()
        assert names(other) == []

    def test_commit_and_rollback(self, connection: Connection, other: Connection) -> None:
        connection.commit()
        connection.rollback()
        connection.execute("INSERT INTO beers (name) VALUES ('a')")
        assert connection.in_transaction and (names(connection), names(other)) == (["a"], [])
        connection.rollback()
        assert not connection.in_transaction and names(connection) == []
        connection.execute("INSERT INTO beers (name) VALUES ('b')")
        connection.commit()
        assert names(other) == ["b"]

    def test_with_block(self, connection: Connection, other: Connection) -> None:
        with connection:
            connection.execute("INSERT INTO beers (name) VALUES ('a')")
        with pytest.raises(KeyError), connection:
            connection.execute("INSERT INTO beers (name) VALUES ('b')")
            raise KeyError
        assert names(other) == ["a"]

    def test_schema_changes_are_part_of_a_transaction(self, connection: Connection, other: Connection) -> None:
        connection.execute("CREATE TABLE t (a)")
        connection.rollback()
        with pytest.raises(dbapi.ProgrammingError, match="no such table: t"):
            other.execute("SELECT * FROM t")

    def test_autocommit(self, other: Connection, connection: Connection, fake: FakeSqlCluster) -> None:
        fake.seen.clear()
        other.execute("INSERT INTO beers (name) VALUES ('a')")
        assert names(connection) == ["a"]
        assert not other.in_transaction
        assert "BEGIN" not in fake.statements
        fill(other.cursor())
        assert not other.in_transaction
        assert len(names(connection)) == 1 + len(BEERS)

    def test_statements_of_transactions(self, other: Connection, connection: Connection) -> None:
        other.execute("BEGIN IMMEDIATE")
        assert other.in_transaction
        other.execute("INSERT INTO beers (name) VALUES ('a')")
        other.execute("SAVEPOINT s")
        other.execute("INSERT INTO beers (name) VALUES ('b')")
        other.execute("ROLLBACK TO s")
        with pytest.raises(dbapi.ProgrammingError, match="within a transaction"):
            other.execute("BEGIN")
        other.execute("END")
        assert names(connection) == ["a"]
        other.execute("BEGIN")
        other.execute("DELETE FROM beers")
        other.execute("ROLLBACK")
        assert names(connection) == ["a"]
        for statement in ("COMMIT", "ROLLBACK", "SAVEPOINT s"):
            with pytest.raises(dbapi.ProgrammingError, match="there is no transaction"):
                other.execute(statement)

    def test_a_savepoint_begins_a_transaction(self, connection: Connection, other: Connection) -> None:
        connection.execute("SAVEPOINT s")
        connection.execute("INSERT INTO beers (name) VALUES ('a')")
        connection.execute("RELEASE s")
        assert names(other) == []
        connection.commit()
        assert names(other) == ["a"]

    def test_autocommit_and_isolation_are_not_changed_in_a_transaction(self, connection: Connection) -> None:
        connection.isolation = Isolation.SERIALIZABLE
        connection.execute("SELECT 1")
        with pytest.raises(dbapi.ProgrammingError):
            connection.autocommit = True
        with pytest.raises(dbapi.ProgrammingError):
            connection.isolation = Isolation.READ_COMMITTED
        connection.rollback()
        connection.autocommit = True
        assert connection.autocommit and connection.isolation == Isolation.SERIALIZABLE
        with pytest.raises(dbapi.ProgrammingError, match="unknown isolation 'dirty'"):
            connection.isolation = "dirty"


class TestReads:
    def test_reads_outside_of_a_transaction_go_to_followers(self, connection: Connection, fake: FakeSqlCluster) -> None:
        connection.execute("SELECT 1")
        fill(connection.cursor())
        connection.execute("SELECT 2")
        reads = [(it.node, it.level) for it in fake.seen if it.statement.startswith("SELECT")]
        assert reads == [(1, "linearizable"), (0, None)]

    def test_serializable_transactions_begin_with_a_read(self, dsn: str, other: Connection) -> None:
        other.execute("CREATE TABLE t (a)")
        other.execute("INSERT INTO t VALUES (1)")
        serializable = dbapi.connect(dsn, isolation="SERIALIZABLE")
        [[value]] = serializable.execute("SELECT a FROM t")
        assert serializable.in_transaction
        other.execute("UPDATE t SET a = 5")
        with pytest.raises(dbapi.ConflictError):
            serializable.execute("UPDATE t SET a = ?", (value + 1,))
            serializable.commit()
        serializable.close()
        assert other.execute("SELECT a FROM t").fetchall() == [(5,)]

    @pytest.mark.parametrize(
        ("statement", "fault"),
        [
            ("COMMIT", None),
            ("ROLLBACK", None),
            ("COMMIT", "CONFLICT run it again"),
            ("COMMIT", "BUSY try again"),
            ("UPDATE t SET a = 2", "CONFLICT run it again"),
        ],
    )
    def test_a_session_reads_what_its_transactions_have_seen(
        self, fake: FakeSqlCluster, dsn: str, statement: str, fault: str | None
    ) -> None:
        dbapi.connect(dsn, autocommit=True).execute("CREATE TABLE t (a)")
        connection = dbapi.connect(dsn, level="session")
        connection.execute("INSERT INTO t VALUES (1)")
        if fault:
            fake.inject(statement.split()[0], fault)
        with pytest.raises(dbapi.OperationalError) if fault else nullcontext():
            connection.execute(statement)
        connection.rollback()
        connection.execute("SELECT * FROM t")
        level = fake.seen[-1].level
        assert level is not None and level.startswith("session 0000")
        connection.close()


class TestFaults:
    INSERT = "INSERT INTO beers (name) VALUES ('a')"

    def test_errors_of_statements_leave_the_transaction_open(self, connection: Connection, other: Connection) -> None:
        connection.execute(self.INSERT)
        with pytest.raises(dbapi.IntegrityError, match=r"^UNIQUE constraint failed: beers\.name$"):
            connection.execute(self.INSERT)
        with pytest.raises(dbapi.ProgrammingError, match=r"^no such table: wines$"):
            connection.execute("INSERT INTO wines VALUES (1)")
        assert connection.in_transaction
        connection.commit()
        assert names(other) == ["a"]

    def test_a_failed_executemany_has_no_effect(self, connection: Connection) -> None:
        connection.execute(self.INSERT)
        many = [(str(number),) for number in range(PIPELINED + 10)]
        with pytest.raises(dbapi.IntegrityError):
            connection.cursor().executemany("INSERT INTO beers (name) VALUES (?)", [*many, ("a",), ("b",)])
        assert names(connection) == ["a"]
        connection.cursor().executemany("INSERT INTO beers (name) VALUES (?)", many)
        assert len(names(connection)) == 1 + len(many)

    def test_a_failed_executemany_with_autocommit(self, connection: Connection, other: Connection) -> None:
        with pytest.raises(dbapi.IntegrityError):
            other.cursor().executemany("INSERT INTO beers (name) VALUES (?)", [("a",), ("a",)])
        assert not other.in_transaction
        assert names(connection) == []

    @pytest.mark.parametrize("fault", [Lose.BEFORE, "READONLY not the leader", "FENCED", "BUSY", "CONFLICT"])
    def test_a_transaction_that_is_lost(
        self, connection: Connection, other: Connection, fake: FakeSqlCluster, fault: str | Lose
    ) -> None:
        connection.execute(self.INSERT)
        fake.inject("UPDATE", fault)
        with pytest.raises(dbapi.OperationalError):
            connection.execute("UPDATE beers SET data = 1")
        assert not connection.in_transaction
        for call in (lambda: connection.execute(self.INSERT), lambda: names(connection), connection.commit):
            with pytest.raises(dbapi.OperationalError, match=r"has ended with an error \(.*\): call rollback\(\)"):
                call()
        connection.rollback()
        assert names(connection) == []
        connection.execute(self.INSERT)
        connection.commit()
        assert names(other) == ["a"]

    def test_a_transaction_that_is_too_large(self, connection: Connection, fake: FakeSqlCluster) -> None:
        """It must not look as if it could be run again."""
        fake.inject("INSERT", "TOOLARGE divide it")
        with pytest.raises(dbapi.ProgrammingError, match=r"^divide it$"):
            connection.cursor().executemany("INSERT INTO beers (name) VALUES (?)", [("a",)] * PIPELINED)
        with pytest.raises(dbapi.ProgrammingError, match=r"has ended with an error .* call rollback\(\)"):
            connection.commit()
        connection.rollback()
        assert names(connection) == []

    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ("CONFLICT run it again", dbapi.ConflictError),
            ("ABORTED it has failed before", dbapi.OperationalError),
            ("NOREPLICAS too few", dbapi.OperationalError),
            ("CONSTRAINT FOREIGN KEY", dbapi.IntegrityError),
        ],
    )
    def test_a_commit_that_is_refused(
        self, connection: Connection, fake: FakeSqlCluster, fault: str, kind: type[dbapi.Error]
    ) -> None:
        connection.execute(self.INSERT)
        fake.inject("COMMIT", fault)
        with pytest.raises(kind, match=fault.split(maxsplit=1)[1]) as caught:
            connection.commit()
        assert not isinstance(caught.value, dbapi.UnknownOutcomeError)
        assert isinstance(caught.value, dbapi.ConflictError) == fault.startswith("CONFLICT")
        assert not connection.in_transaction
        connection.rollback()
        assert names(connection) == []

    @pytest.mark.parametrize(
        ("fault", "left"), [(Lose.BEFORE, []), (Lose.AFTER, ["a"]), ("UNKNOWN offset 5 may be applied", [])]
    )
    def test_a_commit_with_an_unknown_outcome(
        self, connection: Connection, fake: FakeSqlCluster, fault: str | Lose, left: list[str]
    ) -> None:
        connection.execute(self.INSERT)
        fake.inject("COMMIT", fault)
        with pytest.raises(dbapi.UnknownOutcomeError, match="may or may not take effect"):
            connection.commit()
        assert not connection.in_transaction
        assert names(connection) == left

    def test_an_interrupted_statement_ends_the_transaction(
        self, connection: Connection, other: Connection, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupt(*args: object) -> None:
            raise KeyboardInterrupt

        connection.execute(self.INSERT)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(sync, "_receive", interrupt)
            connection.execute("INSERT INTO beers (name) VALUES ('b')")
        with pytest.raises(dbapi.OperationalError, match="the connection to the leader is closed"):
            connection.execute("INSERT INTO beers (name) VALUES ('c')")
        connection.rollback()
        assert names(other) == []

    def test_a_transaction_begins_at_the_new_leader(self, connection: Connection, fake: FakeSqlCluster) -> None:
        connection.execute(self.INSERT)
        connection.commit()
        fake.leader = 1
        connection.execute("DELETE FROM beers")
        connection.commit()
        assert fake.seen[-1].node == 1

    @pytest.mark.usefixtures("connection")  # creates the table
    def test_executemany_with_autocommit_begins_again_after_a_conflict(self, fake: FakeSqlCluster, dsn: str) -> None:
        alone = dbapi.connect(dsn, autocommit=True)
        fake.inject("COMMIT", "CONFLICT run it again")
        cursor = alone.cursor().executemany("INSERT INTO beers (name) VALUES (?)", [("a",), ("b",)])
        assert cursor.rowcount == 2 and names(alone) == ["a", "b"]
        alone.close()

    @pytest.mark.parametrize("statement", ["COMMIT; INSERT INTO beers (name) VALUES ('b')", "ROLLBACK and more"])
    def test_nothing_may_follow_the_end_of_a_transaction(self, connection: Connection, statement: str) -> None:
        connection.execute(self.INSERT)
        with pytest.raises(dbapi.ProgrammingError, match="statements of their own"):
            connection.execute(statement)
        connection.execute("COMMIT TRANSACTION; -- done")
        assert names(connection) == ["a"]

    @pytest.mark.parametrize("fault", [Lose.BEFORE, Lose.AFTER, "BUSY", "LOADING"])
    def test_begin_is_repeated(self, connection: Connection, fake: FakeSqlCluster, fault: str | Lose) -> None:
        fake.inject("BEGIN", fault)
        connection.execute(self.INSERT)
        connection.commit()
        assert names(connection) == ["a"]

    def test_a_write_whose_outcome_stays_unknown(self, connection: Connection, fake: FakeSqlCluster, dsn: str) -> None:
        for _ in range(100):
            fake.inject("INSERT", "UNKNOWN offset 5 may be applied")
        hurried = dbapi.connect(dsn, autocommit=True, timeout_s=1)
        with pytest.raises(dbapi.UnknownOutcomeError, match="may or may not take effect"):
            hurried.execute(self.INSERT)
        hurried.close()

    def test_without_nodes(self) -> None:
        lonely = dbapi.connect(nodes=["127.0.0.1:1"], timeout_s=0.1)
        with pytest.raises(dbapi.OperationalError):
            lonely.execute("SELECT 1")
        with pytest.raises(dbapi.OperationalError):
            lonely.execute("DELETE FROM t")

    def test_a_wrong_password_is_not_shown(self, dsn: str) -> None:
        stranger = dbapi.connect(dsn, password="hunter2", timeout_s=1)
        for statement in ("SELECT 1", "DELETE FROM t"):
            with pytest.raises(dbapi.OperationalError) as caught:
                stranger.execute(statement)
            assert "hunter2" not in str(caught.value)
        assert "hunter2" not in repr(stranger)


class TestSettings:
    def test_dsn(self) -> None:
        dsn = (
            "replicator://:p%40ss@a:7001,[::1]:7002/?host=b:7003&level=bounded+100+5&isolation=serializable&timeout_s=3"
        )
        settings = parse_settings(f"{dsn}&autocommit=true&cluster=shop", {})
        assert settings == ConnectionSettings(
            nodes=("a:7001", "[::1]:7002", "b:7003"),
            cluster="shop",
            password="p@ss",
            level=Level(LevelKind.BOUNDED, 100, 5),
            isolation=Isolation.SERIALIZABLE,
            autocommit=True,
            timeout_s=3.0,
        )
        assert "p@ss" not in repr(settings)

    def test_parameters_override_the_dsn(self) -> None:
        given = {"password": "new", "level": EVENTUAL, "autocommit": None}
        settings = parse_settings(f"replicator://:{PASSWORD}@a:1/?level=session&autocommit=1", given)
        assert (settings.password, settings.level, settings.autocommit) == ("new", EVENTUAL, True)
        assert parse_settings("replicator://a:1", {}).level == LINEARIZABLE
        assert parse_settings(None, {"nodes": ["a:1"], "level": "session"}).level == Level(LevelKind.SESSION)

    @pytest.mark.parametrize(
        "dsn",
        [
            "sqlite:///a.db",
            "replicator://a:1/db",
            "replicator://user:x@a:1",
            "replicator://[a:1",
            "replicator://a:1/?level",
            "replicator://a:1/?levl=session",
            "replicator://a:1/?level=fresh",
            "replicator://a:1/?level=eventual+1",
            "replicator://a:1/?isolation=dirty",
            "replicator://a:1/?autocommit=perhaps",
            "replicator://a:1/?timeout_s=-1",
        ],
    )
    def test_an_invalid_dsn(self, dsn: str) -> None:
        with pytest.raises((ConfigError, BadRequest)):
            parse_settings(dsn, {})
        with pytest.raises(dbapi.ProgrammingError):
            dbapi.connect(dsn)

    def test_parameters_of_another_type(self, connection: Connection) -> None:
        cursor: Any = connection.cursor()
        for call, params in itertools.product((cursor.execute, cursor.executemany), (5, "text")):
            with pytest.raises(dbapi.ProgrammingError, match=r"parameters"):
                call("DELETE FROM beers WHERE data = ?", params)

    def test_addresses_instead_of_a_dsn(self) -> None:
        addresses: Any = ["127.0.0.1:7001"]
        with pytest.raises(dbapi.ProgrammingError, match="give addresses in a list as nodes="):
            dbapi.connect(addresses)

    def test_no_nodes(self) -> None:
        with pytest.raises(dbapi.ProgrammingError, match="addresses of some nodes"):
            dbapi.connect()
