"""Retries that take effect once: the record of a write also has its id and its reply."""

from __future__ import annotations

from dataclasses import replace

from replicator.errors import BadRequest
from replicator.limits import ONCE_ID_BYTES
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import look_up, variants
from replicator.server.redis.dedup import Dedup
from replicator.server.redis.resp import Reply, decode, encode
from replicator.server.redis.turns import Steps, finish

NAME = "repl.once"
_LINE_AT = 2


def check_id(id: bytes) -> None:
    """Raises `BadRequest`."""
    if not 1 <= len(id) <= ONCE_ID_BYTES:
        raise BadRequest(f"an id has 1 to {ONCE_ID_BYTES} bytes, this one has {len(id)}")


def choose(args: Args) -> Command:
    """As long as its command is."""
    return _LONG if look_up(args[_LINE_AT:]).long else _SHORT


variants(NAME, -3, choose, line_at=_LINE_AT)
"""REPL.ONCE id command …: run the command, unless it has run under this id; the reply is the same."""


def once(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    id, line = args[1], args[_LINE_AT:]
    check_id(id)
    inner = look_up(line)
    name = inner.name.decode()
    if name == NAME:
        raise BadRequest("REPL.ONCE calls can not be nested")
    if inner.kind is not CommandKind.WRITE:
        raise BadRequest(f"REPL.ONCE takes a command that writes one record, not '{name}': send that without REPL.ONCE")
    dedup = Dedup(keyspace.transaction, keyspace.now_ms)
    known = dedup.find(id, line)
    if known is not None:
        return decode(known)
    reply: Reply = (yield from inner.handler(keyspace, line)) if inner.long else inner.handler(keyspace, line)
    dedup.add(id, line, encode(reply, 3))
    return reply


def _once_at_once(keyspace: WritableKeyspace, args: Args) -> Reply:
    return finish(once(keyspace, args))


_SHORT = Command(NAME.encode(), -3, CommandKind.WRITE, _once_at_once, line_at=_LINE_AT)
_LONG = replace(_SHORT, handler=once, long=True)
