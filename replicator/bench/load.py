"""A closed loop of load on anything that speaks the Redis protocol: the one driver for all that is compared.

Each connection sends a request, reads all its answers, and sends the next one. It runs in a process of its own, one
thread without an event loop, since what it spends on a request is missing to what it measures on a small machine.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from random import random
from time import perf_counter
from typing import Any

import hiredis

from replicator.errors import ReplicatorError

KEYS = 100_000
KEY, VALUE = "KEY", "VALUE"  # in a command: another one each time, 16 bytes long
WARM_UP_SHARE = 0.2
PATIENCE_S = 8.0  # with answers that have not come when the time is over
CHUNK = 1 << 16

Command = Sequence[str]


@dataclass(frozen=True, slots=True)
class Workload:
    port: int
    connections: int
    seconds: float
    request: Sequence[Command]  # sent together
    greeting: Sequence[Command] = ()  # of each connection


@dataclass(frozen=True, slots=True)
class Measured:
    """`per_s` counts what was answered in time and well; the latencies are those of all that was sent in that time."""

    per_s: float
    p50_ms: float
    p99_ms: float
    trouble: str = ""


def key_name(number: int) -> str:
    return f"key:{number:012d}"


def value_of(number: int) -> str:
    return f"{number:016d}"


def run(workload: Workload) -> Measured:
    """In a process of its own. Raises `ReplicatorError`."""
    timeout_s = workload.seconds * (1 + WARM_UP_SHARE) + 3 * PATIENCE_S
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(asdict(workload)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise ReplicatorError(f"the load has not ended after {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise ReplicatorError(f"the load ended: {' '.join(done.stderr.splitlines()[-1:])}")
    return Measured(**json.loads(done.stdout))


def percentile(latencies_s: Sequence[float], share: float) -> float:
    """In milliseconds, of sorted seconds; 0 if there are none."""
    return latencies_s[min(len(latencies_s) - 1, int(len(latencies_s) * share))] * 1000 if latencies_s else 0.0


def encode(commands: Sequence[Command]) -> bytes:
    return b"".join(hiredis.pack_command(tuple(command)) for command in commands)  # type: ignore[arg-type]


class Template:
    """The bytes of a request, but for the numbers of its keys and values."""

    def __init__(self, request: Sequence[Command]) -> None:
        words = {KEY: key_name(0), VALUE: value_of(0)}
        encoded = encode([[words.get(word, word) for word in command] for command in request]).replace(b"%", b"%%")
        self._format = encoded.replace(key_name(0).encode(), b"key:%012d").replace(value_of(0).encode(), b"%016d")
        self._places = range(sum(word in words for command in request for word in command))

    def fill(self) -> bytes:
        return self._format % tuple([int(random() * KEYS) for _ in self._places])


class Connection:
    def __init__(self, port: int, greeting: Sequence[Command]) -> None:
        """Raises `ReplicatorError` if an answer to the greeting is an error."""
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()
        self.awaited = 0
        self.sent_s = 0.0
        self.spoiled = False  # one of the answers to the last request was bad
        for command in greeting:
            self.send(encode([command]), 1)
            while self.awaited:
                bad = self.receive()
                if bad is not None:
                    raise ReplicatorError(f"{' '.join(command)}: {bad!r}")

    def send(self, data: bytes, answers: int) -> None:
        self.awaited = answers
        self.spoiled = False
        self.sent_s = perf_counter()
        self.socket.sendall(data)

    def receive(self) -> Any:
        """Take the answers that have come; the first that is none to be content with, or else None."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise ReplicatorError("the server closed a connection")
        self.reader.feed(data)
        bad = None
        while (reply := self.reader.gets()) is not False:
            self.awaited -= 1
            if bad is None and (not reply or isinstance(reply, hiredis.ReplyError)):
                bad = reply if reply is not None else "nothing there"
        return bad


class Loop:
    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._template = Template(workload.request)
        self._latencies_s = array("d")
        self._answered = 0
        self._bad: Counter[str] = Counter()
        self._connections = [Connection(workload.port, workload.greeting) for _ in range(workload.connections)]

    def run(self) -> Measured:
        selector = selectors.DefaultSelector()
        from_s = perf_counter() + self._workload.seconds * WARM_UP_SHARE
        until_s = from_s + self._workload.seconds
        for connection in self._connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._send(connection)
        while (now_s := perf_counter()) < until_s:
            for key, _ in selector.select(until_s - now_s):
                self._take(key.data, from_s, until_s)
        while self._waiting and (now_s := perf_counter()) < until_s + PATIENCE_S:
            for key, _ in selector.select(until_s + PATIENCE_S - now_s):
                self._take(key.data, from_s, until_s)
        return self._measured()

    @property
    def _waiting(self) -> int:
        return sum(connection.awaited > 0 for connection in self._connections)

    def _send(self, connection: Connection) -> None:
        connection.send(self._template.fill(), len(self._workload.request))

    def _take(self, connection: Connection, from_s: float, until_s: float) -> None:
        bad = connection.receive()
        if bad is not None:
            self._bad[str(bad)] += 1
            connection.spoiled = True
        if connection.awaited:
            return
        now_s = perf_counter()
        if connection.sent_s >= from_s:
            self._latencies_s.append(now_s - connection.sent_s)
        if from_s <= now_s < until_s and not connection.spoiled:
            self._answered += 1
        if now_s < until_s:
            self._send(connection)

    def _measured(self) -> Measured:
        latencies_s, trouble = sorted(self._latencies_s), []
        if self._bad:
            what = self._bad.most_common(1)[0][0]
            trouble.append(f"{self._bad.total()} bad answers, most of them: {what}")
        if self._waiting:
            trouble.append(
                f"{self._waiting} of {len(self._connections)} connections got no answer for {PATIENCE_S:.0f} s"
            )
        return Measured(
            self._answered / self._workload.seconds,
            percentile(latencies_s, 0.5),
            percentile(latencies_s, 0.99),
            "; ".join(trouble),
        )


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(Loop(Workload(**json.load(sys.stdin))).run())))
    except (ReplicatorError, OSError) as error:
        sys.exit(str(error))
