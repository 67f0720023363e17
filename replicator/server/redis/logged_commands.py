"""Which commands of a transaction replicas have to execute again: those that have changed something, in their order.

What the others do at the leader may depend on what replicas do not have: the scripts that it knows, the cursors that it
has given, its limits of time and memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from replicator.errors import TransactionTooLarge
from replicator.limits import MAX_LOGGED_BYTES
from replicator.server.keyspace import CommandInfo, WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind


class Mark(NamedTuple):
    """A point to which a transaction can be rolled back."""

    changes: int  # a mark of `Transaction`
    calls: int  # on the tape
    lines: int
    bytes: int  # of these lines
    info: CommandInfo


class LoggedCommands:
    def __init__(self, keyspace: WritableKeyspace) -> None:
        self.lines: list[Args] = []
        self._bytes = 0  # of `lines`
        self._keyspace = keyspace

    def mark(self) -> Mark:
        keyspace = self._keyspace
        return Mark(
            keyspace.transaction.mark(),
            keyspace.tape.mark(),
            len(self.lines),
            self._bytes,
            replace(keyspace.command_info),
        )

    def roll_back_to(self, mark: Mark) -> None:
        """Undo what was done since the mark, in the transaction, too."""
        self._keyspace.transaction.roll_back_to(mark.changes)
        del self.lines[mark.lines :]
        self._bytes = mark.bytes
        self._forget(mark)

    def add(self, mark: Mark, command: Command, args: Args) -> None:
        """A command has ended, and was not rolled back. `mark`: of its begin. Raises `TransactionTooLarge`."""
        if self._keyspace.transaction.mark() == mark.changes:
            self._forget(mark)
            return
        self.lines.append(args)
        self._bytes += sum(map(len, args))
        if self._bytes > MAX_LOGGED_BYTES:
            raise TransactionTooLarge(
                f"commands of a transaction that change something have at most {MAX_LOGGED_BYTES >> 20} MiB: split it"
            )
        if command.kind is CommandKind.READ:  # it has deleted an expired row, and which one may depend on the node
            self._keyspace.command_info.is_repeatable = False

    def _forget(self, mark: Mark) -> None:
        """What replicas do not need of the commands since the mark."""
        self._keyspace.tape.cut(mark.calls)
        self._keyspace.command_info = replace(mark.info)
