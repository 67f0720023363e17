"""The commands of each request, and the position of a session."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from replicator.client.errors import Rejected
from replicator.client.routing import Failure
from replicator.errors import BadRequest
from replicator.limits import MAX_REQUEST_BYTES
from replicator.position import Token
from replicator.protocol.levels import EVENTUAL, Level, LevelKind, decode_token, encode_token, parse_level

Argument: TypeAlias = bytes | str | int | float
EncodedCommand: TypeAlias = tuple[bytes, ...]
Reply: TypeAlias = Any
"""bytes, int, None, or a list of replies; `Failure` for an error."""

TOKEN: EncodedCommand = (b"REPL.TOKEN",)

_OF_CONNECTIONS = frozenset(
    b"MULTI EXEC REPL.EXEC DISCARD WATCH UNWATCH RESET QUIT HELLO AUTH SELECT READONLY READWRITE SUBSCRIBE PSUBSCRIBE "
    b"UNSUBSCRIBE PUNSUBSCRIBE MONITOR REPL.FOLLOW".split()
)
"""Commands that change what the next ones on their connection do, which may be those of another task or thread."""
_SQL = b"REPL.SQL"
_WORDS_BEFORE_SQL = 5  # REPL.ONCE id REPL.BY way REPL.SQL


def bounded(ms: int, records: int = 0) -> Level:
    """Reads include all records older than `ms`, except the last `records` records. Raises `BadRequest`."""
    return parse_level(["bounded", str(ms), str(records)])[0]


def new_id() -> str:
    return uuid.uuid4().hex


def encode(command: Sequence[Argument]) -> EncodedCommand:
    """Raises `BadRequest`."""
    if not command:
        raise BadRequest("the command is empty: give a name and arguments, as in execute('SET', 'key', 'value')")
    return tuple(_encode(argument) for argument in command)


def _encode(argument: Argument) -> bytes:
    match argument:
        case bytes():
            return argument
        case str():
            try:
                return argument.encode()
            except UnicodeEncodeError as error:
                raise BadRequest(f"an argument is not valid Unicode: {error}") from error
        case bool():
            pass
        case int():
            return b"%d" % argument
        case float():
            return repr(argument).encode()
    raise BadRequest(f"an argument is {argument!r} ({type(argument).__name__}): use bytes, str, int or float")


def check_size(command: EncodedCommand) -> EncodedCommand:
    """A node closes the connection at a larger one, without a reply. Raises `BadRequest`."""
    size = sum(map(len, command))
    if size > MAX_REQUEST_BYTES:
        raise BadRequest(f"the request has {size} bytes, at most {MAX_REQUEST_BYTES} are allowed: divide it")
    return command


def write_command(command: Sequence[Argument], id: str | None) -> EncodedCommand:
    """Raises `BadRequest`."""
    encoded = encode(command)
    _check_shared(encoded, "executed alone, as connections are shared: use transaction(), or redis-py")
    return check_size(encoded if id is None else (b"REPL.ONCE", id.encode(), *encoded))


def read_command(command: Sequence[Argument], level: Level) -> EncodedCommand:
    return check_size((b"REPL.READ", *str(level).encode().split(), *encode(command)))


def transaction_commands(commands: Sequence[Sequence[Argument]], id: str) -> list[EncodedCommand]:
    """MULTI, the commands, EXEC under the id. So one decision covers all of them: they run now, or had run before.

    Raises `BadRequest`.
    """
    encoded = [check_size(encode(it)) for it in commands]
    for it in encoded:
        _check_shared(it, "part of a transaction: give the commands between MULTI and EXEC")
    return [(b"MULTI",), *encoded, (b"REPL.EXEC", id.encode())]


def _check_shared(command: EncodedCommand, why: str) -> None:
    """Raises `BadRequest` for a command that changes its connection."""
    name = command[0].upper()
    if name in _OF_CONNECTIONS or (name == _SQL and command[1:2] and command[1].lstrip()[:5].upper() == b"BEGIN"):
        raise BadRequest(f"{command[0].decode()} cannot be {why}")


def may_take_long(commands: Sequence[EncodedCommand]) -> bool:
    """Whether a node may compute for seconds, as it may for a statement."""
    words = (word for command in commands for word in command[:_WORDS_BEFORE_SQL])
    return any(len(word) == len(_SQL) and word.upper() == _SQL for word in words)  # others may be large values


def transaction_replies(reply: Reply) -> list[Reply]:
    """The replies in `reply` of EXEC. A failed command does not undo the others, so its error is one of the replies."""
    return [Rejected(item.code, item.message) if isinstance(item, Failure) else item for item in reply]


def hset_command(key: Argument, mapping: Mapping[str, Argument]) -> list[Argument]:
    return ["HSET", key, *(part for pair in mapping.items() for part in pair)]


def pairs(reply: Reply) -> dict[bytes, bytes]:
    return dict(zip(reply[::2], reply[1::2], strict=True))


class SessionProgress:
    """The position up to which a session has read and written. It never decreases within a timeline."""

    def __init__(self, token: str | None) -> None:
        """Raises `BadRequest` if the token is invalid."""
        self._token = decode_token(token) if token else None

    @property
    def token(self) -> str | None:
        return encode_token(self._token) if self._token else None

    @property
    def level(self) -> Level:
        return Level(LevelKind.SESSION, token=self._token) if self._token else EVENTUAL

    def update(self, reply: Reply) -> None:
        """`reply`: of `REPL.TOKEN`."""
        seen = decode_token(reply.decode())
        if self._token is None or self._token.timeline != seen.timeline:
            self._token = seen
        else:
            self._token = Token(seen.timeline, max(self._token.offset, seen.offset))
