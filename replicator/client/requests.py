"""What is sent for a request, as lines of the Redis protocol, and how far a session has come."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from replicator.client.errors import Rejected
from replicator.client.routing import Failure
from replicator.errors import BadRequest
from replicator.position import Token
from replicator.protocol.levels import EVENTUAL, Level, LevelKind, decode_token, encode_token, parse_level

Value: TypeAlias = bytes | str | int | float
Line: TypeAlias = tuple[bytes, ...]
Reply: TypeAlias = Any
"""bytes, int, None, or a list of replies; `Failure` for an error."""

TOKEN: Line = (b"REPL.TOKEN",)


def bounded(ms: int, records: int = 0) -> Level:
    """All that the log held `ms` ago, but for its last `records` records. Raises `BadRequest`."""
    return parse_level(["bounded", str(ms), str(records)])[0]


def new_id() -> str:
    return uuid.uuid4().hex


def encode(values: Sequence[Value]) -> Line:
    """Raises `BadRequest`."""
    if not values:
        raise BadRequest("there is no command: say its name, for instance execute('SET', 'key', 'value')")
    return tuple(_encode(value) for value in values)


def _encode(value: Value) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return value.encode()
        case bool():
            pass
        case int():
            return b"%d" % value
        case float():
            return repr(value).encode()
    raise BadRequest(f"{value!r} is a {type(value).__name__}: give bytes, a str, an int or a float")


def write_line(values: Sequence[Value], id: str | None) -> Line:
    line = encode(values)
    return line if id is None else (b"REPL.ONCE", id.encode(), *line)


def read_line(values: Sequence[Value], level: Level) -> Line:
    return (b"REPL.READ", *str(level).encode().split(), *encode(values))


def transaction_lines(commands: Sequence[Sequence[Value]], id: str) -> list[Line]:
    """Each command under an id of its own. They share one record, so the ids are all remembered, or none is."""
    queued = [write_line(command, f"{id}:{number}") for number, command in enumerate(commands)]
    return [(b"MULTI",), *queued, (b"EXEC",)]


def transaction_replies(reply: Reply) -> list[Reply]:
    """What EXEC answered; a command that failed left the others in force, so its error stands in its place."""
    return [Rejected(item.code, item.message) if isinstance(item, Failure) else item for item in reply]


def hash_line(key: Value, mapping: Mapping[str, Value]) -> list[Value]:
    return ["HSET", key, *(part for pair in mapping.items() for part in pair)]


def pairs(reply: Reply) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


class Progress:
    """What a session has seen and written. It only grows."""

    def __init__(self, token: str | None) -> None:
        """Raises `BadRequest` if that is no token."""
        self._token = decode_token(token) if token else None

    @property
    def token(self) -> str | None:
        return encode_token(self._token) if self._token else None

    @property
    def level(self) -> Level:
        return Level(LevelKind.SESSION, token=self._token) if self._token else EVENTUAL

    def note(self, reply: Reply) -> None:
        """What `REPL.TOKEN` answered."""
        seen = decode_token(reply.decode())
        if self._token is None or self._token.timeline != seen.timeline:
            self._token = seen
        else:
            self._token = Token(seen.timeline, max(self._token.offset, seen.offset))
