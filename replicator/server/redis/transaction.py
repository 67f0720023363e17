"""MULTI and WATCH: what a connection has queued, and whether a key that it watches was touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from replicator.errors import ReplicatorError
from replicator.server.backend import Backend
from replicator.server.keyspace import TABLE, Keyspace, WritableKeyspace
from replicator.server.redis import resp
from replicator.server.redis.commands.registry import Args, Command, CommandKind

if TYPE_CHECKING:
    from replicator.server.redis.connection import Session


class Watches:
    """Who watches which row. Listens to the node while anybody does."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._watchers: dict[bytes, set[Multi]] = {}

    def touch(self, table: str, row: bytes) -> None:
        if table == TABLE:
            for multi in self._watchers.get(row, ()):
                multi.touched = True

    def add(self, row: bytes, multi: Multi) -> None:
        self._watchers.setdefault(row, set()).add(multi)
        self._backend.row_listener = self.touch

    def remove(self, row: bytes, multi: Multi) -> None:
        watchers = self._watchers[row]
        watchers.discard(multi)
        if not watchers:
            del self._watchers[row]
        if not self._watchers:
            self._backend.row_listener = None


class Multi:
    def __init__(self, watches: Watches) -> None:
        self.open = False
        self.touched = False  # a watched row has changed
        self._spoiled = False  # a command could not be queued
        self._queue: list[tuple[Command, Args]] = []
        self._watches = watches
        self._rows: set[bytes] = set()

    @property
    def untouched(self) -> bool:
        return not (self.touched or self._spoiled)

    @property
    def spoiled(self) -> bool:
        return self._spoiled

    @property
    def writes(self) -> bool:
        """Whether there is something to write, if it comes to that."""
        return self.untouched and any(command.kind is CommandKind.WRITE for command, _ in self._queue)

    def begin(self) -> None:
        self.open = True

    def queue(self, command: Command, args: Args) -> None:
        self._queue.append((command, args))

    def spoil(self) -> None:
        self._spoiled = self.open

    def watch(self, rows: list[bytes]) -> None:
        for row in rows:
            self._watches.add(row, self)
            self._rows.add(row)

    def unwatch(self) -> None:
        for row in self._rows:
            self._watches.remove(row, self)
        self._rows.clear()
        self.touched = False

    def discard(self) -> None:
        self.open = self._spoiled = False
        self._queue = []
        self.unwatch()

    @property
    def queued(self) -> Queued:
        """What is to be executed, as things are now."""
        return Queued([] if self.touched else self._queue, self.touched)


class Queued(NamedTuple):
    commands: list[tuple[Command, Args]]
    touched: bool  # a watched row has changed: nothing is executed

    def run(self, session: Session, keyspace: Keyspace) -> resp.Reply:
        """The replies of all, in one array."""
        return resp.NullArray() if self.touched else [_run(session, keyspace, *it) for it in self.commands]


def _run(session: Session, keyspace: Keyspace, command: Command, args: Args) -> resp.Reply:
    """As Redis has it, a command that fails leaves the others in force; it leaves no half of itself behind."""
    savepoint = dict(keyspace.transaction.changes) if isinstance(keyspace, WritableKeyspace) else {}
    try:
        return command.handler(session if command.kind is CommandKind.SESSION else keyspace, args)
    except ReplicatorError as error:
        if isinstance(keyspace, WritableKeyspace):
            keyspace.transaction.roll_back(savepoint)
        return resp.error_reply(error)
