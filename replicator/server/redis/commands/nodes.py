"""Commands between nodes: for linearizable reads, streams of records, and the state of the leader's replicas."""

from __future__ import annotations

from replicator.errors import BadRequest
from replicator.limits import MAX_ACKS, MAX_NAME_CHARS
from replicator.node.backlog import StreamRequest
from replicator.node.committed_batch import joined
from replicator.position import Author, Epoch, NodeId, Seq
from replicator.server.redis.command import Args
from replicator.server.redis.commands.registry import connection as connection_command
from replicator.server.redis.commands.registry import control, hexadecimal, integer, refuse_in_multi
from replicator.server.redis.context import ConnectionContext
from replicator.server.redis.record_sink import RedisRecordSink
from replicator.server.redis.resp import OK, Reply


@control("repl.index", 3)
def committed_offset(connection: ConnectionContext, args: Args) -> None:
    """REPL.INDEX timeline epoch: the committed offset, from the leader of that epoch or a later one.

    And for how many milliseconds more it holds its lease, its epoch, node and incarnation.
    """
    refuse_in_multi(connection, "REPL.INDEX cannot be part of a transaction")
    epoch, timeline = Epoch(integer(args[2])), hexadecimal(args[1], "timeline")
    if not connection.wait_for_own_writes(args):
        connection.wait_for(_reply_index(connection, timeline, epoch))


async def _reply_index(connection: ConnectionContext, timeline: bytes, epoch: Epoch) -> None:
    answer = await connection.server.backend.committed_offset(timeline, epoch)
    node, incarnation = answer.leader
    connection.reply([answer.offset, int(answer.lease_left_ms), answer.epoch, node.encode(), incarnation])


@connection_command("repl.replicas", 1)
def replicas(connection: ConnectionContext, args: Args) -> Reply:
    """REPL.REPLICAS: for each other member its id, acked offset, ms since its last ack, and 1 if it is responsive.

    Only the leader knows that: the reply of any other node is empty.
    """
    reports = connection.server.backend.replicas
    return [[it.node.encode(), it.offset, int(it.ack_age_ms), int(it.is_responsive)] for it in reports]


@control("repl.follow", 8)
def start_stream(connection: ConnectionContext, args: Args) -> None:
    """REPL.FOLLOW timeline epoch seq chain node incarnation version: OK, and then each record after that seq.

    From the leader of that epoch or one of its followers, once a record is committed. `version`: the newest version of
    records that the node reads. The messages are those of `server.record_stream`.
    """
    refuse_in_multi(connection, "REPL.FOLLOW cannot be part of a transaction")
    _, timeline, epoch, seq, chain, node, incarnation, version = args
    request = StreamRequest(
        hexadecimal(timeline, "timeline"),
        Epoch(integer(epoch)),
        Seq(integer(seq)),
        hexadecimal(chain, "chain"),
        _author(node, incarnation),
        integer(version),
    )
    if connection.wait_for_own_writes(args):
        return
    sink = RedisRecordSink(connection)
    missing = connection.server.backend.start_stream(request, sink)
    connection.record_sink = sink
    connection.reply(OK)
    for batch in joined(missing):
        sink.send(batch)


@control("repl.ack", -2)
def ack(connection: ConnectionContext, args: Args) -> None:
    """REPL.ACK payload [payload ...]: acks (`records.codec.AckCodec`) of the node and those downstream. No reply."""
    if connection.record_sink is None:
        raise BadRequest("REPL.ACK is only accepted after REPL.FOLLOW")
    if len(args) - 1 > MAX_ACKS:
        raise BadRequest(f"REPL.ACK takes at most {MAX_ACKS} acks")
    connection.server.backend.record_acks(connection.record_sink, args[1:])


@control("repl.downstream", -1)
def set_downstream(connection: ConnectionContext, args: Args) -> None:
    """REPL.DOWNSTREAM [node incarnation version ...]: all processes that receive records through the node. No reply."""
    if connection.record_sink is None:
        raise BadRequest("REPL.DOWNSTREAM is only accepted after REPL.FOLLOW")
    fields = args[1:]
    if len(fields) % 3:
        raise BadRequest("REPL.DOWNSTREAM takes the node, incarnation and version of each process")
    downstream = {
        _author(node, incarnation): integer(version)
        for node, incarnation, version in zip(fields[::3], fields[1::3], fields[2::3], strict=True)
    }
    connection.server.backend.set_downstream(connection.record_sink, downstream)


def _author(node: bytes, incarnation: bytes) -> Author:
    """Raises `BadRequest`."""
    if len(node) > MAX_NAME_CHARS:
        raise BadRequest(f"the name of a node has at most {MAX_NAME_CHARS} characters")
    return Author(NodeId(node.decode(errors="replace")), integer(incarnation))
