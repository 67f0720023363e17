"""How current reads are to be: for a connection, and for a single command."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.position import BEFORE_LOG
from replicator.protocol.levels import encode_token, parse_level
from replicator.server.redis.commands.registry import Args, CommandKind, control, look_up, session
from replicator.server.redis.connection import Session
from replicator.server.redis.resp import OK, Reply


@control("repl.read", -1)
def read_level(session: Session, args: Args) -> Reply:
    """REPL.READ [level [command …]]: the level of this connection's reads, or of one of them; alone, which it is."""
    if session.multi.open:
        session.multi.spoil()
        raise BadRequest("REPL.READ cannot be part of a transaction: say the level before MULTI")
    words = [word.decode(errors="replace") for word in args[1:]]
    if not words:
        session.answer(str(session.level or "default").encode())
    elif [word.lower() for word in words] == ["default"]:
        session.level = None
        session.answer(OK)
    else:
        level, used = parse_level(words)
        line = args[1 + used :]
        if not line:
            session.level = level
            session.answer(OK)
        else:
            command = look_up(line)
            if command.kind is not CommandKind.READ:
                raise BadRequest(f"REPL.READ takes a command that reads, not {command.name.decode().upper()}")
            if not session.after_own_writes(args):
                session.read_at(level, command, line)
    return None


@control("repl.token", 1)
def token(session: Session, args: Args) -> Reply:
    """REPL.TOKEN: what `REPL.READ session TOKEN` needs to see all that this connection has seen and written."""
    if session.multi.open:
        session.multi.spoil()
        raise BadRequest("REPL.TOKEN cannot be part of a transaction: ask after EXEC")
    if not session.after_own_writes(args):
        written = max(session.last_offset, BEFORE_LOG)
        session.answer(encode_token(session.server.backend.token(written)).encode())
    return None


@session("readonly", 1)
def readonly(session: Session, args: Args) -> Reply:
    """Accepted, as cluster clients say it: replicas answer reads in any case."""
    return OK


@session("readwrite", 1)
def readwrite(session: Session, args: Args) -> Reply:
    """Accepted: what a node takes depends on its role."""
    return OK
