"""One client connection: bytes in, bytes out, and what it waits for.

Commands run in order, one after the other. Writes of one connection do not wait for each other: each sees those before
it, and its reply is pending until the write is acknowledged. A read waits until none is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Coroutine
from typing import Any, Protocol, cast

from replicator.address import Address
from replicator.errors import ReplicatorError
from replicator.intervals import KEEPALIVE_S
from replicator.limits import MAX_PENDING_BYTES, MAX_PENDING_REPLIES, MAX_UNPARSED_BYTES, MAX_UNREAD_BYTES
from replicator.node.backlog import RecordSink
from replicator.position import Offset
from replicator.protocol.levels import Level
from replicator.server.redis.command import Args, Command
from replicator.server.redis.context import ServerContext
from replicator.server.redis.dispatch import Dispatcher
from replicator.server.redis.interactive import InteractiveTransaction
from replicator.server.redis.keyspace_notifications import KeyspaceNotifications
from replicator.server.redis.replies import Replies
from replicator.server.redis.requests import ProtocolBroken, Requests, SecurityAttack
from replicator.server.redis.resp import Error, Reply, encode, error_reply
from replicator.server.redis.sentinel_events import SentinelEvents
from replicator.server.redis.subscriptions import Subscriptions
from replicator.server.redis.transaction import MultiState, Watches
from replicator.server.redis.waiting import Closed, Closing, OthersTurn, OwnWrites, ViewAt, WaitState, Work

logger = logging.getLogger(__name__)


class Listener(ServerContext, Protocol):
    """The server that accepts connections."""

    watches: Watches
    sentinel_events: SentinelEvents
    keyspace_notifications: KeyspaceNotifications

    def admit(self, connection: Connection) -> Error | None:
        """Register a new connection. The error says why it is refused."""
        ...

    def forget(self, connection: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """Commands see it as a `ConnectionContext`."""

    def __init__(self, server: Listener, id: int) -> None:
        self.server = server
        self.id = id
        self.protocol = 2
        self.name: bytes = b""
        self.library: dict[bytes, bytes] = {}
        self.address = ""
        self.host = ""
        self._now_s = asyncio.get_running_loop().time  # kept: to look the loop up takes a system call
        self.connected_s = self.received_s = self._now_s()  # the latter: the last bytes
        self.last_command = b""
        self.level: Level | None = None
        self.multi = MultiState(server.watches)
        self.interactive: InteractiveTransaction | None = None
        self.subscriptions = Subscriptions(server.sentinel_events, server.keyspace_notifications, self)
        self.record_sink: RecordSink | None = None
        self._transport: asyncio.Transport
        self._replies = Replies(server.stats, self._on_replies, server.turns.clock)
        self._dispatcher = Dispatcher(self, self._replies, self._enter)
        self._requests = Requests(authenticated=not server.password, on_take=self._dispatcher.forget_view)
        self._waiting: WaitState = None
        self._unread = False  # the transport's buffer is full, as the client does not read
        self._reading = True  # from the transport

    # The transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # that of uvloop does not inherit from it
        self._replies.transport = self._transport
        peer = transport.get_extra_info("peername")
        if peer:
            self.host, self.address = peer[0], str(Address(*peer[:2]))
        _keep_alive(transport.get_extra_info("socket"))
        refusal = self.server.admit(self)
        if refusal is not None:
            self.reply(refusal)
            self.close()

    def data_received(self, data: bytes) -> None:
        self.received_s = self._now_s()
        self._requests.feed(data)
        self._run_commands()
        if self._reading and self._requests.unread > MAX_UNPARSED_BYTES and self._blocked:
            self._reading = False
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._unread = self.record_sink is None  # a follower acks what it has read, however much is on its way
        self._dispatcher.forget_view()

    def resume_writing(self) -> None:
        self._unread = False
        self._run_commands()

    def connection_lost(self, error: Exception | None) -> None:
        self._enter(Closed())
        self.multi.unwatch()
        self.subscriptions.clear()
        if self.record_sink is not None:
            self.server.backend.end_stream(self.record_sink)
        self.server.forget(self)

    def close(self) -> None:
        """At once: replies that are ready are sent, pending ones are not. Nor are records: a follower may not read."""
        self._enter(Closed())
        self._replies.flush()
        if self.record_sink is None:
            self._transport.close()
        else:
            self._transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether the client waits for nothing: no reply, no event, no records."""
        idle = self._waiting is None and not self._replies.pending and not self.subscriptions.count
        return idle and self.record_sink is None

    @property
    def authenticated(self) -> bool:
        return self._requests.authenticated

    @authenticated.setter
    def authenticated(self, authenticated: bool) -> None:
        self._requests.authenticated = authenticated

    # Commands in, replies out

    @property
    def _blocked(self) -> bool:
        replies = self._replies
        return (
            self._waiting is not None
            or self._unread
            or len(replies.pending) >= MAX_PENDING_REPLIES
            or replies.pending_bytes > MAX_PENDING_BYTES
        )

    def _run_commands(self, now_s: float | None = None) -> None:
        """Run the commands that have been received, until the connection has to wait.

        `now_s`: the time by `turns.clock`, if the caller has just read it.
        """
        next_request, dispatcher, turns = self._requests.next, self._dispatcher, self.server.turns
        read_again, run, clock, until_s = dispatcher.read_again, dispatcher.run, turns.clock, turns.until_s
        began = False
        try:
            while not self._blocked:
                if began or now_s is None:
                    now_s = clock()
                if not began:
                    began, self._replies.began_s = True, now_s
                if now_s >= until_s:
                    self._enter(OthersTurn())
                    break
                args = next_request()
                while args and read_again(args):
                    args = next_request() if clock() < until_s else []
                if args:
                    run(args)
                elif args is None:
                    break
        except SecurityAttack:
            logger.warning("closed %s: it speaks HTTP, so a page in a browser may have sent it commands", self.address)
            self._enter(Closed())
            self._transport.abort()
        except ProtocolBroken as error:
            self.reply(Error(f"ERR Protocol error: {error}"))
            self.close_after_replies()
        except Exception:  # a reply may be missing: the client would mistake the next one for it
            logger.exception("closed %s: a command has failed, which is a bug", self.address)
            self._enter(Closed())
            self._transport.abort()
        dispatcher.forget_view()  # other code runs until the next command
        if dispatcher.reads:
            self._observe_reads()
        self._replies.flush()
        if not (self._reading or self._blocked):
            self._reading = True
            self._transport.resume_reading()

    def _observe_reads(self) -> None:
        """Count the latency of all reads that are answered now: all that have begun, but one that is waited for.

        Reads that began together are answered together.
        """
        waiting, dispatcher, server = self._waiting, self._dispatcher, self.server
        answered, dispatcher.reads = dispatcher.reads, 0
        if waiting is not None and (type(waiting) is ViewAt or (type(waiting) is Work and waiting.is_read)):
            answered, dispatcher.reads = answered - 1, 1
        if answered:
            server.stats.reads.observe(server.turns.clock() - self._replies.began_s, answered)

    def _on_replies(self, now_s: float) -> None:
        waiting = self._waiting
        if waiting is not None and not self._replies.pending and isinstance(waiting, OwnWrites | Closing):
            self._resume(waiting)
        else:
            self._run_commands(now_s)

    def reply(self, reply: Reply) -> None:
        self._replies.add(encode(reply, self.protocol))

    def push(self, reply: Reply, max_unread_bytes: int = MAX_UNREAD_BYTES) -> None:
        """Send what is not the reply to a command. A client that leaves more than that unread is disconnected."""
        self.reply(reply)
        self._replies.flush()
        if self._transport.get_write_buffer_size() > max_unread_bytes:
            self.disconnect(f"it has left more than {max_unread_bytes} bytes unread")

    @property
    def unsent_bytes(self) -> int:
        return self._transport.get_write_buffer_size()

    def disconnect(self, reason: str) -> None:
        """Without what it has not read."""
        logger.info("closing %s: %s", self.address, reason)
        self._transport.abort()

    @property
    def last_offset(self) -> Offset:
        return self._replies.last_offset

    @last_offset.setter
    def last_offset(self, offset: Offset) -> None:
        self._replies.last_offset = offset

    def read_at(self, level: Level | None, command: Command, args: Args) -> None:
        self._dispatcher.read_at(level, command, args)

    def commit(self, reply: Reply) -> None:
        self._dispatcher.commit(reply)

    def execute(self, args: Args, id: bytes | None) -> None:
        self._dispatcher.execute(args, id)

    # Waiting

    def wait_for_own_writes(self, args: Args) -> bool:
        if not self._replies.pending:
            return False
        self._enter(OwnWrites(args))
        return True

    def wait_for(self, work: Coroutine[Any, Any, None], *, is_read: bool = False) -> None:
        self._enter(Work(asyncio.get_running_loop().create_task(work), is_read))

    def close_after_replies(self) -> None:
        self._enter(Closing())
        self._replies.advance_soon()

    def _enter(self, waiting: OwnWrites | ViewAt | Work | OthersTurn | Closing | Closed) -> None:
        """The only place where the connection begins to wait."""
        left = self._waiting
        if isinstance(left, Closed):
            return
        self._waiting = waiting
        if isinstance(left, Work):
            left.task.cancel()
        match waiting:
            case OthersTurn():
                self.server.turns.wait(lambda: self._resume(waiting))
            case ViewAt(future=future) | Work(task=future):
                future.add_done_callback(lambda _: self._resume(waiting))

    def _resume(self, waited: OwnWrites | ViewAt | Work | OthersTurn | Closing) -> None:
        """The only place where it stops waiting."""
        if self._waiting is not waited:  # the connection is closing
            return
        self._waiting = None
        try:
            match waited:
                case OwnWrites(args):
                    self._dispatcher.run(args)
                case ViewAt():
                    self._dispatcher.resume_read(waited)
                case Work(task):
                    task.result()
                case Closing():
                    self.close()
        except ReplicatorError as error:
            self.reply(error_reply(error))
        except BaseException as error:  # a reply is missing: the client would mistake the next one for it
            self._enter(Closed())
            self._transport.abort()
            if not isinstance(error, asyncio.CancelledError):  # which ends tasks when the loop ends
                raise
        if self._dispatcher.reads:
            self._observe_reads()
        self._run_commands()


def _keep_alive(connection: socket.socket | None) -> None:
    """Let TCP notice a client whose machine has gone: as Redis does, after up to twice the time."""
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_S // 3)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
