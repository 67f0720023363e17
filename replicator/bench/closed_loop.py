"""Closed-loop load for any server with the Redis protocol: one load generator for all compared servers.

Each connection sends a request, reads all its replies, and sends the next one. The loop runs in a process of its own,
in one thread without an event loop: on a small machine, the load generator takes its time from the server.
"""

from __future__ import annotations

import json
import selectors
import socket
import subprocess
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from random import random
from time import perf_counter
from typing import Any

import hiredis

from replicator.errors import ReplicatorError

KEYS = 100_000
KEY, VALUE = "KEY", "VALUE"  # in a command: replaced by a random one of 16 bytes each time
NUMBER, TWO_NUMBERS = "NUMBER", "TWO NUMBERS"  # replaced by random ones below `KEYS`, as an array in MessagePack
WARM_UP_SHARE = 0.2
REPLY_TIMEOUT_S = 8.0  # for replies that are outstanding when the time is over
CHUNK = 1 << 16

CommandWords = Sequence[str]


@dataclass(frozen=True, slots=True)
class Workload:
    port: int
    connections: int
    seconds: float
    request: Sequence[CommandWords]  # a pipeline
    setup: Sequence[CommandWords] = ()  # sent once on each connection


@dataclass(frozen=True, slots=True)
class LoadResult:
    """`per_s`: requests answered in time and without errors; the latencies are of all requests sent in that time."""

    per_s: float
    p50_ms: float
    p99_ms: float
    trouble: str = ""  # empty if all replies were as expected


def key_name(number: int) -> str:
    return f"key:{number:012d}"


def value_of(number: int) -> str:
    return f"{number:016d}"


def run_load(workload: Workload) -> LoadResult:
    """Run the load in a process of its own. Raises `ReplicatorError`."""
    timeout_s = workload.seconds * (1 + WARM_UP_SHARE) + 3 * REPLY_TIMEOUT_S
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(asdict(workload)),
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise ReplicatorError(f"the load has not finished after {timeout_s:.0f} s") from None
    if done.returncode != 0:
        raise ReplicatorError(f"the load failed: {' '.join(done.stderr.splitlines()[-1:])}")
    return LoadResult(**json.loads(done.stdout))


def percentile(latencies_s: Sequence[float], share: float) -> float:
    """Of sorted latencies, in milliseconds; 0 if there are none."""
    return latencies_s[min(len(latencies_s) - 1, int(len(latencies_s) * share))] * 1000 if latencies_s else 0.0


def encode(commands: Sequence[Sequence[str | bytes]]) -> bytes:
    return b"".join(hiredis.pack_command(tuple(command)) for command in commands)  # type: ignore[arg-type]


class RequestTemplate:
    """The bytes of a request, without the numbers in its keys and values."""

    def __init__(self, request: Sequence[CommandWords]) -> None:
        encoded = encode([[_WORDS.get(word, word) for word in command] for command in request]).replace(b"%", b"%%")
        encoded = encoded.replace(key_name(0).encode(), b"key:%012d").replace(value_of(0).encode(), b"%016d")
        self._format = encoded.replace(_PACKED, b"%b")
        self._draws = [draw for command in request for word in command for draw in _DRAWS.get(word, ())]

    def fill(self) -> bytes:
        return self._format % tuple([draw() for draw in self._draws])


_PACKED = b"\xce<n>?"
"""The place of a number of 32 bits in MessagePack."""


def _draw() -> int:
    return int(random() * KEYS)


def _draw_packed() -> bytes:
    return b"\xce" + _draw().to_bytes(4, "big")


_WORDS: dict[str, str | bytes] = {
    KEY: key_name(0),
    VALUE: value_of(0),
    NUMBER: b"\x91" + _PACKED,
    TWO_NUMBERS: b"\x92" + 2 * _PACKED,
}
_DRAWS: dict[str, tuple[Callable[[], int | bytes], ...]] = {
    KEY: (_draw,),
    VALUE: (_draw,),
    NUMBER: (_draw_packed,),
    TWO_NUMBERS: (_draw_packed, _draw_packed),
}


class LoadConnection:
    def __init__(self, port: int, setup: Sequence[CommandWords]) -> None:
        """Raises `ReplicatorError` if a reply to `setup` is an error."""
        self.socket = socket.create_connection(("127.0.0.1", port), REPLY_TIMEOUT_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.reader = hiredis.Reader()
        self.outstanding = 0  # replies
        self.sent_s = 0.0
        self.failed = False  # a reply to the last request was an error or empty
        for command in setup:
            self.send(encode([command]), 1)
            while self.outstanding:
                bad = self.receive()
                if bad is not None:
                    raise ReplicatorError(f"{' '.join(command)}: {bad!r}")

    def send(self, data: bytes, replies: int) -> None:
        self.outstanding = replies
        self.failed = False
        self.sent_s = perf_counter()
        self.socket.sendall(data)

    def receive(self) -> Any:
        """Read the replies that have arrived; return the first bad one (an error, or empty), or None."""
        data = self.socket.recv(CHUNK)
        if not data:
            raise ReplicatorError("the server closed a connection")
        self.reader.feed(data)
        bad = None
        while (reply := self.reader.gets()) is not False:
            self.outstanding -= 1
            if bad is None and (not reply or isinstance(reply, hiredis.ReplyError)):
                bad = reply if reply is not None else "no value"
        return bad


class ClosedLoop:
    def __init__(self, workload: Workload) -> None:
        self._workload = workload
        self._template = RequestTemplate(workload.request)
        self._latencies_s = array("d")
        self._answered = 0
        self._bad: Counter[str] = Counter()
        self._connections = [LoadConnection(workload.port, workload.setup) for _ in range(workload.connections)]

    def run(self) -> LoadResult:
        selector = selectors.DefaultSelector()
        from_s = perf_counter() + self._workload.seconds * WARM_UP_SHARE
        until_s = from_s + self._workload.seconds
        for connection in self._connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            self._send(connection)
        while (now_s := perf_counter()) < until_s:
            for key, _ in selector.select(until_s - now_s):
                self._receive(key.data, from_s, until_s)
        while self._waiting and (now_s := perf_counter()) < until_s + REPLY_TIMEOUT_S:
            for key, _ in selector.select(until_s + REPLY_TIMEOUT_S - now_s):
                self._receive(key.data, from_s, until_s)
        return self._result()

    @property
    def _waiting(self) -> int:
        return sum(connection.outstanding > 0 for connection in self._connections)

    def _send(self, connection: LoadConnection) -> None:
        connection.send(self._template.fill(), len(self._workload.request))

    def _receive(self, connection: LoadConnection, from_s: float, until_s: float) -> None:
        bad = connection.receive()
        if bad is not None:
            self._bad[str(bad)] += 1
            connection.failed = True
        if connection.outstanding:
            return
        now_s = perf_counter()
        if connection.sent_s >= from_s:
            self._latencies_s.append(now_s - connection.sent_s)
        if from_s <= now_s < until_s and not connection.failed:
            self._answered += 1
        if now_s < until_s:
            self._send(connection)

    def _result(self) -> LoadResult:
        latencies_s, trouble = sorted(self._latencies_s), []
        if self._bad:
            what = self._bad.most_common(1)[0][0]
            trouble.append(f"{self._bad.total()} bad replies, the most frequent: {what}")
        if self._waiting:
            trouble.append(
                f"{self._waiting} of {len(self._connections)} connections got no reply for {REPLY_TIMEOUT_S:.0f} s"
            )
        return LoadResult(
            self._answered / self._workload.seconds,
            percentile(latencies_s, 0.5),
            percentile(latencies_s, 0.99),
            "; ".join(trouble),
        )


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(ClosedLoop(Workload(**json.load(sys.stdin))).run())))
    except (ReplicatorError, OSError) as error:
        sys.exit(str(error))
