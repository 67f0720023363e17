"""How the log gets one transaction: as its changes, or as the command that has made them."""

from __future__ import annotations

from dataclasses import replace

from replicator.errors import BadRequest
from replicator.records.types import Replication
from replicator.server.keyspace import WritableKeyspace
from replicator.server.redis.command import Args, Command, CommandKind
from replicator.server.redis.commands.registry import look_up, variants
from replicator.server.redis.resp import Reply
from replicator.server.redis.turns import Steps, finish

NAME = "repl.by"
_LINE_AT = 2


def choose(args: Args) -> Command:
    """As long as its command is."""
    return _LONG if look_up(args[_LINE_AT:]).long else _SHORT


variants(NAME, -3, choose, line_at=_LINE_AT)
"""REPL.BY row|command|mixed command …: run the command, and replicate it so, whatever the policy is."""


def by(keyspace: WritableKeyspace, args: Args) -> Steps[Reply]:
    line = args[_LINE_AT:]
    try:
        replication = Replication(args[1].decode(errors="replace").lower())
    except ValueError:
        raise BadRequest("REPL.BY takes row, command or mixed, and a command that writes") from None
    inner = look_up(line)
    if inner.kind is not CommandKind.WRITE or inner.line_at:
        raise BadRequest(f"REPL.BY takes a command that writes one record, not '{inner.name.decode()}'")
    reply: Reply = (yield from inner.handler(keyspace, line)) if inner.long else inner.handler(keyspace, line)
    keyspace.replication = replication
    return reply


def _by_at_once(keyspace: WritableKeyspace, args: Args) -> Reply:
    return finish(by(keyspace, args))


_SHORT = Command(NAME.encode(), -3, CommandKind.WRITE, _by_at_once, line_at=_LINE_AT)
_LONG = replace(_SHORT, handler=by, long=True)
