"""A cluster that answers SQL as the Redis ports of nodes do, on one SQLite database."""

from __future__ import annotations

import re
import socketserver
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

import apsw
import hiredis
import msgpack

from replicator.client.sql import StatementKind, statement_kind
from replicator.protocol.levels import parse_level

CLUSTER = "test"
PASSWORD = "secret"
PRAGMAS = "table_info|table_xinfo|index_list|index_info|foreign_key_list|table_list"
TOKEN = b"00" * 16 + b":%d"


class Lose(Enum):
    """The connection, without an answer."""

    BEFORE = auto()  # the statement is executed
    AFTER = auto()


@dataclass(frozen=True, slots=True)
class Seen:
    node: int
    statement: str
    level: str | None  # of a read
    id: str | None


class FakeSqlCluster:
    """One leader and followers, which have always applied everything."""

    def __init__(self, folder: Path, nodes: int = 2, password: str = PASSWORD) -> None:
        self.path = str(folder / "store.db")
        self.password = password
        self.leader = 0
        self.seen: list[Seen] = []
        self.once: dict[bytes, Any] = {}
        self.faults: list[tuple[str, str | Lose]] = []
        self._servers = [_Server(("127.0.0.1", 0), self, index) for index in range(nodes)]
        apsw.Connection(self.path).pragma("journal_mode", "wal")
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.01,)).start()

    @property
    def nodes(self) -> list[str]:
        return [f"127.0.0.1:{server.server_address[1]}" for server in self._servers]

    @property
    def statements(self) -> list[str]:
        return [it.statement for it in self.seen]

    def inject(self, statement: str, fault: str | Lose) -> None:
        """Fail the next statement that begins so, with this error or without an answer."""
        self.faults.append((statement, fault))

    def next_fault(self, statement: str) -> str | Lose | None:
        fault = next((it for it in self.faults if statement.startswith(it[0])), None)
        if fault is None:
            return None
        self.faults.remove(fault)
        return fault[1]

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def members(self, name: bytes) -> Any:
        """The reply to SENTINEL."""
        found = []
        for index, server in enumerate(self._servers):
            fields = {"ip": "127.0.0.1", "port": server.server_address[1], "config-epoch": 1, "flags": "master"}
            found.append((index == self.leader, [str(it).encode() for pair in fields.items() for it in pair]))
        if name == b"MASTERS":
            return [[b"name", CLUSTER.encode()]]
        wanted = name == b"MASTER"
        chosen = [fields for leads, fields in found if leads == wanted]
        return chosen[0] if wanted else chosen


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, address: tuple[str, int], cluster: FakeSqlCluster, index: int) -> None:
        self.cluster = cluster
        self.index = index
        super().__init__(address, _Connection)


class _Refused(Exception):
    pass


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        self._cluster = self.server.cluster
        self._is_allowed = not self._cluster.password
        self._is_lost = False
        self._is_aborted = False  # a transaction has failed, until its end
        self._database = apsw.Connection(self._cluster.path)
        self._database.pragma("foreign_keys", True)
        self._database.set_busy_timeout(100)
        requests = hiredis.Reader()
        try:
            while data := self.request.recv(1 << 16):
                requests.feed(data)
                while (request := requests.gets()) is not False:
                    reply = self._answer(request)
                    if self._is_lost:
                        return
                    self.request.sendall(encode(reply))
        except OSError:
            pass
        finally:
            self._database.close()

    def _answer(self, request: list[bytes]) -> Any:
        try:
            return self._execute(request, None, None)
        except _Refused as error:
            return error

    def _execute(self, request: Sequence[bytes], level: str | None, id: bytes | None) -> Any:
        name = request[0].upper()
        if name == b"AUTH":
            self._is_allowed = request[-1].decode() == self._cluster.password
            return b"OK" if self._is_allowed else _Refused("WRONGPASS invalid password")
        if not self._is_allowed:
            raise _Refused("NOAUTH Authentication required.")
        match name:
            case b"SENTINEL":
                return self._cluster.members(request[1])
            case b"REPL.TOKEN":
                return TOKEN % len(self._cluster.seen)
            case b"REPL.READ":
                words = parse_level([it.decode(errors="replace") for it in request[1:4]])[1]
                return self._execute(request[1 + words :], b" ".join(request[1 : 1 + words]).decode(), id)
            case b"REPL.ONCE":
                if request[1] not in self._cluster.once:
                    self._cluster.once[request[1]] = self._execute(request[2:], level, request[1])
                return self._cluster.once[request[1]]
            case b"REPL.SQL":
                return self._sql(request[1].decode(), msgpack.unpackb(request[3]), level, id)
        return b"OK"

    def _sql(self, statement: str, params: Any, level: str | None, id: bytes | None) -> bytes:
        cluster = self._cluster
        cluster.seen.append(Seen(self.server.index, statement, level, id.decode() if id else None))
        fault = cluster.next_fault(statement)
        if isinstance(fault, str):
            if not fault.startswith(("CONSTRAINT", "SQLERROR")):
                self._roll_back()
            raise _Refused(fault)
        if fault is Lose.BEFORE:
            raise ConnectionAbortedError
        self._is_lost = fault is Lose.AFTER
        return self._run(statement, params)

    def _run(self, statement: str, params: Any) -> bytes:
        kind = statement_kind(statement)
        if self.server.index != self._cluster.leader and kind is not StatementKind.READ:
            raise _Refused("READONLY You can't write against a read only replica.")
        if re.match(r"\s*PRAGMA", statement, re.I) and not re.search(rf"\b({PRAGMAS})\s*\(", statement, re.I):
            raise _Refused("SQLERROR PRAGMA is not supported")
        if self._is_aborted:
            is_end = kind in (StatementKind.ROLLBACK, StatementKind.COMMIT)
            self._is_aborted = not is_end
            if kind is StatementKind.ROLLBACK:
                return bytes(msgpack.packb({"columns": [], "rows": [], "changes": 0, "last_id": None}))
            raise _Refused("ABORTED the transaction is aborted")
        database = self._database
        database.execute("SELECT 1 FROM sqlite_schema").fetchall()  # PRAGMA itself does not notice a changed schema
        before = database.total_changes()
        database.set_last_insert_rowid(0)
        columns: list[Any] = []
        cursor = database.cursor()
        cursor.exec_trace = lambda cursor, sql, bindings: columns.extend(cursor.get_description()) or True  # type: ignore[func-returns-value]
        try:
            rows = cursor.execute(statement, params).fetchall()
        except (apsw.ConstraintError, apsw.MismatchError) as error:
            raise _Refused(f"CONSTRAINT {error}") from None
        except apsw.BusyError:
            self._roll_back()
            raise _Refused("CONFLICT another transaction has changed what this one has read") from None
        except (apsw.Error, ValueError) as error:
            raise _Refused(f"SQLERROR {error}") from None
        changes = database.changes() if database.total_changes() > before else 0
        last_id = database.last_insert_rowid() or None
        return bytes(msgpack.packb({"columns": columns, "rows": rows, "changes": changes, "last_id": last_id}))

    def _roll_back(self) -> None:
        if self._database.in_transaction:
            self._database.execute("ROLLBACK")
            self._is_aborted = True


def encode(reply: Any) -> bytes:
    match reply:
        case _Refused():
            return f"-{reply}\r\n".encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encode, reply))
    return b"$%d\r\n%s\r\n" % (len(reply), reply)
