"""Retries that take effect once: the record of a write also has its id and its reply."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.limits import ONCE_ID_BYTES
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args, CommandKind
from replicator.server.redis.commands.registry import look_up, write_by_line
from replicator.server.redis.commands.replication import NAME as BY
from replicator.server.redis.commands.scripts import with_digest
from replicator.server.redis.dedup import Dedup
from replicator.server.redis.resp import Reply, decode, encode
from replicator.steps import Steps

NAME = "repl.once"
_LINE_AT = 2


def check_id(id: bytes) -> None:
    """Raises `BadRequest`."""
    if not 1 <= len(id) <= ONCE_ID_BYTES:
        raise BadRequest(f"an id has 1 to {ONCE_ID_BYTES} bytes, this one has {len(id)}")


@write_by_line(NAME, -3, line_at=_LINE_AT, may_contain={BY.encode()})
def once(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    """REPL.ONCE id command …: run the command, unless it has run under this id; the reply is the same."""
    id, line = args[1], args[_LINE_AT:]
    check_id(id)
    inner = look_up(line)
    if inner.kind is not CommandKind.WRITE:
        raise BadRequest(
            f"REPL.ONCE takes a command that writes one record, not '{inner.name.decode()}': send that without "
            "REPL.ONCE"
        )
    dedup = Dedup(keyspace.transaction, keyspace.now_ms)
    same = with_digest(line)
    known = dedup.find(id, same)
    if known is not None:
        return decode(known)
    reply: Reply = (yield from inner.handler(keyspace, line)) if inner.long else inner.handler(keyspace, line)
    dedup.add(id, same, encode(reply, 3))
    return reply
