"""Clients that execute SQL statements besides commands on keys, and transactions over several of both.

A statement that calls `random()` or `now()` returns what it got, in the columns `r` and `at`: the checkers need it.
Several rows are changed in the order of their ids.
"""

from __future__ import annotations

from collections.abc import Sequence

from replicator.protocol.levels import Level
from replicator.server.redis.command import Args
from replicator.testing.clients import SimClient
from replicator.testing.cluster import Running, SimNode
from replicator.testing.connection import SimConnection
from replicator.testing.history import Outcome, Request, is_sql, plain

TABLE = """CREATE TABLE IF NOT EXISTS t
    (id INTEGER PRIMARY KEY, mark TEXT, n INTEGER NOT NULL DEFAULT 1, r INTEGER, at TEXT)"""
_IDS = 6
_OF_STATEMENTS = ("error: CONSTRAINT", "error: SQLERROR")

_WRITES = (
    """INSERT INTO t (id, mark, r) VALUES ({id}, {mark}, random()) ON CONFLICT (id) DO UPDATE
    SET mark = excluded.mark, n = n + 1, r = excluded.r RETURNING id, n, r""",
    """INSERT INTO t (id, mark, at) VALUES ({id}, {mark}, now()) ON CONFLICT (id) DO UPDATE
    SET mark = excluded.mark, at = excluded.at RETURNING id, at""",
    "INSERT INTO t (id, mark) VALUES ({id}, {mark})",
    "UPDATE t SET mark = {mark}, n = n + 1 WHERE id = {id} RETURNING n",
    "UPDATE t SET mark = {mark}, n = n * 2 % 1000003 WHERE id = {id} RETURNING n",
    "UPDATE t SET mark = {mark}, n = n + abs(coalesce(r, 0) % 10) WHERE id <> {id}",
    "UPDATE t SET mark = {mark}, r = random() WHERE id >= {id} RETURNING id, r",
    "UPDATE t SET n = n + 1",
    "DELETE FROM t WHERE id = {id} RETURNING n, r",
    "DELETE FROM t WHERE r % 3 = 0",
    "INSERT INTO u (mark, v) SELECT {mark}, sum(n) FROM t",
    "UPDATE u SET v = v + 1 WHERE id % 3 = 0",
    "DELETE FROM u WHERE id > {id}",
)
_MANY = """INSERT INTO u (mark, v) WITH RECURSIVE k (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM k WHERE x < 110)
    SELECT {mark}, x + count(t.n) FROM k LEFT JOIN t ON t.id = x GROUP BY x"""
"""It is executed in slices."""
_SCHEMA = (
    *("CREATE TABLE IF NOT EXISTS u (id INTEGER PRIMARY KEY, mark TEXT, v INTEGER)",) * 4,
    "DROP TABLE IF EXISTS u",
    "CREATE INDEX IF NOT EXISTS t_n ON t (n, mark)",
    "DROP INDEX IF EXISTS t_n",
    "CREATE INDEX u_v ON u (v DESC)",
)
_READS = (
    "SELECT * FROM t ORDER BY id",
    "SELECT count(*), sum(n), min(r) FROM t",
    "SELECT count(*), sum(v) FROM u",
    "SELECT id, mark FROM t WHERE n > 3 ORDER BY id",
)


def _line(statement: str) -> Args:
    return [b"REPL.SQL", " ".join(statement.split()).encode()]


class SqlClient(SimClient):
    _has_created = False  # the table `t`, which is never dropped

    async def read_all(self, node: SimNode, level: Level | None) -> Request:
        """All keys and rows."""
        keys: list[Args] = [[b"GET", key] for key in self._keys]
        request = self._request(node, [*keys, _line(_READS[0])], level, in_transaction=True)
        await self.ask(request)
        return request

    async def _create(self) -> None:
        node = self._find()
        if node is not None:
            request = self._request(node, [_line(TABLE)])
            await self.ask(request)
            self._has_created = request.outcome is Outcome.OK

    async def _query(self) -> None:
        level = self._draw_level()
        node = self._find(anywhere=level is not None)
        if node is not None:
            await self.ask(self._request(node, [_line(self._rng.choice(_READS))], level))

    async def _execute(self) -> None:
        if not self._has_created:
            await self._create()
        node = self._find()
        if node is not None:
            request = self._request(node, ())
            request.lines = (self._by(self._draw_statement(request.mark)),)
            await self.ask(request)

    async def _execute_once(self) -> None:
        """Until its outcome is known."""
        line: Args = []
        mark = ""
        for _ in range(3):
            node = self._find()
            if node is not None and self._has_created:
                request = self._request(node, ())
                mark = mark or request.mark
                line = line or self._by(self._draw_statement(mark))
                request.lines, request.mark, request.id = (line,), mark, mark.encode()
                await self.ask(request)
                if request.outcome is Outcome.OK and self._rng.random() < 0.7:
                    return
            await self._think()

    async def _change_schema(self) -> None:
        node = self._find()
        if node is not None:
            await self.ask(self._request(node, [self._by(_line(self._rng.choice(_SCHEMA)))]))

    async def _change_both(self) -> None:
        """Keys and rows, in MULTI."""
        node = self._find()
        if node is not None and self._has_created:
            request = self._request(node, (), in_transaction=True)
            request.lines = tuple(self._draw_either(request.mark) for _ in range(self._rng.randint(2, 4)))
            await self.ask(request)

    async def _transact_over_commands(self) -> None:
        """From BEGIN to COMMIT. What it has read is as if all of it was executed at COMMIT."""
        node = self._find()
        if node is None or not self._has_created or not node.lives:
            return
        request = self._request(node, (), in_transaction=True)
        self._history.requests.append(request)
        connection = self._connection(node)
        lines = [self._draw_either(request.mark) for _ in range(self._rng.randint(1, 4))]
        replies: list[object] = []
        for line in self._with_savepoint([_line("BEGIN"), *lines], request.mark):
            part = self._request(node, [line])
            await self._send_on(connection, node, part)
            failed = part.outcome is not Outcome.OK
            reply: object = f"error: {part.why}" if failed else plain(part.reply)
            if failed and not (is_sql(line) and str(reply).startswith(_OF_STATEMENTS)):
                request.answer(Outcome.REJECTED, self._loop.time(), f"at {line!r}: {part.why}")
                await self._send_on(connection, node, self._request(node, [_line("ROLLBACK")]))
                return
            if any(line is it for it in lines):
                replies.append(reply)
            if self._rng.random() < 0.5:
                await self._think()
        request.lines, request.called_s = tuple(lines), self._loop.time()
        await self._send_on(connection, node, request, replies)

    def _with_savepoint(self, lines: Sequence[Args], mark: str) -> list[Args]:
        """Perhaps with a statement that is rolled back."""
        if self._rng.random() < 0.6:
            return [*lines]
        undone = [_line("SAVEPOINT s"), self._draw_statement(mark), _line("ROLLBACK TO s")]
        at = self._rng.randint(1, len(lines))
        return [*lines[:at], *undone, *lines[at:]]

    async def _send_on(
        self,
        connection: tuple[Running, SimConnection],
        node: SimNode,
        request: Request,
        replies: list[object] | None = None,
    ) -> None:
        """On the connection that has begun the transaction. With `replies`: COMMIT."""
        life, end = connection
        if self._connections.get(node.name) is not connection or end not in life.connections:
            request.answer(Outcome.REJECTED, self._loop.time(), "the connection was lost before")
        elif replies is None:
            await self._send(node, request, request.lines)
        else:
            await self._send(node, request, [_line("COMMIT")], replies=replies)

    # What is asked for

    def _draw_statement(self, mark: str) -> Args:
        statement = _MANY if self._rng.random() < 0.03 else self._rng.choice(_WRITES)
        return _line(statement.format(id=self._rng.randrange(_IDS), mark=f"'<{mark}>'"))

    def _draw_either(self, mark: str) -> Args:
        kind = self._rng.random()
        if kind < 0.15:
            return _line(self._rng.choice(_READS))
        if kind < 0.2:
            return _line(self._rng.choice(_SCHEMA))
        return self._draw_statement(mark) if kind < 0.75 else self._draw_command(self._key(), mark)

    def _by(self, line: Args) -> Args:
        if self._rng.random() < 0.7:
            return line
        return [b"REPL.BY", self._rng.choice((b"row", b"command", b"mixed")), *line]


SqlClient.reading = (*SimClient.reading, *(SqlClient._query,) * 6)
SqlClient.actions = (
    *SimClient.actions,
    *(SqlClient._query,) * 3,
    *(SqlClient._execute,) * 8,
    SqlClient._execute_once,
    SqlClient._change_schema,
    *(SqlClient._change_both,) * 2,
    *(SqlClient._transact_over_commands,) * 4,
)
