"""What other nodes ask the leader for, so that their reads are linearizable."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.position import Epoch
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import control, integer, refuse_in_multi
from replicator.server.redis.context import ConnectionContext


@control("repl.index", 3)
def committed_offset(connection: ConnectionContext, args: Args) -> None:
    """REPL.INDEX timeline epoch: the committed offset, from the leader of that epoch or a later one.

    And for how many milliseconds more it holds its lease, its epoch, node and incarnation.
    """
    refuse_in_multi(connection, "REPL.INDEX cannot be part of a transaction")
    epoch = Epoch(integer(args[2]))
    try:
        timeline = bytes.fromhex(args[1].decode())
    except ValueError:
        raise BadRequest("invalid timeline: expected its id in hexadecimal digits") from None
    if not connection.wait_for_own_writes(args):
        connection.wait_for(_reply(connection, timeline, epoch))


async def _reply(connection: ConnectionContext, timeline: bytes, epoch: Epoch) -> None:
    answer = await connection.server.backend.committed_offset(timeline, epoch)
    node, incarnation = answer.leader
    connection.reply([answer.offset, int(answer.lease_left_ms), answer.epoch, node.encode(), incarnation])
