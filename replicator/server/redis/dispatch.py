"""The path that a command takes: a read, a write, a command on the connection, a place in MULTI's queue, EXEC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from replicator.errors import Definite, ReplicatorError
from replicator.position import BEFORE_LOG
from replicator.protocol.levels import Level
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands import BY_SPELLING, look_up
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.replies import Replies
from replicator.server.redis.resp import QUEUED, Error, NullArray, Reply, encode, error_reply
from replicator.server.redis.subscriptions import WHILE_SUBSCRIBED, refusal
from replicator.server.redis.waiting import ViewAt
from replicator.store.view import KeyBlocked, Transaction, View


class Dispatcher:
    """Of one connection. `wait_for_view` makes it wait; `resume_read` is to be called when the future has ended."""

    def __init__(
        self, connection: ConnectionContext, replies: Replies, wait_for_view: Callable[[ViewAt], None]
    ) -> None:
        self._connection = connection
        self._replies = replies
        self._wait_for_view = wait_for_view
        self._backend = connection.server.backend
        self._stats = connection.server.stats
        self.last_view: Keyspace | None = None  # of the last command, if it was a read, and no other code has run since

    def run(self, args: Args) -> None:
        """Run a command. Errors become its reply."""
        connection, multi = self._connection, self._connection.multi
        self._stats.commands += 1
        self.last_view = None
        command = None
        try:
            found = BY_SPELLING.get(args[0])
            command = found if found is not None and found.accepts(len(args)) else look_up(args)
            connection.last_command = command.name
            kind = command.kind
            if not connection.authenticated and not command.before_auth:
                connection.reply(Error("NOAUTH Authentication required."))
            elif connection.subscriptions.restrict(connection.protocol) and command.name not in WHILE_SUBSCRIBED:
                connection.reply(refusal(command.name))
            elif multi.open and kind is not CommandKind.CONTROL:
                self._queue(command, args)
            elif kind is CommandKind.READ:
                if not connection.wait_for_own_writes(args):
                    self.read_at(connection.level, command, args)
            elif kind is CommandKind.WRITE:
                transaction = self._backend.begin()
                keyspace = WritableKeyspace(transaction, self._backend.now_ms())
                self._submit(transaction, _run(connection, keyspace, command, args))
            elif kind is CommandKind.CONNECTION:
                connection.reply(command.handler(connection, args))
            else:
                command.handler(connection, args)
        except ReplicatorError as error:
            if command is None or command.kind is not CommandKind.CONTROL:
                multi.abort()
            connection.reply(error_reply(error))

    # Reads

    def read_again(self, args: Args) -> bool:
        """Reply to a read from the view of the read just before it. False: the command has to take its usual path."""
        keyspace = self.last_view
        if keyspace is None:
            return False
        command = BY_SPELLING.get(args[0])
        if command is None or command.kind is not CommandKind.READ or not command.accepts(len(args)):
            return False
        try:
            reply = command.handler(keyspace, args)
        except KeyBlocked:
            return False
        except ReplicatorError as error:
            reply = error_reply(error)
        connection = self._connection
        self._stats.commands += 1
        connection.last_command = command.name
        self._replies.send(encode(reply, connection.protocol))
        return True

    def read_at(self, level: Level | None, command: Command, args: Args) -> None:
        view = self._backend.reads.view(level)
        if isinstance(view, asyncio.Future):
            self._wait_for_view(ViewAt(view, level, command, args))
        elif (keyspace := self._reply_from(view, command, args)) is not None:
            self.last_view = keyspace if level is self._connection.level else None
        else:
            self._read_later(level, command, args)

    def resume_read(self, read: ViewAt) -> None:
        """Raises `ReplicatorError`."""
        if self._reply_from(read.future.result(), read.command, read.args) is None:
            self._read_later(read.level, read.command, read.args)

    def _reply_from(self, view: View, command: Command, args: Args) -> Keyspace | None:
        """None, and no reply, if a key is blocked."""
        keyspace = Keyspace(view, self._backend.now_ms())
        try:
            reply = command.handler(keyspace, args)
        except KeyBlocked:
            return None
        self._replies.send(encode(reply, self._connection.protocol))
        return keyspace

    def _read_later(self, level: Level | None, command: Command, args: Args) -> None:
        self._connection.wait_for(self._read(level, lambda keyspace: command.handler(keyspace, args)))

    async def _read(self, level: Level | None, run: Callable[[Keyspace], Reply]) -> None:
        backend = self._backend
        self._connection.reply(await backend.reads.read(level, lambda view: run(Keyspace(view, backend.now_ms()))))

    # Writes and MULTI

    def _submit(self, transaction: Transaction, reply: Reply) -> None:
        """The reply waits until the changes are applied, and until what it has read is confirmed."""
        if not transaction.has_read and not transaction.changes:
            self._connection.reply(reply)
            return
        pending = self._replies.add_pending(encode(reply, self._connection.protocol))
        try:
            self._backend.submit(transaction, pending)
        except Definite as error:
            pending(error, BEFORE_LOG)

    def _queue(self, command: Command, args: Args) -> None:
        if command.line_at:
            look_up(args[command.line_at :])  # raises
        if command.kind is CommandKind.WRITE:
            self._backend.begin()  # raises if this node does not accept writes
        self._connection.multi.queue(command, args)
        self._connection.reply(QUEUED)

    def execute(self, args: Args) -> None:
        """EXEC: all queued commands as one record."""
        connection, multi = self._connection, self._connection.multi
        if connection.wait_for_own_writes(args):
            return
        if multi.dirty_cas or not multi.writes:
            connection.wait_for(self._execute_reads())
            return
        queued, watched = multi.queued, multi.watched
        multi.discard()
        transaction = self._backend.begin()
        keyspace = WritableKeyspace(transaction, self._backend.now_ms())
        for row in watched:
            keyspace.header(row)
        if transaction.changes:  # a watched row has expired, and is deleted now
            self._submit(transaction, NullArray())
        else:
            self._submit(transaction, [_run(connection, keyspace, *it) for it in queued])

    async def _execute_reads(self) -> None:
        """EXEC without writes. It fails if a watched key changes before the read level is met."""
        connection, multi = self._connection, self._connection.multi

        def run(keyspace: Keyspace) -> Reply:
            if multi.dirty_cas:
                return NullArray()
            return [_run(connection, keyspace, *it) for it in multi.queued]

        try:
            await self._read(connection.level, run)
        finally:
            multi.discard()


def _run(connection: ConnectionContext, keyspace: Keyspace, command: Command, args: Args) -> Reply:
    """A command that fails changes nothing, but that expired rows which it met are deleted.

    In a transaction, the other commands take effect, as in Redis.
    """
    savepoint = keyspace.transaction.savepoint() if isinstance(keyspace, WritableKeyspace) else {}
    try:
        return command.handler(connection if command.kind is CommandKind.CONNECTION else keyspace, args)
    except ReplicatorError as error:
        if isinstance(keyspace, WritableKeyspace):
            keyspace.transaction.roll_back(savepoint)
        return error_reply(error)
