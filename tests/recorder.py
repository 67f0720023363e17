"""Clients of real processes that record each operation and its outcome, with times by the clock of this process.

`tests/recorded_checks.py` checks the history. Each read is sent in a
pipeline between two requests for a token, which bounds the offset of the store that answered it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import hiredis

from replicator.chaos.redis_connection import NotConnected, RedisConnection
from replicator.position import BEFORE_LOG, Offset, Token
from replicator.protocol.levels import EVENTUAL, LINEARIZABLE, Level, LevelKind, decode_token
from replicator.store.values import encode_value
from replicator.testing.history import Outcome
from tests.register_history import History, Operation, OperationKind

BOUND_MS = 500
THINK_S = 0.03
WRITE_TIMEOUT_S = 1.5
READ_TIMEOUTS_S = (0.3, 2.5)  # shorter and longer than a node is stopped
WAIT_S = 60


@dataclass(slots=True)
class Read(Operation):
    """The store that answered had applied at least `least` and at most `offset`."""

    least: Offset = BEFORE_LOG


class Recorder:
    """`writers` write at the leader and read in a session at any node; `readers` read at every level."""

    def __init__(
        self,
        name: str,
        ports: dict[str, int],
        leader: str,
        keys: int,
        writers: int,
        readers: int,
        password: str = "",
    ) -> None:
        self.history = History()
        self.keys = [b"%b:k%d" % (name.encode(), number) for number in range(keys)]
        self.ports = ports
        self.password = password
        self.leader = leader
        self.stopping = False
        clients = [*((f"{name}:w{number}", True) for number in range(writers))]
        clients += [(f"{name}:r{number}", False) for number in range(readers)]
        self._clients = [RecordingClient(self, *client, seed) for seed, client in enumerate(clients)]

    async def __aenter__(self) -> Recorder:
        self._tasks = [asyncio.create_task(client.run()) for client in self._clients]
        return self

    async def __aexit__(self, *error: object) -> None:
        self.stopping = True
        await asyncio.gather(*self._tasks)

    def counts(self) -> Counter[tuple[str, Outcome | None]]:
        """By kind of operation (the level of a read) and outcome."""
        return Counter((it.level.kind if it.level else "write", it.outcome) for it in self.history.operations)

    def answered(self) -> dict[str, int]:
        counts = self.counts()
        return {kind: counts[kind, Outcome.OK] for kind in ("write", *LevelKind)}

    async def wait_for_more(self, writes: int, reads: int) -> None:
        """Wait until that many more writes, and that many more reads at each level, have succeeded."""
        before, first = self.answered(), len(self.history.operations)
        more = {kind: count + (writes if kind == "write" else reads) for kind, count in before.items()}
        try:
            await until(lambda: all(count >= more[kind] for kind, count in self.answered().items()))
        except TimeoutError:
            reasons = Counter((it.node, it.why) for it in self.history.operations[first:] if it.why)
            answers = {kind: count - before[kind] for kind, count in self.answered().items()}
            why = f"answered within {WAIT_S} s: {answers}; refusals: {reasons.most_common(20)}"
            raise AssertionError(why) from None

    def __str__(self) -> str:
        counts = self.counts()
        ends = {kind: "/".join(str(counts[kind, outcome]) for outcome in Outcome) for kind in ("write", *LevelKind)}
        return ", ".join(f"{kind} {end}" for kind, end in ends.items())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():  # noqa: ASYNC110 (no single event signals a condition on many clients)
            await asyncio.sleep(0.02)


class RecordingClient:
    """Executes one operation after the other, each once."""

    def __init__(self, recorder: Recorder, name: str, writes: bool, seed: int) -> None:
        self._recorder = recorder
        self._name = name
        self._writes = writes
        self._rng = random.Random(seed)
        self._timeout_s = READ_TIMEOUTS_S[seed % len(READ_TIMEOUTS_S)]
        self._connections = {id: RedisConnection(port, recorder.password) for id, port in recorder.ports.items()}
        self._token: Token | None = None

    async def run(self) -> None:
        recorder, rng = self._recorder, self._rng
        for number in itertools.count():
            await asyncio.sleep(rng.random() * THINK_S)
            if recorder.stopping:
                break
            name, key = f"{self._name}.{number}", rng.choice(recorder.keys)
            if self._writes and rng.random() < 0.6:
                await self._write(Operation(name, recorder.leader, OperationKind.PUT, key, _now_s()))
            else:
                node = rng.choice(list(recorder.ports))
                await self._read(Read(name, node, OperationKind.READ, key, _now_s(), self._level()))
        for connection in self._connections.values():
            connection.close()

    def _level(self) -> Level:
        session = Level(LevelKind.SESSION, token=self._token) if self._token else EVENTUAL
        if self._writes:
            return session
        return self._rng.choice((EVENTUAL, Level(LevelKind.BOUNDED, BOUND_MS), session, LINEARIZABLE))

    async def _write(self, operation: Operation) -> None:
        self._recorder.history.operations.append(operation)
        try:
            reply, token = await self._ask(
                operation.node, WRITE_TIMEOUT_S, ("SET", operation.key.decode(), operation.name), ("REPL.TOKEN",)
            )
        except NotConnected as error:
            operation.answer(Outcome.REJECTED, _now_s(), str(error))
        except (OSError, TimeoutError) as error:
            operation.answer(Outcome.UNKNOWN, _now_s(), repr(error))
        else:
            if not isinstance(reply, hiredis.ReplyError):
                if isinstance(token, hiredis.ReplyError):  # the node has failed since, so where the write is is unknown
                    operation.answer(Outcome.UNKNOWN, _now_s(), str(token))
                else:
                    operation.answer(Outcome.OK, _now_s(), offset=self._note_token(token).offset)
                return
            unknown = str(reply).startswith("UNKNOWN")
            operation.answer(Outcome.UNKNOWN if unknown else Outcome.REJECTED, _now_s(), str(reply))
        if self._recorder.leader == operation.node and not operation.why.startswith("NOREPLICAS"):
            nodes = list(self._recorder.ports)
            self._recorder.leader = nodes[(nodes.index(operation.node) + 1) % len(nodes)]

    async def _read(self, read: Read) -> None:
        """The outcome of a read that is not answered stays None."""
        self._recorder.history.operations.append(read)
        asked = ("REPL.READ", *str(read.level).split(), "GET", read.key.decode())
        with suppress(NotConnected, OSError, TimeoutError):
            before, value, after = await self._ask(read.node, self._timeout_s, ("REPL.TOKEN",), asked, ("REPL.TOKEN",))
            refusal = next((it for it in (before, value, after) if isinstance(it, hiredis.ReplyError)), None)
            if refusal is not None:
                read.answer(Outcome.REJECTED, _now_s(), str(refusal))
                return
            stored = None if value is None else encode_value(b"s", value)
            read.answer(Outcome.OK, _now_s(), value=stored, offset=self._note_token(after).offset)
            read.least = decode_token(before.decode()).offset

    async def _ask(self, node: str, timeout_s: float, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to a pipeline."""
        connection = self._connections[node]
        try:
            async with asyncio.timeout(timeout_s):
                await connection.open()
                for command in commands:
                    connection.send(*command)
                return [await connection.receive() for _ in commands]
        except BaseException:  # late replies would be taken for those to the next commands
            connection.close()
            raise

    def _note_token(self, token: bytes) -> Token:
        seen = decode_token(token.decode())
        if self._token is None or self._token.offset < seen.offset:
            self._token = seen
        return seen


def _now_s() -> float:
    return asyncio.get_running_loop().time()
