"""Transactions: all that is queued between MULTI and EXEC becomes one record."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.server.redis.commands.registry import Args, CommandKind, command, control, session
from replicator.server.redis.connection import Session
from replicator.server.redis.resp import OK, Error, Reply


class ExecAborted(BadRequest):
    code = "EXECABORT"


@control("multi", 1)
def multi(session: Session, args: Args) -> Reply:
    if session.multi.open:
        raise BadRequest("MULTI calls can not be nested")
    session.multi.begin()
    session.answer(OK)
    return None


@control("exec", -1)
def exec_(session: Session, args: Args) -> Reply:
    if len(args) > 1:
        session.multi.discard()
        raise ExecAborted("Transaction discarded because of: wrong number of arguments for 'exec' command")
    if not session.multi.open:
        raise BadRequest("EXEC without MULTI")
    if session.multi.spoiled:
        session.multi.discard()
        raise ExecAborted("Transaction discarded because of previous errors.")
    session.execute(args)
    return None


@control("discard", 1)
def discard(session: Session, args: Args) -> Reply:
    if not session.multi.open:
        raise BadRequest("DISCARD without MULTI")
    session.multi.discard()
    session.answer(OK)
    return None


@command("watch", -2, CommandKind.CONTROL, (1, -1, 1))
def watch(session: Session, args: Args) -> Reply:
    if session.multi.open:
        session.answer(Error("ERR WATCH inside MULTI is not allowed"))  # which does not spoil the MULTI
        return None
    if not session.after_own_writes(args):  # which would touch the keys
        session.multi.watch(args[1:])
        session.answer(OK)
    return None


@session("unwatch", 1)
def unwatch(session: Session, args: Args) -> Reply:
    if not session.multi.open:
        session.multi.unwatch()
    return OK
