"""Clients that write to a node that reports to be leader, and read from any node, through the calls of a server."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

from replicator.errors import Definite, ReplicatorError
from replicator.position import BEFORE_LOG, Offset, Token
from replicator.protocol import levels
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level
from replicator.server.keyspace import Keyspace, WritableKeyspace
from replicator.store.view import KeyBlocked, View
from replicator.testing.cluster import Running, SimNode
from replicator.testing.history import History, Operation, OperationKind, Outcome
from replicator.testing.loop import SimLoop

_TIMEOUT_S = 3.0  # after which a client starts its next operation; this one may still be answered
_THINK_MS = (0.5, 20.0, 100.0)
_TTL_MS = (0, 5, 0, 50)
_KINDS = (OperationKind.PUT,) * 2 + (OperationKind.APPEND,) * 2 + (OperationKind.READ,) * 3


class SimClient:
    def __init__(
        self,
        name: str,
        keys: int,
        nodes: list[SimNode],
        loop: SimLoop,
        rng: random.Random,
        history: History,
        trace: Callable[[str], None],
    ) -> None:
        self._name = name
        self._keys = keys
        self._nodes = nodes
        self._loop = loop
        self._rng = rng
        self._history = history
        self._trace = trace
        self._think_ms = rng.choice(_THINK_MS)
        self._token = Token("", BEFORE_LOG)
        self._reads_only = rng.random() < 0.4  # linearizable, from any node: they detect forbidden values
        self.stopping = False

    async def run(self) -> None:
        """One operation after the other until `stopping`."""
        rng = self._rng
        for number in itertools.count():
            await asyncio.sleep(rng.random() * self._think_ms / 1000)
            if self.stopping:
                return
            kind = OperationKind.READ if self._reads_only else rng.choice(_KINDS)
            level = self._level() if kind is OperationKind.READ else None
            life, node = self._find(anywhere=level is not None)
            if life is None:
                continue
            key = b"k%d" % rng.randrange(self._keys)
            operation = Operation(f"{self._name}.{number}", node, kind, key, self._loop.time(), level)
            operation.ttl_ms = _TTL_MS[number % len(_TTL_MS)] if kind is OperationKind.PUT else 0
            if kind is OperationKind.READ and level in (None, LINEARIZABLE) and number % 2 and life.node.leads:
                operation.level, operation.in_transaction = None, True
            await self._ask(life, operation)
            if operation.outcome is Outcome.OK and operation.offset > self._token.offset:
                timeline = life.machine.state.timeline.hex()
                self._token = Token(timeline, operation.offset)

    def _level(self) -> Level | None:
        """None: the default level, at the leader."""
        match levels.LevelKind.LINEARIZABLE if self._reads_only else self._rng.choice((None, *levels.LevelKind)):
            case levels.LevelKind.SESSION:
                return Level(levels.LevelKind.SESSION, token=self._token) if self._token.timeline else EVENTUAL
            case levels.LevelKind.BOUNDED:
                return Level(levels.LevelKind.BOUNDED, self._rng.choice((50, 500)), self._rng.choice((0, 0, 3)))
            case None:
                return None
            case kind:
                return Level(kind)

    def _find(self, *, anywhere: bool) -> tuple[Running | None, str]:
        fit = [(life, it.name) for it in self._nodes for life in it.lives if anywhere or life.node.leads]
        return self._rng.choice(fit) if fit else (None, "")

    async def _ask(self, life: Running, operation: Operation) -> None:
        answered = self._loop.create_future()

        def end(outcome: Outcome, why: str = "", value: bytes | None = None, offset: Offset = BEFORE_LOG) -> None:
            if life.unanswered.pop(operation.name, None) is None:
                return  # the node has died meanwhile
            operation.answer(outcome, self._loop.time(), why, value, offset)
            self._trace(f"{self._name}: {operation}")
            if not answered.done():
                answered.set_result(None)

        self._history.operations.append(operation)
        life.unanswered[operation.name] = operation
        serve = _read if operation.kind is OperationKind.READ and not operation.in_transaction else _transact
        self._loop.call_soon(serve, life, operation, end, context=life.process.context)
        timeout = self._loop.call_later(_TIMEOUT_S, answered.cancel)
        await asyncio.wait([answered])
        timeout.cancel()


End = Callable[..., None]


def _transact(life: Running, operation: Operation, end: End) -> None:
    """In the node's process, in one piece, as the server does."""
    found: bytes | None = None

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        if error is None:
            end(Outcome.OK, f"at offset {offset}", found, offset)
        else:
            end(Outcome.REJECTED if isinstance(error, Definite) else Outcome.UNKNOWN, f"{error}")

    try:
        transaction = life.node.begin()
        keyspace = WritableKeyspace(transaction, life.node.now_ms())
        match operation.kind:
            case OperationKind.READ:
                found = _value(keyspace, operation.key)
            case OperationKind.APPEND:
                value = keyspace.header(operation.key)
                before = _value(keyspace, operation.key)
                after = operation.after(before) or b""
                keyspace.put_string(operation.key, after[1:], value.expires_at_ms if value else None)
            case _:
                expires_at_ms = keyspace.now_ms + operation.ttl_ms if operation.ttl_ms else None
                keyspace.put_string(operation.key, operation.name.encode(), expires_at_ms)
        life.node.submit(transaction, done)
    except Definite as error:
        done(error, Offset(-1))


def _value(keyspace: Keyspace, key: bytes) -> bytes | None:
    value = keyspace.header(key)
    return None if value is None else value.tag + value.data


def _read(life: Running, operation: Operation, end: End) -> None:
    node = life.node
    if operation.level is None and not node.leads:
        end(Outcome.REJECTED, "leads no more")
        return

    def see(view: View) -> None:
        end(Outcome.OK, "", _value(Keyspace(view, node.now_ms()), operation.key), life.machine.state.offset)

    async def wait() -> None:
        try:
            await node.reads.read(operation.level, see)
        except ReplicatorError as error:
            end(Outcome.REJECTED, str(error))

    try:
        view = node.reads.view(operation.level)
        if not isinstance(view, asyncio.Future):
            see(view)
            return
    except KeyBlocked:
        pass
    except ReplicatorError as error:
        end(Outcome.REJECTED, str(error))
        return
    request = asyncio.get_running_loop().create_task(wait())
    life.requests.add(request)
    request.add_done_callback(life.requests.discard)
