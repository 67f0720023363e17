"""The interface of connections and of the server to commands."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from replicator.address import Address
from replicator.node.backlog import RecordSink
from replicator.node.replica_progress import ReplicaReport
from replicator.position import NodeId, Offset
from replicator.protocol.levels import Level
from replicator.server.backend import Backend
from replicator.server.programs import Programs
from replicator.server.redis.command import Args, Command
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.resp import Reply
from replicator.server.redis.subscriptions import Subscriptions
from replicator.server.redis.topology import Topology
from replicator.server.redis.transaction import MultiState
from replicator.server.redis.turns import Turns
from replicator.server.stats import Stats


class ServerContext(Protocol):
    backend: Backend
    programs: Programs
    stats: Stats
    cluster: str
    port: int
    password: str  # empty: no password is required
    max_clients: int
    http_address: Address | None
    started_s: float  # on the loop's clock
    turns: Turns
    long_reads: asyncio.Semaphore
    long_writes: asyncio.Semaphore

    @property
    def connections(self) -> Mapping[int, ConnectionContext]:
        """By id."""
        ...

    def topology(self) -> Topology: ...

    async def replica_reports(self) -> Mapping[NodeId, ReplicaReport]:
        """Of the leader, which is asked if it is another node; empty if it does not answer."""
        ...

    def rows(self) -> int:
        """Number of keys; 0 while the store cannot be read."""
        ...

    def expiring_rows(self) -> int:
        """Number of keys that have an expiry."""
        ...

    def settings(self) -> dict[bytes, bytes]:
        """For CONFIG GET."""
        ...


class ConnectionContext(Protocol):
    id: int
    address: str  # of the client
    connected_s: float  # on the loop's clock
    protocol: int  # of RESP: 2 or 3
    authenticated: bool
    name: bytes
    library: dict[bytes, bytes]
    last_command: bytes
    last_offset: Offset  # of the last write of this connection that was acknowledged
    level: Level | None  # of its reads; None: the default of the node's role
    multi: MultiState
    interactive: InteractiveTransaction | None  # from BEGIN on; None: there is none
    subscriptions: Subscriptions
    record_sink: RecordSink | None  # None: the connection is not the sender's end of a stream

    @property
    def server(self) -> ServerContext: ...

    def reply(self, reply: Reply) -> None:
        """Send the reply of the command, after the replies of all commands before it."""
        ...

    def wait_for_own_writes(self, args: Args) -> bool:
        """Whether writes of this connection are unacknowledged. If so, the command runs again once none is."""
        ...

    def wait_for(self, work: Coroutine[Any, Any, None], *, is_read: bool = False) -> None:
        """Run the next command once `work`, which sends the reply, has ended. No own writes may be unacknowledged."""
        ...

    def read_at(self, level: Level | None, command: Command, args: Args) -> None:
        """Reply to a read from a view of that level. No own writes may be unacknowledged. Raises `ReplicatorError`."""
        ...

    def commit(self, reply: Reply) -> None:
        """COMMIT of `interactive`, which ends. Raises `ReplicatorError`."""
        ...

    def execute(self, args: Args, id: bytes | None) -> None:
        """EXEC: run all queued commands as one transaction, with an id at most once. Raises `ReplicatorError`."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """What waits for the client to read."""
        ...

    def push(self, reply: Reply, max_unread_bytes: int) -> None:
        """Send what is not the reply to a command. A client that leaves more than that unread is disconnected."""
        ...

    def close(self) -> None:
        """At once: replies that are ready are sent, pending ones are not."""
        ...

    def close_after_replies(self) -> None:
        """Run no further command. Close the connection once the replies of those before have been sent."""
        ...
