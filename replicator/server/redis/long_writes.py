"""Commands that run in slices at the leader: those that write much, and all long ones of a transaction.

Others run in between, so what such a command has read is read again.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.limits import WRITE_ATTEMPTS
from replicator.server.redis.command import Args, Command
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.interactive import Conflict, InteractiveTransaction
from replicator.server.redis.resp import Reply
from replicator.server.redis.unexpected import as_internal_error

Submit = Callable[[InteractiveTransaction, Reply], None]


async def write_in_slices(connection: ConnectionContext, command: Command, args: Args, submit: Submit) -> None:
    """As a transaction of its own. Raises `Conflict`, and what the command, `Backend.begin` and `submit` do."""
    server = connection.server
    for attempt in range(1, WRITE_ATTEMPTS + 1):
        async with server.long_writes:
            interactive = InteractiveTransaction(server.backend.now_ms(), server.programs)
            mark = interactive.begin_command(server.backend.begin)
            with as_internal_error(command.name):
                reply = await server.turns.run(command.handler(interactive.keyspace, args))
        interactive.end_command(mark, command, args)
        try:
            interactive.check(server.backend.begin())
        except Conflict:
            if attempt == WRITE_ATTEMPTS:
                raise
        else:
            submit(interactive, reply)
            return


async def run_in_slices(
    connection: ConnectionContext, interactive: InteractiveTransaction, command: Command, args: Args
) -> None:
    """As a part of a transaction. Raises what the command and `Backend.begin` do."""
    server = connection.server
    async with server.long_writes:
        mark = interactive.begin_command(server.backend.begin)
        try:
            with as_internal_error(command.name):
                reply = await server.turns.run(command.handler(interactive.keyspace, args))
        except BaseException as error:
            interactive.command_failed(mark, error)
            raise
    interactive.end_command(mark, command, args)
    connection.reply(reply)
