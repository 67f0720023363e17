"""Executes commands that write: at the leader for a client, and at a replica again, from the log."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from replicator.errors import Definite, Diverged, TransactionTooLarge, UpgradeNeeded
from replicator.limits import MAX_SQL_WAIT_MS
from replicator.procedures.loading import NONE, Procedures
from replicator.protocol.replication import missing_engine
from replicator.records.tape import Call, Player, Recorder, Tape, TapeFull
from replicator.records.types import Change, Command
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.command import Args
from replicator.server.redis.command import Command as RedisCommand
from replicator.server.redis.commands import look_up
from replicator.server.redis.commands.procedures import ENGINE as PYTHON
from replicator.server.redis.commands.scripts import with_text
from replicator.server.redis.resp import Error, error_reply
from replicator.server.redis.turns import ReplyTooLarge
from replicator.server.scripts import ENGINE as LUA
from replicator.server.scripts import has_plain_locale
from replicator.sql.database import ENGINE as SQLITE
from replicator.steps import Steps
from replicator.store.view import Entries, RowIsExpiring, Transaction

R = TypeVar("R")


def to_log(keyspace: WritableKeyspace, lines: Iterable[Args]) -> Command:
    """A transaction, as replicas can execute it again, which may not know its scripts."""
    texts = keyspace.command_info.script_texts
    return Command(
        ",".join(sorted(keyspace.command_info.engines)),
        tuple(tuple(with_text(line, texts) if texts else line) for line in lines),
        tuple(keyspace.tape.calls) if isinstance(keyspace.tape, Recorder) else (),
        keyspace.now_ms,
        len(keyspace.transaction.changes),
        keyspace.command_info.reads,
    )


def run(keyspace: WritableKeyspace, handler: Callable[[Any, Args], R], subject: Any, args: Args) -> R | Error:
    """A command that fails changes nothing, but that expired rows which it met are deleted."""
    keyspace.transaction.set_savepoint()
    try:
        return handler(subject, args)
    except Definite as error:
        return _failed(keyspace, error)


def _failed(keyspace: WritableKeyspace, error: Definite) -> Error:
    """Raises the error if not this command alone has failed."""
    if isinstance(error, (RowIsExpiring, TransactionTooLarge, ReplyTooLarge, TapeFull)):
        raise error
    if keyspace.transaction.roll_back():  # why a command fails may depend on the node
        keyspace.command_info.is_repeatable = False
    return error_reply(error)


class PlayedTape(Tape, Protocol):
    def finish(self) -> None:
        """The command has ended. Raises `Diverged`."""
        ...


class Replay:
    """Executes the commands of the log, on the state before each (`node.commands.Execute`)."""

    def __init__(
        self,
        procedures: Procedures = NONE,
        play: Callable[[Sequence[Call]], PlayedTape] = Player,
        sql_wait_s: float | None = MAX_SQL_WAIT_MS / 1000,
    ) -> None:
        """`play`: makes the tape of a command from the calls that were recorded; `sql_wait_s`: see `Programs`."""
        self._play = play
        # the leader has kept the limits, on a machine that may be faster
        self._programs = Programs(procedures, limited=False, sql_wait_s=sql_wait_s)

    def __call__(self, command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        """Raises `Diverged`, `UpgradeNeeded`."""
        _check(command.engine)
        transaction, tape = Transaction(state), self._play(command.tape)
        keyspace = WritableKeyspace(transaction, command.now_ms, self._programs, tape)
        for line in command.lines:
            args = [*line]
            try:
                yield from execute(keyspace, look_up(args), args)
            except Definite as error:  # of a limit: others are replies
                raise Diverged(f"a command that the leader has executed fails here: {error}") from error
        tape.finish()
        return transaction.changes


def execute(keyspace: WritableKeyspace, command: RedisCommand, args: Args) -> Steps[None]:
    """As `run`. The reply is not needed."""
    if command.long:
        keyspace.transaction.set_savepoint()
        try:
            yield from command.handler(keyspace, args)
        except Definite as error:
            _failed(keyspace, error)
    else:
        run(keyspace, command.handler, keyspace, args)
    yield 0


def _check(required: str) -> None:
    """Raises `UpgradeNeeded`."""
    missing = missing_engine(required, _ENGINES)
    if missing is not None:
        name, version = missing
        own = _ENGINES.get(name)
        remedy = "Install the packages that the leader has"
        if name == "cpu":
            remedy = "Run it on a machine with such a processor"
        raise UpgradeNeeded(
            f"a command in the log was executed by {name} {version}, and this node has "
            f"{f'{name} {own}' if own else f'no {name}'}: it might execute it differently. {remedy}"
        )
    if "lua:" in required and not has_plain_locale():
        raise UpgradeNeeded("a script in the log needs a locale of UTF-8: start this node with LC_ALL=C.UTF-8")


_ENGINES = dict(part.split(":") for part in f"{SQLITE},{LUA},{PYTHON}".split(","))
"""The versions of this node, by the names in the records of commands."""
