"""Parsing of requests: however the bytes arrive, whatever lengths are announced."""

from __future__ import annotations

import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.limits import (
    MAX_INLINE_BYTES,
    MAX_REQUEST_BYTES,
    MAX_REQUEST_ITEMS,
    UNAUTHENTICATED_ITEM_BYTES,
    UNAUTHENTICATED_ITEMS,
)
from replicator.server.redis.command import Args
from replicator.server.redis.inline import split_words
from replicator.server.redis.requests import ProtocolBroken, Requests, SecurityAttack

ARGUMENT = st.binary(max_size=6) | st.lists(st.sampled_from([b"\r\n", b"\n", b"*1\r\n", b"$3\r\n", b"a"])).map(b"".join)
LONG = st.integers(0, 3000).map(lambda size: b"x" * size)
COMMAND = st.lists(ARGUMENT | LONG, min_size=1, max_size=40)


def encoded(args: Args) -> bytes:
    return b"*%d\r\n%b" % (len(args), b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args))


def parsed(*chunks: bytes, authenticated: bool = True) -> list[Args]:
    requests = Requests(authenticated=authenticated)
    found = []
    for chunk in chunks:
        requests.feed(chunk)
        while (args := requests.next()) is not None:
            if args:
                found.append(args)
    return found


@given(st.lists(COMMAND, max_size=5), st.lists(st.integers(0, 400)))
def test_commands_are_the_same_however_their_bytes_arrive(commands: list[Args], cuts: list[int]) -> None:
    data = b"".join(map(encoded, commands))
    chunks = []
    for cut in cuts:
        chunks.append(data[:cut])
        data = data[cut:]
    assert parsed(*chunks, data) == commands


@given(st.lists(COMMAND, max_size=3))
def test_commands_that_arrive_byte_by_byte(commands: list[Args]) -> None:
    commands = [[arg[:50] for arg in args] for args in commands]
    data = b"".join(map(encoded, commands))
    assert parsed(*(data[at : at + 1] for at in range(len(data)))) == commands


def test_inline_commands_and_arrays_may_alternate() -> None:
    data = b"PING\r\nSET a 'b c'\n\r\n*1\r\n$4\r\nPING\r\nGET a\n*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\n"
    expected = [[b"PING"], [b"SET", b"a", b"b c"], [b"PING"], [b"GET", b"a"], [b"GET", b"a"], [b"PING"]]
    assert parsed(data) == expected
    assert parsed(*(data[at : at + 1] for at in range(len(data)))) == expected


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"  a  b ", [b"a", b"b"]),
        (b'"a b" \'c d\' ""', [b"a b", b"c d", b""]),
        (b'a"b"', [b"ab"]),
        (rb'"\x41\n\"\\"', [b'A\n"\\']),
        (rb"'it\'s \n'", [rb"it's \n"]),
        (b'"a', None),
        (b'"a"b', None),
        (b"'a", None),
    ],
)
def test_words_of_an_inline_command(line: bytes, words: list[bytes] | None) -> None:
    assert split_words(line) == words


@pytest.mark.parametrize("head", [b"*1000000000\r\n", b"*%d\r\n" % (MAX_REQUEST_ITEMS + 1), b"*1\r\n$999999999\r\n"])
@pytest.mark.parametrize("before", [b"", encoded([b"PING"]), b"PING\r\n"])
def test_an_announced_length_above_the_limit_is_refused(head: bytes, before: bytes) -> None:
    with pytest.raises(ProtocolBroken, match=r"invalid (multi)?bulk length"):
        parsed(before + head[:5], head[5:])


def test_an_announced_length_takes_no_memory() -> None:
    requests = Requests(authenticated=True)
    tracemalloc.start()
    requests.feed(b"*%d\r\n$%d\r\n" % (MAX_REQUEST_ITEMS, MAX_REQUEST_BYTES))
    assert requests.next() is None
    assert tracemalloc.get_traced_memory()[1] < 100_000
    tracemalloc.stop()


def test_before_auth_requests_are_short() -> None:
    auth = encoded([b"AUTH", b"x" * UNAUTHENTICATED_ITEM_BYTES])
    assert len(parsed(auth, authenticated=False)) == 1
    for data in (b"*%d\r\n" % (UNAUTHENTICATED_ITEMS + 1), b"*2\r\n$%d\r\n" % (UNAUTHENTICATED_ITEM_BYTES + 1)):
        with pytest.raises(ProtocolBroken, match="unauthenticated"):
            parsed(data, authenticated=False)


def test_the_limits_end_with_auth_also_within_a_chunk() -> None:
    requests = Requests(authenticated=False)
    requests.feed(encoded([b"AUTH", b"x"]) + encoded([b"MGET"] * 20))
    requests.next()
    requests.authenticated = True
    assert requests.next() == [b"MGET"] * 20


def test_a_request_is_bounded() -> None:
    with pytest.raises(ProtocolBroken, match="more than"):
        parsed(encoded([b"x" * (MAX_REQUEST_BYTES // 4)] * 5))
    with pytest.raises(ProtocolBroken, match="too big"):
        parsed(b"x" * (MAX_INLINE_BYTES + 1))


@pytest.mark.parametrize("data", [b"POST / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: node:7001\r\n", b"host: a\n"])
def test_a_request_of_a_browser_is_recognised(data: bytes) -> None:
    with pytest.raises(SecurityAttack):
        parsed(data)


@pytest.mark.parametrize(
    "data", [b"PING\n" * 200_000, b"\r\n" * 500_000, b'a "b"\r\n' * 50_000, b'"' + b"\\a" * 30_000]
)
def test_the_time_grows_with_the_length_only(data: bytes) -> None:
    begun_s = time.process_time()
    parsed(data)
    assert time.process_time() - begun_s < 3  # quadratic, it takes minutes
