"""The levels of reads: of a connection, and of a single command."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.position import BEFORE_LOG
from replicator.protocol.levels import encode_token, parse_level
from replicator.server.redis.command import Args, CommandKind
from replicator.server.redis.commands.registry import connection, control, look_up, refuse_in_multi
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import OK, Reply

_MOST_WORDS = 4  # of a level, and more


@control("repl.read", -1)
def read_level(connection: ConnectionContext, args: Args) -> None:
    """REPL.READ [level [command …]]: set the level of this connection's reads or of one read; or get the level."""
    refuse_in_multi(connection, "REPL.READ cannot be part of a transaction: set the level before MULTI")
    words = [word.decode(errors="replace") for word in args[1 : 1 + _MOST_WORDS]]
    if not words:
        connection.reply(str(connection.level or "default").encode())
    elif [word.lower() for word in words] == ["default"]:
        connection.level = None
        connection.reply(OK)
    else:
        level, used = parse_level(words)
        line = args[1 + used :]
        if not line:
            connection.level = level
            connection.reply(OK)
        else:
            command = look_up(line)
            if command.kind is not CommandKind.READ:
                raise BadRequest(f"REPL.READ takes a read command, not {command.name.decode().upper()}")
            if not connection.wait_for_own_writes(args):
                connection.read_at(level, command, line)


@control("repl.token", 1)
def token(connection: ConnectionContext, args: Args) -> None:
    """REPL.TOKEN: with `REPL.READ session TOKEN`, reads see all that this connection has read and written."""
    refuse_in_multi(connection, "REPL.TOKEN cannot be part of a transaction: send it after EXEC")
    if not connection.wait_for_own_writes(args):
        written = max(connection.last_offset, BEFORE_LOG)
        connection.reply(encode_token(connection.server.backend.token(written)).encode())


@connection("readonly", 1)
def readonly(connection: ConnectionContext, args: Args) -> Reply:
    """Accepted, as cluster clients send it, but without effect: replicas always answer reads."""
    return OK


@connection("readwrite", 1)
def readwrite(connection: ConnectionContext, args: Args) -> Reply:
    """Accepted, but without effect: only the leader accepts writes."""
    return OK
