"""Executes commands that write: at the leader for a client, and at a replica again, from the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import apsw

from replicator.errors import Definite, UpgradeNeeded
from replicator.records.tape import Player
from replicator.records.types import Change, Command
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.command import Args
from replicator.server.redis.command import Command as RedisCommand
from replicator.server.redis.commands import look_up
from replicator.server.redis.resp import Error, error_reply
from replicator.server.redis.turns import ReplyTooLarge, finish
from replicator.store.view import Entries, RowIsExpiring, Transaction, TransactionTooLarge

SQLITE = "sqlite"
R = TypeVar("R")


def engine() -> str:
    """What executes commands here, as in the records of commands."""
    return f"{SQLITE}:{apsw.sqlite_lib_version()}"


def run(keyspace: WritableKeyspace, handler: Callable[[Any, Args], R], subject: Any, args: Args) -> R | Error:
    """A command that fails changes nothing, but that expired rows which it met are deleted."""
    keyspace.transaction.set_savepoint()
    try:
        return handler(subject, args)
    except (RowIsExpiring, TransactionTooLarge, ReplyTooLarge):
        raise
    except Definite as error:
        keyspace.transaction.roll_back()
        return error_reply(error)


class Replay:
    """Executes the commands of the log, on the state before each (`node.commands.Execute`)."""

    def __init__(self) -> None:
        self._programs = Programs(limited=False)  # the leader has kept the limits, on a machine that may be faster

    def __call__(self, command: Command, state: Entries) -> Mapping[bytes, Change]:
        """Raises `Diverged`, `UpgradeNeeded`."""
        _check(command.engine)
        transaction, tape = Transaction(state), Player(command.tape)
        keyspace = WritableKeyspace(transaction, command.now_ms, self._programs, tape)
        for line in command.lines:
            args = [*line]
            _execute(keyspace, look_up(args), args)
        tape.finish()
        return transaction.changes


def _execute(keyspace: WritableKeyspace, command: RedisCommand, args: Args) -> None:
    if not command.long:
        run(keyspace, command.handler, keyspace, args)
        return

    run(keyspace, lambda keyspace, args: finish(command.handler(keyspace, args)), keyspace, args)


def _check(required: str) -> None:
    """Raises `UpgradeNeeded`."""
    for part in required.split():
        name, _, version = part.partition(":")
        own = apsw.sqlite_lib_version() if name == SQLITE else ""
        if not own or _numbers(own) < _numbers(version):
            raise UpgradeNeeded(
                f"a command in the log was executed by {name} {version}, and this node has "
                f"{f'{name} {own}' if own else f'no {name}'}: it might execute it differently. Install the packages "
                "that the leader has"
            )


def _numbers(version: str) -> list[int]:
    return [int(it) for it in version.split(".")]
