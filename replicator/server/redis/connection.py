"""One client connection: parses commands, runs them in order, answers them in order.

Writes of one connection do not wait for each other: each sees the ones before it, and its answer waits in a slot until
its fate is known. A read waits until this connection's own writes are in the store. All answers that are ready leave
in one write to the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from replicator.address import Address
from replicator.errors import Definite, ReplicatorError
from replicator.limits import MAX_READY_BYTES, MAX_SLOTS, MAX_UNPARSED_BYTES, MAX_UNREAD_BYTES
from replicator.position import BEFORE_LOG, Offset
from replicator.protocol.levels import Level
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.server.redis.commands.registry import BY_SPELLING, Args, Command, CommandKind, look_up
from replicator.server.redis.requests import ProtocolBroken, Requests
from replicator.server.redis.resp import QUEUED, Error, Reply, encode, error_reply
from replicator.server.redis.subscriptions import WHILE_SUBSCRIBED, Subscriptions, refusal
from replicator.server.redis.transaction import Multi
from replicator.store.view import KeyBlocked, View

if TYPE_CHECKING:
    from replicator.server.redis.server import RedisServer


class Slot:
    """The place of an answer in the order of answers; as the `done` of a write it learns its fate."""

    __slots__ = ("data", "ready", "session")

    def __init__(self, session: Session, data: bytes, ready: bool) -> None:
        self.session = session
        self.data = data
        self.ready = ready

    def __call__(self, error: ReplicatorError | None, offset: Offset) -> None:
        session = self.session
        if error is None:
            session.last_offset = offset
            session.server.stats.writes_ok += 1
        else:
            session.server.stats.count_failure(error)
            self.data = encode(error_reply(error), session.protocol)
        self.ready = True
        session.settle()


class Session(asyncio.Protocol):
    def __init__(self, server: RedisServer, id: int) -> None:
        self.server = server
        self.id = id
        self.protocol = 2
        self.authenticated = not server.password
        self.name: bytes = b""
        self.library: dict[bytes, bytes] = {}
        self.address = ""
        self.connected_s = asyncio.get_running_loop().time()
        self.last_command = b""
        self.last_offset = BEFORE_LOG  # of this connection's last write
        self.level: Level | None = None  # of its reads; None: as is usual in the node's role
        self.multi: Multi = Multi(server.watches)
        self.subscriptions = Subscriptions(server.events, self.push)
        self._transport: asyncio.Transport
        self._requests = Requests()
        self._slots: deque[Slot] = deque()
        self._readable: Keyspace | None = None  # what reads see, for as long as nothing else can happen on the loop
        self._out: list[bytes] = []
        self._ready_bytes = 0  # in `_out`
        self._held: Args | None = None  # waits until the slots are empty
        self._task: asyncio.Task[None] | None = None  # what the connection waits for
        self._index: asyncio.Future[View] | None = None  # the same, shared with others
        self._full = False  # the client does not read
        self._reading = True
        self._awake = False  # `_wake` is scheduled
        self._ending = False  # closes once all answers are out
        self._closing = False

    # The socket

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are none by inheritance
        peer = transport.get_extra_info("peername")
        self.address = str(Address(*peer[:2])) if peer else "?"
        refusal = self.server.admit(self)
        if refusal:
            self._transport.write(encode(Error(refusal), 2))
            self.close()

    def data_received(self, data: bytes) -> None:
        self._requests.feed(data)
        self._pump()
        if self._reading and self._requests.unparsed > MAX_UNPARSED_BYTES and self._blocked:
            self._reading = False
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        if self._task is not None:
            self._task.cancel()
        self.multi.unwatch()
        self.subscriptions.clear()
        self.server.forget(self)

    def close(self) -> None:
        """After what is ready has been sent."""
        self._flush()
        self._closing = True
        self._transport.close()

    @property
    def idle(self) -> bool:
        return not self._slots and self._task is None and self._index is None

    # Commands in, answers out

    @property
    def _blocked(self) -> bool:
        waiting = self._held is not None or self._task is not None or self._index is not None or self._ending
        return waiting or self._full or len(self._slots) >= MAX_SLOTS

    def _pump(self) -> None:
        next_request, run = self._requests.next, self._run
        try:
            while not (self._closing or self._blocked):
                args = next_request()
                while args is not None and self._read_at_once(args):
                    args = next_request()
                if args is None:
                    break
                run(args)
        except ProtocolBroken as error:
            self.answer(Error(f"ERR Protocol error: {error}"))
            self.close_after_answers()
        self._readable = None
        self._flush()
        if not (self._reading or self._closing or self._blocked):
            self._reading = True
            self._transport.resume_reading()

    def _run(self, args: Args) -> None:
        self.server.stats.commands += 1
        self._readable = None  # after RESET, for one, nothing may be read
        command = None
        try:
            found = BY_SPELLING.get(args[0])
            command = found if found is not None and found.accepts(len(args)) else look_up(args)
            self.last_command = command.name
            kind = command.kind
            if not self.authenticated and not command.before_auth:
                self.answer(Error("NOAUTH Authentication required."))
            elif self.subscriptions.restrict(self.protocol) and command.name not in WHILE_SUBSCRIBED:
                self.answer(refusal(command.name))
            elif self.multi.open and kind is not CommandKind.CONTROL:
                self._queue(command, args)
            elif kind is CommandKind.READ:
                self._read(command, args)
            elif kind is CommandKind.WRITE:
                self._write(command, args)
            elif kind is CommandKind.SESSION:
                self.answer(command.handler(self, args))
            else:
                command.handler(self, args)
        except ReplicatorError as error:
            if command is None or command.kind is not CommandKind.CONTROL:
                self.multi.spoil()
            self.answer(error_reply(error))

    def _read_at_once(self, args: Args) -> bool:
        """Answer a read as the one before it was, with nothing between them; False if that is not the case."""
        readable = self._readable
        if readable is None or self._slots or self.multi.open or self._full:
            return False
        command = BY_SPELLING.get(args[0])
        if command is None or command.kind is not CommandKind.READ or not command.accepts(len(args)):
            return False
        try:
            reply = command.handler(readable, args)
        except KeyBlocked:
            return False
        except ReplicatorError as error:
            reply = error_reply(error)
        self.server.stats.commands += 1
        self.last_command = command.name
        self._send(encode(reply, self.protocol))
        return True

    def answer(self, reply: Reply) -> None:
        data = encode(reply, self.protocol)
        if self._slots:
            self._slots.append(Slot(self, data, True))
        else:
            self._send(data)

    def _send(self, data: bytes) -> None:
        """With what else is ready; large answers do not pile up, so that a client that does not read is noticed."""
        self._out.append(data)
        self._ready_bytes += len(data)
        if self._ready_bytes > MAX_READY_BYTES:
            self._flush()

    def push(self, reply: Reply) -> None:
        """What the client did not ask for just now. One that lets too much of it lie is cut off."""
        self.answer(reply)
        self._flush()
        if self._transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self._transport.abort()

    def _read(self, command: Command, args: Args) -> None:
        if not self.after_own_writes(args):
            self.read_at(self.level, command, args)

    def read_at(self, level: Level | None, command: Command, args: Args) -> None:
        """Answer a read, at once or when its level is met."""
        view = self.server.backend.reads.view(level)
        if isinstance(view, asyncio.Future):
            self._index = view
            view.add_done_callback(lambda reached: self._answer_reached(reached, level, command, args))
            return
        keyspace = self._answer_from(view, command, args)
        if keyspace is None:
            self._read_later(level, command, args)
        else:
            self._readable = keyspace if level is self.level else None

    def _answer_from(self, view: View, command: Command, args: Args) -> Keyspace | None:
        """None if the read would have seen a key that it must not see yet; then there is no answer. Raises."""
        keyspace = Keyspace(view, self.server.backend.now_ms())
        try:
            self.answer(command.handler(keyspace, args))
        except KeyBlocked:
            return None
        return keyspace

    def _answer_reached(self, reached: asyncio.Future[View], level: Level | None, command: Command, args: Args) -> None:
        self._index = None
        if self._closing:
            return
        try:
            if self._answer_from(reached.result(), command, args) is None:
                self._read_later(level, command, args)
        except ReplicatorError as failure:
            self.answer(error_reply(failure))
        self._pump()

    def _read_later(self, level: Level | None, command: Command, args: Args) -> None:
        self.wait(self._answer_read(level, lambda keyspace: command.handler(keyspace, args)))

    async def _answer_read(self, level: Level | None, run: Callable[[Keyspace], Reply]) -> None:
        backend = self.server.backend
        self.answer(await backend.reads.read(level, lambda view: run(Keyspace(view, backend.now_ms()))))

    def _write(self, command: Command, args: Args) -> None:
        backend = self.server.backend
        transaction = backend.begin()
        reply = command.handler(WritableKeyspace(transaction, backend.now_ms() or 0), args)
        slot = Slot(self, encode(reply, self.protocol), False)
        self._slots.append(slot)
        try:
            backend.submit(transaction, slot)
        except Definite as error:
            slot(error, BEFORE_LOG)

    def _queue(self, command: Command, args: Args) -> None:
        if command.line_at:
            look_up(args[command.line_at :])  # raises
        if command.kind is CommandKind.WRITE:
            self.server.backend.begin()  # is there somebody to write to?
        self.multi.queue(command, args)
        self.answer(QUEUED)

    def execute(self, args: Args) -> None:
        """EXEC: all queued commands as one record."""
        if self.multi.untouched and self.after_own_writes(args):
            return
        backend = self.server.backend
        if not self.multi.writes:
            self.wait(self._execute_reads())
            return
        queued = self.multi.queued
        self.multi.discard()
        transaction = backend.begin()
        reply = queued.run(self, WritableKeyspace(transaction, backend.now_ms() or 0))
        slot = Slot(self, encode(reply, self.protocol), False)
        self._slots.append(slot)
        try:
            backend.submit(transaction, slot)
        except Definite as error:
            slot(error, BEFORE_LOG)

    async def _execute_reads(self) -> None:
        """What is watched counts until the level is met."""
        try:
            await self._answer_read(self.level, lambda keyspace: self.multi.queued.run(self, keyspace))
        finally:
            self.multi.discard()

    # Waiting

    def after_own_writes(self, args: Args) -> bool:
        """Whether the command has to wait for this connection's writes; then it is run again."""
        if self._slots:
            self._held = args
            return True
        return False

    def wait(self, work: Coroutine[Any, Any, None]) -> None:
        """Nothing else happens on this connection until `work`, which answers, is done."""
        self._task = asyncio.get_running_loop().create_task(self._finish(work))

    async def _finish(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except ReplicatorError as error:
            self.answer(error_reply(error))
        self._task = None
        self._pump()

    def settle(self) -> None:
        """A slot has become ready."""
        if not self._awake:
            self._awake = True
            asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._awake = False
        slots = self._slots
        while slots and slots[0].ready:
            self._out.append(slots.popleft().data)
        if self._held is not None and not slots and not self._closing:
            args, self._held = self._held, None
            self._run(args)
        self._pump()
        if self._ending and not slots:
            self.close()

    def close_after_answers(self) -> None:
        self._ending = True
        if not self._slots:
            self.close()

    def _flush(self) -> None:
        if self._out:
            out, self._out, self._ready_bytes = self._out, [], 0
            if not self._transport.is_closing():
                self._transport.write(out[0] if len(out) == 1 else b"".join(out))
