"""The path that a command takes: a read, a write, a command on the connection, a place in MULTI's queue, EXEC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum, auto
from functools import partial

from replicator.errors import BadRequest, Definite, ReplicatorError, TransactionTooLarge
from replicator.limits import MAX_CONNECTION_ITEMS, MAX_EXEC_MS, MAX_STEPS_IN_EXEC, MAX_WRITE_ITEMS, STEPS_AT_ONCE
from replicator.node.client_writes import Executed
from replicator.position import BEFORE_LOG
from replicator.protocol.levels import Level
from replicator.server.keyspace import Keyspace, TimeLimit, WritableKeyspace
from replicator.server.redis.awaited_reads import execute_reads, read_in_slices, read_when_possible
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands import BY_SPELLING, find, look_up
from replicator.server.redis.commands.sql import NAME
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.dedup import Dedup
from replicator.server.redis.execution import run, to_log
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.logged_commands import LoggedCommands
from replicator.server.redis.long_writes import run_in_slices, write_in_slices
from replicator.server.redis.replies import Replies
from replicator.server.redis.resp import (
    QUEUED,
    Encoded,
    Error,
    NullArray,
    Reply,
    decode,
    encode,
    error_reply,
)
from replicator.server.redis.subscriptions import WHILE_SUBSCRIBED, refusal
from replicator.server.redis.transaction import Queued
from replicator.server.redis.turns import Budget, CpuLimit, SliceLimit
from replicator.server.redis.unexpected import as_internal_error, internal_error
from replicator.server.redis.waiting import ViewAt
from replicator.steps import Steps, finish
from replicator.store.rows import KEYSPACE_TABLE
from replicator.store.view import KeyBlocked, Transaction, View

WHILE_STREAMING = frozenset({b"repl.ack", b"repl.downstream"})
"""What a follower may send on a connection over which it receives records."""

SQL = NAME.encode()

IN_TRANSACTION = frozenset({SQL, b"quit", b"reset"})
"""Commands of the kind CONTROL that a connection can send between BEGIN and COMMIT."""


class Dispatcher:
    """Of one connection. `wait_for_view` makes it wait; call `resume_read` when the future has ended."""

    def __init__(
        self, connection: ConnectionContext, replies: Replies, wait_for_view: Callable[[ViewAt], None]
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._wait_for_view = wait_for_view
        self._backend = connection.server.backend
        self._programs = connection.server.programs
        self._stats = connection.server.stats
        self.reads = 0  # that have begun and are not in the statistics of latencies yet
        self._last_view: Keyspace | None = None
        """Of the last command, if it was a read, and no other code has run since. A request that arrived after the view
        was asked for must not use it, as what was committed in between may be missing."""

    def run(self, args: Args) -> None:
        """Run a command. Errors become its reply."""
        connection, multi = self._connection, self._connection.multi
        self._stats.commands += 1
        self._last_view = None
        command = None
        answered = False  # it may have sent a reply, or had an effect
        try:
            found = BY_SPELLING.get(args[0])
            if found is None or found.variant is not None or not found.accepts(len(args)):
                found = look_up(args) if connection.authenticated else find(args)
            command = found
            connection.last_command = command.name
            kind = command.kind
            answered = kind is CommandKind.CONTROL
            if not connection.authenticated and not command.before_auth:
                connection.reply(Error("NOAUTH Authentication required."))
            elif connection.subscriptions.restrict(connection.protocol) and command.name not in WHILE_SUBSCRIBED:
                connection.reply(refusal(command.name))
            elif connection.record_sink is not None and command.name not in WHILE_STREAMING:
                raise BadRequest("only REPL.ACK and REPL.DOWNSTREAM are allowed on a connection that receives records")
            elif len(args) > MAX_CONNECTION_ITEMS and kind is CommandKind.CONNECTION:
                raise BadRequest(f"this command has at most {MAX_CONNECTION_ITEMS} arguments: split it")
            elif connection.interactive is not None and kind is not CommandKind.CONNECTION:
                self._run_in_transaction(connection.interactive, command, args)
            elif multi.open and kind is not CommandKind.CONTROL:
                self._queue(command, args)
            elif len(args) > MAX_WRITE_ITEMS and kind is not CommandKind.READ:
                raise BadRequest(f"this command has at most {MAX_WRITE_ITEMS} arguments: split it")
            elif kind is CommandKind.READ:
                if not connection.wait_for_own_writes(args):
                    self.read_at(connection.level, command, args)
            elif kind is CommandKind.WRITE:
                transaction = self._backend.begin()
                keyspace = WritableKeyspace(transaction, self._backend.now_ms(), self._programs)
                handler = partial(_write_at_once, command) if command.long else command.handler
                reply = run(keyspace, handler, keyspace, args)
                answered = True
                if isinstance(reply, TooLong):
                    self._write_in_slices(command, args)
                else:
                    self._submit(transaction, reply, self._executed(keyspace, [args]))
            elif kind is CommandKind.CONNECTION:
                connection.reply(command.handler(connection, args))
            else:
                command.handler(connection, args)
        except ReplicatorError as error:
            if command is None or command.kind is not CommandKind.CONTROL:
                multi.abort()
            if command is not None and command.kind is CommandKind.WRITE:
                self._stats.count_failure(error)
            connection.reply(error_reply(error))
        except Exception as error:
            if answered:
                raise
            multi.abort()
            connection.reply(error_reply(internal_error(args[0], error)))

    # Reads

    def forget_view(self) -> None:
        self._last_view = None

    def read_again(self, args: Args) -> bool:
        """Reply to a read from the view of the read just before it. False: the command has to take its usual path."""
        keyspace = self._last_view
        if keyspace is None:
            return False
        command = BY_SPELLING.get(args[0])
        if command is None or not command.accepts(len(args)):
            return False
        try:
            if command.variant is not None:
                command = command.variant(args)
            if command.kind is not CommandKind.READ:
                return False
            reply = self._read_at_once(keyspace, command, args) if command.long else command.handler(keyspace, args)
        except KeyBlocked:
            return False
        except ReplicatorError as error:
            reply = error_reply(error)
        except Exception as error:  # noqa: BLE001 (logged)
            reply = error_reply(internal_error(args[0], error))
        if isinstance(reply, TooLong):
            return False
        connection = self._connection
        self.reads += 1
        self._stats.commands += 1
        connection.last_command = command.name
        self._replies.send(encode(reply, connection.protocol))
        return True

    def read_at(self, level: Level | None, command: Command, args: Args) -> None:
        self.reads += 1
        view = self._backend.reads.view(level)
        if isinstance(view, asyncio.Future):
            self._wait_for_view(ViewAt(view, level, command, args))
        elif (keyspace := self._reply_from(view, command, args)) is not None:
            self._last_view = keyspace if level is self._connection.level else None
        else:
            self._read_later(level, command, args)

    def resume_read(self, read: ViewAt) -> None:
        """Raises `ReplicatorError`."""
        keyspace = self._reply_from(read.future.result(), read.command, read.args)
        if keyspace is None:
            self._read_later(read.level, read.command, read.args)
        elif read.level is self._connection.level:
            self._last_view = keyspace

    def _read_at_once(self, keyspace: Keyspace, command: Command, args: Args) -> Reply | TooLong:
        if not command.long:
            return command.handler(keyspace, args)  # type: ignore[no-any-return]
        steps: Steps[Reply] = command.handler(keyspace, args)
        try:
            size = next(steps)
        except StopIteration as end:  # as most do
            return end.value  # type: ignore[no-any-return]
        if command.name == SQL:  # SQLite might go on after the slice, next to the same query that is executed again
            steps.close()
            return TooLong.TOO_LONG
        budget = Budget(STEPS_AT_ONCE - 1, SliceLimit(self._connection.server.turns.clock))
        budget.spend(size)
        reply = budget.finish(steps)
        return TooLong.TOO_LONG if reply is None else reply

    def _reply_from(self, view: View, command: Command, args: Args) -> Keyspace | None:
        """None, and no reply, if a key is blocked or the read takes long."""
        keyspace = Keyspace(view, self._backend.now_ms(), self._programs)
        try:
            reply = self._read_at_once(keyspace, command, args)
        except KeyBlocked:
            return None
        except ReplicatorError:
            raise
        except Exception as error:
            raise internal_error(command.name, error) from error
        if isinstance(reply, TooLong):
            return None
        self._replies.send(encode(reply, self._connection.protocol))
        return keyspace

    def _read_later(self, level: Level | None, command: Command, args: Args) -> None:
        read = read_in_slices if command.long else read_when_possible
        connection = self._connection
        answering = read(connection, level, lambda keyspace: command.handler(keyspace, args))
        connection.wait_for(answering, is_read=True)

    # Writes and MULTI

    def _write_in_slices(self, command: Command, args: Args) -> None:
        connection = self._connection
        if not connection.wait_for_own_writes(args):
            connection.wait_for(write_in_slices(connection, command, args, self._submit_interactive))

    def _submit_interactive(self, interactive: InteractiveTransaction, reply: Reply) -> None:
        self._submit(interactive.transaction, reply, self._executed(interactive.keyspace, interactive.lines))

    def _executed(self, keyspace: WritableKeyspace, lines: Iterable[Args]) -> Executed | None:
        """How the changes of a transaction came about; None if they cannot be repeated, or need not be known."""
        if keyspace.command_info.replication is None and not self._backend.logs_commands:
            return None
        if not keyspace.command_info.is_repeatable or not keyspace.transaction.changes:
            return None
        return Executed(to_log(keyspace, lines), keyspace.command_info.replication)

    def _submit(self, transaction: Transaction, reply: Reply, executed: Executed | None = None) -> None:
        """The reply waits until the changes are applied, and until what it has read is confirmed."""
        if not transaction.has_read and not transaction.changes:
            self._connection.reply(reply)
            return
        pending = self._replies.add_pending(encode(reply, self._connection.protocol))
        try:
            self._backend.submit(transaction, pending, executed)
        except Definite as error:
            pending(error, BEFORE_LOG)

    def _queue(self, command: Command, args: Args) -> None:
        if command.line_at:
            look_up(args[command.line_at :])  # raises
        if command.kind is CommandKind.WRITE:
            self._backend.begin()  # raises if this node does not accept writes
        self._connection.multi.queue(command, args)
        self._connection.reply(QUEUED)

    def execute(self, args: Args, id: bytes | None) -> None:
        """EXEC: all queued commands as one record. With an id: once, with the same reply if the id is used again."""
        connection, multi = self._connection, self._connection.multi
        if connection.wait_for_own_writes(args):
            return
        if id is None and (multi.dirty_cas or not multi.writes):
            self.reads += 1
            connection.wait_for(execute_reads(connection), is_read=True)
            return
        queued, watched, dirty = multi.queued, multi.watched, multi.dirty_cas
        multi.discard()
        try:
            self._execute_writes(queued, watched, dirty, id)
        except ReplicatorError as error:
            self._stats.count_failure(error)
            raise

    def _execute_writes(self, queued: Queued, watched: Iterable[bytes], dirty: bool, id: bytes | None) -> None:
        connection = self._connection
        transaction = self._backend.begin()
        keyspace = WritableKeyspace(transaction, self._backend.now_ms(), self._programs)
        if id is None:
            if self._is_changing(watched) or _has_expired(keyspace, watched):
                self._submit(transaction, NullArray())
            else:
                logged = LoggedCommands(keyspace)
                encoded = self._run_all(keyspace, queued, connection.protocol, logged)
                self._submit(transaction, Encoded(encoded), self._executed(keyspace, logged.lines))
            return
        dedup = Dedup(transaction, keyspace.now_ms)
        lines = [part for _, line in queued for part in (b"%d" % len(line), *line)]
        reply = dedup.find(id, lines)
        if reply is None:
            if dirty or self._is_changing(watched) or _has_expired(keyspace, watched):
                self._submit(transaction, NullArray())
                return
            reply = self._run_all(keyspace, queued, 3, LoggedCommands(keyspace))
            dedup.add(id, lines, reply)
        self._submit(transaction, decode(reply))

    # Transactions over several commands

    def _run_in_transaction(self, interactive: InteractiveTransaction, command: Command, args: Args) -> None:
        """Raises `BadRequest`, and what `Backend.begin` raises: `NotLeader` and others, which abort the transaction."""
        connection = self._connection
        if command.kind is CommandKind.CONTROL:
            if command.name not in IN_TRANSACTION:
                name = command.name.decode().upper()
                raise BadRequest(f"{name} is not allowed between BEGIN and COMMIT: end the transaction before")
            command.handler(connection, args)
            return
        if len(args) > MAX_WRITE_ITEMS:
            raise BadRequest(f"this command has at most {MAX_WRITE_ITEMS} arguments: split it")
        interactive.check_alive()
        mark = interactive.begin_command(self._backend.begin)
        keyspace = interactive.keyspace
        try:
            reply = self._run_at_once(keyspace, command, args)
        except Exception as error:
            interactive.command_failed(mark, error)
            raise
        if isinstance(reply, TooLong):
            interactive.roll_back_command(mark)
            if not connection.wait_for_own_writes(args):
                connection.wait_for(run_in_slices(connection, interactive, command, args))
        else:
            interactive.end_command(mark, command, args)
            connection.reply(reply)

    def _run_at_once(self, keyspace: WritableKeyspace, command: Command, args: Args) -> Reply | TooLong:
        if command.kind is CommandKind.READ:
            return self._read_at_once(keyspace, command, args)
        if command.long:
            return _write_at_once(command, keyspace, args)
        return command.handler(keyspace, args)  # type: ignore[no-any-return]

    def commit(self, reply: Reply) -> None:
        """Raises `Conflict`, `NotLeader` and others: the transaction has no effect."""
        interactive, self._connection.interactive = self._connection.interactive, None
        assert interactive is not None
        interactive.check_alive()
        interactive.check(self._backend.begin())
        self._submit_interactive(interactive, reply)

    def _is_changing(self, watched: Iterable[bytes]) -> bool:
        """Whether a write that was queued before one of the rows was watched changes it: the client has not read that.

        A later one has set `dirty_cas`.
        """
        return any(self._backend.are_changing(KEYSPACE_TABLE, row) for row in watched)

    def _run_all(self, keyspace: WritableKeyspace, queued: Queued, protocol: int, logged: LoggedCommands) -> bytes:
        """The encoded reply. Raises `BadRequest`: none takes effect."""
        keyspace.limit = limit = CpuLimit(MAX_EXEC_MS)
        budget = Budget(MAX_STEPS_IN_EXEC, limit)
        parts = []
        for command, args in queued:
            if limit.is_exceeded():
                raise _takes_too_long()
            mark = logged.mark()
            with as_internal_error(command.name):
                part = encode(self._run_queued(keyspace, command, args, budget), protocol)
            logged.add(mark, command, args)
            budget.spend(len(part))
            parts.append(part)
        return b"*%d\r\n%b" % (len(parts), b"".join(parts))

    def _run_queued(self, keyspace: WritableKeyspace, command: Command, args: Args, budget: Budget) -> Reply:
        """As in Redis, the other commands take effect although one fails."""
        if not command.long:
            subject = self._connection if command.kind is CommandKind.CONNECTION else keyspace
            return run(keyspace, command.handler, subject, args)
        if command.kind is CommandKind.WRITE:
            check = partial(_check, keyspace.limit)
            return run(keyspace, lambda *line: finish(command.handler(*line), check), keyspace, args)
        reply = run(keyspace, lambda *line: budget.finish(command.handler(*line)), keyspace, args)
        if reply is None:
            is_over_time = keyspace.limit is not None and keyspace.limit.is_exceeded()
            raise _takes_too_long() if is_over_time else _reads_too_much(command)
        return reply


def _write_at_once(command: Command, keyspace: WritableKeyspace, args: Args) -> Reply | TooLong:
    """Run the handler of a long command that writes, for one step only."""
    steps: Steps[Reply] = command.handler(keyspace, args)
    try:
        next(steps)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    steps.close()
    return TooLong.TOO_LONG


def _check(limit: TimeLimit | None) -> None:
    """Raises `TransactionTooLarge`."""
    if limit is not None and limit.is_exceeded():
        raise _takes_too_long()


def _takes_too_long() -> TransactionTooLarge:
    return TransactionTooLarge(
        f"the commands of this transaction take more than {MAX_EXEC_MS} ms, in which no other client is served: split "
        "it, or use a pipeline without MULTI"
    )


def _reads_too_much(command: Command) -> TransactionTooLarge:
    return TransactionTooLarge(
        f"a transaction that writes can read at most {MAX_STEPS_IN_EXEC} keys or fields with commands such as "
        f"{command.name.decode().upper()}: read them before, and WATCH what must not change"
    )


def _has_expired(keyspace: WritableKeyspace, watched: Iterable[bytes]) -> bool:
    """Whether one of the rows has expired; it is deleted then."""
    before = len(keyspace.transaction.changes)
    for row in watched:
        keyspace.header(row)
    return len(keyspace.transaction.changes) > before


class TooLong(Enum):
    """In place of a reply: the command takes too long to let no other code run."""

    TOO_LONG = auto()
