"""Clients that write to a node that reports to be leader, and read from any node, as clients of its Redis server."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar

from replicator.errors import ReplicatorError
from replicator.position import BEFORE_LOG, Token
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind
from replicator.server.redis.command import Args
from replicator.testing.cluster import Running, SimNode
from replicator.testing.connection import SimConnection
from replicator.testing.history import History, Outcome, Request
from replicator.testing.loop import SimLoop

_TIMEOUT_S = 3.0  # after which a client starts its next request; this one may still be answered
_THINK_MS = (0.5, 5.0, 50.0)
_TTLS_MS = (1, 5, 50)
_ATTEMPTS = 4  # of a request with an id


Action = Callable[[Any], Coroutine[Any, Any, None]]
"""Of a client."""


class SimClient:
    """A client that makes one request after the other. It sends each once, unless the request has an id."""

    reading: ClassVar[Sequence[Action]]  # of clients that only read
    actions: ClassVar[Sequence[Action]]

    def __init__(
        self,
        name: str,
        keys: int,
        nodes: Sequence[SimNode],
        loop: SimLoop,
        rng: random.Random,
        history: History,
        trace: Callable[[str], None],
        think_ms: float | None = None,
    ) -> None:
        """`think_ms`: the longest pause between two requests; None: drawn."""
        self._name = name
        self._keys = [b"k%d" % number for number in range(keys)]
        self._nodes = nodes
        self._loop = loop
        self._rng = rng
        self._history = history
        self._trace = trace
        drawn_ms = rng.choice(_THINK_MS)
        self._think_ms = drawn_ms if think_ms is None else think_ms
        self._connections: dict[str, tuple[Running, SimConnection]] = {}  # by node
        self._names = (f"{name}.{number}" for number in itertools.count())
        self._reads_only = rng.random() < 0.4  # the current values, from any node: they detect forbidden ones
        self.token = Token("", BEFORE_LOG)  # of the session
        self.stopping = False

    async def run(self) -> None:
        """One request after the other until `stopping`."""
        while True:
            await self._think()
            if self.stopping:
                return
            await self._rng.choice(self.reading if self._reads_only else self.actions)(self)

    async def write_any(self) -> Request | None:
        """None: no node leads."""
        node = self._find()
        if node is None:
            return None
        request = self._request(node, ())
        request.lines = ([b"SET", self._key(), request.mark.encode()],)
        await self.ask(request)
        return request

    async def read_all(self, node: SimNode, level: Level | None) -> Request:
        """All keys."""
        request = self._request(node, [[b"GET", key] for key in self._keys], level, in_transaction=True)
        await self.ask(request)
        return request

    async def _think(self) -> None:
        await asyncio.sleep(self._rng.random() * self._think_ms / 1000)

    # Actions

    async def _read(self) -> None:
        """A key or all keys, at any level, from any node."""
        level = LINEARIZABLE if self._reads_only else self._draw_level()
        node = self._find(anywhere=level is not None)
        if node is None:
            return
        if self._rng.random() < 0.2:
            await self.read_all(node, level)
        else:
            await self.ask(self._request(node, [[b"GET", self._key()]], level))

    async def _write(self) -> None:
        node = self._find()
        if node is not None:
            request = self._request(node, ())
            request.lines = (self._draw_write(self._key(), request.mark),)
            await self.ask(request)

    async def _change_nothing(self) -> None:
        """A command that may write, and does not: it reads at the leader."""
        node = self._find()
        if node is not None:
            await self.ask(self._request(node, [[b"GETEX", self._key()]]))

    async def _transact(self) -> None:
        """MULTI, with a command for each key."""
        node = self._find()
        if node is not None:
            request = self._request(node, (), in_transaction=True)
            request.lines = tuple(self._draw_command(key, request.mark) for key in self._keys)
            await self.ask(request)

    async def _watch(self) -> None:
        """WATCH and read a key, and decide a transaction by it."""
        node = self._find()
        if node is None:
            return
        key = self._key()
        read = self._request(node, [[b"GET", key]])
        await self.ask(read, before=[[b"WATCH", key]])
        connection = self._connections.get(node.name)
        await self._think()
        if read.outcome is not Outcome.OK or not node.lives or self._connection(node) is not connection:
            return
        request = self._request(node, (), in_transaction=True)
        request.lines = ([b"GET", key], *(self._draw_write(it, request.mark) for it in self._keys))
        request.watched = {key: read.reply}
        if self._rng.random() < 0.3:
            request.id = request.mark.encode()
        await self.ask(request)

    async def _write_once(self) -> None:
        """Repeat a write or a transaction with the same id, at any leader, until its outcome is known."""
        in_transaction = self._rng.random() < 0.4
        lines: tuple[Args, ...] = ()
        mark = ""
        for _ in range(_ATTEMPTS):
            node = self._find()
            if node is not None:
                request = self._request(node, lines, in_transaction=in_transaction)
                mark = mark or request.mark
                keys = self._keys if in_transaction else [self._key()]
                lines = lines or tuple(self._draw_write(key, mark) for key in keys)
                request.lines, request.mark, request.id = lines, mark, mark.encode()
                await self.ask(request)
                if request.outcome is Outcome.OK and self._rng.random() < 0.7:
                    return
            await self._think()

    # Requests

    async def ask(self, request: Request, before: Sequence[Args] = ()) -> None:
        """Send the request, `before` before it, and wait for the answer or the timeout."""
        node = next(it for it in self._nodes if it.name == request.node)
        if not node.lives:
            request.answer(Outcome.REJECTED, self._loop.time(), "the connection is refused")
            return
        self._history.requests.append(request)
        lines, reply_at = _wire(request)
        await self._send(node, request, [*before, *lines], len(before) + reply_at)

    async def _send(
        self,
        node: SimNode,
        request: Request,
        lines: Sequence[Args],
        reply_at: int = 0,
        replies: list[object] | None = None,
    ) -> None:
        """Wait for the reply to the line at `reply_at`, or the timeout.

        `replies`: what the request has got if it succeeds, instead of that reply.
        """
        life, connection = self._connection(node)
        answered = self._loop.create_future()

        def done() -> None:
            if request.outcome is Outcome.OK:
                self._note_token(life, connection)
                request.reply = request.reply if replies is None else replies
            self._trace(f"{self._name}: {request}")
            if not answered.done():
                answered.set_result(None)

        connection.send(request, lines, reply_at, done)
        timeout = self._loop.call_later(_TIMEOUT_S, answered.cancel)
        await asyncio.wait([answered])
        timeout.cancel()
        if answered.cancelled():
            self._connections.pop(node.name, None)  # late answers are recorded, too

    def _request(
        self, node: SimNode, lines: Sequence[Args], level: Level | None = None, *, in_transaction: bool = False
    ) -> Request:
        name = next(self._names)
        return Request(
            name,
            self._name,
            node.name,
            tuple(lines),
            self._loop.time(),
            level,
            in_transaction,
            mark="" if lines else name,
        )

    def _connection(self, node: SimNode) -> tuple[Running, SimConnection]:
        """It stays, although another process of the node may have been started elsewhere."""
        known = self._connections.get(node.name)
        if known is None or known[0] not in node.lives or known[1] not in known[0].connections:
            life = self._rng.choice(node.lives)
            known = self._connections[node.name] = life, node.connect(life)
        return known

    def _note_token(self, life: Running, connection: SimConnection) -> None:
        try:
            token = life.node.token(connection.last_offset)
        except ReplicatorError:
            return
        if token.offset > self.token.offset:
            self.token = token

    def _find(self, *, anywhere: bool = False) -> SimNode | None:
        fit = [it for it in self._nodes if it.lives and (anywhere or any(life.node.leads for life in it.lives))]
        return self._rng.choice(fit) if fit else None

    # What is asked for

    def _key(self) -> bytes:
        return self._rng.choice(self._keys)

    def _draw_level(self) -> Level | None:
        """None: the default level, at the leader."""
        match self._rng.choice((None, None, *LevelKind)):
            case LevelKind.SESSION:
                return Level(LevelKind.SESSION, token=self.token) if self.token.timeline else EVENTUAL
            case LevelKind.BOUNDED:
                return Level(LevelKind.BOUNDED, self._rng.choice((50, 500)), self._rng.choice((0, 0, 3)))
            case None:
                return None
            case kind:
                return Level(kind)

    def _draw_command(self, key: bytes, mark: str) -> Args:
        return [b"GET", key] if self._rng.random() < 0.3 else self._draw_write(key, mark)

    def _draw_write(self, key: bytes, mark: str) -> Args:
        """A command that may write. Some change nothing, or only the expiry."""
        value, ttl_ms = mark.encode(), b"%d" % self._rng.choice(_TTLS_MS)
        return self._rng.choice(
            (
                [b"SET", key, value],
                [b"SET", key, value, b"PX", ttl_ms],
                [b"SET", key, value, b"GET"],
                [b"APPEND", key, b"," + value],
                [b"APPEND", key, b"," + value],
                [b"DEL", key],
                [b"SETNX", key, value],
                [b"GETEX", key, b"PX", ttl_ms],
            )
        )


SimClient.reading = (*(SimClient._read,) * 6, SimClient._change_nothing)
SimClient.actions = (
    *(SimClient._read,) * 4,
    *(SimClient._write,) * 3,
    *(SimClient._change_nothing,) * 2,
    SimClient._transact,
    SimClient._watch,
    SimClient._write_once,
)


def _wire(request: Request) -> tuple[list[Args], int]:
    """The lines to send, and the index of the one whose reply is that of the request."""
    level = [b"REPL.READ", *(word.encode() for word in str(request.level).split())] if request.level else []
    if request.in_transaction:
        execute = [b"REPL.EXEC", request.id] if request.id else [b"EXEC"]
        lines = [[b"MULTI"], *request.lines, execute]
        return ([level, *lines, [b"REPL.READ", b"default"]], len(lines)) if level else (lines, len(lines) - 1)
    (line,) = request.lines
    if request.id:
        line = [b"REPL.ONCE", request.id, *line]
    return [[*level, *line]], 0
