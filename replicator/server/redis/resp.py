"""Replies in the Redis serialization protocol, versions 2 and 3 (Redis documentation, "RESP protocol spec").

A reply is a Python value: bytes (bulk string), int, None (null), list, dict (map; flat in RESP2), or one of the
types below. Requests are parsed in `requests`.
"""

from __future__ import annotations

from collections.abc import Generator
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from replicator.errors import Definite, Indefinite, ReplicatorError


class Simple(NamedTuple):
    text: bytes


class Error(NamedTuple):
    text: str  # begins with its code, e.g. "ERR syntax error"


class Verbatim(NamedTuple):
    """Text for people."""

    text: bytes


class NullArray(NamedTuple):
    """The reply of EXEC if a watched key has changed. In RESP2 it differs from `None`."""


class Push(NamedTuple):
    """A message to a subscriber. It is not the reply to a command. An array in RESP2."""

    items: list[Reply]


class InPieces(NamedTuple):
    """A large bulk string, that need not be copied into one."""

    pieces: list[bytes]


class Encoded(NamedTuple):
    """A reply that is already encoded."""

    data: bytes


Reply: TypeAlias = (
    "bytes | int | list[Reply] | dict[Any, Reply] | Simple | Error | Verbatim | NullArray | Push | InPieces | Encoded "
    "| None"
)

_ITEMS_AT_ONCE = 500

OK = Simple(b"OK")
QUEUED = Simple(b"QUEUED")


def encode(reply: Reply, protocol: int) -> bytes:
    """`protocol` is 2 or 3."""
    if reply is OK:  # of most writes
        return b"+OK\r\n"
    match reply:
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case None:
            return b"$-1\r\n" if protocol == 2 else b"_\r\n"
        case int():
            return b":%d\r\n" % reply
        case Simple(text):
            return b"+%b\r\n" % text
        case Error(message):
            return b"-%b\r\n" % message.replace("\r", " ").replace("\n", " ").encode()
        case list():
            return b"*%d\r\n%b" % (len(reply), b"".join([encode(item, protocol) for item in reply]))
        case dict():
            parts = [encode(name, protocol) + encode(value, protocol) for name, value in reply.items()]
            pairs = b"".join(parts)
            return b"*%d\r\n%b" % (2 * len(reply), pairs) if protocol == 2 else b"%%%d\r\n%b" % (len(reply), pairs)
        case Verbatim(text):
            return encode(text, 2) if protocol == 2 else b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text)
        case NullArray():
            return b"*-1\r\n" if protocol == 2 else b"_\r\n"
        case Push(items):
            array = encode(items, protocol)
            return array if protocol == 2 else b">" + array[1:]
        case InPieces():
            return b"".join(_bulk_string(reply))
        case Encoded(data):
            return data


def _bulk_string(value: InPieces) -> list[bytes]:
    return [b"$%d\r\n" % sum(map(len, value.pieces)), *value.pieces, b"\r\n"]


def encode_in_steps(reply: Reply, protocol: int) -> Generator[int, None, list[bytes]]:
    """The pieces of what `encode` returns, in short steps (`turns.Steps`)."""
    match reply:
        case list():
            parts = [b"*%d\r\n" % len(reply)]
            for first in range(0, len(reply), _ITEMS_AT_ONCE):
                parts.append(b"".join([encode(it, protocol) for it in reply[first : first + _ITEMS_AT_ONCE]]))
                yield len(parts[-1])
            return parts
        case dict():
            parts = [b"*%d\r\n" % (2 * len(reply)) if protocol == 2 else b"%%%d\r\n" % len(reply)]
            pairs = iter(reply.items())
            while batch := list(islice(pairs, _ITEMS_AT_ONCE)):
                parts.append(b"".join([encode(it, protocol) for pair in batch for it in pair]))
                yield len(parts[-1])
            return parts
        case InPieces():
            return _bulk_string(reply)
        case _:
            return [encode(reply, protocol)]


def decode(data: bytes) -> Reply:
    """The reverse of `encode(reply, 3)`, for the replies of commands that a transaction can contain."""
    return _decode(data, 0)[0]


def _decode(data: bytes, at: int) -> tuple[Reply, int]:
    """The reply that begins at `at`, and the index of the byte after it."""
    end = data.index(b"\r\n", at)
    head, rest = data[at + 1 : end], end + 2
    match data[at : at + 1]:
        case b"_":
            return None, rest
        case b":":
            return int(head), rest
        case b"+":
            return Simple(head), rest
        case b"-":
            return Error(head.decode(errors="replace")), rest
        case b"=":
            end = rest + int(head)
            return Verbatim(data[rest + 4 : end]), end + 2
        case b"%":
            pairs: dict[Any, Reply] = {}  # a script may return a map with numbers as names
            for _ in range(int(head)):
                name, rest = _decode(data, rest)
                pairs[name], rest = _decode(data, rest)
            return pairs, rest
        case b"$":
            size = int(head)
            return data[rest : rest + size], rest + size + 2
        case b"*":
            items: list[Reply] = []
            for _ in range(int(head)):
                item, rest = _decode(data, rest)
                items.append(item)
            return items, rest
        case kind:
            raise ValueError(f"a reply that begins with {kind!r} cannot be decoded")


def error_reply(error: ReplicatorError) -> Error:
    if isinstance(error, Definite | Indefinite):
        return Error(f"{error.code} {error}")
    return Error(f"ERR this node has stopped serving: {error}")
