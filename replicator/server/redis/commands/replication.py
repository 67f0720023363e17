"""How the log gets one transaction: as its changes, or as the command that has made them."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.records.types import Replication
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args, CommandKind
from replicator.server.redis.commands.registry import look_up, write_by_line
from replicator.server.redis.resp import Reply
from replicator.steps import Steps

NAME = "repl.by"
_LINE_AT = 2


@write_by_line(NAME, -3, line_at=_LINE_AT)
def by(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    """REPL.BY row|command|mixed command …: run the command, and replicate it so, whatever the policy is."""
    line = args[_LINE_AT:]
    try:
        replication = Replication(args[1].decode(errors="replace").lower())
    except ValueError:
        raise BadRequest("REPL.BY takes row, command or mixed, and a command that writes") from None
    inner = look_up(line)
    if inner.kind is not CommandKind.WRITE:
        raise BadRequest(f"REPL.BY takes a command that writes one record, not '{inner.name.decode()}'")
    reply: Reply = (yield from inner.handler(keyspace, line)) if inner.long else inner.handler(keyspace, line)
    keyspace.command_info.replication = replication
    return reply
