"""MULTI and WATCH: the commands that a connection has queued, and the keys that it watches."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.limits import MAX_QUEUED_BYTES, MAX_WRITE_ITEMS
from replicator.server.backend import Backend
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.store.rows import KEYSPACE_TABLE

Queued = list[tuple[Command, Args]]


class Watches:
    """Which connections watch which row. It listens to the node while any row is watched."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._watchers: dict[bytes, set[MultiState]] = {}

    def on_change(self, table: str, row: bytes) -> None:
        if table == KEYSPACE_TABLE:
            for multi in self._watchers.get(row, ()):
                multi.dirty_cas = True

    def add(self, row: bytes, multi: MultiState) -> None:
        self._watchers.setdefault(row, set()).add(multi)
        self._backend.row_listener = self.on_change

    def remove(self, row: bytes, multi: MultiState) -> None:
        watchers = self._watchers[row]
        watchers.discard(multi)
        if not watchers:
            del self._watchers[row]
        if not self._watchers:
            self._backend.row_listener = None


class MultiState:
    """Of one connection. `dirty_cas` and `dirty_exec` are Redis' own terms; either keeps EXEC from running anything."""

    def __init__(self, watches: Watches) -> None:
        self.open = False  # since MULTI
        self.dirty_cas = False  # a watched row has changed
        self.dirty_exec = False  # a command could not be queued; only while open
        self.queued: Queued = []  # empty unless open
        self._items = self._bytes = 0  # of `queued`
        self._watches = watches
        self._rows: set[bytes] = set()

    @property
    def watched(self) -> list[bytes]:
        return sorted(self._rows)

    @property
    def writes(self) -> bool:
        return any(command.kind is CommandKind.WRITE for command, _ in self.queued)

    def begin(self) -> None:
        self.open = True

    def queue(self, command: Command, args: Args) -> None:
        """Raises `BadRequest`."""
        self._items += len(args)
        self._bytes += sum(map(len, args))
        if self._items > MAX_WRITE_ITEMS or self._bytes > MAX_QUEUED_BYTES:
            self.queued = []
            raise BadRequest(
                f"a transaction has at most {MAX_WRITE_ITEMS} arguments and {MAX_QUEUED_BYTES >> 20} MiB in all its "
                "commands: split it, or use a pipeline without MULTI"
            )
        self.queued.append((command, args))

    def abort(self) -> None:
        """A command could not be queued. EXEC will fail; outside of MULTI nothing happens."""
        self.dirty_exec = self.open

    def watch(self, rows: list[bytes]) -> None:
        for row in rows:
            self._watches.add(row, self)
            self._rows.add(row)

    def unwatch(self) -> None:
        for row in self._rows:
            self._watches.remove(row, self)
        self._rows.clear()
        self.dirty_cas = False

    def discard(self) -> None:
        self.open = self.dirty_exec = False
        self.queued = []
        self._items = self._bytes = 0
        self.unwatch()
