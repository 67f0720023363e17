"""The link to other nodes, over their Redis ports.

`REPL.INDEX timeline epoch` asks the leader for its committed offset, over a connection that is kept. `REPL.FOLLOW
timeline epoch seq chain node incarnation version` makes a connection of its own a stream of records (`record_stream`).
"""

from __future__ import annotations

from replicator.address import Address
from replicator.node.backlog import StreamRequest
from replicator.node.node_link import CommittedOffset, LinkFailed, RecordStream
from replicator.position import Author, Epoch, NodeId, Offset
from replicator.records.types import Member
from replicator.server.node_connection import NodeConnection
from replicator.server.record_stream import RedisRecordStream


class RedisNodeLink:
    """`node.node_link.NodeLink`."""

    def __init__(self, password: str) -> None:
        self._password = password
        self._connection: NodeConnection | None = None  # for questions
        self._address: Address | None = None  # of the connection

    async def committed_offset(self, leader: Member, timeline: bytes, epoch: Epoch) -> CommittedOffset:
        """As `NodeLink.committed_offset`."""
        connection = self._connection
        if connection is None or connection.closed or self._address != leader.resp:
            connection = await self._connect(leader.resp)
        try:
            reply = await connection.ask("REPL.INDEX", timeline.hex(), str(epoch))
        except BaseException:
            connection.close()
            raise
        match reply:
            case [int(offset), int(lease_left_ms), int(term), bytes(node), int(incarnation)]:
                author = Author(NodeId(node.decode(errors="replace")), incarnation)
                return CommittedOffset(Offset(offset), lease_left_ms, Epoch(term), author)
            case _:
                raise LinkFailed(f"{leader.node} at {leader.resp} answered: {reply}")

    async def open_stream(self, upstream: Member, request: StreamRequest) -> RecordStream:
        """As `NodeLink.open_stream`."""
        timeline, epoch, seq, chain, (node, incarnation), version = request
        connection = await NodeConnection.open(upstream.resp, self._password)
        stream = RedisRecordStream(connection)
        try:
            position = (timeline.hex(), str(epoch), str(seq), chain.hex())
            reply = await connection.ask("REPL.FOLLOW", *position, node, str(incarnation), str(version))
            if reply != b"OK":
                raise LinkFailed(f"{upstream.node} at {upstream.resp} answered: {reply}")
        except BaseException:
            connection.close()
            raise
        return stream

    async def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _connect(self, address: Address) -> NodeConnection:
        await self.close()
        self._connection, self._address = await NodeConnection.open(address, self._password), address
        return self._connection
