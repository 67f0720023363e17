"""What a follower asks the leader for, to receive its records over a link (`node.backlog`, `server.record_stream`)."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.node.backlog import Position
from replicator.position import Epoch, Seq
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import control, integer, refuse_in_multi
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.follower_link import RedisFollowerLink
from replicator.server.redis.resp import OK


@control("repl.follow", 5)
def follow(connection: ConnectionContext, args: Args) -> None:
    """REPL.FOLLOW timeline epoch seq chain: OK, and then every record that the leader commits after that position."""
    refuse_in_multi(connection, "REPL.FOLLOW cannot be part of a transaction")
    _, timeline, epoch, seq, chain = args
    position = Position(_bytes(timeline), Epoch(integer(epoch)), Seq(integer(seq)), _bytes(chain))
    if connection.follower is not None:
        raise BadRequest("this connection receives records already")
    if connection.wait_for_own_writes(args):
        return
    link = RedisFollowerLink(connection.push_records, connection.close)
    groups = connection.server.backend.follow(position, link)
    connection.follower = link
    connection.reply(OK)
    for group in groups:
        link.send(group)


@control("repl.ack", 2)
def ack(connection: ConnectionContext, args: Args) -> None:
    """REPL.ACK ack: that the follower has applied so much. No reply."""
    if connection.follower is None:
        raise BadRequest("REPL.ACK is only for connections that receive records: see REPL.FOLLOW")
    connection.server.backend.record_ack(args[1])


def _bytes(text: bytes) -> bytes:
    try:
        return bytes.fromhex(text.decode())
    except ValueError:
        raise BadRequest("invalid timeline or chain: expected hexadecimal digits") from None
