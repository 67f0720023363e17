"""The server for Redis clients: listens, keeps its sessions, counts."""

from __future__ import annotations

import asyncio
import itertools

from replicator.address import Address
from replicator.errors import ConfigError, ReplicatorError
from replicator.intervals import DRAIN_TIMEOUT_S
from replicator.protocol.timing import Timing
from replicator.server.backend import Backend
from replicator.server.keyspace import TABLE
from replicator.server.redis import families
from replicator.server.redis.connection import Session
from replicator.server.redis.subscriptions import Events
from replicator.server.redis.topology import Topology, look
from replicator.server.redis.transaction import Watches
from replicator.server.stats import Stats

assert families.TABLE, "the families register their commands when they are imported"


class RedisServer:
    """`port` 0: any free one. An empty password: none is asked for."""

    def __init__(
        self,
        backend: Backend,
        host: str,
        port: int,
        *,
        cluster: str,
        timing: Timing,
        password: str = "",
        max_clients: int = 10_000,
        http_address: Address | None = None,
    ) -> None:
        self.backend = backend
        self.host = host
        self.port = port
        self.cluster = cluster
        self.timing = timing
        self.password = password
        self.max_clients = max_clients
        self.http_address = http_address
        self.sessions: dict[int, Session] = {}
        self.stats = Stats()
        self.watches = Watches(backend)
        self.events = Events(cluster, self.topology)
        self.started_s = 0.0
        self._ids = itertools.count(1)
        self._server: asyncio.Server
        self._drained = asyncio.Event()

    async def start(self) -> None:
        """Raises `ConfigError` if the address cannot be had."""
        loop = asyncio.get_running_loop()
        self.started_s = loop.time()
        try:
            self._server = await loop.create_server(
                lambda: Session(self, next(self._ids)), self.host, self.port, backlog=1024
            )
        except OSError as error:
            place = Address(self.host, self.port)
            raise ConfigError(f"cannot listen at {place}: {error.strerror}. Choose another") from error
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """No new connections; those there are may end what they have begun, for a moment."""
        self._server.close()
        for session in list(self.sessions.values()):
            session.close_after_answers()
        if self.sessions:
            self._drained.clear()
            try:
                async with asyncio.timeout(DRAIN_TIMEOUT_S):
                    await self._drained.wait()
            except TimeoutError:
                for session in list(self.sessions.values()):
                    session.close()

    def admit(self, session: Session) -> str | None:
        """Count a new connection in; why not, if not."""
        self.stats.connections += 1
        if len(self.sessions) >= self.max_clients:
            self.stats.refused_connections += 1
            return "ERR max number of clients reached"
        self.sessions[session.id] = session
        return None

    def forget(self, session: Session) -> None:
        self.sessions.pop(session.id, None)
        if not self.sessions:
            self._drained.set()

    def topology(self) -> Topology:
        return look(self.backend, self.timing.lease_ms)

    def rows(self) -> int:
        """Number of keys; 0 while the node cannot tell."""
        try:
            return self.backend.store().rows(TABLE)
        except ReplicatorError:
            return 0

    def settings(self) -> dict[bytes, bytes]:
        """What CONFIG GET tells."""
        return {
            b"bind": self.host.encode(),
            b"port": b"%d" % self.port,
            b"databases": b"1",
            b"maxclients": b"%d" % self.max_clients,
            b"maxmemory": b"0",
            b"maxmemory-policy": b"noeviction",
            b"save": b"",
            b"appendonly": b"yes",  # the log is one
            b"timeout": b"0",
        }
