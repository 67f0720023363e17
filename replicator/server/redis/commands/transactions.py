"""Transactions: the commands that are queued between MULTI and EXEC become one record."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.server.redis.command import Args
from replicator.server.redis.commands.once import check_id
from replicator.server.redis.commands.registry import connection, control
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import OK, Error, Reply


class ExecAborted(BadRequest):
    code = "EXECABORT"


@control("multi", 1)
def multi(connection: ConnectionContext, args: Args) -> None:
    if connection.multi.open:
        raise BadRequest("MULTI calls can not be nested")
    connection.multi.begin()
    connection.reply(OK)


@control("exec", -1)
def exec_(connection: ConnectionContext, args: Args) -> None:
    if len(args) > 1:
        connection.multi.discard()
        raise ExecAborted("Transaction discarded because of: wrong number of arguments for 'exec' command")
    _execute(connection, args, None)


@control("repl.exec", 2)
def exec_once(connection: ConnectionContext, args: Args) -> None:
    """REPL.EXEC id: EXEC, unless a transaction has been executed under this id; the reply is the same."""
    try:
        check_id(args[1])
    except BadRequest:
        connection.multi.discard()
        raise
    _execute(connection, args, args[1])


def _execute(connection: ConnectionContext, args: Args, id: bytes | None) -> None:
    if not connection.multi.open:
        raise BadRequest("EXEC without MULTI")
    if connection.multi.dirty_exec:
        connection.multi.discard()
        raise ExecAborted("Transaction discarded because of previous errors.")
    connection.execute(args, id)


@control("discard", 1)
def discard(connection: ConnectionContext, args: Args) -> None:
    if not connection.multi.open:
        raise BadRequest("DISCARD without MULTI")
    connection.multi.discard()
    connection.reply(OK)


@control("watch", -2, (1, -1, 1))
def watch(connection: ConnectionContext, args: Args) -> None:
    if connection.multi.open:
        connection.reply(Error("ERR WATCH inside MULTI is not allowed"))  # EXEC still succeeds
    elif not connection.wait_for_own_writes(args):  # they would count as changes of the keys
        connection.multi.watch(args[1:])
        connection.reply(OK)


@connection("unwatch", 1)
def unwatch(connection: ConnectionContext, args: Args) -> Reply:
    if not connection.multi.open:
        connection.multi.unwatch()
    return OK
