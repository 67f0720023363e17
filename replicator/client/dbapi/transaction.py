"""Transactions on one connection to the leader, one after the other."""

from __future__ import annotations

import time
from collections.abc import Sequence
from enum import Enum, auto

from replicator.client.dbapi.errors import (
    ABORTED,
    CONFLICT,
    CONSTRAINT,
    SQL_ERROR,
    TOO_LARGE,
    from_client,
    of_commit,
    of_lost_transaction,
    of_statement,
)
from replicator.client.errors import Unavailable
from replicator.client.plans import ATTEMPT_TIMEOUT_S, PAUSE_S
from replicator.client.requests import TOKEN, EncodedCommand, Reply, SessionProgress
from replicator.client.routing import (
    ERR,
    LOST,
    NOT_SENT,
    Failure,
    RetryDecision,
    after_write_failure,
    first_failure,
)
from replicator.client.sql import SqlResult, parse_result, sql_command
from replicator.client.sync import Client, LeaderConnection
from replicator.errors import ReplicatorError

PIPELINED = 200  # statements that are sent before their replies are read
_SAVEPOINT = "replicator_executemany"
_STAYS_OPEN = frozenset({CONSTRAINT, SQL_ERROR, ERR})
"""Errors of a statement that leave its transaction as it was. All others end it, at the node or here."""
_STAYS_CONNECTED = frozenset({ABORTED, CONFLICT, TOO_LARGE, *_STAYS_OPEN})


class TransactionState(Enum):
    NONE = auto()
    OPEN = auto()
    LOST = auto()  # it ended with an error, which the program has to acknowledge by a rollback


class Transaction:
    """The transaction of a connection of PEP 249, of which there is one at a time. Raises its exceptions."""

    def __init__(self, client: Client, timeout_s: float, progress: SessionProgress) -> None:
        """`progress`: updated at the end of each transaction, however it ends: what it has read was read."""
        self._client = client
        self._progress = progress
        self._timeout_s = timeout_s
        self._leader: LeaderConnection | None = None  # kept for the next transaction
        self._failure = Failure(LOST, "")  # by which the transaction was lost
        self.state = TransactionState.NONE

    def begin(self, statement: str = "BEGIN") -> None:
        """It can be repeated at another leader, as it has no effect. Raises `Error`."""
        until_s = time.monotonic() + self._timeout_s
        while True:
            failure = self._try_to_begin(statement, until_s - time.monotonic())
            if failure is None:
                self.state = TransactionState.OPEN
                return
            self._disconnect()
            decision = after_write_failure(failure, has_id=True, outcome_unknown=False)
            if decision is not RetryDecision.RETRY or time.monotonic() > until_s:
                raise of_statement(failure)
            time.sleep(PAUSE_S)

    def execute(self, command: EncodedCommand) -> SqlResult:
        """Raises `Error`."""
        self.check_not_lost()
        return parse_result(self._send([command])[0])

    def execute_many(self, commands: Sequence[EncodedCommand]) -> int:
        """The number of changed rows. Either all are executed or, after an error, none. Raises `Error`."""
        self.check_not_lost()
        self._send([sql_command(f"SAVEPOINT {_SAVEPOINT}")])
        changes = 0
        for start in range(0, len(commands), PIPELINED):
            replies = self._send_all(commands[start : start + PIPELINED])
            failure = first_failure(replies)
            if failure is not None:
                if self.state is TransactionState.OPEN:
                    self._send([sql_command(f"ROLLBACK TO {_SAVEPOINT}"), sql_command(f"RELEASE {_SAVEPOINT}")])
                raise of_statement(failure)
            changes += sum(parse_result(reply).changes for reply in replies)
        self._send([sql_command(f"RELEASE {_SAVEPOINT}")])
        return changes

    def commit(self) -> None:
        """However it ends, the transaction has ended. Raises `Error`."""
        self.check_not_lost()
        self.state = TransactionState.NONE
        committed = self._end("COMMIT")
        if isinstance(committed, Failure):
            self._clean_up(committed)
            raise of_commit(committed)

    def rollback(self) -> None:
        """Never fails: without a connection, there is no transaction."""
        if self.state is TransactionState.OPEN:
            self._roll_back()
        self.state = TransactionState.NONE

    def close(self) -> None:
        """The node rolls back what is open."""
        self.state = TransactionState.NONE
        self._disconnect()

    def check_not_lost(self) -> None:
        """Raises `OperationalError`."""
        if self.state is TransactionState.LOST:
            raise of_lost_transaction(self._failure)

    def _try_to_begin(self, statement: str, left_s: float) -> Failure | None:
        """Raises `Error`."""
        try:
            if self._leader is None:
                self._leader = self._client.connect_leader()
        except Unavailable as error:
            return Failure(NOT_SENT, str(error))
        except ReplicatorError as error:
            raise from_client(error) from error
        return first_failure(self._exchange([sql_command(statement)], min(ATTEMPT_TIMEOUT_S, max(0.0, left_s))))

    def _send(self, commands: Sequence[EncodedCommand]) -> list[Reply]:
        """Raises `Error`."""
        replies = self._send_all(commands)
        failure = first_failure(replies)
        if failure is not None:
            raise of_statement(failure)
        return replies

    def _send_all(self, commands: Sequence[EncodedCommand]) -> list[Reply]:
        """The transaction is lost if the errors among the replies say so."""
        replies = self._exchange(commands)
        for failure in replies:
            if isinstance(failure, Failure) and failure.code not in _STAYS_OPEN:
                self.state = TransactionState.LOST
                self._failure = failure
                self._clean_up(failure)
                break
        return replies

    def _clean_up(self, failure: Failure) -> None:
        """After an error that has ended the transaction."""
        if failure.code in _STAYS_CONNECTED:
            self._roll_back()
        else:
            self._disconnect()

    def _roll_back(self) -> None:
        reply = self._end("ROLLBACK")
        if isinstance(reply, Failure) and reply.code not in _STAYS_CONNECTED:
            self._disconnect()

    def _end(self, statement: str) -> Reply | Failure:
        """The reply to COMMIT or ROLLBACK."""
        reply, *token = self._exchange([sql_command(statement), TOKEN])
        if token and first_failure(token) is None:
            self._progress.update(token[0])
        return reply

    def _exchange(self, commands: Sequence[EncodedCommand], timeout_s: float | None = None) -> list[Reply]:
        if self._leader is None:
            return [Failure(LOST, "the connection to the leader is closed")]
        return self._leader.send(commands, self._timeout_s if timeout_s is None else timeout_s)

    def _disconnect(self) -> None:
        if self._leader is not None:
            self._leader.close()
            self._leader = None
