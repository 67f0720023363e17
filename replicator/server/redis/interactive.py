"""A transaction over several commands of a connection, from BEGIN to COMMIT. Nothing is locked meanwhile.

Each command sees the state at the leader as it is then, with the changes of the transaction; an entry that was read
before is the same. COMMIT reads again what the commands have read. If anything has changed, the transaction has no
effect; otherwise its changes become one record, so that it takes place as a whole at that moment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from replicator.errors import BadRequest, Definite, TransactionTooLarge
from replicator.limits import MAX_SAVEPOINTS
from replicator.records.tape import TapeFull
from replicator.server.keyspace import WritableKeyspace
from replicator.server.programs import Programs
from replicator.server.redis.command import Args, Command
from replicator.server.redis.logged_commands import LoggedCommands, Mark
from replicator.sql.catalog import VERSION_KEY
from replicator.store.tracking import TrackedEntries
from replicator.store.view import Transaction


class Conflict(Definite):
    """Another transaction has changed what this one has read."""

    code = "CONFLICT"


class Aborted(Definite):
    """The transaction has failed before: its first error says why, and whether to run it again."""

    code = "ABORTED"


def _conflict(changed: str) -> Conflict:
    return Conflict(f"another client has changed {changed}: the transaction has no effect, run it again")


class InteractiveTransaction:
    def __init__(self, now_ms: int, programs: Programs) -> None:
        self._reads = TrackedEntries()
        self._savepoints: list[tuple[str, Mark]] = []
        self.failure: Definite | None = None  # why it can only be rolled back
        self.transaction = Transaction(self._reads, is_stable=False)
        self.keyspace = WritableKeyspace(self.transaction, now_ms, programs)
        self._logged = LoggedCommands(self.keyspace)

    @property
    def lines(self) -> Sequence[Args]:
        """Of commands that replicas have to execute again."""
        return self._logged.lines

    def begin_command(self, begin: Callable[[], Transaction]) -> Mark:
        """The next command sees what a transaction sees that begins now. Raises what `begin` does.

        Returns the mark to which it is rolled back if it fails.
        """
        try:
            self._reads.base = base = begin()
            if self._reads.is_different(VERSION_KEY, base):  # rows would be read by another schema than they have
                raise _conflict("the schema")
        except Definite as error:
            self.failure = error  # the commands that follow must not be committed without this one
            raise
        return self._logged.mark()

    def end_command(self, mark: Mark, command: Command, args: Args) -> None:
        """It has succeeded. `mark`: of its begin. Raises `TransactionTooLarge`."""
        try:
            self._logged.add(mark, command, args)
        except TransactionTooLarge as error:
            self.command_failed(mark, error)
            raise

    def command_failed(self, mark: Mark, error: BaseException) -> None:
        """Undo what it has done. Beyond the limits of a transaction, as in SQLite, nothing of it can be committed."""
        self.roll_back_command(mark)
        if isinstance(error, (TransactionTooLarge, TapeFull)):
            self.failure = error

    def roll_back_command(self, mark: Mark) -> None:
        """Undo what was done since the mark."""
        self._logged.roll_back_to(mark)

    def check_alive(self) -> None:
        """Raises `Aborted`."""
        if self.failure is not None:
            raise Aborted(f"the transaction is aborted, commands are ignored until ROLLBACK or COMMIT: {self.failure}")

    def check(self, base: Transaction) -> None:
        """Raises `Conflict` if what was read is different in `base`."""
        if not self._reads.unchanged(base):
            is_schema = self._reads.is_different(VERSION_KEY, base)
            raise _conflict("the schema" if is_schema else "what this transaction has read")

    def set_savepoint(self, name: str) -> None:
        self.check_alive()
        if len(self._savepoints) == MAX_SAVEPOINTS:
            raise BadRequest(f"a transaction has at most {MAX_SAVEPOINTS} savepoints: RELEASE some")
        self._savepoints.append((name, self._logged.mark()))

    def release(self, name: str) -> None:
        """Forget the savepoint and those after it. Raises `BadRequest`, `Aborted`."""
        self.check_alive()
        del self._savepoints[self._find(name) :]

    def roll_back_to(self, name: str) -> None:
        """Undo what was done since the savepoint, which stays. Raises `BadRequest`, `Aborted`."""
        self.check_alive()
        place = self._find(name)
        del self._savepoints[place + 1 :]
        self.roll_back_command(self._savepoints[place][1])

    def _find(self, name: str) -> int:
        """The place of the last savepoint of that name."""
        for place in range(len(self._savepoints) - 1, -1, -1):
            if self._savepoints[place][0] == name:
                return place
        raise BadRequest(f"no such savepoint: {name}")
