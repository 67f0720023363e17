"""Clients that write to and read from whatever node says that it leads, through the calls that a server makes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable

from replicator.errors import Definite, ReplicatorError
from replicator.position import Offset
from replicator.store.keys import encode_key
from replicator.testing.cluster import Running, SimNode
from replicator.testing.history import History, Kind, Operation, Outcome
from replicator.testing.loop import SimLoop

TABLE = "kv"
_PATIENCE_S = 3.0  # after which a client turns to its next operation, and leaves this one to its fate
_THINK_MS = (0.5, 20.0, 100.0)
_KINDS = (Kind.PUT, Kind.PUT, Kind.APPEND, Kind.APPEND, Kind.READ, Kind.READ, Kind.READ)


class Client:
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
        self.stopping = False

    async def run(self) -> None:
        """One operation after the other until `stopping`."""
        rng = self._rng
        for number in itertools.count():
            await asyncio.sleep(rng.random() * self._think_ms / 1000)
            if self.stopping:
                return
            life, node = self._find()
            if life is None:
                continue
            operation = Operation(
                f"{self._name}.{number}",
                node,
                rng.choice(_KINDS),
                b"k%d" % rng.randrange(self._keys),
                called_s=self._loop.time(),
            )
            await self._ask(life, operation)

    def _find(self) -> tuple[Running | None, str]:
        leading = [it for it in self._nodes if it.life is not None and it.life.node.leads]
        if not leading:
            return None, ""
        node = self._rng.choice(leading)
        return node.life, node.name

    async def _ask(self, life: Running, operation: Operation) -> None:
        answered = self._loop.create_future()

        def end(outcome: Outcome, why: str = "", value: bytes | None = None) -> None:
            if life.asked.pop(operation.name, None) is None:
                return  # the node has died meanwhile
            operation.answer(outcome, self._loop.time(), why, value)
            self._trace(f"{self._name}: {operation}")
            if not answered.done():
                answered.set_result(None)

        self._history.operations.append(operation)
        life.asked[operation.name] = operation
        serve = _read if operation.kind is Kind.READ else _write
        self._loop.call_soon(serve, life, operation, end, context=life.process.context)
        patience = self._loop.call_later(_PATIENCE_S, answered.cancel)
        await asyncio.wait([answered])
        patience.cancel()


End = Callable[..., None]


def _write(life: Running, operation: Operation, end: End) -> None:
    """In the node's process, in one piece, as the server does."""

    def done(error: ReplicatorError | None, offset: Offset) -> None:
        if error is None:
            end(Outcome.OK, f"at offset {offset}")
        else:
            end(Outcome.REJECTED if isinstance(error, Definite) else Outcome.UNKNOWN, f"{error}")

    try:
        transaction = life.node.begin()
        key = encode_key(TABLE, operation.key, b"")
        transaction.put(TABLE, operation.key, b"", operation.after(transaction.get(key)))
        life.node.submit(transaction, done)
    except Definite as error:
        done(error, Offset(-1))


def _read(life: Running, operation: Operation, end: End) -> None:
    node = life.node
    if not node.leads:
        end(Outcome.REJECTED, "leads no more")
        return
    try:
        barrier = node.read_barrier()
        if barrier is None:
            value = node.view().get(encode_key(TABLE, operation.key, b""))
            end(Outcome.OK, value=value)
            return
    except ReplicatorError as error:
        end(Outcome.REJECTED, str(error))
        return

    async def wait() -> None:
        try:
            await barrier
        except ReplicatorError as error:
            end(Outcome.REJECTED, str(error))
        else:
            _read(life, operation, end)

    asyncio.get_running_loop().create_task(wait())
