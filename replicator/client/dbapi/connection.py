"""The connection of PEP 249: it decides where a statement runs, in a transaction at the leader or on its own."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Self

from replicator.client.dbapi import errors
from replicator.client.dbapi.cursor import NO_RESULT, Cursor
from replicator.client.dbapi.settings import ConnectionSettings, Isolation, parse_isolation, parse_settings
from replicator.client.dbapi.transaction import Transaction, TransactionState
from replicator.client.plans import PAUSE_S
from replicator.client.requests import EncodedCommand, SessionProgress
from replicator.client.sql import Params, SqlResult, StatementKind, sql_command, statement_kind, tokens
from replicator.client.sync import Client, Session
from replicator.errors import ReplicatorError
from replicator.protocol.levels import LevelKind


class Connection:
    """Not to be shared by threads. In a `with` block, the transaction is committed, or rolled back after an exception.

    Without autocommit, a transaction begins before the first statement that writes, or before any statement if the
    isolation is serializable. Reads outside of a transaction go to any node, at the read level.
    """

    Warning = errors.Warning
    Error = errors.Error
    InterfaceError = errors.InterfaceError
    DatabaseError = errors.DatabaseError
    DataError = errors.DataError
    OperationalError = errors.OperationalError
    IntegrityError = errors.IntegrityError
    InternalError = errors.InternalError
    ProgrammingError = errors.ProgrammingError
    NotSupportedError = errors.NotSupportedError

    def __init__(self, settings: ConnectionSettings) -> None:
        """Connects to a node when the first statement is executed. Raises `ConfigError`."""
        self._nodes = ",".join(settings.nodes)
        self._client = Client(
            settings.nodes,
            cluster=settings.cluster,
            password=settings.password,
            timeout_s=settings.timeout_s,
            level=settings.level,
        )
        progress = SessionProgress(None)
        has_session = settings.level.kind is LevelKind.SESSION
        self._single: Client | Session = Session(self._client, progress) if has_session else self._client
        self._transaction = Transaction(self._client, settings.timeout_s, progress)
        self._timeout_s = settings.timeout_s
        self._autocommit = settings.autocommit
        self._isolation = settings.isolation
        self._is_closed = False

    def cursor(self) -> Cursor:
        self.check_open()
        return Cursor(self)

    def execute(self, statement: str, params: Params = ()) -> Cursor:
        """A new cursor that has executed it, as in `sqlite3`."""
        return self.cursor().execute(statement, params)

    def commit(self) -> None:
        """Raises `UnknownOutcomeError` if it may or may not take effect, another `Error` if it takes no effect."""
        self.check_open()
        self._transaction.check_not_lost()
        if self.in_transaction:
            self._transaction.commit()

    def rollback(self) -> None:
        self.check_open()
        self._transaction.rollback()

    def close(self) -> None:
        """Rolls back an open transaction."""
        self._is_closed = True
        self._transaction.close()
        self._client.close()

    @property
    def in_transaction(self) -> bool:
        return self._transaction.state is TransactionState.OPEN

    @property
    def is_transaction_lost(self) -> bool:
        """Whether a transaction has ended with an error, so that statements fail until `rollback`."""
        return self._transaction.state is TransactionState.LOST

    @property
    def autocommit(self) -> bool:
        """Whether statements run on their own, unless the program executes BEGIN."""
        return self._autocommit

    @autocommit.setter
    def autocommit(self, value: bool) -> None:
        self._check_no_transaction("autocommit")
        self._autocommit = value

    @property
    def isolation(self) -> Isolation:
        return self._isolation

    @isolation.setter
    def isolation(self, value: str) -> None:
        self._check_no_transaction("isolation")
        try:
            self._isolation = parse_isolation(value)
        except ReplicatorError as error:
            raise errors.from_client(error) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()

    def __repr__(self) -> str:
        return f"<replicator connection to {self._nodes}>"

    def check_open(self) -> None:
        """Raises `InterfaceError`."""
        if self._is_closed:
            raise errors.InterfaceError("the connection is closed")

    def run(self, statement: str, params: Params) -> SqlResult:
        """For cursors. `changes` is -1 if the statement writes no rows. Raises `Error`."""
        kind = statement_kind(statement)
        try:
            match kind:
                case StatementKind.BEGIN:
                    return self._begin(statement)
                case StatementKind.COMMIT | StatementKind.ROLLBACK:
                    _check_end(statement)
                    return self._end(kind)
            command = sql_command(statement, params)
            if self._runs_in_transaction(kind):
                found = self._transaction.execute(command)
            else:
                found = self._single.sql(statement, params)
        except ReplicatorError as error:
            raise errors.from_client(error) from error
        return found if kind is StatementKind.WRITE else replace(found, changes=-1)

    def run_many(self, statement: str, params: Iterable[Params]) -> SqlResult:
        """For cursors: without rows. All are executed or none, also with autocommit. Raises `Error`."""
        if statement_kind(statement) is not StatementKind.WRITE:
            raise errors.ProgrammingError("executemany() executes INSERT, REPLACE, UPDATE and DELETE only")
        if not isinstance(params, Iterable):
            raise errors.ProgrammingError(f"executemany() needs a list of parameters, not {type(params).__name__}")
        try:
            commands = [sql_command(statement, it) for it in params]
        except ReplicatorError as error:
            raise errors.from_client(error) from error
        if not commands:
            return replace(NO_RESULT, changes=0)
        if self._runs_in_transaction(StatementKind.WRITE):
            return replace(NO_RESULT, changes=self._transaction.execute_many(commands))
        return replace(NO_RESULT, changes=self._execute_alone(commands))

    def _execute_alone(self, commands: Sequence[EncodedCommand]) -> int:
        """In a transaction of their own, which can begin again. Raises `Error`."""
        until_s = time.monotonic() + self._timeout_s
        while True:
            self._transaction.begin()
            try:
                changes = self._transaction.execute_many(commands)
                self.commit()
            except errors.ConflictError:
                if time.monotonic() > until_s:
                    raise
                time.sleep(PAUSE_S)
            else:
                return changes
            finally:
                self._transaction.rollback()

    def _runs_in_transaction(self, kind: StatementKind) -> bool:
        """Begins it if needed. Raises `Error`."""
        self._transaction.check_not_lost()
        if self.in_transaction:
            return True
        if self._autocommit:
            if kind is StatementKind.SAVEPOINT:
                raise errors.ProgrammingError("there is no transaction: with autocommit, execute BEGIN first")
            return False
        if kind is StatementKind.READ and self._isolation is Isolation.READ_COMMITTED:
            return False
        self._transaction.begin()
        return True

    def _begin(self, statement: str) -> SqlResult:
        self._transaction.check_not_lost()
        if self.in_transaction:
            raise errors.ProgrammingError("cannot start a transaction within a transaction")
        self._transaction.begin(statement)
        return NO_RESULT

    def _end(self, kind: StatementKind) -> SqlResult:
        if self._transaction.state is TransactionState.NONE:
            raise errors.ProgrammingError("there is no transaction")
        if kind is StatementKind.COMMIT:
            self.commit()
        else:
            self.rollback()
        return NO_RESULT

    def _check_no_transaction(self, name: str) -> None:
        if self._transaction.state is not TransactionState.NONE:
            raise errors.ProgrammingError(f"{name} cannot be changed in a transaction")


def _check_end(statement: str) -> None:
    """The statement itself is not sent. Raises `ProgrammingError`."""
    if [it for it in tokens(statement) if it not in ("TRANSACTION", ";")][1:]:
        raise errors.ProgrammingError("COMMIT and ROLLBACK are statements of their own: execute others before")


def connect(
    dsn: str | None = None,
    *,
    nodes: Iterable[str] | None = None,
    cluster: str | None = None,
    password: str | None = None,
    level: Any = None,
    isolation: str | None = None,
    autocommit: bool | None = None,
    timeout_s: float | None = None,
) -> Connection:
    """`dsn`: replicator://:PASSWORD@HOST:PORT,HOST:PORT/?cluster=NAME&level=session. Parameters override it.

    `level`: of reads outside of transactions: "linearizable", "session", "bounded 100" or "eventual". Raises
    `ProgrammingError`.
    """
    given = {
        "nodes": nodes,
        "cluster": cluster,
        "password": password,
        "level": level,
        "isolation": isolation,
        "autocommit": autocommit,
        "timeout_s": timeout_s,
    }
    try:
        return Connection(parse_settings(dsn, given))
    except ReplicatorError as error:
        raise errors.from_client(error) from None
