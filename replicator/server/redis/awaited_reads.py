"""Reads of a connection that cannot be answered at once: they wait for their level or for a key, or go on in slices."""

from __future__ import annotations

from collections.abc import Callable

from replicator.errors import ReplicatorError
from replicator.protocol.levels import Level
from replicator.server.keyspace import Keyspace
from replicator.server.redis.command import CommandKind
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.resp import Encoded, NullArray, Reply, encode, encode_in_steps, error_reply
from replicator.server.redis.unexpected import as_internal_error
from replicator.steps import Steps
from replicator.store.view import View


async def read_when_possible(
    connection: ConnectionContext, level: Level | None, run: Callable[[Keyspace], Reply]
) -> None:
    server = connection.server
    backend = server.backend
    with as_internal_error(connection.last_command):
        reply = await backend.reads.read(level, lambda view: run(Keyspace(view, backend.now_ms(), server.programs)))
    connection.reply(reply)


async def read_in_slices(
    connection: ConnectionContext, level: Level | None, run: Callable[[Keyspace], Steps[Reply]]
) -> None:
    server = connection.server
    backend = server.backend

    async def answer(view: View) -> list[bytes]:
        reply = await server.turns.run(run(Keyspace(view, backend.now_ms(), server.programs)))
        return await server.turns.run(encode_in_steps(reply, connection.protocol))

    async with server.long_reads:
        with as_internal_error(connection.last_command):
            pieces = await backend.reads.read_in_slices(level, answer)
    for piece in pieces:
        connection.reply(Encoded(piece))


async def execute_reads(connection: ConnectionContext) -> None:
    """EXEC without writes. It fails if a watched key changes before the read level is met."""
    try:
        await read_in_slices(connection, connection.level, lambda keyspace: _run_queued(connection, keyspace))
    finally:
        connection.multi.discard()


def _run_queued(connection: ConnectionContext, keyspace: Keyspace) -> Steps[Reply]:
    multi = connection.multi
    if multi.dirty_cas:
        return NullArray()
    replies: list[Reply] = []
    for command, args in multi.queued:
        try:
            if command.long:
                reply = yield from command.handler(keyspace, args)
            else:
                reply = command.handler(connection if command.kind is CommandKind.CONNECTION else keyspace, args)
        except ReplicatorError as error:
            reply = error_reply(error)
        part = Encoded(encode(reply, connection.protocol))
        replies.append(part)
        yield len(part.data)
    return replies
