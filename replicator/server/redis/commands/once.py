"""Retries that take effect once: the id of a write and its answer stand in the same record as the write."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.limits import ONCE_ID_BYTES
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.commands.registry import Args, CommandKind, command, look_up
from replicator.server.redis.dedup import Answers
from replicator.server.redis.resp import Reply, decode, encode

NAME = "repl.once"
_LINE_AT = 2


@command(NAME, -3, CommandKind.WRITE, line_at=_LINE_AT)
def once(keyspace: WritableKeyspace, args: Args) -> Reply:
    """REPL.ONCE id command …: carry the command out, unless it was under this id; the answer is the same."""
    id, line = args[1], args[_LINE_AT:]
    if not 1 <= len(id) <= ONCE_ID_BYTES:
        raise BadRequest(f"an id has 1 to {ONCE_ID_BYTES} bytes, this one has {len(id)}")
    inner = look_up(line)
    name = inner.name.decode()
    if name == NAME:
        raise BadRequest("REPL.ONCE calls can not be nested")
    if inner.kind is not CommandKind.WRITE:
        raise BadRequest(f"REPL.ONCE is for commands that write one record, '{name}' is none: send it as it is")
    answers = Answers(keyspace.transaction, keyspace.time_ms)
    answer = answers.recall(id, line)
    if answer is not None:
        return decode(answer)
    reply = inner.handler(keyspace, line)
    answers.remember(id, line, encode(reply, 3))
    return reply
