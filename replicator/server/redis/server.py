"""The server for Redis clients: it listens, and knows its connections."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Mapping

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.intervals import AUTH_TIMEOUT_S, IDLE_CHECK_S, KEEPALIVE_S, STOP_TIMEOUT_S
from replicator.limits import LISTEN_BACKLOG, MAX_LONG_READS, MAX_LONG_WRITES, MAX_SQL_WAIT_MS
from replicator.node.node_link import LinkFailed
from replicator.node.replica_progress import ReplicaReport
from replicator.position import NodeId
from replicator.procedures.loading import NONE, Procedures
from replicator.server.backend import Backend
from replicator.server.listening import cannot_listen
from replicator.server.programs import Programs
from replicator.server.protection import HOW_TO_OPEN, is_loopback
from replicator.server.redis.connection import Connection
from replicator.server.redis.dedup import DEDUP_TABLE
from replicator.server.redis.keyspace_events import SENT_EVENTS
from replicator.server.redis.keyspace_notifications import KeyspaceNotifications
from replicator.server.redis.resp import Error
from replicator.server.redis.sentinel_events import SentinelEvents
from replicator.server.redis.topology import Topology, observe
from replicator.server.redis.transaction import Watches
from replicator.server.redis.turns import Turns
from replicator.server.replica_reports import ReplicaReports
from replicator.server.stats import Stats
from replicator.store.rows import KEYSPACE_TABLE

logger = logging.getLogger(__name__)


class RedisServer:
    """Port 0: any free port. An empty password: clients need none."""

    def __init__(
        self,
        backend: Backend,
        address: Address,
        *,
        cluster: str,
        password: str = "",
        max_clients: int = 10_000,
        timeout_s: int = 0,
        protected: bool = False,
        http_address: Address | None = None,
        option: str = "--resp",
        procedures: Procedures = NONE,
        clock: Callable[[], float] = time.monotonic,
        sql_wait_s: float | None = MAX_SQL_WAIT_MS / 1000,
    ) -> None:
        """`sql_wait_s`: see `Programs`."""
        self.backend = backend
        self.programs = Programs(procedures, sql_wait_s=sql_wait_s)
        self._address, self._option = address, option  # that names it on the command line
        self.port = address.port  # where it listens, once it has started
        self.cluster = cluster
        self.password = password
        self.max_clients = max_clients
        self.timeout_s = timeout_s  # of idle clients; 0: none
        self.protected = protected  # serve only clients on this machine
        self.http_address = http_address
        self.connections: dict[int, Connection] = {}
        self.stats = Stats()
        self.watches = Watches(backend)
        self.sentinel_events = SentinelEvents(cluster, self.topology)
        self.keyspace_notifications = KeyspaceNotifications(backend, clock)
        self.turns = Turns(clock)
        self.long_reads = asyncio.Semaphore(MAX_LONG_READS)
        self.long_writes = asyncio.Semaphore(MAX_LONG_WRITES)
        self._reports = ReplicaReports(password)
        self.started_s = 0.0
        self._ids = itertools.count(1)
        self._server: asyncio.Server
        self._idle_check: asyncio.TimerHandle
        self._drained = asyncio.Event()

    async def start(self) -> None:
        """Raises `ConfigError` if it cannot listen at the address."""
        loop = asyncio.get_running_loop()
        self.started_s = loop.time()
        try:
            self._server = await loop.create_server(
                self.accept, self._address.host, self._address.port, backlog=LISTEN_BACKLOG
            )
        except OSError as error:
            raise cannot_listen(self._address, error, option=self._option) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._idle_check = loop.call_later(IDLE_CHECK_S, self._check_idle)

    async def close(self) -> None:
        """Accept no more connections. Replies that wait for Kafka are sent, if that takes at most `STOP_TIMEOUT_S`.

        Commands that run in slices are cancelled.
        """
        self._server.close()
        self._idle_check.cancel()
        for connection in list(self.connections.values()):
            connection.close_after_replies()
        if self.connections:
            self._drained.clear()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await self._drained.wait()
            except TimeoutError:
                for connection in list(self.connections.values()):
                    connection.close()

    def accept(self) -> Connection:
        """The server's end of a new connection."""
        return Connection(self, next(self._ids))

    def admit(self, connection: Connection) -> Error | None:
        self.stats.connections += 1
        if self.protected and not is_loopback(connection.host):
            self.stats.refused_connections += 1
            logger.warning("refused %s: %s", connection.address, HOW_TO_OPEN)
            return Error(f"DENIED {HOW_TO_OPEN}")
        if len(self.connections) >= self.max_clients:
            self.stats.refused_connections += 1
            return Error("ERR max number of clients reached")
        self.connections[connection.id] = connection
        return None

    def forget(self, connection: Connection) -> None:
        self.connections.pop(connection.id, None)
        if not self.connections:
            self._drained.set()

    def _check_idle(self) -> None:
        loop = asyncio.get_running_loop()
        self.close_idle(loop.time())
        self._idle_check = loop.call_later(IDLE_CHECK_S, self._check_idle)

    def close_idle(self, now_s: float) -> None:
        """Close connections that have not authenticated in time, or whose clients have been idle for too long."""
        for connection in list(self.connections.values()):
            if not connection.authenticated:
                if now_s - connection.connected_s >= AUTH_TIMEOUT_S:
                    connection.close()
            elif self.timeout_s and connection.is_idle and now_s - connection.received_s >= self.timeout_s:
                connection.close()

    def topology(self) -> Topology:
        return observe(self.backend)

    async def replica_reports(self) -> Mapping[NodeId, ReplicaReport]:
        """As `ServerContext.replica_reports`."""
        backend, status = self.backend, self.backend.status()
        leader = backend.membership.get(status.leader) if status.leader else None
        if leader is None or leader.node == status.id:
            return {report.node: report for report in backend.replicas}
        try:
            return {report.node: report for report in await self._reports.ask(leader.resp)}
        except LinkFailed as error:
            logger.debug("the state of the replicas is unknown: %s", error)
            return {}

    def rows(self) -> int:
        try:
            return self.backend.store().rows(KEYSPACE_TABLE)
        except ReplicatorError:
            return 0

    def expiring_rows(self) -> int:
        try:
            return self.backend.count_expiring() - self.backend.store().rows(DEDUP_TABLE)  # each id has an expiry
        except ReplicatorError:
            return 0

    def settings(self) -> dict[bytes, bytes]:
        return {
            b"bind": self._address.host.encode(),
            b"port": b"%d" % self.port,
            b"databases": b"1",
            b"maxclients": b"%d" % self.max_clients,
            b"maxmemory": b"0",
            b"maxmemory-policy": b"noeviction",
            b"save": b"",
            b"appendonly": b"yes",  # the log is the append-only file
            b"timeout": b"%d" % self.timeout_s,
            b"protected-mode": b"yes" if self.protected else b"no",
            b"tcp-keepalive": b"%d" % KEEPALIVE_S,
            b"notify-keyspace-events": SENT_EVENTS,
        }
