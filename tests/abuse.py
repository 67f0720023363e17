"""What a hostile or careless client costs the others: `python -m tests.abuse` prints a table.

A process of its own runs one node in memory with a server for Redis clients. Its watchdog measures the longest time for
which the event loop ran nothing else, and the peak of its memory, while this process is the client.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import uvloop

from replicator.address import Address
from replicator.garbage import collect_seldom
from replicator.server.redis.server import RedisServer
from tests.memory_cluster import MemoryCluster
from tests.redis_fixture import CLUSTER, STEADY

TICK_S = 0.001
TIMEOUT_S = 300.0
MILLION = 1_000_000
AT_ONCE = 2_000  # keys of one MSET, fields of one HSET
PASSWORD = "secret"
CRLF, END = b"\r\n", b"the-end"


class Cost(NamedTuple):
    stall_ms: float
    cpu_ms: float
    memory_mib: float
    took_s: float
    answer: str


class Abuse(NamedTuple):
    name: str
    run: Callable[[socket.socket], str]
    filled: bool = False  # the store has a million keys, and a hash with a million fields
    password: str = ""


# The server's process


async def _serve(pipe: Connection, folder: str, password: str) -> None:
    collect_seldom()  # as a node
    cluster = MemoryCluster(Path(folder), STEADY)
    running = await cluster.start("n1")
    await cluster.leader()
    server = RedisServer(running.node, Address("127.0.0.1", 0), cluster=CLUSTER, password=password)
    await server.start()
    pipe.send(server.port)
    longest_s = longest_cpu_s = 0.0

    async def watch() -> None:
        nonlocal longest_s, longest_cpu_s
        last_s, last_cpu_s = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s, cpu_s = time.monotonic(), time.thread_time()
            longest_s = max(longest_s, now_s - last_s - TICK_S)
            longest_cpu_s = max(longest_cpu_s, cpu_s - last_cpu_s)
            last_s, last_cpu_s = now_s, cpu_s

    asked = asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), asked.set)
    watching = asyncio.create_task(watch())
    before = 0
    while True:
        await asked.wait()
        asked.clear()
        match pipe.recv():
            case "begin":
                gc.collect()
                _reset_peak()
                before = _memory("VmRSS")
                await asyncio.sleep(0.1)
                longest_s = longest_cpu_s = 0.0
                pipe.send(None)
            case "end":
                pipe.send((longest_s, longest_cpu_s, _memory("VmHWM") - before))
            case _:
                break
    watching.cancel()
    os._exit(0)


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _memory(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def _run_server(pipe: Connection, folder: str, password: str) -> None:
    uvloop.run(_serve(pipe, folder, password))


class ServerProcess:
    def __init__(self, password: str = "") -> None:
        self._folder = tempfile.TemporaryDirectory()
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_run_server, args=(theirs, self._folder.name, password))
        self._process.start()
        self._port = int(self._pipe.recv())

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=TIMEOUT_S)

    def measure(self, abuse: Abuse) -> Cost:
        self._pipe.send("begin")
        self._pipe.recv()
        begun_s = time.monotonic()
        with self.connect() as client:
            try:
                answer = abuse.run(client)
            except OSError as error:
                answer = type(error).__name__
        took_s = time.monotonic() - begun_s
        time.sleep(0.2)  # for what the server does once the client has gone
        self._pipe.send("end")
        stall_s, cpu_s, memory = self._pipe.recv()
        return Cost(stall_s * 1e3, cpu_s * 1e3, memory / 2**20, took_s, answer)

    def fill(self) -> None:
        """A million keys, and a hash with a million fields."""
        with self.connect() as client:
            for first in range(0, MILLION, AT_ONCE):
                numbers = range(first, first + AT_ONCE)
                _exchange(client, _command(b"MSET", *(part for it in numbers for part in (b"k%07d" % it, b"v"))))
                _exchange(client, _command(b"HSET", b"h", *(part for it in numbers for part in (b"f%07d" % it, b"v"))))

    def close(self) -> None:
        self._pipe.send("stop")
        self._process.join()
        self._folder.cleanup()


# The clients


def _command(*args: bytes) -> bytes:
    return b"*%d\r\n%b" % (len(args), b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args))


EXEC = _command(b"EXEC")


def _exchange(client: socket.socket, data: bytes) -> str:
    """Send `data`, and read all answers to it. The first and the last line of them, and their size."""
    sender = threading.Thread(target=_send, args=(client, data + _command(b"ECHO", END)))  # while answers are read
    sender.start()
    first, last, size = b"", b"", 0
    while END not in last:
        received = client.recv(1 << 20)
        if not received:
            break
        first = (first + received[:100])[:100]
        last = (last + received)[-200:]
        size += len(received)
    sender.join()
    lines = [it for it in last.partition(b"$%d" % len(END))[0].split(CRLF) if it]
    return f"{_text(first.partition(CRLF)[0])} … {_text(lines[-1]) if lines else ''} ({size} bytes)"


def _text(data: bytes) -> str:
    return data[:90].decode(errors="replace")


def _send(client: socket.socket, data: bytes) -> None:
    with suppress(OSError):
        client.sendall(data)


def _exec(count: int, *command: bytes) -> Callable[[socket.socket], str]:
    """By default, SET with other keys."""

    def run(client: socket.socket) -> str:
        _exchange(client, _command(b"SET", b"big", b"x" * 500_000))
        commands = (_command(*command or (b"SET", b"e%d" % it, b"v")) for it in range(count))
        return _exchange(client, _command(b"MULTI") + b"".join(commands) + _command(b"SET", b"e", b"v") + EXEC)

    return run


def _replaced(client: socket.socket) -> str:
    values = [part for it in range(4_999) for part in (b"r%d" % it, b"x" * 300)]
    _exchange(client, _command(b"MSET", *values))
    return _exchange(client, _command(b"MSET", *values))


def _hashes(client: socket.socket) -> str:
    data = b"".join(_command(b"HSET", b"s%d" % it, b"f", b"v") for it in range(2_499))
    return _exchange(client, data + _command(b"DEL", *(b"s%d" % it for it in range(2_499))))


def _wide_hash(client: socket.socket) -> str:
    _exchange(client, _command(b"HSET", b"w", *(part for it in range(4_990) for part in (b"f%d" % it, b"v"))))
    return _exchange(client, _command(b"DEL", b"w"))


def _pipeline(client: socket.socket) -> str:
    return _exchange(client, b"".join(_command(b"SET", b"p%d" % it, b"v") for it in range(100_000)))


def _glob(client: socket.socket) -> str:
    _exchange(client, _command(b"SET", b"a" * 200, b"v"))
    return _exchange(client, _command(b"KEYS", b"a*a*a*a*a*b"))


def _inline(client: socket.socket) -> str:
    return _exchange(client, b"PING\n" * 80_000)


def _quoted_inline(client: socket.socket) -> str:
    return _exchange(client, b'ECHO "' + b"x" * 60_000 + b'"\n')


def _announced(client: socket.socket) -> str:
    client.settimeout(1.0)
    try:
        return _exchange(client, b"*1000000000\r\n$4\r\nPING\r\n")
    except TimeoutError:
        return "no answer: the server waits for 10^9 arguments"


def _unread(client: socket.socket) -> str:
    """Large answers behind a write, of a client that does not read them."""
    _exchange(client, _command(b"SET", b"big", b"x" * 500_000))
    client.settimeout(2.0)
    sent = 0
    try:
        for _ in range(500):
            client.sendall(_command(b"SET", b"small", b"v") + _command(b"SET", b"big", b"x" * 500_000, b"GET"))
            sent += 1
    except TimeoutError:
        return f"not read beyond {sent} requests"
    return f"{sent} requests taken"


def _simple(*args: bytes) -> Callable[[socket.socket], str]:
    return lambda client: _exchange(client, _command(*args))


def _keys_of(count: int, prefix: bytes = b"k") -> list[bytes]:
    return [prefix + b"%07d" % it for it in range(count)]


ABUSES = [
    Abuse("EXEC of 40,000 SET", _exec(40_000)),
    Abuse("EXEC of 4,900 SET", _exec(4_900)),
    Abuse("EXEC of 7,000 INCR", _exec(7_000, b"INCR", b"i")),
    Abuse("EXEC of 7,000 STRLEN of 0.5 MB", _exec(7_000, b"STRLEN", b"big")),
    Abuse("EXEC of 4,900 APPEND to 0.5 MB", _exec(4_900, b"APPEND", b"big", b"x")),
    Abuse("EXEC of 4,900 INCRBYFLOAT 1e4800", _exec(4_900, b"INCRBYFLOAT", b"n", b"1e4800")),
    Abuse("EXEC of 14,000 COMMAND", _exec(14_000, b"COMMAND")),
    Abuse("MSET of 4,999 values of 300 bytes, again", _replaced),
    Abuse("DEL of 2,499 hashes", _hashes),
    Abuse("DEL of a hash with 4,990 fields", _wide_hash),
    Abuse("pipeline of 100,000 SET", _pipeline),
    Abuse("KEYS a*a*a*a*a*b", _glob),
    Abuse("400 kB of inline commands", _inline),
    Abuse("inline command of 60 kB in quotes", _quoted_inline),
    Abuse("*1000000000 before AUTH", _announced, password=PASSWORD),
    Abuse("*1000000000 without password", _announced),
    Abuse("500 answers of 0.5 MB, not read", _unread),
    Abuse("KEYS *", _simple(b"KEYS", b"*"), filled=True),
    Abuse("SCAN 0 COUNT 1000000", _simple(b"SCAN", b"0", b"COUNT", b"1000000"), filled=True),
    Abuse("HGETALL, 1,000,000 fields", _simple(b"HGETALL", b"h"), filled=True),
    Abuse("MGET of 500,000 keys", _simple(b"MGET", *_keys_of(500_000)), filled=True),
    Abuse("EXISTS of 500,000 keys", _simple(b"EXISTS", *_keys_of(500_000)), filled=True),
    Abuse("DEL of 5,000 keys", _simple(b"DEL", *_keys_of(5_000)), filled=True),
    Abuse("DEL of 500,000 keys", _simple(b"DEL", *_keys_of(500_000)), filled=True),
    Abuse("DEL of 14,000 missing keys", _simple(b"DEL", *_keys_of(14_000, b"m")), filled=True),
    Abuse("DEL of the hash", _simple(b"DEL", b"h"), filled=True),
    Abuse("FLUSHALL", _simple(b"FLUSHALL"), filled=True),
]


def main(names: list[str]) -> None:
    chosen = [it for it in ABUSES if not names or any(name in it.name for name in names)]
    print("| abuse | longest stall of the loop, ms | of that CPU, ms | memory, MiB | took, s | answer |")
    print("|---|---|---|---|---|---|")
    filled: ServerProcess | None = None
    for abuse in chosen:
        if abuse.filled:
            if filled is None:
                filled = ServerProcess()
                filled.fill()
            cost = filled.measure(abuse)
        else:
            server = ServerProcess(abuse.password)
            cost = server.measure(abuse)
            server.close()
        figures = f"{cost.stall_ms:.0f} | {cost.cpu_ms:.0f} | {cost.memory_mib:.0f} | {cost.took_s:.1f}"
        print(f"| {abuse.name} | {figures} | {cost.answer} |", flush=True)
    if filled is not None:
        filled.close()


if __name__ == "__main__":
    main(sys.argv[1:])
