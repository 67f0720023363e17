"""The same commands to a real Redis and to us: the same replies, to the last word of each error."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import hiredis
import pytest

from tests.redis_fixture import ServerThread, real_redis

KEYS = [b"a", b"b", b"c", b"d\x00\xff", b""]
FIELDS = [b"f", b"g", b"h"]
VALUES = [b"1", b"-5", b"abc", b"", b"3.5", b"9223372036854775807", b"10", b" 1", b"01", b"1e3", b"x" * 50]
NUMBERS = [b"1", b"-1", b"0", b"9223372036854775807", b"-9223372036854775808", b"abc", b"1.5", b"100"]
FLOATS = [b"0.1", b"1e2", b"-3.25", b"abc", b"inf", b"nan", b"5"]
TIMES = [b"200000", b"-1", b"0", b"abc", b"9223372036854775807", b"100000"]
DEADLINES = [b"33177117420", b"33177117420000", b"1", b"-1", b"0"]


class Raw:
    """Sends one command, gets one reply; errors are values."""

    def __init__(self, port: int, protocol: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._reader = hiredis.Reader()
        if protocol == 3:
            self.ask(b"HELLO", b"3")

    def ask(self, *args: bytes) -> Any:
        self.send(*args)
        return self.next()

    def send(self, *args: bytes) -> None:
        parts = [b"*%d\r\n" % len(args), *(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args)]
        self._socket.sendall(b"".join(parts))

    def next(self) -> Any:
        while (reply := self._reader.gets()) is False:
            data = self._socket.recv(1 << 16)
            assert data, "the connection was closed"
            self._reader.feed(data)
        return reply

    def close(self) -> None:
        self._socket.close()


def command(draw: random.Random) -> list[bytes]:
    """A random command line; a few are malformed."""
    key, other, field, field2 = draw.choice(KEYS), draw.choice(KEYS), draw.choice(FIELDS), draw.choice(FIELDS)
    value, number, time = draw.choice(VALUES), draw.choice(NUMBERS), draw.choice(TIMES)
    options = [[b"NX"], [b"XX"], [b"GET"], [b"KEEPTTL"], [b"EX", time], [b"PX", time], [b"PXAT", b"33177117420000"]]
    conditions = [[], [], [b"NX"], [b"XX"], [b"GT"], [b"LT"], [b"NX", b"GT"], [b"GT", b"LT"], [b"huh"]]
    line = draw.choice(
        [
            [b"SET", key, value],
            [b"SET", key, value, *chain.from_iterable(draw.sample(options, draw.randrange(3)))],
            [b"GET", key],
            [b"GETSET", key, value],
            [b"GETDEL", key],
            [b"GETEX", key, *draw.choice([[], [b"PERSIST"], [b"EX", time], [b"EXAT", draw.choice(DEADLINES)]])],
            [b"GETRANGE", key, number, draw.choice(NUMBERS)],
            [b"MGET", key, other],
            [b"MSET", key, value, other, draw.choice(VALUES)],
            [b"MSETNX", key, value, other, draw.choice(VALUES)],
            [b"SETNX", key, value],
            [b"SETEX", key, time, value],
            [b"PSETEX", key, time, value],
            [b"APPEND", key, value],
            [b"STRLEN", key],
            [b"INCR", key],
            [b"DECR", key],
            [b"INCRBY", key, number],
            [b"DECRBY", key, number],
            [b"INCRBYFLOAT", key, draw.choice(FLOATS)],
            [b"DEL", key, other],
            [b"UNLINK", key],
            [b"EXISTS", key, other, key],
            [b"TYPE", key],
            [b"KEYS", draw.choice([b"*", b"?", b"[a-b]", b"[^a]", b"\\a", b"d*", b"[a", b""])],
            [b"RENAME", key, other],
            [b"RENAMENX", key, other],
            [b"EXPIRE", key, time, *draw.choice(conditions)],
            [b"PEXPIRE", key, time, *draw.choice(conditions)],
            [b"EXPIREAT", key, draw.choice(DEADLINES), *draw.choice(conditions)],
            [b"PEXPIREAT", key, draw.choice(DEADLINES)],
            [b"PEXPIRETIME", key],
            [b"PERSIST", key],
            [b"TTL", key],
            [b"PTTL", key],
            [b"HSET", key, field, value, field2, draw.choice(VALUES)],
            [b"HSETNX", key, field, value],
            [b"HMSET", key, field, value],
            [b"HGET", key, field],
            [b"HMGET", key, field, field2, b"none"],
            [b"HGETALL", key],
            [b"HDEL", key, field, field2],
            [b"HEXISTS", key, field],
            [b"HINCRBY", key, field, number],
            [b"HINCRBYFLOAT", key, field, draw.choice(FLOATS)],
            [b"HKEYS", key],
            [b"HVALS", key],
            [b"HLEN", key],
            [b"HSTRLEN", key, field],
            [b"HSCAN", key, b"0"],
            [b"SCAN", b"0", b"COUNT", b"100"],
            [b"SCAN", b"0", b"TYPE", b"hash", b"COUNT", b"100"],
            [b"DBSIZE"],
            [b"ECHO", value],
            [b"PING"],
            [b"SELECT", draw.choice([b"0", b"99999", b"x"])],
            [b"MULTI"],
            [b"EXEC"],
            [b"EXEC"],
            [b"DISCARD"],
            [b"WATCH", key],
            [b"UNWATCH"],
            [b"NOSUCH", key, value],
            [b"SET", key],
        ]
    )
    if draw.random() < 0.02:
        line = [*line, b"extra"]
    if draw.random() < 0.02:
        line = line[:-1] or line
    return line


@dataclass(eq=False)
class About:
    """Equal to others that differ by less than 5 s: the servers are asked one after the other."""

    ms: int

    def __eq__(self, other: object) -> bool:
        return isinstance(other, About) and abs(self.ms - other.ms) < 5_000


def comparable(line: list[bytes], reply: Any) -> Any:
    """What must be equal: order where Redis has one, times to a few seconds."""
    name = line[0].upper()
    if isinstance(reply, hiredis.ReplyError):
        return str(reply)
    if name in (b"KEYS", b"HKEYS", b"HVALS") and isinstance(reply, list):
        return sorted(reply)
    if name == b"HGETALL" and isinstance(reply, list):
        return sorted(zip(reply[::2], reply[1::2], strict=True))
    if name in (b"SCAN", b"HSCAN") and isinstance(reply, list):
        items = reply[1] if name == b"SCAN" else list(zip(reply[1][::2], reply[1][1::2], strict=True))
        return [reply[0], sorted(items)]
    if name in (b"INCRBYFLOAT", b"HINCRBYFLOAT") and isinstance(reply, bytes) and reply != b"QUEUED":
        return float(reply)  # Redis has 64 bits of mantissa, we have all digits
    if name in (b"PTTL", b"PEXPIRETIME", b"TTL") and isinstance(reply, int) and reply >= 0:
        return About(1000 * reply if name == b"TTL" else reply)
    return reply


def comparable_all(queued: list[list[bytes]], line: list[bytes], reply: Any) -> Any:
    if line[0] == b"EXEC" and isinstance(reply, list):
        return [comparable(line, item) for line, item in zip(queued, reply, strict=True)]
    return comparable(line, reply)


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with real_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.mark.parametrize("protocol", [2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_replies_are_those_of_redis(server: ServerThread, redis_port: int, seed: int, protocol: int) -> None:
    draw = random.Random(seed)
    ours, theirs = Raw(server.port, protocol), Raw(redis_port, protocol)
    try:
        ours.ask(b"FLUSHALL")
        theirs.ask(b"FLUSHALL")
        queued: list[list[bytes]] = []
        past: list[list[bytes]] = []
        for _ in range(1500):
            line = command(draw)
            past.append(line)
            mine, real = ours.ask(*line), theirs.ask(*line)
            assert comparable_all(queued, line, mine) == comparable_all(queued, line, real), (line, past[-12:])
            if str(real) == "QUEUED" or real == b"QUEUED":
                queued.append(line)
            elif line[0] in (b"EXEC", b"DISCARD", b"MULTI") and len(line) == 1:
                queued = [] if line[0] != b"MULTI" else queued
    finally:
        ours.close()
        theirs.close()
