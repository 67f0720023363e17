"""Rules of commands in the log, broken on purpose, one at a time. The checkers execute commands as they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from unittest.mock import patch

from replicator.node import commands
from replicator.node.client_writes import Executed
from replicator.position import Offset
from replicator.protocol import acceptance
from replicator.protocol.log_state import LogState, Void
from replicator.records.tape import Player, Recorder
from replicator.records.types import Change, Command, Record, Single, Write
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args
from replicator.server.redis.dispatch import Dispatcher
from replicator.server.redis.execution import Replay
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.logged_commands import LoggedCommands, Mark
from replicator.steps import Steps, finish
from replicator.store.keys import encode_key
from replicator.store.view import Entries, Overlay, Transaction, View


class _RecordedAnew(Recorder):
    def __init__(self, calls: object) -> None:
        super().__init__()

    def finish(self) -> None:
        pass


def replicas_call_functions_anew() -> AbstractContextManager[object]:
    return _replaying(partial(Replay, play=_RecordedAnew))


def _replaying(replay: Callable[[], commands.Execute]) -> AbstractContextManager[object]:
    """The nodes execute the commands of the log so."""
    return patch("replicator.testing.cluster.Replay", replay)


class _ReplayByOwnClock(Replay):
    def __call__(self, command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        return super().__call__(command._replace(now_ms=command.now_ms + 2000), state)


def replicas_execute_commands_for_the_time_of_their_own_clock() -> AbstractContextManager[object]:
    return _replaying(_ReplayByOwnClock)


class _ReplayOfFirst(Replay):
    def __call__(self, command: Command, state: Entries) -> Steps[Mapping[bytes, Change]]:
        return super().__call__(command._replace(lines=command.lines[:1]), state)


def replicas_execute_the_first_command_of_a_transaction() -> AbstractContextManager[object]:
    return _replaying(_ReplayOfFirst)


def replicas_with_another_number_of_changes_go_on() -> AbstractContextManager[object]:
    """It would show that they execute something else."""
    broken = ExitStack()
    broken.enter_context(replicas_execute_the_first_command_of_a_transaction())
    broken.enter_context(patch("replicator.node.replica.with_changes", _with_any_changes))
    return broken


def _with_any_changes(bodies: Sequence[Single], state: Entries, execute: commands.Execute) -> Steps[Sequence[Single]]:
    overlay, changed = Overlay(state), list[Single]()
    for body in bodies:
        if type(body) is Command:
            body = Write(tuple((yield from execute(body, overlay)).values()))
        if type(body) is Write:
            overlay.push({encode_key(it.table, it.row, it.field): it for it in body.changes})
        changed.append(body)
    return changed


def commands_are_executed_on_the_state_before_the_batch() -> AbstractContextManager[object]:
    """Earlier records that are applied together with a command are not seen by it."""

    def with_changes(bodies: Sequence[Single], state: Entries, execute: commands.Execute) -> Steps[Sequence[Single]]:
        if not any(type(body) is Command for body in bodies):
            return bodies
        yield 0
        return [Write(tuple(finish(execute(it, state)).values())) if type(it) is Command else it for it in bodies]

    return patch("replicator.node.replica.with_changes", with_changes)


def commands_are_executed_on_a_state_that_ends() -> AbstractContextManager[object]:
    """On the view itself: they are not executed again when the store grows."""

    def with_changes(bodies: Sequence[Single], view: View, execute: commands.Execute) -> Steps[Sequence[Single]]:
        if not any(type(body) is Command for body in bodies):
            return bodies
        return (yield from commands._executed(bodies, view, execute))

    return patch("replicator.node.replica.with_changes", with_changes)


def calls_that_are_rolled_back_stay_on_the_tape() -> AbstractContextManager[object]:
    def roll_back_to(self: LoggedCommands, mark: Mark) -> None:
        self._keyspace.transaction.roll_back_to(mark.changes)
        del self.lines[mark.lines :]

    return patch.object(LoggedCommands, "roll_back_to", roll_back_to)


def left_over_calls_are_ignored() -> AbstractContextManager[object]:
    """They would show that a leader has logged more than it has done."""
    broken = ExitStack()
    broken.enter_context(calls_that_are_rolled_back_stay_on_the_tape())
    broken.enter_context(patch.object(Player, "finish", lambda self: None))
    return broken


def commands_that_are_rolled_back_are_logged() -> AbstractContextManager[object]:
    def roll_back_to(self: LoggedCommands, mark: Mark) -> None:
        self._keyspace.transaction.roll_back_to(mark.changes)
        self._keyspace.tape.cut(mark.calls)

    return patch.object(LoggedCommands, "roll_back_to", roll_back_to)


def commit_does_not_read_again() -> AbstractContextManager[object]:
    return patch.object(InteractiveTransaction, "check", lambda self, base: None)


def the_time_in_the_log_is_that_of_commit() -> AbstractContextManager[object]:
    return _logging(lambda dispatcher, command: command._replace(now_ms=dispatcher._backend.now_ms()))


def commands_are_logged_without_their_ids() -> AbstractContextManager[object]:
    """Those of REPL.ONCE."""

    def without_id(dispatcher: Dispatcher, command: Command) -> Command:
        return command._replace(lines=tuple(it[2:] if it[0] == b"REPL.ONCE" else it for it in command.lines))

    return _logging(without_id)


def _logging(change: Callable[[Dispatcher, Command], Command]) -> AbstractContextManager[object]:
    """The leader logs this instead of a command."""

    def executed(self: Dispatcher, keyspace: WritableKeyspace, lines: Iterable[Args]) -> Executed | None:
        found = genuine(self, keyspace, lines)
        return found._replace(command=change(self, found.command)) if found is not None else None

    genuine = Dispatcher._executed
    return patch.object(Dispatcher, "_executed", executed)


def transactions_with_ids_are_logged_as_commands() -> AbstractContextManager[object]:
    """Those of REPL.EXEC, whose id and reply the commands do not have."""

    def execute_writes(self: Dispatcher, queued: object, watched: object, dirty: bool, id: bytes | None) -> None:
        def submit(transaction: Transaction, reply: object, executed: Executed | None = None) -> None:
            if id is not None and executed is None and transaction.changes:
                now_ms, changes = self._backend.now_ms(), len(transaction.changes)
                lines = tuple(tuple(line) for _, line in queued)  # type: ignore[attr-defined]
                executed = Executed(Command("", lines, (), now_ms, changes, 0), None)
            genuine_submit(self, transaction, reply, executed)  # type: ignore[arg-type]

        with patch.object(self, "_submit", submit):
            genuine(self, queued, watched, dirty, id)  # type: ignore[arg-type]

    genuine, genuine_submit = Dispatcher._execute_writes, Dispatcher._submit
    return patch.object(Dispatcher, "_execute_writes", execute_writes)


def commands_of_a_deposed_leader_count() -> AbstractContextManager[object]:
    def judge(state: LogState, offset: Offset, record: Record) -> tuple[LogState, Void | None]:
        after, void = genuine(state, offset, record)
        if void is not None and type(record.body) is Command and record.header.epoch < state.epoch:
            return after, None
        return after, void

    genuine = acceptance.judge
    return patch.multiple("replicator.node.replica", judge=judge)
